"""Compute the numbers of a report from a classifier's predictions.

Letters in shapes: K classes, N images.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lgkd.runs.compare.find import Finished
from lgkd.training.evaluate import BINS, Answers


@dataclass(frozen=True)
class Bin:
    """Represent images whose predictions have about equal confidence.

    Attributes:
        low, high: bounds of the confidences, 0 to 1.
        images: their number.
        confidence, accuracy: their means; None for an empty bin.
    """

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Confused:
    """Represent images of one class that were predicted as another.

    Attributes:
        true, guess: indices of the two classes.
        images: their number.
        share: of the images of the true class, 0 to 1.
    """

    true: int
    guess: int
    images: int
    share: float


@dataclass(frozen=True)
class Curve:
    """Represent accuracy over the epochs, of several seeds together.

    Attributes:
        epochs: those at which every run was measured.
        mean, low, high: over the seeds at each, 0 to 1.
        seeds: their number.
    """

    epochs: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    seeds: int


def confusion(answers: Answers, classes: int) -> Tensor:
    """Count images by true class (row) and predicted class (column): int64 (K,K)."""
    return torch.bincount(answers.labels * classes + answers.guesses, minlength=classes**2).view(classes, classes)


def most_confused(matrix_KK: Tensor, most: int) -> list[Confused]:
    """Return the pairs of classes with most mistakes, at most `most`; ties in the order of the classes."""
    wrong = matrix_KK.clone().fill_diagonal_(0)
    totals = matrix_KK.sum(dim=1).tolist()
    order = torch.sort(wrong.flatten(), descending=True, stable=True).indices[:most].tolist()
    found = [(*divmod(place, len(wrong)), int(wrong.flatten()[place])) for place in order]
    return [Confused(true, guess, count, count / totals[true]) for true, guess, count in found if count]


def reliability(answers: Answers) -> list[Bin]:
    """Return equally wide bins of confidence, as the calibration error of `lgkd.training.evaluate` has them."""
    place = (answers.confidences * BINS).nan_to_num().long().clamp(max=BINS - 1)
    bins = []
    for number in range(BINS):
        inside = place == number
        count = int(inside.sum())
        bins.append(
            Bin(
                number / BINS,
                (number + 1) / BINS,
                count,
                float(answers.confidences[inside].double().mean()) if count else None,
                float(answers.right[inside].double().mean()) if count else None,
            )
        )
    return bins


def calibration_error(bins: Sequence[Bin]) -> float:
    """Compute the expected calibration error, 0 to 1: the mean over images of |confidence - accuracy| of their bin.

    Source: Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599.
    """
    images = sum(one.images for one in bins)
    gaps = (one.images * abs(one.confidence - one.accuracy) for one in bins if one.confidence is not None
            and one.accuracy is not None)  # fmt: skip
    return sum(gaps) / images


def curve_of(runs: Sequence[Finished], key: str | None = None) -> Curve | None:
    """Compute mean, lowest and highest value of several seeds where all were measured; None where nowhere.

    Args:
        runs: of the seeds.
        key: column of metrics.csv; by default that of the runs' `headline` on the test split.
    """
    key = key or f"test_{runs[0].headline.key}"
    tables = [{row["epoch"]: row[key] for row in run.rows if key in row} for run in runs]
    epochs = sorted(set(tables[0]).intersection(*tables[1:])) if tables else []
    if not epochs:
        return None
    columns = [[table[epoch] for table in tables] for epoch in epochs]
    return Curve(
        tuple(epochs),
        tuple(sum(column) / len(column) for column in columns),
        tuple(map(min, columns)),
        tuple(map(max, columns)),
        len(runs),
    )


def put_right(before: Answers, after: Answers, most: int) -> list[int]:
    """Return images that `before` got wrong and `after` gets right, spread over the true classes.

    Those whose true class gained most come first; see `spread`.
    """
    turned = (~before.right & after.right).nonzero().flatten()
    gained = (after.chances - before.chances)[turned]
    return spread(turned[torch.sort(gained, descending=True, stable=True).indices], after.labels, most)


def surest_mistakes(answers: Answers, most: int) -> list[int]:
    """Return wrongly classified images, the most confident ones first, spread over the true classes; see `spread`."""
    wrong = (~answers.right).nonzero().flatten()
    confidences = answers.confidences[wrong]
    return spread(wrong[torch.sort(confidences, descending=True, stable=True).indices], answers.labels, most)


def spread(order: Tensor, labels: Tensor, most: int) -> list[int]:
    """Select at most `most` images of an order in rounds, of which each takes the first image left of every class.

    Args:
        order: places of images, int64 (M,), the most important first.
        labels: the classes, int64 (N,).
        most: number of images.

    Returns:
        The places, those of an earlier round first, and within a round in the given order.
    """
    places = order.tolist()
    rounds: list[int] = []
    seen: Counter[int] = Counter()
    for label in labels[order].tolist():
        rounds.append(seen[label])
        seen[label] += 1
    return [places[at] for at in sorted(range(len(places)), key=rounds.__getitem__)[:most]]
