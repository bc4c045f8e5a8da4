"""Stop a training whose held-out images show no improvement, as a pure function of its finished epochs."""

from collections.abc import Sequence
from dataclasses import dataclass

from lgkd.config import EarlyStopping
from lgkd.training.callbacks import EpochRow


@dataclass(frozen=True)
class EarlyStop:
    """Judge a training by a score of its held-out images.

    Nothing but the rows of the finished epochs is read, which a checkpoint stores, so that a resumed training stops
    where an uninterrupted one does.

    Attributes:
        settings: patience and smallest gain.
        score: a column of `EpochRow.scores`, such as "val_top1"; higher is better.
        warmup_epochs: of the learning rate; evaluations within it are not judged.
    """

    settings: EarlyStopping
    score: str
    warmup_epochs: float = 0.0

    def waited(self, rows: Sequence[EpochRow]) -> int:
        """Count the last evaluations in a row without improvement.

        An improvement is a score above the best one before it by more than `min_delta` (the first one judged is always
        one); the best is then replaced. A score that is not a number improves nothing.
        """
        best, waited = float("-inf"), 0
        for row in rows:
            if self.score not in row.scores or row.epoch <= self.warmup_epochs:
                continue
            if row.scores[self.score] - self.settings.min_delta > best:
                best, waited = row.scores[self.score], 0
            else:
                waited += 1
        return waited

    def stops(self, rows: Sequence[EpochRow]) -> bool:
        """Return true if the training ends after these epochs."""
        return self.waited(rows) >= self.settings.patience

    def in_words(self, epoch: int, epochs: int) -> str:
        """Describe a training that ended after `epoch` of `epochs`."""
        patience = self.settings.patience
        return (
            f"stopped early after epoch {epoch} of {epochs}: {self.score} of held-out images has not improved in "
            f"{patience} evaluation{'s' if patience > 1 else ''}"
        )
