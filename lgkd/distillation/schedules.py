"""How much a term counts in the course of a training, and when it ends for good.

Epochs are counted from 0 and may be fractions: the first step of the third epoch is at 2.0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from lgkd._internal.text import did_you_mean
from lgkd.config.declaration import check_values
from lgkd.config.losses import AdaptiveSection, TermScheduleSection
from lgkd.errors import InputError

Shape = Literal["constant", "cosine", "steps"]
_ADAPTIVE, _SCHEDULE = AdaptiveSection(), TermScheduleSection()


@dataclass(frozen=True)
class AdaptiveStop:
    """Ends a term for good once its loss does not fall any more.

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

    threshold: float = _ADAPTIVE.threshold
    window: int | None = _ADAPTIVE.window
    relative: bool = _ADAPTIVE.relative
    patience: int = _ADAPTIVE.patience

    def __post_init__(self) -> None:
        if not math.isfinite(self.threshold):
            raise InputError(f"the adaptive stop's threshold is {self.threshold}, expected a finite number")
        if self.window is not None and self.window < 1:
            raise InputError(f"the adaptive stop's window is {self.window} epochs, expected at least 1")
        if self.patience < 2:
            raise InputError(f"the adaptive stop's patience is {self.patience} epochs, expected at least 2")
        check_values(AdaptiveSection, "the adaptive stop", vars(self))

    def slope(self, losses: Sequence[float], window: int) -> float | None:
        """D(e) after the losses of e epochs, or its relative form; None for one epoch."""
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
        """The first epoch, counted from 1, after which the term may end, by the epochs of the warm-up."""
        return max(self.patience, math.ceil(warmup) + 2 * window)


@dataclass(frozen=True)
class TermSchedule:
    """A factor for a term's weight, from its start to its end.

    The factor is the product of a linear warm-up and a shape, and 0 for good from `until` on or once the adaptive stop
    has spoken.

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

    warmup: float = _SCHEDULE.warmup
    shape: Shape = _SCHEDULE.shape
    end: float = _SCHEDULE.end
    over: float | None = _SCHEDULE.over
    milestones: tuple[float, ...] = _SCHEDULE.milestones
    factor: float = _SCHEDULE.factor
    until: int | None = _SCHEDULE.until
    adaptive: AdaptiveStop | None = None

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise InputError(f"a term's schedule is {self.shape!r}; {did_you_mean(str(self.shape), get_args(Shape))}")
        for name in ("warmup", "end", "factor", "over", "until"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"{name} of a term's schedule is {value}, expected a finite number >= 0")
        if self.until == 0 or self.over == 0:
            raise InputError("a term that ends at epoch 0 is no term; leave it out")
        plain = {name: value for name, value in vars(self).items() if name != "adaptive"}
        check_values(TermScheduleSection, "a term's schedule", plain)

    @property
    def constant(self) -> bool:
        """Tell a factor that is 1 from the first step to the last."""
        return self == _CONSTANT

    def at(self, epoch: float, epochs: int) -> float:
        """The factor at an epoch of a training of `epochs`, where the term has not ended."""
        value = min(1.0, epoch / self.warmup) if self.warmup else 1.0
        if self.shape == "cosine":
            share = min(1.0, epoch / (self.over or epochs))
            value *= self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * share))
        elif self.shape == "steps":
            value *= self.factor ** sum(epoch >= milestone for milestone in self.milestones)
        return value


_CONSTANT = TermSchedule()


@dataclass
class TermState:
    """How far a term is: its schedule, the losses of its epochs, and whether it has ended.

    Args:
        schedule: what was asked for.
        losses: the mean of the term over every finished epoch, unweighted.
        ended: the epoch after which it ended, counted from 1; None: it goes on.
    """

    schedule: TermSchedule
    losses: list[float] = field(default_factory=list)
    ended: int | None = None

    def factor(self, epoch: float, epochs: int) -> float:
        """Return the factor of the term's weight."""
        return 0.0 if self.ended is not None else self.schedule.at(epoch, epochs)

    def on_epoch_end(self, epoch: int, epochs: int, loss: float | None, *, warmup: float = 0.0) -> str | None:
        """Hear of a finished epoch (counted from 1); the reason if the term ends with it.

        Args:
            epoch, epochs: the finished one, and all of the training.
            loss: the mean of the term over it, unweighted.
            warmup: epochs in which the learning rate grows; the adaptive stop does not judge in them.
        """
        if self.ended is not None:
            return None
        stop = self.schedule.adaptive
        ends = self.schedule.until is not None and epoch >= self.schedule.until
        if stop is not None and loss is not None:
            self.losses.append(loss)
            window = _window(stop, epochs)
            slope = stop.slope(self.losses, window)
            waits = len(self.losses) < stop.first_judged(window, max(warmup, self.schedule.warmup))
            ends |= slope is not None and not waits and slope >= stop.threshold
        if not ends:
            return None
        self.ended = epoch
        return self.reason(epochs)

    def reason(self, epochs: int) -> str | None:
        """Why the term has ended, in words; None while it goes on."""
        if self.ended is None:
            return None
        if self.schedule.until is not None and self.ended >= self.schedule.until:
            return f"it was to last {self.schedule.until} epochs"
        stop = self.schedule.adaptive
        slope = stop.slope(self.losses, _window(stop, epochs)) if stop is not None else None
        if stop is None or slope is None:
            return "the schedule that it had before ended it"
        change = f"{slope:.1%} of itself a window" if stop.relative else f"{slope:.3g} an epoch"
        return f"its loss changes by {change}, and was to end at {stop.threshold:g}"

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint, as JSON has it."""
        return {"losses": list(self.losses), "ended": self.ended}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.losses, self.ended = [float(loss) for loss in state["losses"]], state["ended"]


def _window(stop: AdaptiveStop, epochs: int) -> int:
    return stop.window or max(2, epochs // 6)
