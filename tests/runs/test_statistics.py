"""Means, spreads and paired intervals, against tables, published data and another library."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lgkd.errors import InputError
from lgkd.runs.statistics import (
    binomial_difference,
    binomial_interval,
    in_percent,
    mean_interval,
    paired_interval,
    summarise,
    unpaired_interval,
)

# Additional hours of sleep of ten patients under two drugs: Student's own example (Biometrika 6, 1908).
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

numbers = st.floats(-1000, 1000)


def test_mean_and_spread_of_a_hand_worked_example() -> None:
    # Mean 4, squares 4 + 0 + 4 = 8, over n-1 = 2.
    found = summarise([2.0, 4.0, 6.0])
    assert (found.mean, found.sd, found.count) == (4.0, 2.0, 3)


def test_a_single_measurement_has_no_spread_and_no_interval() -> None:
    assert summarise([0.5]).sd is None
    found = paired_interval([0.5], [0.75])
    assert (found.mean, found.low, found.high, found.includes_zero) == (0.25, None, None, None)


def test_the_interval_of_students_sleep_data_is_the_published_one() -> None:
    found = paired_interval(DRUG_1, DRUG_2)
    assert found.mean == pytest.approx(1.58)
    assert (round(found.low or 0, 4), round(found.high or 0, 4)) == (0.7001, 2.4599)
    assert found.includes_zero is False and found.count == 10


def test_three_pairs_use_the_quantile_of_the_tables() -> None:
    # Differences 1, 2, 3: mean 2, sd 1; t for 2 degrees of freedom and 95 % is 4.3027.
    found = paired_interval([0.0, 0.0, 0.0], [1.0, 2.0, 3.0])
    assert found.high == pytest.approx(2 + 4.3027 / math.sqrt(3), abs=1e-4)
    assert found.low == pytest.approx(2 - 4.3027 / math.sqrt(3), abs=1e-4)
    assert found.includes_zero is True


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_other_confidences_agree_with_scipy(confidence: float) -> None:
    found = paired_interval(DRUG_1, DRUG_2, confidence=confidence)
    theirs = stats.ttest_rel(DRUG_2, DRUG_1).confidence_interval(confidence)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


def test_an_interval_of_95_percent_holds_the_truth_that_often() -> None:
    draws = np.random.default_rng(0).normal(0.3, 2.0, size=(2000, 3))
    hits = 0
    for row in draws:
        found = paired_interval([0.0] * 3, row.tolist())
        assert found.low is not None and found.high is not None
        hits += found.low <= 0.3 <= found.high
    assert 0.935 < hits / len(draws) < 0.965


@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=2, max_size=8))
def test_what_a_pair_has_in_common_changes_nothing(rows: list[tuple[float, float, float]]) -> None:
    first, second = [a for a, _, _ in rows], [b for _, b, _ in rows]
    alone = paired_interval(first, second)
    shifted = paired_interval([a + c for a, _, c in rows], [b + c for _, b, c in rows])
    assert (alone.mean, alone.low, alone.high) == pytest.approx((shifted.mean, shifted.low, shifted.high), abs=1e-6)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_the_interval_of_a_mean_agrees_with_scipy(confidence: float) -> None:
    found = mean_interval(DRUG_2, confidence=confidence)
    theirs = stats.t.interval(confidence, 9, loc=np.mean(DRUG_2), scale=stats.sem(DRUG_2))
    assert (found.low, found.high) == pytest.approx(theirs) and found.count == 10
    assert mean_interval([0.5]).low is None


@pytest.mark.parametrize(("first", "second"), [(DRUG_1, DRUG_2), (DRUG_1[:4], DRUG_2), (DRUG_1, DRUG_2[:2])])
def test_the_unpaired_interval_is_welchs_as_scipy_has_it(first: list[float], second: list[float]) -> None:
    found = unpaired_interval(first, second, confidence=0.9)
    theirs = stats.ttest_ind(second, first, equal_var=False).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert found.mean == pytest.approx(np.mean(second) - np.mean(first)) and found.count == len(first) + len(second)


def test_welchs_interval_of_a_hand_worked_example() -> None:
    # Means 2 and 6; s^2/n: 1/3 and 4/3, so the error is sqrt(5/3) and the freedom (5/3)^2 / ((1/9 + 16/9) / 2) = 50/17,
    # at which the tables' t of 95 % lies between those of 2 and of 3: 4.3027 and 3.1824.
    found = unpaired_interval([1.0, 2.0, 3.0], [4.0, 6.0, 8.0])
    assert found.mean == pytest.approx(4.0) and found.high is not None
    assert 3.1824 < (found.high - 4) / math.sqrt(5 / 3) < 4.3027
    assert found.high == pytest.approx(4 + stats.t.ppf(0.975, 50 / 17) * math.sqrt(5 / 3))


def test_an_unpaired_interval_needs_two_of_each_and_may_have_no_width() -> None:
    assert unpaired_interval([1.0], [2.0, 3.0]).low is None
    assert unpaired_interval([1.0, 1.0], [2.0, 2.0]).high == 1.0
    tiny = unpaired_interval([0.0, 1e-170], [1.0, 1.0])
    assert tiny.low == pytest.approx(1.0)


def test_no_spread_gives_an_interval_of_no_width() -> None:
    found = paired_interval([1.0, 2.0], [2.0, 3.0])
    assert (found.low, found.high) == (1.0, 1.0)


def test_what_cannot_be_summarised_is_told() -> None:
    with pytest.raises(InputError, match="no measurements to summarise; give at least one"):
        summarise([])
    with pytest.raises(InputError, match="a measurement is nan, expected finite numbers"):
        summarise([1.0, math.nan])
    with pytest.raises(InputError, match="2 and 1 measurements cannot be paired"):
        paired_interval([1.0, 2.0], [1.0])
    with pytest.raises(InputError, match="confidence is 95, expected a number between 0 and 1"):
        paired_interval([1.0, 2.0], [1.0, 2.0], confidence=95)
    with pytest.raises(InputError, match="confidence is 1, expected a number between 0 and 1"):
        unpaired_interval([1.0, 2.0], [1.0, 2.0], confidence=1)


def test_halves_are_rounded_away_from_zero_whatever_the_binary_number() -> None:
    assert [in_percent(value, digits=1) for value in (0.3125, 0.0625, 0.0005)] == ["31.3", "6.3", "0.1"]
    # 0.3125 - 0.275 is a little less than 0.0375, and (0.29 + 0.3) / 2 a little more than 0.295.
    assert in_percent(0.3125 - 0.275, signed=True, digits=1) == "+3.8"
    assert in_percent(0.275 - 0.3125, signed=True, digits=1) == "-3.8"
    assert in_percent(0.3125) == "31.25" and in_percent(1.0) == "100.00"


def test_nothing_gained_has_no_minus() -> None:
    assert in_percent(-0.00001, signed=True) == in_percent(0.0, signed=True) == "+0.00"
    assert in_percent(float("nan")) == "nan"


def test_an_interval_is_cut_at_what_can_be() -> None:
    wide = mean_interval([0.1, 0.9])
    assert (wide.low or 0) < 0 and (wide.high or 0) > 1
    assert (wide.within(0, 1).low, wide.within(0, 1).high, wide.within(0, 1).mean) == (0, 1, 0.5)
    assert mean_interval([0.5]).within(0, 1).low is None


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (1, 1), (5, 10), (81, 263), (15, 148), (909, 909), (0, 909)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_interval_of_a_share_is_that_of_scipy(hits: int, count: int, confidence: float) -> None:
    found = binomial_interval(hits / count, count, confidence=confidence)
    wanted = stats.binomtest(hits, count).proportion_ci(confidence, method="wilson")
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert (found.mean, found.count) == (hits / count, count)


def test_the_interval_of_a_difference_of_shares_is_newcombes() -> None:
    """Newcombe 1998, table II, method 10: 9/10 against 3/10 is 0.1705 to 0.8090, 10/10 against 0/10 0.6075 to 1."""
    found = binomial_difference(0.3, 0.9, 10)
    assert (found.mean, found.low, found.high) == pytest.approx((0.6, 0.1705, 0.8090), abs=1e-4)
    widest = binomial_difference(0.0, 1.0, 10)
    assert (widest.low, widest.high) == pytest.approx((0.6075, 1.0), abs=1e-4)
    back = binomial_difference(0.9, 0.3, 10)
    assert (back.low, back.high) == pytest.approx((-0.8090, -0.1705), abs=1e-4)


@pytest.mark.parametrize(("share", "count"), [(0.5, 0), (1.5, 10), (-0.1, 10)])
def test_a_share_of_no_trials_is_refused(share: float, count: int) -> None:
    with pytest.raises(InputError, match="expected 0 to 1 of at least one"):
        binomial_interval(share, count)
