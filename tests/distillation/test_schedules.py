"""How much a term counts in the course of a training, and when it ends."""

import math
import random
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from timm.utils.model_ema import ModelEmaV3

from lgkd.config import AdaptiveStop, Ema, Schedule, TermSchedule
from lgkd.distillation.schedules import TermState
from lgkd.errors import InputError


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (TermSchedule(), {0: 1.0, 7.5: 1.0}),
        (TermSchedule(warmup=4), {0: 0.0, 1: 0.25, 4: 1.0, 9: 1.0}),
        (TermSchedule(shape="cosine"), {0: 1.0, 5: 0.5, 10: 0.0}),
        (TermSchedule(shape="cosine", end=0.2, over=4), {0: 1.0, 2: 0.6, 4: 0.2, 9: 0.2}),
        (TermSchedule(shape="steps", milestones=(3, 6), factor=0.5), {2.9: 1.0, 3: 0.5, 6: 0.25}),
        (TermSchedule(warmup=2, shape="steps", milestones=(1,), factor=0.5), {0.5: 0.25, 1: 0.25, 2: 0.5}),
    ],
)
def test_the_factor_is_what_was_worked_out_by_hand(schedule: TermSchedule, expected: dict[float, float]) -> None:
    for epoch, factor in expected.items():
        assert schedule.at(epoch, 10) == pytest.approx(factor)


def test_a_term_with_a_last_epoch_ends_there_for_good() -> None:
    course = TermState(TermSchedule(until=3))
    assert [course.on_epoch_end(epoch, 10, 1.0) is not None for epoch in (1, 2, 3, 4)] == [False, False, True, False]
    assert course.ended == 3 and course.factor(3.0, 10) == 0.0


def by_the_book(losses: list[float], window: int) -> list[float]:
    """D(2), D(3), ... written down from the description, every sum spelt out."""

    def loss(epoch: int) -> float:
        return losses[epoch - 1]

    slopes: dict[int, float] = {}
    for epoch in range(2, len(losses) + 1):
        if epoch <= window:
            slopes[epoch] = (loss(epoch) - sum(loss(i) for i in range(1, epoch)) / (epoch - 1)) / epoch
        else:
            slopes[epoch] = (loss(epoch) - loss(epoch - window)) / window
    smooth = []
    for epoch in range(2, len(losses) + 1):
        if epoch <= window:
            smooth.append(sum(slopes[i] for i in range(2, epoch + 1)) / (epoch - 1))
        elif epoch < 2 * window:
            smooth.append(sum(slopes[i] for i in range(epoch - window + 1, epoch + 1)) / window)
        else:
            smooth.append(sum(loss(i) - loss(i - window) for i in range(epoch - window + 1, epoch + 1)) / window**2)
    return smooth


@pytest.mark.parametrize("window", [1, 2, 5, 50])
def test_the_smoothed_slope_is_that_of_the_description(window: int) -> None:
    losses = [3 * math.exp(-epoch / 9) + 0.1 * math.sin(epoch) for epoch in range(40)]
    stop = AdaptiveStop(relative=False)
    found = [stop.slope(losses[:epoch], window) for epoch in range(2, 41)]
    assert found == pytest.approx(by_the_book(losses, window))
    assert stop.slope(losses[:1], window) is None


def test_a_loss_that_falls_and_then_rests_ends_the_term_soon_after_it_rests() -> None:
    falling_by_a_tenth = [10 - 0.1 * epoch for epoch in range(20)]
    course = TermState(TermSchedule(adaptive=AdaptiveStop(threshold=-0.02, window=4, relative=False)))
    for epoch, loss in enumerate([*falling_by_a_tenth, *[8.1] * 20], start=1):
        course.on_epoch_end(epoch, 40, loss)
    # From epoch 20 on the loss rests. A slope over 4 epochs, smoothed over 4, shrinks from 0.1 to 0 in 7 epochs:
    # 0.1 * (1 - (1+2+3+4)/16) = 0.0375 after 4, 0.01875 after 5.
    assert course.ended == 25


def test_a_loss_that_keeps_falling_never_ends_the_term_and_one_that_rises_ends_it_once_judged() -> None:
    falls, rises = (TermState(TermSchedule(adaptive=AdaptiveStop(-0.02, 5, relative=False))) for _ in range(2))
    for epoch in range(1, 30):
        falls.on_epoch_end(epoch, 30, 10.0 - 0.3 * epoch)
        rises.on_epoch_end(epoch, 30, 10.0 + 0.3 * epoch)
    assert falls.ended is None and rises.ended == 10, "two windows of 5: the first epoch that is judged"


def test_patience_keeps_a_term_through_a_bad_start() -> None:
    course = TermState(TermSchedule(adaptive=AdaptiveStop(-0.02, 2, relative=False, patience=6)))
    for epoch in range(1, 6):
        assert course.on_epoch_end(epoch, 30, 1.0 + epoch) is None
    assert course.on_epoch_end(6, 30, 7.0) is not None


