"""The stand-in itself: what it refuses, and what it counts, by hand."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.errors import InputError
from lgkd.training.precision import choose_device, choose_precision
from tests.support.standin import counting

pytestmark = pytest.mark.standin


@pytest.mark.parametrize(
    "mixed",
    [
        lambda here, there: here + there,
        lambda here, there: here.index_select(0, torch.zeros(1, dtype=torch.int64)),
        lambda here, there: torch.cat([here, there]),
        lambda here, there: here @ there,
        lambda here, there: torch.where(here > 0, here, there),
        lambda here, there: torch._foreach_add([here], [there]),
        lambda here, there: F.mse_loss(here, there),
        lambda here, there: F.conv2d(here[None, None], there[None, None]),
    ],
)
def test_tensors_of_the_host_are_refused_beside_those_of_the_device(
    device: str, mixed: Callable[[Tensor, Tensor], Tensor]
) -> None:
    host = torch.ones(3, 3)
    with pytest.raises(RuntimeError, match="device"):
        mixed(host.to(device), host)
    assert (host.to(device) + torch.tensor(1.0)).cpu().sum() == 18, "numbers of no dimension are taken, as on CUDA"


def test_launches_uploads_and_waits_are_counted(device: str) -> None:
    host, pinned = torch.ones(4), torch.ones(4).pin_memory()
    with counting() as counts:
        there = pinned.to(device, non_blocking=True)  # an upload
        again = host.to(device, non_blocking=True)  # an upload that waits: the memory is pageable
        pinned.to(device)  # an upload that waits: it was not asked to be asynchronous
        total = (there + again).view(2, 2).T.sum()  # two launches; views are none
        torch._foreach_add_([there, again], 1.0)  # one launch
        total.item()  # waits
        there.cpu()  # a download that waits
        there.nonzero()  # a launch whose result has a size that the host must know
        there[there > 0]  # compared, found, which waits, and read
        torch.repeat_interleave(there.long(), output_size=8)  # converted and repeated; its size is given
    assert counts.summary() == {"launches": 9, "uploads": 3, "downloads": 1, "synchronisations": 6}, counts.launches
    assert counts.waits["upload"] == 2 and counts.waits["_local_scalar_dense"] == 1


def test_attention_and_optimisers_are_one_launch_a_call(device: str) -> None:
    queries = torch.randn(2, 1, 5, 4, device=device, requires_grad=True)
    with counting() as counts:
        F.scaled_dot_product_attention(queries, queries, queries).sum().backward()
    assert counts.launches["fused attention"] == counts.launches["fused attention backward"] == 1
    weights = [nn.Parameter(torch.ones(3, device=device)) for _ in range(5)]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.AdamW(weights, fused=True)
    optimizer.step()
    with counting() as counts:
        optimizer.step()
    assert dict(counts.launches) == {"_foreach_add_": 1, "_fused_adamw_": 1}


def test_a_small_network_computes_what_the_cpu_computes(device: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    images = torch.randn(5, 3, 8, 8)
    found = {}
    for place in ("cpu", device):
        own = copy.deepcopy(model).to(place)
        loss = F.cross_entropy(own(images.to(place)), torch.arange(5).to(place) % 3)
        loss.backward()
        found[place] = [loss.detach().cpu(), *(weight.grad.cpu() for weight in own.parameters())]
        assert all(weight.device.type == place for weight in copy.deepcopy(own).parameters())
    for ours, theirs in zip(found[device], found["cpu"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_registered_backend_is_a_device_to_train_on(device: str) -> None:
    assert choose_device(device) == device and choose_device(f"{device}:0") == f"{device}:0"
    assert choose_precision("auto", device) == "fp32"
    with pytest.raises(InputError, match="is not supported; expected cpu, cuda or cuda:N"):
        choose_device(f"{device}:1")
