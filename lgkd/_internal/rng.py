"""Draw random numbers without hidden state: every draw is a pure function of its purpose.

A draw never depends on earlier draws, so the point where a run was stopped, the number of
workers and the number of processes cannot change what a sample sees. Numbers come from the
SplitMix64 finaliser (Steele, Lea & Flood, 2014) applied to a counter; they are made on the host
with NumPy's unsigned integers, whose overflow is defined, and are the same on every device.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def seed_of(*parts: int | str) -> int:
    """Compute a 63-bit seed that depends on every part, in order, and on nothing else."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "big") >> 1


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the generators that a step on a device draws from: the CPU's and the device's.

    `torch.manual_seed` would seed those of all devices, and of CUDA even before it is used.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw on the CPU from a seed inside; the generators of all devices are as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        seed_generators(seed, torch.device("cpu"))
        yield


@contextmanager
def preserved_generators(device: torch.device | str) -> Iterator[None]:
    """Restore the random states of the CPU and of a device on exit."""
    device = torch.device(device)
    if device.type == "cpu":
        with torch.random.fork_rng(devices=[]):
            yield
        return
    index = device.index if device.index is not None else torch.get_device_module(device).current_device()
    with torch.random.fork_rng(devices=[index], device_type=device.type):
        yield


def _mixed(counter: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = (counter ^ (counter >> np.uint64(30))) * _MIX_1
    value = (value ^ (value >> np.uint64(27))) * _MIX_2
    return value ^ (value >> np.uint64(31))


def bits(seed: int, index: Tensor, draws: int) -> NDArray[np.uint64]:
    """Draw `draws` random 64-bit words for each entry of `index`, shape (len(index), draws)."""
    rows = index.detach().cpu().numpy().astype(np.uint64)
    columns = np.arange(1, draws + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        start = _mixed((rows + np.uint64(seed)) * _GOLDEN + np.uint64(seed))
        return _mixed(start[:, None] + columns[None, :] * _GOLDEN)


def uniform(seed: int, index: Tensor, draws: int) -> Tensor:
    """Draw uniform numbers in [0, 1) for each sample: float64, shape (len(index), draws).

    Args:
        seed: identifies the purpose, usually `seed_of(run_seed, "augment", epoch)`.
        index: int64 (B,), the samples' positions in the data set.
        draws: count of numbers per sample. Asking for more leaves the first ones unchanged.
    """
    return torch.from_numpy((bits(seed, index, draws) >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def permutation(seed: int, count: int) -> Tensor:
    """Draw a uniformly random order of `range(count)`: int64 (count,)."""
    keys = bits(seed, torch.arange(count), 1)[:, 0]
    return torch.from_numpy(np.argsort(keys, kind="stable"))


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """Draw the order in which an epoch visits the samples: int64 (count,)."""
    return permutation(seed_of(seed, "order", epoch), count)
