"""Sums over an epoch, kept on the device and read once, so that no step waits for the host."""

import torch
from torch import Tensor

from lgkd.tasks import Batch, Step


class Meters:
    """Means of the loss, of its named parts, and of the accuracy on the training batches."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self.images = 0

    def add(self, step: Step, batch: Batch) -> None:
        """Add one micro-batch, weighted by its number of images."""
        count = len(batch.images)
        self.images += count
        labels = batch.targets if batch.targets.ndim == 1 else batch.targets.argmax(dim=1)
        correct = (step.logits.detach().argmax(dim=1) == labels).sum()
        values = {"loss": step.loss.detach() * count, "accuracy": correct.float()}
        values |= {name: value * count for name, value in step.parts.items()}
        for name, value in values.items():
            total = self._sums.get(name)
            self._sums[name] = value.float() if total is None else total + value

    def read(self) -> dict[str, float]:
        """The means so far; waits for the device."""
        if not self._sums:
            return {}
        stacked = torch.stack(list(self._sums.values())).double() / max(self.images, 1)
        return dict(zip(self._sums, stacked.tolist(), strict=True))
