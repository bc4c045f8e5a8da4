"""Report trainings that take hours before they have taken them, with a command that takes minutes."""

import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence

from lgkd._internal.paths import recipe_names
from lgkd.cli.display import duration
from lgkd.config import load_recipe
from lgkd.runner.resolve import ResolvedConfig
from lgkd.training.callbacks import Callback

LONG = 3 * 3600.0
"""Seconds above which a training is reported as long."""

_INSTEAD = {"student": ("fast", "45m"), "teacher": ("teacher-fast", "45m")}
"""Recipe and time of a training that takes minutes."""
_MEASURED = 3.0
_REPLACED = {"--recipe", "--epochs", "--time", "--out"}


def long_training(seconds: float, faster: str | None, *, what: str = "this training") -> str | None:
    """Report a long training; None where it is not.

    Args:
        seconds: of one training, or of what is left of it.
        faster: command of a training that takes minutes, from `faster_command`.
        what: subject of the sentence.
    """
    if seconds <= LONG:
        return None
    instead = f"; a training of {_time_of(faster)}: {faster}" if faster is not None else ""
    return f"{what} takes about {duration(seconds)} on this machine{instead}"


def faster_command(config: ResolvedConfig, arguments: Sequence[str] | None) -> str | None:
    """Compose the typed command with a recipe and a time of minutes.

    Args:
        config: of the typed command.
        arguments: as typed, without the program's name.

    Returns:
        The command; None where the arguments are not known, or lgkd has no such recipe.
    """
    name, minutes = _INSTEAD[config.role]
    if not arguments or name not in recipe_names():
        return None
    if config.teachers and load_recipe(name).guide is None:
        return None
    words, skipped = [], False
    for number, word in enumerate(arguments):
        if skipped:
            skipped = False
            continue
        option, equals, value = word.partition("=")
        following = value if equals else next(iter(arguments[number + 1 :]), "")
        if option in _REPLACED or (option == "--set" and following.replace(" ", "").startswith(_LENGTH)):
            skipped = not equals
        elif word != "--dry-run":
            words.append(word)
    return shlex.join(["lgkd", *words, "--recipe", name, "--time", minutes])


_LENGTH = ("schedule.epochs=", "schedule.steps=", "schedule.warmup_epochs=")


def _time_of(command: str | None) -> str:
    return command.rpartition(" ")[2] if command is not None else ""


def short_limit(max_time: float | None, seconds: float) -> str | None:
    """Warn of a `--max-time` below a tenth of the estimated time; None where there is none such.

    Args:
        max_time: seconds after which each call pauses.
        seconds: that are needed in all.
    """
    if max_time is None or max_time <= 0 or max_time >= seconds / 10:
        return None
    return (
        f"--max-time {max_time:g} is {max_time / seconds:.1%} of the estimated {duration(seconds)}: the command has to "
        f"be run about {math.ceil(seconds / max_time):,} times, and more with the time to start; give it more time"
    )


class LongTraining(Callback):
    """Time the first steps of a training as it runs, and report once that it is long; nothing is run for this.

    Args:
        say: called with the sentence.
        faster: as for `long_training`.
        clock: returns seconds.
    """

    def __init__(
        self, say: Callable[[str], None], faster: str | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say, self._faster, self._clock = say, faster, clock
        self._total = self._steps = 0
        self._first: tuple[float, int] | None = None
        self._finished = False

    def on_start(self, epochs: int, steps_per_epoch: int) -> None:
        """Prepare for a training of so many epochs."""
        self._total, self._steps, self._first = epochs * steps_per_epoch, steps_per_epoch, None

    def on_step(self, epoch: int, step: int, parts: Mapping[str, float], images_per_second: float) -> None:  # noqa: ARG002
        """Measure a few seconds of steps after the first ones, which take longer."""
        if self._finished:
            return
        now, done = self._clock(), epoch * self._steps + step + 1
        if self._first is None:
            self._first = now, done
        elif now - self._first[0] >= _MEASURED and done > self._first[1]:
            self._finished = True
            left = (self._total - done) * (now - self._first[0]) / (done - self._first[1])
            if (sentence := long_training(left, self._faster)) is not None:
                self._say(sentence)
