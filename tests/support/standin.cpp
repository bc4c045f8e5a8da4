// The device "standin" of the tests: host memory under PrivateUse1, the key that torch leaves to backends of its users.
//
// Every operation runs the CPU's kernel on the same memory. What differs is what torch asks of a device: tensors of the
// host are refused beside its own, and launches, uploads and waits are counted. The rules are in docs/performance.md.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/DispatchStub.h>
#include <ATen/native/transformers/attention.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <map>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>

namespace {

using at::Tensor;
constexpr auto DEVICE = c10::DeviceType::PrivateUse1;

// ------------------------------------------------------------------------------------------------------------ counters

std::mutex lock;
std::map<std::string, int64_t> counted;  // "launch NAME", "upload", "download", "wait REASON"

void count(const std::string& what) {
  std::lock_guard<std::mutex> held(lock);
  ++counted[what];
}

// -------------------------------------------------------------------------------------------------------------- memory

// Blocks come from the CPU's allocator; the context of a pointer of the device is the pointer that it was made from.
void release(void* context) { delete static_cast<c10::DataPtr*>(context); }

c10::DataPtr under_device(c10::DataPtr host) {
  void* data = host.get();
  return {data, new c10::DataPtr(std::move(host)), &release, c10::Device(DEVICE, 0)};
}

struct DeviceMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override { return under_device(c10::GetCPUAllocator()->allocate(bytes)); }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};
DeviceMemory device_memory;
REGISTER_ALLOCATOR(DEVICE, &device_memory)

// Pinned blocks are known by their addresses.
std::map<const char*, size_t> pinned;

void unpin(void* context) {
  auto* block = static_cast<c10::DataPtr*>(context);
  {
    std::lock_guard<std::mutex> held(lock);
    pinned.erase(static_cast<const char*>(block->get()));
  }
  delete block;
}

struct PinnedMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    auto host = c10::GetCPUAllocator()->allocate(std::max<size_t>(bytes, 1));
    void* data = host.get();
    std::lock_guard<std::mutex> held(lock);
    pinned[static_cast<const char*>(data)] = bytes;
    return {data, new c10::DataPtr(std::move(host)), &unpin, c10::Device(c10::kCPU)};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};
PinnedMemory pinned_memory;

bool is_pinned(const void* address) {
  std::lock_guard<std::mutex> held(lock);
  auto after = pinned.upper_bound(static_cast<const char*>(address));
  if (after == pinned.begin()) return false;
  auto block = std::prev(after);
  return static_cast<const char*>(address) < block->first + block->second;
}

// ------------------------------------------------------------------------------------------ what torch asks of a device

// Nothing is queued, so events have always happened; they only have to exist.
struct Guard final : c10::impl::NoOpDeviceGuardImpl<DEVICE> {
  static c10::Stream here() { return c10::Stream(c10::Stream::DEFAULT, c10::Device(DEVICE, 0)); }
  c10::Device exchangeDevice(c10::Device) const override { return {DEVICE, 0}; }
  c10::Device getDevice() const override { return {DEVICE, 0}; }
  c10::Stream getStream(c10::Device) const noexcept override { return here(); }
  c10::Stream getDefaultStream(c10::Device) const override { return here(); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return here(); }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override { count("wait synchronize"); }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override { return at::detail::getDefaultCPUGenerator(); }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::make_generator<at::CPUGeneratorImpl>(); }
  at::Device getDeviceFromPtr(void*) const override { return {DEVICE, 0}; }
  bool isPinnedPtr(const void* address) const override { return is_pinned(address); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_memory; }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    auto block = device_memory.allocate(bytes);
    if (storage.nbytes()) memcpy(block.get(), storage.data(), std::min(bytes, storage.nbytes()));
    storage.unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(block));
    storage.unsafeGetStorageImpl()->set_nbytes(bytes);
  }
};
Hooks hooks;

// ------------------------------------------------------------------------------------- one memory, seen from both sides

// Tensor over a storage, in the geometry of another.
Tensor over(c10::Storage storage, const Tensor& like, c10::DispatchKey key) {
  auto made = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), like.dtype());
  made.unsafeGetTensorImpl()->set_storage_offset(like.storage_offset());
  made.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides());
  return made;
}

