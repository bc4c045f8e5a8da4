"""Several processes that train together: who this one is, and what all of them agree on.

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
"""Name of the environment variable by which `lgkd._internal.launch` says how many it has started."""

# Reading a large folder of images for the first time keeps the others waiting.
_PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class Place:
    """Which of the processes this one is.

    Attributes:
        rank: counted over all machines; the process of rank 0 writes and speaks for all.
        count: how many there are.
        local: counted on this machine; the number of its GPU.
    """

    rank: int = 0
    count: int = 1
    local: int = 0


def place(environment: Mapping[str, str] | None = None) -> Place:
    """Who this process is, by the environment that torchrun or a step of Slurm sets.

    Slurm's words count only where MASTER_ADDR is set too: a batch script has them as well, and it runs once.

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
    """Meet the other processes, if there are any; to be called by all of them, any number of times.

    Args:
        device: "cpu", "cuda" or "cuda:N".

    Returns:
        Who this process is, and its device: among several on one machine each has a GPU of its own.

    Raises:
        InputError: there are fewer GPUs than processes, or all of them were sent to one.
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
        # Accelerate and a process that another starter made read these.
        os.environ.setdefault("RANK", str(who.rank))
        os.environ.setdefault("WORLD_SIZE", str(who.count))
        os.environ.setdefault("LOCAL_RANK", str(who.local))
        os.environ.setdefault("MASTER_PORT", "29500")
        # What the hosts agree on must not wait for a GPU, so gloo is there beside NCCL.
        backend = "gloo" if torch.device(device).type == "cpu" else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, timeout=_PATIENCE, rank=who.rank, world_size=who.count)
    if dist.get_world_size() != who.count:
        raise InputError(f"{who.count} processes were expected, {dist.get_world_size()} met; see docs/processes.md")
    return who, device


def together() -> bool:
    """Whether this process has met others."""
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def wait() -> None:
    """Until all processes are here."""
    agree(None)


def agree(value: T | None) -> T | None:
    """What the lowest process that has something has; None where none has. Called by all."""
    if not together():
        return value
    import torch
    import torch.distributed as dist

    # Mostly nobody has something, so the objects themselves travel only when there are some.
    some = torch.tensor([value is not None], dtype=torch.int32)
    dist.all_reduce(some, op=dist.ReduceOp.MAX)
    if not some.item():
        return None
    return next(found for found in gather(value) if found is not None)


def highest(values: list[float]) -> list[float]:
    """The highest of each of some numbers over processes; called by all, with as many."""
    if not together():
        return values
    import torch
    import torch.distributed as dist

    found = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return found.tolist()


def gather(value: T) -> list[T]:
    """The values of all processes, by rank."""
    if not together():
        return [value]
    import torch.distributed as dist

    found: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def add_up(values: "Tensor") -> "Tensor":
    """A tensor summed over processes; called by all, with the same shape."""
    if not together():
        return values
    import torch.distributed as dist

    values = values.clone()
    dist.all_reduce(values)
    return values


def leave() -> None:
    """Part from the others; at the end of a process that went well."""
    import sys

    if "torch.distributed" in sys.modules and together():
        import torch.distributed as dist

        dist.destroy_process_group()
