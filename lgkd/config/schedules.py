"""Define schedules of terms: a factor of the weight over the training, and the end of the term.

Epochs are counted from 0 and may be fractions: the first step of the third epoch is at 2.0.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from lgkd.config.base import Number, Settings, as_tuple


class AdaptiveStop(Settings):
    """End a term permanently once its loss no longer falls.

    Let L(e) be the mean of the term's unweighted loss over epoch e (from 1), w the window. The slope of the loss is

        d(e) = (L(e) - mean(L(1), ..., L(e-1))) / e     for 2 <= e <= w
        d(e) = (L(e) - L(e-w)) / w                      for e > w

    and is smoothed to D(e), the mean of d(2), ..., d(e) while e <= w, of the last w values of d afterwards. The term
    ends after the first epoch with D(e) >= threshold that is judged: the warm-up, of the learning rate or of the term,
    is over, and 2w epochs have passed since. D(e) is then the mean of w slopes, each taken over a window after the
    warm-up. Earlier it does not measure learning: in the warm-up the loss hardly falls, and within the first window
    d(e) is about half of the slope. Few steps per epoch make both worse.

    Source: Rostand, Hsu and Lu, Adaptive Locality Guidance, TNNLS 2025 (10.1109/TNNLS.2024.3515076), as described by a
    third party's port; the paper's text was not available. The published values are a window of 50 epochs of 300, and
    -0.02 in units of loss per epoch (`relative=False`), which depends on the scale of the teacher's features. The wait
    is lgkd's own; the published criterion is judged from the second epoch on.

    Args:
        threshold: slope at which the term ends; negative: while the loss still falls, only slowly.
        window: epochs; a sixth of the training if not given, as 50 is of 300.
        relative: compare w D(e) / mean of the last w losses instead, the relative change of the loss per window: the
            meaning of a threshold depends neither on the teacher's scale nor on the length of the training. This
            form is lgkd's own, and with a threshold of -0.1 the default here as in recipes.
        patience: epochs before which the term does not end, even if it is judged earlier.
    """

    threshold: Annotated[Number, Field(ge=-1e9, le=1e9)] = -0.1
    """Smoothed slope at which the term ends: per window as a share of the loss, or in its units per epoch."""
    window: int | None = Field(default=None, ge=1, le=1_000_000)
    """Epochs over which the slope is taken and smoothed; null: a sixth of the training."""
    relative: bool = True
    """true: share of the loss per window; false: units of loss per epoch, as published (-0.02, window 50 of 300)."""
    patience: Annotated[int, Field(ge=2, le=1_000_000)] = 2
    """Epochs before which the term does not end; it waits for the warm-up and two windows in any case."""

    def slope(self, losses: Sequence[float], window: int) -> float | None:
        """Return D(e) after the losses of e epochs, or its relative form; None for one epoch."""
        now = len(losses)
        if now < 2:
            return None

        def raw(epoch: int) -> float:
            if epoch <= window:
                return (losses[epoch - 1] - sum(losses[: epoch - 1]) / (epoch - 1)) / epoch
            return (losses[epoch - 1] - losses[epoch - 1 - window]) / window

        first = 2 if now <= window else max(2, now - window + 1)
        smooth = sum(raw(epoch) for epoch in range(first, now + 1)) / (now + 1 - first)
        if self.relative:
            recent = losses[-window:]
            smooth *= window / max(sum(recent) / len(recent), 1e-30)
        return smooth

    def first_judged(self, window: int, warmup: float) -> int:
        """Return the first epoch, counted from 1, after which the term may end, by the epochs of the warm-up."""
        return max(self.patience, math.ceil(warmup) + 2 * window)


class TermSchedule(Settings):
    """Schedule the factor of a term's weight.

    The factor is the product of a linear warm-up and a shape, and 0 from `until` on or once the adaptive stop has
    ended the term.

    Args:
        warmup: epochs in which the factor grows from 0 to 1.
        shape: "constant"; "cosine", half a cosine from 1 to `end` over `over` epochs; "steps", which multiplies by
            `factor` at every epoch of `milestones`.
        end: final value of the cosine.
        over: epochs of the cosine; the whole training if not given.
        milestones: epochs of the steps.
        factor: factor of a step.
        until: the epoch at which the term ends; None: never.
        adaptive: ends the term when its loss no longer falls; None: never.
    """

    warmup: Annotated[Number, Field(ge=0, le=1_000_000)] = 0.0
    """Epochs in which the weight grows from 0."""
    shape: Literal["constant", "cosine", "steps"] = "constant"
    """constant; cosine: half a cosine down to `end`; steps: times `factor` at every milestone."""
    end: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """Share of the weight at which a cosine ends."""
    over: Number | None = Field(default=None, gt=0, le=1_000_000)
    """Epochs of the cosine; null: the whole training."""
    milestones: Annotated[
        tuple[Annotated[Number, Field(gt=0, le=1_000_000)], ...], BeforeValidator(as_tuple), Field(max_length=100)
    ] = ()
    """Epochs of the steps."""
    factor: Annotated[Number, Field(ge=0, le=1000)] = 0.1
    """Factor by which a step multiplies the weight."""
    until: int | None = Field(default=None, ge=1, le=1_000_000)
    """Epoch after which the term ends; null: never."""
    adaptive: AdaptiveStop | None = None
    """End the term when its loss no longer falls; null: never."""

    @property
    def constant(self) -> bool:
        """Return True if the factor is 1 from the first step to the last."""
        return self == _CONSTANT

    def at(self, epoch: float, epochs: float) -> float:
        """Return the factor at an epoch of a training of `epochs`, unless the term has ended."""
        value = min(1.0, epoch / self.warmup) if self.warmup else 1.0
        if self.shape == "cosine":
            share = min(1.0, epoch / (self.over or epochs))
            value *= self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * share))
        elif self.shape == "steps":
            value *= self.factor ** sum(epoch >= milestone for milestone in self.milestones)
        return value


_CONSTANT = TermSchedule()