c10::Storage storage_over(void* data, size_t bytes, c10::Storage owner, c10::Device device, c10::Allocator* allocator) {
  auto* kept = new c10::Storage(std::move(owner));
  c10::DataPtr pointer(data, kept, [](void* context) { delete static_cast<c10::Storage*>(context); }, device);
  return c10::Storage(c10::Storage::use_byte_size_t(), bytes, std::move(pointer), allocator, true);
}

bool of_device(const Tensor& t) { return t.defined() && t.device().type() == DEVICE; }

Tensor host_side(const Tensor& t) {
  if (!of_device(t)) return t;
  const auto& own = t.storage();
  auto storage = storage_over(own.mutable_data(), own.nbytes(), own, c10::kCPU, c10::GetCPUAllocator());
  return over(std::move(storage), t, c10::DispatchKey::CPU);
}

// A tensor that a kernel of the CPU made: its memory becomes the device's.
Tensor adopted(const Tensor& t) {
  const auto& own = t.storage();
  auto storage = storage_over(own.mutable_data(), own.nbytes(), own, {DEVICE, 0}, &device_memory);
  return over(std::move(storage), t, c10::DispatchKey::PrivateUse1);
}

// --------------------------------------------------------------------------------------- operations of their own meaning

Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &device_memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &device_memory,
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

// CUDA waits in every copy to or from the host that is not asked to be asynchronous, or whose host memory is pageable.
Tensor copy_from(const Tensor& source, const Tensor& target, bool asynchronous) {
  if (source.numel()) {
    const bool up = !of_device(source), down = !of_device(target);
    if (up || down) {
      count(up ? "upload" : "download");
      if (!asynchronous || !is_pinned((up ? source : target).storage().data()))
        count(up ? "wait upload" : "wait download");
    } else {
      count("launch copy_");
    }
  }
  at::AutoDispatchBelowADInplaceOrView below;
  host_side(target).copy_(host_side(source));
  return target;
}

at::Scalar read_number(const Tensor& t) {
  count("wait _local_scalar_dense");
  return at::_local_scalar_dense(host_side(t));
}

Tensor& set_storage(Tensor& self, c10::Storage source, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(source));
  self.unsafeGetTensorImpl()->set_storage_offset(offset);
  self.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride);
  return self;
}

Tensor& set_whole_storage(Tensor& self, c10::Storage source) {
  const auto numbers = static_cast<int64_t>(source.nbytes() / self.itemsize());
  return set_storage(self, std::move(source), 0, {numbers}, {1});
}

void make_room(const Tensor& t, int64_t numbers) {
  const size_t needed = (t.storage_offset() + numbers) * t.itemsize();
  if (t.storage().nbytes() < needed) hooks.resizePrivateUse1Bytes(t.storage(), needed);
}

const Tensor& resize(const Tensor& self, c10::IntArrayRef size, std::optional<at::MemoryFormat>) {
  make_room(self, c10::multiply_integers(size));
  self.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  return self;
}

// ---------------------------------------------------------------------------------------------------- all other operations

// The size of what these return is known when they are done, so that the host waits for them.
const std::set<std::string> SIZED_BY_VALUES = {
    "nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive",
    "equal", "is_nonzero", "bincount", "histc"};
// CUDA moves indices of the host to the device, and that is an upload.
const std::set<std::string> INDEXING = {"index", "index_put_", "_index_put_impl_", "index_put"};

struct Call {
  std::string name;
  bool has_device = false;
  std::string host_argument;
  std::vector<std::pair<Tensor, Tensor>> sides;  // of the device, of the host

  Tensor seen(const Tensor& t, const std::string& argument) {
    if (!of_device(t)) {
      if (t.defined() && t.dim() > 0) host_argument = argument;
      return t;
    }
    has_device = true;
    sides.emplace_back(t, host_side(t));
    return sides.back().second;
  }

  Tensor returned(const Tensor& t) const {
    if (!t.defined() || !t.device().is_cpu()) return t;
    for (const auto& [own, host] : sides) {
      if (!host.is_same(t)) continue;
      if (own.sizes() != t.sizes()) {  // resized by the kernel
        make_room(own, t.numel());
        own.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides());
        host_side(own).copy_(t);
      }
      return own;
    }
    for (const auto& [own, host] : sides)
      if (t.has_storage() && t.storage().nbytes() && host.storage().data() == t.storage().data())
        return over(own.storage(), t, c10::DispatchKey::PrivateUse1);
    return adopted(t);
  }
};