@pytest.mark.parametrize(
    ("of_the_rate", "of_the_term", "window", "first"),
    [(20, 0, 50, 120), (0, 0, 50, 100), (3, 8, 5, 18), (8, 3, 5, 18), (2.5, 0, 2, 7), (0, 0, 1, 2)],
)
def test_a_term_is_not_judged_before_the_warm_up_is_over_and_two_windows_have_passed(
    of_the_rate: float, of_the_term: float, window: int, first: int
) -> None:
    course = TermState(TermSchedule(warmup=of_the_term, adaptive=AdaptiveStop(-0.02, window, relative=False)))
    for epoch in range(1, first):
        assert course.on_epoch_end(epoch, 300, 5.0 + epoch, warmup=of_the_rate) is None
    assert course.on_epoch_end(first, 300, 5.0 + first, warmup=of_the_rate) == (
        "its loss changes by 1 per epoch, the threshold is -0.02"
    )
    assert course.ended == first


# The epoch means of a run of the recipe on 10 images a class of CIFAR-100, 7 steps an epoch: the first two as they were
# measured, then a fall by 15 % in a window of 50 epochs.
_SMALL = [19.16, 19.53] + [19.5 * 0.85 ** (max(0, epoch - 20) / 50) for epoch in range(3, 301)]


def test_small_sets_keep_their_guide_while_its_loss_falls_and_lose_it_when_that_rests() -> None:
    stop = AdaptiveStop(threshold=-0.1, relative=True)
    falls, rests = (TermState(TermSchedule(adaptive=stop)) for _ in range(2))
    for epoch, loss in enumerate(_SMALL, start=1):
        falls.on_epoch_end(epoch, 300, loss, warmup=20)
        rests.on_epoch_end(epoch, 300, max(loss, _SMALL[99]), warmup=20)
    assert falls.ended is None, "a loss that loses 15 % of itself a window is learned, in the first window as later"
    # From epoch 100 on it rests; the mean of the last 50 is less than a tenth below that of the 50 before once that is.
    means = [
        (sum(rested[epoch - 50 : epoch]) - sum(rested[epoch - 100 : epoch - 50])) / sum(rested[epoch - 50 : epoch])
        for rested in [[max(loss, _SMALL[99]) for loss in _SMALL]]
        for epoch in range(120, 301)
    ]
    assert rests.ended == 120 + next(place for place, change in enumerate(means) if change >= -0.1) > 120


def test_what_has_ended_can_say_why_after_a_restore_and_an_older_state_is_judged_as_a_new_one() -> None:
    schedule = TermSchedule(adaptive=AdaptiveStop(-0.02, 2, relative=False))
    course, again = TermState(schedule), TermState(schedule)
    # A checkpoint of an earlier lgkd: every epoch's loss from the first on, where the term would have ended.
    course.load_state_dict({"losses": [3.0, 3.1, 3.2], "ended": None})
    reason = course.on_epoch_end(4, 12, 3.3)
    assert reason == "its loss changes by 0.1 per epoch, the threshold is -0.02" and course.ended == 4
    again.load_state_dict(course.state_dict())
    assert again.reason(12) == reason and course.reason(12) == reason
    early = TermState(schedule)
    early.load_state_dict({"losses": [3.0, 3.1], "ended": 2})
    assert early.on_epoch_end(3, 12, 3.2) is None and early.ended == 2, "what has ended does not begin again"
    assert early.reason(12) == "its loss changes by 0.05 per epoch, the threshold is -0.02"
    bare = TermState(TermSchedule())
    bare.load_state_dict({"losses": [], "ended": 7})
    assert bare.reason(12) == "its previous schedule ended it" and TermState(schedule).reason(12) is None


STEPS = (1, 2, 3, 7, 15, 23, 30)
"""Steps of an epoch on small sets."""


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("epochs", [12, 60, 300])
def test_with_few_steps_an_epoch_an_adaptive_stop_waits_for_what_it_judges(steps: int, epochs: int) -> None:
    """A loss that each step at the full rate takes on by the same share, with the noise of a batch of 128."""
    warmup, window = 20 * epochs / 300, max(2, epochs // 6)
    draw = random.Random(steps)
    share = 0.2 / (window * steps)  # a fifth of itself in a window: twice what ends the term
    course, loss = TermState(TermSchedule(adaptive=AdaptiveStop(threshold=-0.1, relative=True))), 19.3
    for epoch in range(epochs):
        seen = []
        for step in range(steps):
            loss *= math.exp(-share * min(1.0, (epoch + step / steps) / warmup))
            seen.append(loss * (1 + draw.gauss(0, 0.02)))
        course.on_epoch_end(epoch + 1, epochs, sum(seen) / steps, warmup=warmup)
    assert course.ended is None, course.reason(epochs)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (TermSchedule(warmup=2), lambda at: min(1, at / 2)),
        (TermSchedule(warmup=0.5), lambda at: min(1, at / 0.5)),
        (TermSchedule(shape="cosine"), lambda at: 0.5 * (1 + math.cos(math.pi * at / 6))),
        (
            TermSchedule(shape="cosine", over=3, end=0.1),
            lambda at: 0.1 + 0.45 * (1 + math.cos(math.pi * min(1, at / 3))),
        ),
        (TermSchedule(shape="steps", milestones=(2, 4.5)), lambda at: 0.1 ** ((at >= 2) + (at >= 4.5))),
        (TermSchedule(until=3), lambda at: float(at < 3)),
        (TermSchedule(warmup=9, until=1), lambda at: min(1, at / 9) * (at < 1)),
    ],
)
def test_with_few_steps_an_epoch_the_factor_is_that_of_its_place_in_the_training(
    schedule: TermSchedule, expected: Callable[[float], float], steps: int
) -> None:
    course = TermState(schedule)
    for epoch in range(6):
        for step in range(steps):
            at = (epoch * steps + step) / steps
            assert course.factor(at, 6) == pytest.approx(expected(at), abs=1e-12)
        course.on_epoch_end(epoch + 1, 6, 1.0)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("stepped", ["epoch", "step"])
