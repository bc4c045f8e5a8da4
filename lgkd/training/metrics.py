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
        self._names: tuple[str, ...] = ()
        self._sums = torch.empty(0)
        self.images = 0

    def add(self, step: Step, batch: Batch) -> None:
        """Add one micro-batch, weighted by its number of images."""
        count = len(batch.images)
        self.images += count
        correct = self._correct(step.logits.detach(), batch.targets)
        means = {"loss": step.loss.detach(), **step.parts}
        sums = dict(zip(means, torch._foreach_mul([*means.values()], count), strict=True))
        sums = {"loss": sums.pop("loss"), "accuracy": correct.float()} | sums
        names, values = tuple(sums), torch.stack([*sums.values()]).double()
        if names == self._names:
            self._sums = self._sums + values
            return
        before = self._by_name()
        totals = {
            name: value if name not in before else before.pop(name) + value
            for name, value in zip(names, values.unbind(), strict=True)
        }
        # Restored sums have another order; displayed and stored values keep that of the terms.
        totals |= before
        self._names, self._sums = tuple(totals), torch.stack([*totals.values()])

    def _by_name(self) -> dict[str, Tensor]:
        return dict(zip(self._names, self._sums.unbind(), strict=True))

    def read(self, gather: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """Return the means so far; waits for the device. `gather` sums a vector over processes."""
        if not self._names:
            return {}
        stacked = torch.cat([self._sums, torch.tensor([float(self.images)], dtype=torch.float64, device=self._device)])
        if gather is not None:
            stacked = gather(stacked)
        means = (stacked[:-1] / stacked[-1].clamp(min=1)).tolist()
        return dict(zip(self._names, means, strict=True))

    @property
    def _device(self) -> torch.device:
        return self._sums.device

    def state_dict(self, gather: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Return the sums over processes, for a checkpoint within the epoch."""
        # Tensors of their own: `gather` may add in place, and a file takes no views of one memory.
        return {name: gather(value.clone()) for name, value in self._by_name().items()}

    def load_state_dict(self, sums: dict[str, Tensor], images: int, device: torch.device) -> None:
        """Restore saved sums."""
        self._names = tuple(sums)
        self._sums = (
            torch.stack([value.to(device, torch.float64) for value in sums.values()]) if sums else torch.empty(0)
        )
        self.images = images