bool is_view(const c10::FunctionSchema& schema) {
  if (schema.arguments().empty()) return false;
  const auto* alias = schema.arguments()[0].alias_info();
  return alias != nullptr && !alias->isWrite();
}

void check_indices(Call& call, const std::vector<std::optional<Tensor>>& indices) {
  for (const auto& index : indices) {
    if (!index || !index->defined()) continue;
    // Before it reads, `index` asks for the places of a mask itself.
    if (call.name != "index" && (index->scalar_type() == at::kBool || index->scalar_type() == at::kByte))
      count("wait " + call.name + " by mask");
    if (!of_device(*index)) {
      count("upload");
      count("wait upload");
    }
  }
  call.host_argument.clear();
}

// cuDNN's operations of one launch, which the CPU lacks: relu(convolution(x) + alpha * other).
void fused_convolution(torch::jit::Stack* stack, bool adds) {
  const auto groups = torch::jit::pop(*stack).toInt();
  const auto dilation = torch::jit::pop(*stack).toIntVector(), padding = torch::jit::pop(*stack).toIntVector(),
             stride = torch::jit::pop(*stack).toIntVector();
  const auto bias = torch::jit::pop(*stack).toOptional<Tensor>();
  const auto alpha = adds ? torch::jit::pop(*stack).toOptional<at::Scalar>() : std::nullopt;
  const auto other = adds ? torch::jit::pop(*stack).toTensor() : Tensor();
  const auto weight = torch::jit::pop(*stack).toTensor(), values = torch::jit::pop(*stack).toTensor();
  auto made = at::conv2d(values, weight, bias, stride, padding, dilation, groups);
  if (adds) made.add_(other, alpha.value_or(1));
  torch::jit::push(*stack, made.relu_());
}

