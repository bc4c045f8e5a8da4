"""Compute robustness measures from accuracies under corruptions, and their bootstrap intervals over images.

Letters in shapes: N images, S resamples, R runs, C corruptions, V severities.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lgkd._internal.rng import seed_of
from lgkd.runs.statistics import Interval

RESAMPLES = 2000
_AT_ONCE = 2**22


@dataclass(frozen=True, eq=False)
class Accuracies:
    """Hold accuracies on the original images and under corruptions, 0 to 1.

    Attributes:
        clean: (...).
        corrupted: (...,C,V).
    """

    clean: Tensor
    corrupted: Tensor

    @property
    def mean_corrupted(self) -> Tensor:
        """Return the mean over corruptions and severities, (...)."""
        return self.corrupted.mean(dim=(-2, -1))

    @property
    def relative_drop(self) -> Tensor:
        """Return the share of the clean accuracy that is lost on average under corruptions, (...); NaN for clean 0."""
        lost = (self.clean - self.mean_corrupted) / self.clean
        return torch.where(self.clean > 0, lost, torch.nan)

    def over_runs(self) -> "Accuracies":
        """Average over runs, the last dimension of `clean`; it stays, with size 1."""
        return Accuracies(self.clean.mean(dim=-1, keepdim=True), self.corrupted.mean(dim=-3, keepdim=True))


def corruption_errors(own: Accuracies, reference: Accuracies) -> Tensor:
    """Compute the corruption error of each corruption, (...,C): the sum of errors over the severities, over the
    reference's. NaN where the reference makes no error.

    Source: Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations,
    ICLR 2019 (arXiv 1903.12261), section 4.1; their reference is AlexNet. The mean over corruptions is mCE.
    """
    theirs = (1 - reference.corrupted).sum(dim=-1)
    return torch.where(theirs > 0, (1 - own.corrupted).sum(dim=-1) / theirs, torch.nan)


def relative_corruption_errors(own: Accuracies, reference: Accuracies) -> Tensor:
    """Compute the relative corruption error of each corruption, (...,C): the sum over the severities of the increase of
    the error over the clean one, over the reference's. NaN where the reference's error does not increase.

    Source: as of `corruption_errors`; the mean over corruptions is the relative mCE.
    """
    mine, theirs = ((one.clean[..., None, None] - one.corrupted).sum(dim=-1) for one in (own, reference))
    return torch.where(theirs > 0, mine / theirs, torch.nan)


def accuracies(right_RKN: Tensor, weights_SN: Tensor, kinds: int) -> Accuracies:
    """Compute weighted accuracies of runs: clean (S,R), corrupted (S,R,C,V).

    Args:
        right_RKN: bool; for each run whether an image is classified correctly: first the original images, then every
            severity of the first corruption, of the second, ...
        weights_SN: weights of the images, float64, rows sum to 1.
        kinds: C.
    """
    runs, conditions, images = right_RKN.shape
    found_SRK = (weights_SN @ right_RKN.reshape(-1, images).double().T).reshape(-1, runs, conditions)
    # Equal answers have equal accuracies, and perfect ones 1, whatever the order of the sums.
    found_SRK = found_SRK.round(decimals=12)
    return Accuracies(found_SRK[..., 0], found_SRK[..., 1:].reshape(len(weights_SN), runs, kinds, -1))


def equal_weights(labels_N: Tensor, *, balanced: bool) -> Tensor:
    """Return the weights of the images in the accuracy, or the balanced accuracy, of a split: (1,N), summing to 1."""
    return _weights(torch.ones(1, len(labels_N), dtype=torch.float64), labels_N, balanced)


def resampled_weights(labels_N: Tensor, *, balanced: bool, resamples: int = RESAMPLES) -> Iterator[Tensor]:
    """Draw bootstrap resamples of the images; yield their weights as of `equal_weights`, (s,N) at a time.

    The draws depend only on the number of images, so that all runs and conditions are measured on the same resamples,
    which pairs them by image. A class of which no image is drawn is left out of the balanced accuracy.
    """
    images = len(labels_N)
    chance = torch.Generator().manual_seed(seed_of("bootstrap", images))
    left = resamples
    while left > 0:
        some = min(left, max(1, _AT_ONCE // images))
        drawn = torch.randint(images, (some, images), generator=chance)
        counts = torch.zeros(some, images, dtype=torch.float64)
        counts.scatter_add_(1, drawn, torch.ones_like(counts))
        yield _weights(counts, labels_N, balanced)
        left -= some


def _weights(counts_SN: Tensor, labels_N: Tensor, balanced: bool) -> Tensor:
    if not balanced:
        return counts_SN / counts_SN.sum(dim=1, keepdim=True)
    by_class = torch.zeros(len(counts_SN), int(labels_N.max()) + 1, dtype=torch.float64)
    by_class.index_add_(1, labels_N, counts_SN)
    present = (by_class > 0).sum(dim=1, keepdim=True)
    return counts_SN / by_class[:, labels_N].clamp(min=1) / present


def percentile_interval(value: float, resamples_S: Tensor, images: int, *, confidence: float = 0.95) -> Interval:
    """Compute the bootstrap percentile interval of a value; without ends where a resample leaves it undefined.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    if not bool(resamples_S.isfinite().all()):
        return Interval(value, None, None, confidence, images)
    tail = (1 - confidence) / 2
    low, high = torch.quantile(resamples_S, torch.tensor([tail, 1 - tail], dtype=resamples_S.dtype)).tolist()
    return Interval(value, low, high, confidence, images)
