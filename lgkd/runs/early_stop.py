"""Read from a finished run whether it was stopped early, and the epochs that it was trained for. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lgkd._internal.metric_rules import SELECTING
from lgkd._internal.text import counted

KEY = "stopped_early"
"""Key of a run's results; absent where all epochs were trained."""


@dataclass(frozen=True)
class StoppedEarly:
    """Describe the early end of a training.

    Attributes:
        epoch: the last one that was trained, counted from 1.
        epochs: of the whole training, for which the learning rate was planned.
        patience: evaluations in a row without improvement.
        metric: on held-out images, a key of `SELECTING`.
        rate: learning rate of the last step as a share of its peak.
    """

    epoch: int
    epochs: int
    patience: int
    metric: str
    rate: float

    def as_dict(self) -> dict[str, Any]:
        """Return the content of run.json."""
        return dict(vars(self))

    def __str__(self) -> str:
        """Describe it in a sentence, with the learning rate, which a cosine lowers most in its last third."""
        return (
            f"stopped early after epoch {self.epoch} of {self.epochs}: {SELECTING[self.metric]} on held-out images did "
            f"not improve in {counted(self.patience, 'evaluation')}; the learning rate was still {self.rate:.0%} of "
            "its peak, since its schedule is that of the whole training"
        )


def stopped_early(info: Mapping[str, Any]) -> StoppedEarly | None:
    """Read the early end of a training from its run.json; None where all epochs were trained, or it is not proper."""
    results = info.get("results")
    found = results.get(KEY) if isinstance(results, Mapping) else None
    if not isinstance(found, Mapping) or found.keys() != StoppedEarly.__dataclass_fields__.keys():
        return None
    counts = [found[name] for name in ("epoch", "epochs", "patience")]
    rate = found["rate"]
    if not all(type(one) is int and one > 0 for one in counts) or type(rate) not in (int, float) or not 0 <= rate <= 1:
        return None
    if found["metric"] not in SELECTING or found["epoch"] >= found["epochs"]:
        return None
    return StoppedEarly(**found)


def trained_epochs(info: Mapping[str, Any]) -> int:
    """Return the epochs that a finished run was trained for: those of its plan, fewer where it was stopped early."""
    found = stopped_early(info)
    return int(info["epochs"]) if found is None else found.epoch
