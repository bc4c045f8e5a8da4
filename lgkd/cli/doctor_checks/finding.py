"""Represent one line of the doctor."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """Hold a check's result.

    Attributes:
        what: the checked item.
        state: "ok"; "warning": trainings run, but worse than they could; "problem": some cannot run.
        found: the result, as text.
        advice: the remedy; "" where none is needed.
    """

    what: str
    state: State
    found: str
    advice: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


def size(count: float) -> str:
    """Format bytes: 512 MiB, 3.9 GiB."""
    for unit, word in ((2**40, "TiB"), (2**30, "GiB")):
        if count >= unit:
            return f"{count / unit:.1f} {word}"
    return f"{count / 2**20:.0f} MiB"
