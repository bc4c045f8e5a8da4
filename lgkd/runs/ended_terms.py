"""List guide terms that ended before their training did; later epochs trained on fewer terms, or on labels alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lgkd._internal.text import safe_text

# Parts of a loss that are not a term of a guide.
_OTHERS = ("loss_classification",)


@dataclass(frozen=True)
class EndedTerm:
    """Represent a guide term that ended before the last epoch.

    Attributes:
        term: its name.
        epoch: the one after which it ended, counted from 1.
        reason: why it ended; None where the run did not record it.
        reason: why, in words; None where the run did not write it down.
        last: whether no other term continued.
    """

    term: str
    epoch: int
    epochs: int
    reason: str | None
    last: bool

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        after = "; the student was trained on labels alone from then on" if self.last else ""
        return f"{self.term} ended after epoch {self.epoch} of {self.epochs}{why}{after}"


def ended_terms(info: Mapping[str, Any], rows: Sequence[Mapping[str, float]]) -> list[EndedTerm]:
    """List the terms of a finished run that ended before its last epoch, in order of their end.

    Args:
        info: the content of run.json, with the reasons; older runs lack them, and the rows give the epochs.
        rows: of metrics.csv, in which a term has a value for every epoch in which it was computed.
    """
    if not rows:
        return []
    epochs = int(rows[-1]["epoch"])
    lasted: dict[str, int] = {}
    for row in rows:
        lasted |= {key: int(row["epoch"]) for key in row if key.startswith("loss_") and key not in _OTHERS}
    stored = (info.get("results") or {}).get("ended_terms")
    reasons = (
        {one.get("term"): one.get("reason") for one in stored if isinstance(one, dict)}
        if isinstance(stored, list)
        else {}
    )
    continues = any(epoch == epochs for epoch in lasted.values())
    early = sorted((epoch, key.removeprefix("loss_")) for key, epoch in lasted.items() if epoch < epochs)
    return [
        EndedTerm(
            safe_text(name),
            epoch,
            epochs,
            safe_text(reason, 200) if isinstance(reason := reasons.get(name), str) else None,
            last=not continues and epoch == early[-1][0],
        )
        for epoch, name in early
    ]
