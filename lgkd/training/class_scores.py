"""Score every class of a split against all others: precision, recall, F1, AUROC. Definitions are scikit-learn's.

Letters in shapes: K classes, N images.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClassScores:
    """Hold the scores of one class.

    Attributes:
        count: number of its images.
        predicted: number of images that were predicted as it.
        precision: share of the images predicted as it that are of it, 0 to 1; 0 where none was predicted as it, as in
            scikit-learn. None for a class with neither images nor predictions.
        recall: share of its images that were predicted as it; None without images.
        f1: harmonic mean of precision and recall, 2 * correct / (count + predicted); None as for precision.
        auroc: area under the ROC curve of its probability, this class against all others: the probability that an
            image of it has a higher one than an image of another class; a tie counts half. None where it has no images
            or all of them, or was not computed.
    """

    count: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None
    auroc: float | None = None

    def as_dict(self) -> dict[str, int | float | None]:
        """Return JSON values; a score that is not a number, of outputs that are not, is None."""
        return {name: None if value != value else value for name, value in asdict(self).items()}


def class_scores(
    images: Sequence[int], predicted: Sequence[int], correct: Sequence[int], auroc: Sequence[float | None] | None = None
) -> tuple[ClassScores, ...]:
    """Compute the scores of every class from counts.

    Args:
        images: of each class.
        predicted: number of predictions of each class.
        correct: number of correct ones.
        auroc: of each class, from `auroc_by_class`; None: not computed.
    """
    areas = [None] * len(images) if auroc is None else auroc
    return tuple(
        ClassScores(
            count=int(count),
            predicted=int(named),
            precision=(right / named if named else 0.0) if count or named else None,
            recall=right / count if count else None,
            f1=2 * right / (count + named) if count or named else None,
            auroc=area,
        )
        for count, named, right, area in zip(images, predicted, correct, areas, strict=True)
    )


def macro(values: Sequence[float | None]) -> float | None:
    """Return the mean over the classes for which a score is defined; None where it is for none.

    As in scikit-learn: recall gives the balanced accuracy (`balanced_accuracy_score`), F1 `f1_score(average="macro")`,
    in which a class without images counts 0 where it was predicted, and AUROC
    `roc_auc_score(multi_class="ovr", average="macro")`, which is undefined for a class without images.
    """
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def auroc_by_class(probabilities_NK: Tensor, labels_N: Tensor) -> list[float | None]:
    """Compute the area under the ROC curve of every class against all others, exactly, by ranks.

    Args:
        probabilities_NK: of every class for every image.
        labels_N: the true classes, int64; of several labels an image bool (N,K).

    Returns:
        K areas; None for a class that has no images or all of them; NaN everywhere if a probability is NaN.
    """
    images, classes = probabilities_NK.shape
    if bool(probabilities_NK.isnan().any()):
        return [float("nan")] * classes
    areas: list[float | None] = []
    for place in range(classes):
        members = labels_N[:, place] if labels_N.ndim == 2 else labels_N == place
        own = probabilities_NK[members, place].contiguous()
        inside, outside = len(own), images - len(own)
        if not inside or not outside:
            areas.append(None)
            continue
        ordered = probabilities_NK[:, place].sort().values
        # Twice the number of images below each one of the class, a tie being half below. Those of the class itself are
        # below each other in half of the pairs, whatever their probabilities.
        below = torch.searchsorted(ordered, own) + torch.searchsorted(ordered, own, right=True)
        areas.append((int(below.sum()) - inside**2) / (2 * inside * outside))
    return areas
