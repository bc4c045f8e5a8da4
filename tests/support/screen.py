"""A terminal of 80 columns that keeps what is written to it, and an epoch to be shown there."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lgkd.training.callbacks import EpochRow


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@contextmanager
def terminal() -> Iterator[Terminal]:
    """Everything goes to a terminal of 80 columns."""
    screen = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("COLUMNS", "80"), ("LINES", "40"), ("TERM", "xterm")):
            patch.setenv(name, value)
        for stream in ("stdout", "stderr"):
            patch.setattr(f"sys.{stream}", screen)
        yield screen


def shown_on(screen: Terminal) -> list[str]:
    """Lines as a reader of the terminal sees them, every redrawing of the live line among them."""
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    return re.split(r"[\r\n]+", plain)


def row(epoch: int, **scores: float) -> EpochRow:
    """What a guided training has to tell after an epoch."""
    train = {"loss": 2.0, "classification": 1.5, "guidance_linear": 0.25, "accuracy": 0.5}
    return EpochRow(epoch=epoch, lr=0.1, train=train, scores=scores, seconds=1.0, images_per_second=1234.5)
