"""The state of a term's schedule in the course of a training.

Epochs are counted from 0 and may be fractions: the first step of the third epoch is at 2.0.
"""

from dataclasses import dataclass, field
from typing import Any

from lgkd.config import AdaptiveStop, TermSchedule


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

    def factor(self, epoch: float, epochs: float) -> float:
        """Return the factor of the term's weight."""
        return 0.0 if self.ended is not None else self.schedule.at(epoch, epochs)

    def on_epoch_end(self, epoch: int, epochs: float, loss: float | None, *, warmup: float = 0.0) -> str | None:
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

    def reason(self, epochs: float) -> str | None:
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


def _window(stop: AdaptiveStop, epochs: float) -> int:
    return stop.window or max(2, int(epochs) // 6)
