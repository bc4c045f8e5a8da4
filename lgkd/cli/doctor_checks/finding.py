"""One line of the doctor's."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """What was looked at, and what came of it.

    Attributes:
        what: was looked at.
        state: "ok"; "warning": trainings run, but worse than they could; "problem": some cannot run.
        found: in words.
        advice: what to do; "" where nothing is to be done.
    """

    what: str
    state: State
    found: str
    advice: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def size(count: float) -> str:
    """Bytes in words: 512 MiB, 3.9 GiB."""
    for unit, word in ((2**40, "TiB"), (2**30, "GiB")):
        if count >= unit:
            return f"{count / unit:.1f} {word}"
    return f"{count / 2**20:.0f} MiB"
