"""Terms of a guide that ended before their training did: from then on less guided the student, or nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lgkd._internal.text import safe_text

# Parts of a loss that are not a term of a guide.
_OTHERS = ("loss_classification",)


@dataclass(frozen=True)
class EndedTerm:
    """A term that ended on the way.

    Attributes:
        term: its name.
        epoch: the one after which it ended, counted from 1.
        epochs: of the whole training.
        reason: why, in words; None where the run did not write it down.
        last: whether no other term went on.
    """

    term: str
    epoch: int
    epochs: int
    reason: str | None
    last: bool

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        after = "; the student learned its labels alone from then on" if self.last else ""
        return f"{self.term} ended after epoch {self.epoch} of {self.epochs}{why}{after}"


def ended_terms(info: Mapping[str, Any], rows: Sequence[Mapping[str, float]]) -> list[EndedTerm]:
    """The terms of a finished run that ended before its last epoch, in the order in which they did.

    Args:
        info: the content of run.json; of an older run, which does not tell the reasons, the rows do.
        rows: of metrics.csv, in which a term has a value for every epoch that it was computed in.
    """
    if not rows:
        return []
    epochs = int(rows[-1]["epoch"])
    lasted: dict[str, int] = {}
    for row in rows:
        lasted |= {key: int(row["epoch"]) for key in row if key.startswith("loss_") and key not in _OTHERS}
    told = (info.get("results") or {}).get("ended_terms")
    reasons = (
        {one.get("term"): one.get("reason") for one in told if isinstance(one, dict)} if isinstance(told, list) else {}
    )
    goes_on = any(epoch == epochs for epoch in lasted.values())
    early = sorted((epoch, key.removeprefix("loss_")) for key, epoch in lasted.items() if epoch < epochs)
    return [
        EndedTerm(
            safe_text(name),
            epoch,
            epochs,
            safe_text(reason, 200) if isinstance(reason := reasons.get(name), str) else None,
            last=not goes_on and epoch == early[-1][0],
        )
        for epoch, name in early
    ]
