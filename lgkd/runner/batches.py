"""Iterate over the batches of a loader, epoch after epoch."""

from collections.abc import Iterator
from itertools import count

from lgkd.data.batch import Batch
from lgkd.data.loader import TrainLoader


class Batches:
    """Yield a loader's batches, epoch after epoch; `close()` stops the workers of the current epoch."""

    def __init__(self, loader: TrainLoader) -> None:
        self._loader = loader
        self._epochs = count()
        self._epoch: Iterator[Batch] = iter(())

    def __next__(self) -> Batch:
        batch = next(self._epoch, None)
        if batch is None:
            self._epoch = self._loader.epoch(next(self._epochs))
            batch = next(self._epoch)
        return batch

    def close(self) -> None:
        """End the epoch."""
        end = getattr(self._epoch, "close", None)
        if end is not None:
            end()
