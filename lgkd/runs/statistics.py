"""Compute means over seeds and confidence intervals of differences. No torch, so that listings can use it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from statistics import NormalDist

from lgkd.errors import InputError


@dataclass(frozen=True)
class Summary:
    """Summarise repeated measurements.

    Attributes:
        mean: their mean.
        sd: their standard deviation with n-1 in the denominator; None for a single one.
        count: how many there are.
    """

    mean: float
    sd: float | None
    count: int


@dataclass(frozen=True)
class Interval:
    """Represent a mean with its confidence interval.

    Attributes:
        mean: of the measurements.
        low, high: the ends; None where a single measurement gives none.
        confidence: how often such an interval contains the true mean, 0 to 1.
        count: number of measurements.
    """

    mean: float
    low: float | None
    high: float | None
    confidence: float
    count: int

    @property
    def includes_zero(self) -> bool | None:
        """Return whether the interval includes "no difference"; None where there is none."""
        if self.low is None or self.high is None:
            return None
        return self.low <= 0 <= self.high

    def within(self, lowest: float, highest: float) -> "Interval":
        """Clip the ends to values that the measured quantity can have: no accuracy is below 0."""
        if self.low is None or self.high is None:
            return self
        return replace(self, low=max(lowest, self.low), high=min(highest, self.high))


def in_percent(share: float, *, signed: bool = False, digits: int = 2) -> str:
    """Format a share in percent, or a difference of shares in points, without the unit: 0.0375 is "3.75".

    Half is rounded away from zero, by the decimal number: to one digit 0.0375 is 3.8, though the nearest binary number
    may be below it. There is no "-0.00".
    """
    if not math.isfinite(share):
        return str(share)
    # Twelve decimals of the share are more than any accuracy has, and fewer than the rounding noise of a short sum.
    exact = Decimal(f"{100 * share:.10f}")
    shown = exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return f"{shown or abs(shown):{'+' if signed else ''}.{digits}f}"


def summarise(values: Sequence[float]) -> Summary:
    """Compute mean and standard deviation (n-1) of at least one finite number.

    Raises:
        InputError: no numbers, or one that is not finite.
    """
    _check(values)
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Summary(mean, None, 1)
    squares = math.fsum((value - mean) ** 2 for value in values)
    return Summary(mean, math.sqrt(squares / (len(values) - 1)), len(values))


def paired_interval(first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Compute by how much `second` exceeds `first` in paired measurements: Student's t-interval.

    Effects common to a pair (its seed, its images) cancel in the difference; the interval describes the rest. It
    assumes differences that are independent and roughly normal, which few seeds cannot show.

    Args:
        first, second: one number per pair, in the same order.
        confidence: between 0 and 1.

    Raises:
        InputError: unequal lengths, no pairs, a number that is not finite, or another confidence.
    """
    if len(first) != len(second):
        raise InputError(f"{len(first)} and {len(second)} measurements cannot be paired; give one of each per pair")
    _check([*first, *second])
    return mean_interval([b - a for a, b in zip(first, second, strict=True)], confidence=confidence)


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Compute the mean of repeated measurements with Student's t-interval; no interval for a single one.

    It assumes measurements that are independent and roughly normal, which few seeds cannot show.

    Args:
        values: at least one.
        confidence: between 0 and 1.

    Raises:
        InputError: no measurements, one that is not finite, or another confidence.
    """
    _check_confidence(confidence)
    found = summarise(values)
    if found.sd is None:
        return Interval(found.mean, None, None, confidence, 1)
    half = _t_quantile((1 + confidence) / 2, found.count - 1) * found.sd / math.sqrt(found.count)
    return Interval(found.mean, found.mean - half, found.mean + half, confidence, found.count)


def unpaired_interval(first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Compute by how much the mean of `second` exceeds that of `first`, measured independently: Welch's t-interval.

    The variances may differ. There is no interval where either was measured only once.

    Source: Welch, The generalization of Student's problem when several different population variances are
    involved, Biometrika 34, 1947.

    Args:
        first, second: at least one number each.
        confidence: between 0 and 1.

    Returns:
        The interval; its `count` is that of all measurements.

    Raises:
        InputError: no measurements, one that is not finite, or another confidence.
    """
    _check_confidence(confidence)
    one, other = summarise(first), summarise(second)
    mean, count = other.mean - one.mean, one.count + other.count
    if one.sd is None or other.sd is None:
        return Interval(mean, None, None, confidence, count)
    shares = [part.sd**2 / part.count for part in (one, other) if part.sd is not None]
    variance = math.fsum(shares)
    if variance == 0:
        return Interval(mean, mean, mean, confidence, count)
    # As shares of the sum: squares of tiny variances would underflow.
    parts = zip(shares, (one, other), strict=True)
    freedom = 1 / math.fsum((share / variance) ** 2 / (part.count - 1) for share, part in parts)
    half = _t_quantile((1 + confidence) / 2, freedom) * math.sqrt(variance)
    return Interval(mean, mean - half, mean + half, confidence, count)


def binomial_interval(share: float, count: int, *, confidence: float = 0.95) -> Interval:
    """Compute the interval of a share of independent trials, such as an accuracy on test images: Wilson's.

    It describes these images as a sample of all such images; another seed of the training is not in it.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 22, 1927.

    Args:
        share: of successes, 0 to 1.
        count: trials, at least 1.
        confidence: between 0 and 1.

    Raises:
        InputError: no trials, a share out of range, or another confidence.
    """
    _check_confidence(confidence)
    if count < 1 or not 0 <= share <= 1:
        raise InputError(f"the share is {share} of {count} trials, expected 0 to 1 of at least one; give both")
    z = _normal_quantile((1 + confidence) / 2)
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), confidence, count)


def binomial_difference(first: float, second: float, count: int, *, confidence: float = 0.95) -> Interval:
    """Compute by how much the share `second` exceeds `first`, each of `count` trials: Newcombe's hybrid score interval.

    It takes the trials as independent. Two models that are measured on the same images agree on most, so that the
    interval is too wide rather than too narrow.

    Source: Newcombe, Interval estimation for the difference between independent proportions, Statistics in Medicine
    17, 1998, method 10.

    Args:
        first, second, count, confidence: as for `binomial_interval`.
    """
    one = binomial_interval(first, count, confidence=confidence)
    other = binomial_interval(second, count, confidence=confidence)
    assert one.low is not None and one.high is not None and other.low is not None and other.high is not None
    difference = second - first
    return Interval(
        difference,
        difference - math.hypot(second - other.low, one.high - first),
        difference + math.hypot(other.high - second, first - one.low),
        confidence,
        count,
    )


def _normal_quantile(probability: float) -> float:
    return NormalDist().inv_cdf(probability)


def _t_quantile(probability: float, freedom: float) -> float:
    # scipy.special is what scipy.stats.t calls here, and imports ten times faster.
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InputError(f"the confidence is {confidence}, expected a number between 0 and 1, such as 0.95")


def _check(values: Sequence[float]) -> None:
    if not values:
        raise InputError("there are no measurements to summarise; give at least one")
    bad = [value for value in values if not math.isfinite(value)]
    if bad:
        raise InputError(f"a measurement is {bad[0]}, expected finite numbers; leave out runs that diverged")
