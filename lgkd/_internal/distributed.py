"""Connect several training processes: rank, device, and collective operations on objects.

Nothing here starts processes; torchrun, Slurm or `lgkd._internal.launch` do. Torch is imported only when it is needed.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from lgkd.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

EXPECTED = "LGKD_EXPECTED_PROCESSES"
"""Name of the environment variable by which `lgkd._internal.launch` passes the number of processes it started."""

# The first reading of a large folder of images keeps the others waiting.
_PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class Place:
    """Identify this process among all of them.

    Attributes:
        rank: counted over all machines; the process of rank 0 writes and prints for all.
        count: number of processes.
        local: counted on this machine; the number of its GPU.
    """

    rank: int = 0
    count: int = 1
    local: int = 0


def place(environment: Mapping[str, str] | None = None) -> Place:
    """Return the place of this process by the environment that torchrun or a step of Slurm sets.

    Slurm's variables count only where MASTER_ADDR is set too: a batch script has them as well, and it runs once.

    Raises:
        InputError: the environment contradicts itself, or there are fewer processes than were asked for.
    """
    words = os.environ if environment is None else environment
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "RANK" not in words and "MASTER_ADDR" in words and "SLURM_STEP_NUM_TASKS" in words:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    rank, count, local = (_number(words, name, fallback) for name, fallback in zip(names, (0, 1, 0), strict=True))
    if not 0 <= rank < max(count, 1):
        raise InputError(f"{names[0]} is {rank} and {names[1]} is {count}; expected a rank below the number")
    expected = _number(words, EXPECTED, count)
    if expected != count:
        raise InputError(f"--nproc asked for {expected} processes, but {count} were started; see docs/processes.md")
    return Place(rank, max(count, 1), local)


def _number(words: Mapping[str, str], name: str, fallback: int) -> int:
    text = words.get(name, "")
    if not text:
        return fallback
    if not text.isdecimal():
        raise InputError(f"{name} is {text!r} in the environment, expected a number; unset it to train in one process")
    return int(text)


def join(device: str) -> tuple[Place, str]:
    """Join the process group, if there are several processes; called by all of them, any number of times.

    Args:
        device: "cpu", "cuda" or "cuda:N".

    Returns:
        The place of this process, and its device: among several on one machine each has its own GPU.

    Raises:
        InputError: there are fewer GPUs than processes, or all of them were assigned to one.
    """
    who = place()
    if who.count == 1:
        return who, device
    import torch
    import torch.distributed as dist

    if torch.device(device).type == "cuda":
        own = f"cuda:{who.local}"
        if device not in ("cuda", own):
            raise InputError(f"{who.count} processes cannot share {device}; use --device cuda, and each takes its own")
        if who.local >= torch.cuda.device_count():
            raise InputError(
                f"process {who.local} of this machine has no GPU of its own ({torch.cuda.device_count()} found); "
                "start as many processes as there are GPUs, or use --device cpu"
            )
        torch.cuda.set_device(own)
        device = own
    if not dist.is_initialized():
        # Accelerate and processes started by another launcher read these.
        os.environ.setdefault("RANK", str(who.rank))
        os.environ.setdefault("WORLD_SIZE", str(who.count))
        os.environ.setdefault("LOCAL_RANK", str(who.local))
        os.environ.setdefault("MASTER_PORT", "29500")
        # Collectives between hosts must not wait for a GPU, so gloo is used beside NCCL.
        backend = "gloo" if torch.device(device).type == "cpu" else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, timeout=_PATIENCE, rank=who.rank, world_size=who.count)
    if dist.get_world_size() != who.count:
        raise InputError(f"{who.count} processes were expected, {dist.get_world_size()} met; see docs/processes.md")
    return who, device


def together() -> bool:
    """Return true if this process has joined others."""
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def wait() -> None:
    """Block until all processes are here."""
    agree(None)


def agree(value: T | None) -> T | None:
    """Return the value of the lowest rank that has one; None where none has. Called by all."""
    if not together():
        return value
    import torch
    import torch.distributed as dist

    # Usually no process has a value, so the objects themselves are sent only when there are some.
    some = torch.tensor([value is not None], dtype=torch.int32)
    dist.all_reduce(some, op=dist.ReduceOp.MAX)
    if not some.item():
        return None
    return next(found for found in gather(value) if found is not None)


def highest(values: list[float]) -> list[float]:
    """Return the maximum of each number over processes; called by all, with as many."""
    if not together():
        return values
    import torch
    import torch.distributed as dist

    found = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return found.tolist()


def gather(value: T) -> list[T]:
    """Return the values of all processes, by rank."""
    if not together():
        return [value]
    import torch.distributed as dist

    found: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def all_reduce_sum(values: "Tensor") -> "Tensor":
    """Sum a tensor over processes; called by all, with the same shape."""
    if not together():
        return values
    import torch.distributed as dist

    values = values.clone()
    dist.all_reduce(values)
    return values


def leave() -> None:
    """Leave the process group, at the end of a process without errors."""
    import sys

    if "torch.distributed" in sys.modules and together():
        import torch.distributed as dist

        dist.destroy_process_group()
