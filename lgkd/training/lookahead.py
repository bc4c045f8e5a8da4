"""Implement lookahead: slow weights that follow the optimiser's and replace them every few steps."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lgkd.config import Lookahead


class SlowWeights:
    """Keep a student's slow weights, and set the student to them every few steps.

    After every `settings.every` steps each floating-point tensor of the student's state, slow and fast, becomes

        slow + (1 - keep) (fast - slow),  keep = decay^every (steps done / steps of the training)^3

    so that the slow weights follow immediately at first and average over many steps at the end.

    Source: Zhang et al., Lookahead Optimizer, arXiv 1907.08610; the growing `keep` and the statistics of BatchNorm
    among the tensors: Jordan, arXiv 2404.00498, and the author's code.

    Args:
        student: trained in place.
        settings: of a recipe.
        steps: of the whole training.
    """

    def __init__(self, student: nn.Module, settings: Lookahead, steps: int) -> None:
        self._settings, self._steps = settings, steps
        self._fast = {name: value for name, value in student.state_dict().items() if value.is_floating_point()}
        self._slow = {name: value.clone() for name, value in self._fast.items()}

    @torch.no_grad()
    def after_step(self, done: int) -> None:
        """Update both after a step; `done` counts the steps of the whole training so far."""
        every = self._settings.every
        if done % every:
            return
        keep = self._settings.decay**every * (done / self._steps) ** 3
        slow, fast = list(self._slow.values()), list(self._fast.values())
        torch._foreach_lerp_(slow, fast, 1 - keep)
        torch._foreach_copy_(fast, slow)

    @torch.no_grad()
    def finish(self) -> None:
        """Set the student to its slow weights at the end of the training."""
        torch._foreach_copy_(list(self._fast.values()), list(self._slow.values()))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the slow weights, for a checkpoint."""
        return self._slow

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the slow weights from a checkpoint."""
        for name, value in self._slow.items():
            value.copy_(tensors[name])
