"""Hold a finished training."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from lgkd._internal.metric_rules import headline


@dataclass(frozen=True)
class Run:
    """Hold a finished training.

    Attributes:
        student: the trained model (of a teacher's training: the teacher), in eval mode, on the CPU.
        metrics: one row per epoch, as in metrics.csv; the last one is the reported one.
        folder: of the run's files.
        info: the content of run.json.
    """

    student: nn.Module
    metrics: list[dict[str, float]]
    folder: Path
    info: dict[str, Any] = field(repr=False)

    @property
    def top1(self) -> float:
        """Return top-1 accuracy on the test split, 0 to 1, after the last epoch or the one best on held-out images.

        Of several labels an image it is the mean average precision.
        """
        results = self.info["results"]
        return float(results[f"test_{headline(results).key}"])
