"""Accumulate sums over an epoch on the device, read once, so that no step waits for the host."""

from collections.abc import Callable

import torch
from torch import Tensor

from lgkd.distillation.tasks import Batch, Step, count_correct


class RunningMean:
    """Compute means of the loss, of its named parts, and of the accuracy on the training batches.

    Summed in double precision, in which sums of single precision are exact: they do not depend on how the images are
    split over processes, nor on interruptions of the run.

    Args:
        correct: counts the images that are classified correctly, from logits and targets, as `Task.correct`.
    """

    def __init__(self, correct: Callable[[Tensor, Tensor], Tensor] = count_correct) -> None:
        self._correct = correct
        self._sums: dict[str, Tensor] = {}
        self.images = 0

    def add(self, step: Step, batch: Batch) -> None:
        """Add one micro-batch, weighted by its number of images."""
        count = len(batch.images)
        self.images += count
        correct = self._correct(step.logits.detach(), batch.targets)
        values = {"loss": step.loss.detach() * count, "accuracy": correct.float()}
        values |= {name: value * count for name, value in step.parts.items()}
        before, self._sums = self._sums, {}
        for name, value in values.items():
            total = before.pop(name, None)
            self._sums[name] = value.double() if total is None else total + value
        # Restored sums have another order; displayed and stored values keep that of the terms.
        self._sums |= before

    def read(self, gather: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """Return the means so far; waits for the device. `gather` sums a vector over processes."""
        if not self._sums:
            return {}
        stacked = torch.stack([*self._sums.values(), torch.tensor(float(self.images), device=self._device)]).double()
        if gather is not None:
            stacked = gather(stacked)
        means = (stacked[:-1] / stacked[-1].clamp(min=1)).tolist()
        return dict(zip(self._sums, means, strict=True))

    @property
    def _device(self) -> torch.device:
        return next(iter(self._sums.values())).device

    def state_dict(self, gather: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Return the sums over processes, for a checkpoint within the epoch."""
        return {name: gather(value) for name, value in self._sums.items()}

    def load_state_dict(self, sums: dict[str, Tensor], images: int, device: torch.device) -> None:
        """Restore saved sums."""
        self._sums = {name: value.to(device, torch.float64) for name, value in sums.items()}
        self.images = images
