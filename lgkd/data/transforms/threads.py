"""Run small operations in one thread, where the processor is the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch

_lock = Lock()
_inside = 0
_before = 1


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Make torch compute in one thread within the block, if `device` is the CPU.

    Augmentation consists of operations of some ten microseconds, just large enough for torch to share them out among
    threads. Waking those takes longer than the work: on two cores, batches of 32 and of 224 pixels took 1.6 times as
    long, and Python's own threads, which hand its lock around between the operations, gained nothing either.
    """
    global _inside, _before
    if device.type != "cpu":
        yield
        return
    with _lock:
        # The number is partly of the thread and partly of the process: a second thread would read the 1.
        if not _inside:
            _before = torch.get_num_threads()
        _inside += 1
    torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            torch.set_num_threads(_before)
