"""Copy and restore the buffers of a task, such as running statistics of BatchNorm and the memories of a loss."""

from collections.abc import Sequence

from torch import Tensor, nn


def copy_buffers(task: nn.Module) -> list[Tensor]:
    """Copy the buffers of a task."""
    return [buffer.clone() for buffer in task.buffers()]


def restore_buffers(task: nn.Module, values: Sequence[Tensor]) -> None:
    """Write copies back into the buffers they were made of."""
    for buffer, value in zip(task.buffers(), values, strict=True):
        buffer.copy_(value)
