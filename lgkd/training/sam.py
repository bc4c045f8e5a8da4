"""Implement sharpness-aware minimisation (SAM): step by the gradient at nearby weights of higher loss."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lgkd.config import Sam
from lgkd.training.buffers import copy_buffers, restore_buffers

_EPSILON = 1e-12


class SharpnessAware:
    """Move the weights of a task up the loss for the second of two passes over a batch.

    With g the mean gradient over the whole batch, over all micro-batches and processes, the second gradient is taken at

        w + rho g / (|g| + 1e-12)                 SAM
        w + rho w^2 g / (| |w| g | + 1e-12)       ASAM (`adaptive`), by elements

    and the optimiser updates w by it. w are all weights that have a gradient, projections of terms among them: they are
    weights of the same loss, and the norm and the direction of its gradient are theirs too. Only directions matter, so
    that gradients multiplied by a scaler give the same weights.

    Both passes begin with the same buffers, such as running statistics of BatchNorm and the memories of a loss; those
    of the first pass are kept.

    Source: Foret et al., Sharpness-Aware Minimization, arXiv 2010.01412; Kwon et al., ASAM, arXiv 2102.11600, without
    its constant eta and for biases as for other weights, as in github.com/davda54/sam.

    Args:
        task: trained in place.
        settings: of a recipe.
    """

    def __init__(self, task: nn.Module, settings: Sam) -> None:
        self._task, self._settings = task, settings

    @contextmanager
    def perturbed(self, judge: Callable[[Tensor], Tensor], begun: Sequence[Tensor]) -> Iterator[None]:
        """Move the weights by their gradients, which are cleared, inside; restore weights and buffers on exit.

        After a first pass that is not finite the weights stay, and the second gradient becomes infinite, so that guard
        and scaler skip the update.

        Args:
            judge: returns 1 if the first pass or the given norm of its gradient is not finite, else 0, on the device.
            begun: the buffers before the first pass, which the second one begins with.
        """
        weights = [weight for weight in self._task.parameters() if weight.grad is not None]
        before = torch.cat([weight.detach().reshape(-1) for weight in weights])
        ascent, norm = self._ascent(weights, before)
        bad = judge(norm)
        # Before the weights are moved, which a copy that finds no memory would leave so.
        first = copy_buffers(self._task)
        _set(weights, torch.where(bad > 0, before, before + ascent))
        del ascent
        for weight in weights:
            weight.grad = None
        restore_buffers(self._task, begun)
        try:
            yield
        finally:
            _set(weights, before)
            restore_buffers(self._task, first)
        gradient = next(weight.grad for weight in weights if weight.grad is not None)
        gradient += torch.where(bad > 0, torch.inf, 0.0)

    def _ascent(self, weights: Sequence[nn.Parameter], values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the way up the loss, in one row, and the norm of the gradient that it is scaled by."""
        ascent = torch.cat([weight.grad.reshape(-1) for weight in weights if weight.grad is not None])
        if self._settings.adaptive:
            ascent *= values.abs()
        norm = torch.linalg.vector_norm(ascent)
        if self._settings.adaptive:
            ascent *= values.abs()
        ascent *= self._settings.rho / (norm + _EPSILON)
        return ascent, norm


def _set(weights: Sequence[nn.Parameter], values: Tensor) -> None:
    """Set weights to values in one row."""
    parts = torch.split(values, [weight.numel() for weight in weights])
    shaped = [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]
    with torch.no_grad():
        torch._foreach_copy_(list(weights), shaped)