void on_the_host(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const size_t first = stack->size() - schema.arguments().size();
  Call call;
  call.name = schema.name().substr(schema.name().find("::") + 2);
  const bool indexing = INDEXING.count(call.name) > 0;
  bool sized = SIZED_BY_VALUES.count(call.name) > 0;
  for (size_t place = first; place < stack->size(); ++place) {
    auto& value = (*stack)[place];
    const auto& argument = schema.arguments()[place - first].name();
    if (value.isTensor()) {
      value = call.seen(value.toTensor(), argument);
    } else if (value.isTensorList()) {
      c10::List<Tensor> shown;
      for (const Tensor& one : value.toTensorVector()) shown.push_back(call.seen(one, argument));
      value = std::move(shown);
    } else if (value.isOptionalTensorList()) {
      const auto given = value.toOptionalTensorVector();
      c10::List<std::optional<Tensor>> shown;
      for (const auto& one : given)
        shown.push_back(one ? std::optional<Tensor>(call.seen(*one, argument)) : std::nullopt);
      if (indexing) check_indices(call, given);
      value = std::move(shown);
    } else if (value.isDevice()) {
      call.has_device |= value.toDevice().type() == DEVICE;
      value = c10::Device(c10::kCPU);
    } else if (value.isGenerator()) {
      value = c10::IValue();
    } else if (call.name == "repeat_interleave" && argument == "output_size") {
      sized = value.isNone();
    }
  }
  TORCH_CHECK(!call.has_device || call.host_argument.empty(), "Expected all tensors to be on the same device, but ",
              call.host_argument, " of ", call.name, " is on the CPU, beside tensors of the device");
  if (sized) count("wait " + call.name);
  if (!is_view(schema)) count("launch " + call.name);

  at::AutoDispatchBelowADInplaceOrView below;
  if (call.name == "convolution_overrideable") {
    c10::Dispatcher::singleton().findSchemaOrThrow("aten::convolution", "").callBoxed(stack);
  } else if (call.name == "convolution_backward_overrideable") {
    // The CPU's operation has one argument more, after the weight: the size of the bias.
    const int64_t channels = (*stack)[first].toTensor().size(1);
    stack->insert(stack->begin() + first + 3, c10::IValue(std::vector<int64_t>{channels}));
    c10::Dispatcher::singleton().findSchemaOrThrow("aten::convolution_backward", "").callBoxed(stack);
  } else if (call.name == "cudnn_convolution_relu" || call.name == "cudnn_convolution_add_relu") {
    fused_convolution(stack, call.name == "cudnn_convolution_add_relu");
  } else {
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  }
  if (!call.has_device) return;
  for (size_t place = stack->size() - schema.returns().size(); place < stack->size(); ++place) {
    auto& value = (*stack)[place];
    if (value.isTensor()) {
      value = call.returned(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<Tensor> back;
      for (const Tensor& one : value.toTensorVector()) back.push_back(call.returned(one));
      value = std::move(back);
    }
  }
}

// Attention: fused wherever the CPU has it fused; one launch forward and one backward.

int64_t attention_choice(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& mask,
                         double dropout, bool causal, std::optional<double> scale, bool gqa) {
  if (mask && mask->requires_grad()) return static_cast<int64_t>(at::SDPBackend::math);
  std::optional<Tensor> host_mask;
  if (mask) host_mask = host_side(*mask);
  const auto chosen =
      at::_fused_sdp_choice(host_side(q), host_side(k), host_side(v), host_mask, dropout, causal, scale, gqa);
  const bool fused = chosen == static_cast<int64_t>(at::SDPBackend::flash_attention);
  return static_cast<int64_t>(fused ? at::SDPBackend::overrideable : at::SDPBackend::math);
}

using Attention = std::tuple<Tensor, Tensor, Tensor, Tensor, c10::SymInt, c10::SymInt, Tensor, Tensor, Tensor>;

Attention attention(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& mask,
                    double dropout, bool causal, bool, std::optional<double> scale) {
  count("launch fused attention");
  std::optional<Tensor> host_mask;
  if (mask) host_mask = host_side(*mask);
  auto [out, sums] = at::_scaled_dot_product_flash_attention_for_cpu(host_side(q), host_side(k), host_side(v), dropout,
                                                                     causal, host_mask, scale);
  // Autograd keeps the last tensors, so that they must be some.
  auto none = [&] { return adopted(at::empty({0})); };
  return {adopted(out), adopted(sums), none(), none(), q.sym_size(2), k.sym_size(2), none(), none(), none()};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attention_backward(
    const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, std::array<bool, 4>,
    const Tensor& out, const Tensor& sums, const Tensor&, const Tensor&, c10::SymInt, c10::SymInt, double dropout,
    bool causal, const Tensor&, const Tensor&, std::optional<double> scale) {
  count("launch fused attention backward");
  std::optional<Tensor> host_mask;
  if (mask.defined()) host_mask = host_side(mask);
  auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
      host_side(grad), host_side(q), host_side(k), host_side(v), host_side(out), host_side(sums), dropout, causal,
      host_mask, scale);
  return {adopted(dq), adopted(dk), adopted(dv), Tensor()};
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_the_host>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_local_scalar_dense", &read_number);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("set_.source_Storage", &set_whole_storage);
  m.impl("resize_", &resize);
  m.impl("_fused_sdp_choice", &attention_choice);
  m.impl("_scaled_dot_product_fused_attention_overrideable", &attention);
  m.impl("_scaled_dot_product_fused_attention_overrideable_backward", &attention_backward);
  m.impl("convolution_overrideable", torch::CppFunction::makeFromBoxedFunction<&on_the_host>());
  m.impl("convolution_backward_overrideable", torch::CppFunction::makeFromBoxedFunction<&on_the_host>());
  // torch's own way for other devices resizes a scalar to an image, with a warning.
  for (const char* loss : {"mse_loss", "smooth_l1_loss", "soft_margin_loss"})
    m.impl(loss, torch::CppFunction::makeFromBoxedFunction<&on_the_host>());
  // Without this torch would take them apart, into an operation for each tensor.
  for (const auto& name : c10::Dispatcher::singleton().getAllOpNames())
    if (name.name.rfind("aten::_foreach_", 0) == 0)
      m.impl(c10::toString(name).substr(6).c_str(), torch::CppFunction::makeFromBoxedFunction<&on_the_host>());
}

TORCH_LIBRARY(standin, m) {
  m.def("register_hooks() -> ()", [] { at::RegisterPrivateUse1HooksInterface(&hooks); });
  m.def("counted() -> Dict(str, int)", [] {
    std::lock_guard<std::mutex> held(lock);
    c10::Dict<std::string, int64_t> copy;
    for (const auto& [what, times] : counted) copy.insert(what, times);
    return copy;
  });
  m.def("reset() -> ()", [] {
    std::lock_guard<std::mutex> held(lock);
    counted.clear();
  });
}

}  // namespace

// torch asks here, not the dispatcher, which attention a device has.
namespace at::native {
REGISTER_PRIVATEUSE1_DISPATCH(_fused_sdp_choice_stub, &attention_choice)
}
