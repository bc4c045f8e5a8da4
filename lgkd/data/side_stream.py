"""Draw batches on a stream of their own, ahead of the step that uses them."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from lgkd.data.batch import Batch


class SideStream:
    """Queue the work of the next batches beside that of a step.

    Args:
        device: a device with streams.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._module = device, torch.get_device_module(device)
        self._stream: Any = self._module.Stream(device)

    def ahead(self, draw: Callable[[], list[Batch] | None]) -> Iterator[Batch]:
        """Yield batches; those of a group are queued before the first one of the group before it is given away.

        Args:
            draw: makes the next group, None at the end; called with the stream as the current one.
        """
        # The data set was copied to the device on the stream that is current now.
        self._stream.wait_stream(self._module.current_stream(self._device))
        coming = self._queued(draw)
        while coming is not None:
            batches, ready = coming
            coming = self._queued(draw)
            now = self._module.current_stream(self._device)
            now.wait_event(ready)
            for batch in batches:
                # Its memory is of the side stream, which must not use it again before the step has.
                for tensor in (batch.images, batch.targets, batch.weight, *batch.views):
                    if tensor is not None and tensor.device.type == self._device.type:
                        tensor.record_stream(now)
                yield batch

    def _queued(self, draw: Callable[[], list[Batch] | None]) -> tuple[list[Batch], Any] | None:
        with self._module.stream(self._stream):
            batches = draw()
            return None if batches is None else (batches, self._stream.record_event())
