"""Schedules of terms: how much a term counts in the course of a training, and when it ends for good.

Epochs are counted from 0 and may be fractions: the first step of the third epoch is at 2.0.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from lgkd.config.base import Number, Settings, as_tuple


class AdaptiveStop(Settings):
    """End a term for good once its loss does not fall any more.

    Let L(e) be the mean of the term's unweighted loss over epoch e (from 1), w the window. The slope of the loss is

        d(e) = (L(e) - mean(L(1), ..., L(e-1))) / e     for 2 <= e <= w
        d(e) = (L(e) - L(e-w)) / w                      for e > w

    and is smoothed to D(e), the mean of d(2), ..., d(e) while e <= w, of the last w values of d afterwards. The term
    ends after the first epoch with D(e) >= threshold that may judge: the warm-up, of the learning rate or of the term,
    is over, and 2w epochs have passed since. D(e) is then the mean of w slopes of which each is taken over a window
    behind the warm-up. Earlier it does not measure what is learned: in the warm-up next to nothing is, and within the
    first window d(e) is about half of the slope. Few steps an epoch make both worse.

    Source: Rostand, Hsu and Lu, Adaptive Locality Guidance, TNNLS 2025 (10.1109/TNNLS.2024.3515076), as described by a
    third party's port; the paper's own text was not at hand. The published values are a window of 50 epochs of 300, and
    -0.02 in units of loss per epoch (`relative=False`), which depends on the scale of the teacher's features. That it
    waits is lgkd's own; the published one judges from the second epoch on.

    Args:
        threshold: slope at which the term ends; negative: while the loss still falls, only slowly.
        window: epochs; a sixth of the training if not given, as 50 is of 300.
        relative: compare w D(e) / mean of the last w losses instead, the share of itself that the loss loses in a
            window: neither the teacher's scale nor the length of the training changes what a threshold means. This
            form is lgkd's own, and with a threshold of -0.1 the default here as in recipes.
        patience: epochs before which the term does not end, even if it may judge earlier.
    """

    threshold: Annotated[Number, Field(ge=-1e9, le=1e9)] = -0.1
    """The smoothed slope at which the term ends: per window as a share of the loss, or in its units per epoch."""
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
    """A factor for a term's weight, from its start to its end.

    The factor is the product of a linear warm-up and a shape, and 0 for good from `until` on or once the adaptive stop
    has ended the term.

    Args:
        warmup: epochs in which the factor grows from 0 to 1.
        shape: "constant"; "cosine", half a cosine from 1 to `end` over `over` epochs; "steps", which multiplies by
            `factor` at every epoch of `milestones`.
        end: where the cosine ends.
        over: epochs of the cosine; the whole training if not given.
        milestones: epochs of the steps.
        factor: of a step.
        until: the epoch at which the term ends; None: never.
        adaptive: ends the term when its loss does not fall any more; None: never.
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
    """Epochs at which steps are made."""
    factor: Annotated[Number, Field(ge=0, le=1000)] = 0.1
    """What a step multiplies the weight by."""
    until: int | None = Field(default=None, ge=1, le=1_000_000)
    """Epoch after which the term ends; null: never."""
    adaptive: AdaptiveStop | None = None
    """End the term when its loss does not fall any more; null: never."""

    @property
    def constant(self) -> bool:
        """True if the factor is 1 from the first step to the last."""
        return self == _CONSTANT

    def at(self, epoch: float, epochs: float) -> float:
        """Return the factor at an epoch of a training of `epochs`, where the term has not ended."""
        value = min(1.0, epoch / self.warmup) if self.warmup else 1.0
        if self.shape == "cosine":
            share = min(1.0, epoch / (self.over or epochs))
            value *= self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * share))
        elif self.shape == "steps":
            value *= self.factor ** sum(epoch >= milestone for milestone in self.milestones)
        return value


_CONSTANT = TermSchedule()
