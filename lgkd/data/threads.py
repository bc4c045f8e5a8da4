"""Work on parts of a batch in several threads, where the processor is the device."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import torch

# Numbers below which a thread of its own costs more than it brings.
_SMALLEST = 2**19


def side_by_side(work: Callable[[slice], None], count: int, elements: int, device: torch.device) -> None:
    """Call `work` with slices that make up range(count), in as many threads as torch computes with.

    Augmentation goes through pieces that suit the cache, too small for torch to share out by itself; torch gives
    Python's lock away while it computes, so that threads do.

    Args:
        work: must not care which slices it is given. Gradients are off in it.
        count: items.
        elements: numbers an item has.
        device: on any other than the CPU, and for little work, there is one slice and no thread.
    """
    parts = min(torch.get_num_threads(), count, count * elements // _SMALLEST) if device.type == "cpu" else 1
    if parts < 2:
        work(slice(0, count))
        return
    ends = [count * number // parts for number in range(parts + 1)]
    slices = [slice(first, last) for first, last in pairwise(ends)]

    def alone(part: slice) -> None:
        # Whether there are gradients is a thread's own affair.
        with torch.no_grad():
            work(part)

    others = [_pool(parts - 1).submit(alone, part) for part in slices[1:]]
    try:
        alone(slices[0])
    finally:
        # All of them, even if one fails: they write into memory of the caller's.
        errors = [other.exception() for other in others]
    for error in errors:
        if error is not None:
            raise error


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay: new ones would each bring a team of torch's own along."""
    return ThreadPoolExecutor(threads, thread_name_prefix="lgkd-augment")
