"""Agree over several processes on when to stop and when to save: not at every step, but at the same step."""

import time

from lgkd._internal.distributed import agree, highest, together
from lgkd.errors import LgkdError
from lgkd.training.checkpointer import Checkpointer
from lgkd.training.signals import StopCondition

SECONDS, STEPS = 2.0, 20
"""Longest time and most steps between two agreements, the time as estimated from the steps before."""


class Agreement:
    """Agree over processes on stopping and saving; asked after every step.

    A single process decides at once. Several communicate, which makes all of them wait for the slowest; they then also
    choose the number of steps until the next agreement, from the longest step of any of them.

    Args:
        stop: returns a reason to stop, or None.
        checkpointer: determines when to save; None: nothing is saved.
    """

    def __init__(self, stop: StopCondition, checkpointer: Checkpointer | None) -> None:
        self._stop, self._checkpointer = stop, checkpointer
        self._steps_left, self._longest = 1, 0.0
        self._looked = time.perf_counter()

    def after_step(self) -> tuple[LgkdError | None, bool]:
        """Return the reason to stop, or None, and True if it is time to save; the same in all processes."""
        now = time.perf_counter()
        self._longest, self._looked = max(self._longest, now - self._looked), now
        self._steps_left -= 1
        if self._steps_left > 0 and together():
            return None, False
        return self.now()

    def now(self) -> tuple[LgkdError | None, bool]:
        """Agree as in `after_step`, without waiting for the agreed step; called by all processes."""
        reason = self._stop.reason()
        until_save = self._checkpointer.seconds_left() if self._checkpointer is not None else SECONDS
        if not together():
            return reason, self._checkpointer is not None and until_save <= 0
        stopping, next_save, longest = highest([float(reason is not None), -until_save, self._longest])
        if stopping:
            reason = agree(reason)
        # Saving after every step requires an agreement after every step.
        within = min(SECONDS, max(-next_save, 0.0))
        self._steps_left = max(1, min(STEPS, int(within / max(longest, 1e-6))))
        self._longest = 0.0
        return reason, self._checkpointer is not None and next_save >= 0