def test_with_few_steps_an_epoch_the_rate_warms_up_reaches_its_height_and_comes_down(
    steps: int, stepped: Literal["epoch", "step"]
) -> None:
    plan = Schedule(30, warmup_epochs=2, warmup_factor=1e-3, min_lr=1e-5, stepped=stepped)
    rates = [plan.rate(1e-2, step, steps) for step in range(30 * steps)]
    top = rates.index(max(rates))
    assert top == 2 * steps and rates[0] == pytest.approx(1e-5)
    assert rates[top] == pytest.approx(1e-5 + (1e-2 - 1e-5) * (0.5 + 0.5 * math.cos(math.pi * 2 / 30)))
    assert rates == sorted(rates[:top]) + sorted(rates[top:], reverse=True) and min(rates) >= 1e-5
    within = {rate for step, rate in enumerate(rates) if step // steps == 0}
    assert len(within) == (1 if stepped == "epoch" else steps)


@pytest.mark.parametrize("steps", STEPS)
def test_with_few_steps_an_epoch_an_average_of_weights_is_not_that_of_the_beginning(steps: int) -> None:
    """Weights that go from 0 to 1 in ten epochs: with its warm-up the average is of the later half, however few."""
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.zero_()
    plan = Ema(0.9998)
    average = ModelEmaV3(model, decay=plan.decay, use_warmup=plan.warmup)
    total = 10 * steps
    for step in range(1, total + 1):
        model.weight.data.fill_(step / total)
        average.update(model, step - 1)
    assert 0.5 < float(average.module.weight) <= 1


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_the_relative_form_does_not_know_the_scale_of_the_loss(scale: float) -> None:
    course = TermState(TermSchedule(adaptive=AdaptiveStop(threshold=-0.1, window=5, relative=True)))
    for epoch in range(1, 101):
        course.on_epoch_end(epoch, 100, scale * (1 + 4 * math.exp(-epoch / 10)))
    assert course.ended == 33


def test_the_relative_form_does_not_know_the_length_of_the_training() -> None:
    ends = []
    for stretch in (1, 4):
        course = TermState(TermSchedule(adaptive=AdaptiveStop(threshold=-0.1, relative=True)))
        for epoch in range(1, 60 * stretch + 1):
            course.on_epoch_end(epoch, 60 * stretch, 1 + 4 * math.exp(-epoch / (10 * stretch)))
        assert course.ended is not None
        ends.append(course.ended / stretch)
    assert ends[0] == pytest.approx(ends[1], abs=1.5)


def test_what_is_restored_goes_on_as_what_was_saved() -> None:
    schedule = TermSchedule(adaptive=AdaptiveStop(-0.02, 3, relative=False))
    whole, first = TermState(schedule), TermState(schedule)
    losses = [5 * 0.8**epoch for epoch in range(40)]
    for epoch, loss in enumerate(losses, start=1):
        whole.on_epoch_end(epoch, 40, loss)
        if epoch <= 7:
            first.on_epoch_end(epoch, 40, loss)
    second = TermState(schedule)
    second.load_state_dict(first.state_dict())
    for epoch in range(8, 41):
        second.on_epoch_end(epoch, 40, losses[epoch - 1])
    assert second == whole and whole.ended is not None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: TermSchedule(shape="cosin"),
            "TermSchedule: shape must be 'constant', 'cosine' or 'steps' (got 'cosin')",
        ),
        (lambda: TermSchedule(warmup=-1), "TermSchedule: warmup must be >= 0 (got -1)"),
        (lambda: TermSchedule(until=0), "TermSchedule: until must be >= 1 (got 0)"),
        (lambda: AdaptiveStop(threshold=math.nan), "AdaptiveStop: threshold must be a finite number (got nan)"),
        (lambda: AdaptiveStop(window=0), "AdaptiveStop: window must be >= 1 (got 0)"),
        (lambda: AdaptiveStop(patience=1), "AdaptiveStop: patience must be >= 2 (got 1)"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, message: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert message in str(caught.value)
