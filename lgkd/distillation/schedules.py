"""Track the state of a term's schedule during training.

Epochs are counted from 0 and may be fractions: the first step of the third epoch is at 2.0.
"""

from dataclasses import dataclass, field
from typing import Any

from lgkd._internal.text import counted
from lgkd.config import AdaptiveStop, TermSchedule


@dataclass
class TermState:
    """Hold the progress of a term: its schedule, its losses per epoch, and when it ended.

    Args:
        schedule: the configured schedule.
        losses: the mean of the term over every finished epoch, unweighted.
        ended: the epoch after which it ended, counted from 1; None while active.
    """

    schedule: TermSchedule
    losses: list[float] = field(default_factory=list)
    ended: int | None = None

    def factor(self, epoch: float, epochs: float) -> float:
        """Return the factor of the term's weight."""
        return 0.0 if self.ended is not None else self.schedule.at(epoch, epochs)

    def on_epoch_end(self, epoch: int, epochs: float, loss: float | None, *, warmup: float = 0.0) -> str | None:
        """Record a finished epoch; return the reason if the term ends with it.

        Args:
            epoch, epochs: the finished epoch, counted from 1, and the number of all epochs of the training.
            loss: the mean of the term over the epoch, unweighted.
            warmup: epochs of learning-rate warm-up; the adaptive stop is inactive during them.
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
        """Return the reason why the term ended, for messages; None while it is active."""
        if self.ended is None:
            return None
        if self.schedule.until is not None and self.ended >= self.schedule.until:
            return f"it was scheduled for {counted(self.schedule.until, 'epoch')}"
        stop = self.schedule.adaptive
        slope = stop.slope(self.losses, _window(stop, epochs)) if stop is not None else None
        if stop is None or slope is None:
            return "its previous schedule ended it"
        change = f"{slope:.1%} per window" if stop.relative else f"{slope:.3g} per epoch"
        return f"its loss changes by {change}, the threshold is {stop.threshold:g}"

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint, in JSON values."""
        return {"losses": list(self.losses), "ended": self.ended}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.losses, self.ended = [float(loss) for loss in state["losses"]], state["ended"]


def _window(stop: AdaptiveStop, epochs: float) -> int:
    return stop.window or max(2, int(epochs) // 6)
