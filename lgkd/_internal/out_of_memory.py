"""Recognise out-of-memory errors as Python, torch, Pillow and loaders report them. No torch in here."""

import errno
import re
from collections.abc import Iterator

# torch on a CPU, the C++ library, numpy and BLAS; CUDA, cuBLAS (whose handle needs memory) and cuDNN; the loader of
# shared libraries gives no reason where an address-space limit stops it, and another one where a disk forbids
# executing its files.
_SAYS = re.compile(
    r"can't allocate memory|std::bad_alloc|Cannot allocate memory|[Uu]nable to allocate|Failed to allocate memory|"
    r"out of memory|_ALLOC_FAILED|_ALLOCATION_FAILED|CUBLAS_STATUS_NOT_INITIALIZED when calling .?cublasCreate|"
    r"can't start new thread|failed to map segment from shared object(?!: Operation not permitted)"
)
_KINDS = (MemoryError.__name__, "OutOfMemoryError")


def raise_if_out_of_memory(error: BaseException) -> None:
    """Raise `MemoryError` if an error reports a lack of memory: the file that was being read is not damaged then."""
    if (words := lack_of_memory(error)) is not None:
        raise MemoryError(words) from error


def lack_of_memory(error: BaseException) -> str | None:
    """Find the message of the first error behind this one that reports a lack of memory; None where none does."""
    for one in _behind(error):
        text = " ".join(str(one).split())[:300]
        if type(one).__name__ in _KINDS or isinstance(one, MemoryError):
            return text or type(one).__name__
        if isinstance(one, OSError) and one.errno == errno.ENOMEM:
            return text
        # ONNX Runtime's errors are of classes of its own.
        kind = isinstance(one, RuntimeError | ImportError | ValueError | SystemError) or _is_of_onnxruntime(one)
        if kind and _SAYS.search(text):
            return text
    return None


def _behind(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, its causes, and its contexts."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop(0)
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [more for more in (one.__cause__, one.__context__) if more is not None]


def _is_of_onnxruntime(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "onnxruntime"
