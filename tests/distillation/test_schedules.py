"""How much a term counts in the course of a training, and when it ends."""

import math

import pytest

from lgkd.distillation.schedules import AdaptiveStop, Course, TermSchedule
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
    course = Course(TermSchedule(until=3))
    assert [course.finish_epoch(epoch, 10, 1.0) is not None for epoch in (1, 2, 3, 4)] == [False, False, True, False]
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
    stop = AdaptiveStop()
    found = [stop.slope(losses[:epoch], window) for epoch in range(2, 41)]
    assert found == pytest.approx(by_the_book(losses, window))
    assert stop.slope(losses[:1], window) is None


def test_a_loss_that_falls_and_then_rests_ends_the_term_soon_after_it_rests() -> None:
    falling_by_a_tenth = [10 - 0.1 * epoch for epoch in range(20)]
    course = Course(TermSchedule(adaptive=AdaptiveStop(threshold=-0.02, window=4)))
    for epoch, loss in enumerate([*falling_by_a_tenth, *[8.1] * 20], start=1):
        course.finish_epoch(epoch, 40, loss)
    # From epoch 20 on the loss rests. A slope over 4 epochs, smoothed over 4, shrinks from 0.1 to 0 in 7 epochs:
    # 0.1 * (1 - (1+2+3+4)/16) = 0.0375 after 4, 0.01875 after 5.
    assert course.ended == 25


def test_a_loss_that_keeps_falling_never_ends_the_term_and_one_that_rises_ends_it_at_once() -> None:
    falls, rises = (Course(TermSchedule(adaptive=AdaptiveStop(window=5))) for _ in range(2))
    for epoch in range(1, 30):
        falls.finish_epoch(epoch, 30, 10.0 - 0.3 * epoch)
        rises.finish_epoch(epoch, 30, 10.0 + 0.3 * epoch)
    assert falls.ended is None and rises.ended == 2


def test_patience_keeps_a_term_through_a_bad_start() -> None:
    course = Course(TermSchedule(adaptive=AdaptiveStop(window=5, patience=6)))
    for epoch in range(1, 6):
        assert course.finish_epoch(epoch, 30, 1.0 + epoch) is None
    assert course.finish_epoch(6, 30, 7.0) is not None


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_the_relative_form_does_not_know_the_scale_of_the_loss(scale: float) -> None:
    course = Course(TermSchedule(adaptive=AdaptiveStop(threshold=-0.1, window=5, relative=True)))
    for epoch in range(1, 101):
        course.finish_epoch(epoch, 100, scale * (1 + 4 * math.exp(-epoch / 10)))
    assert course.ended == 33


def test_the_relative_form_does_not_know_the_length_of_the_training() -> None:
    ends = []
    for stretch in (1, 4):
        course = Course(TermSchedule(adaptive=AdaptiveStop(threshold=-0.1, relative=True)))
        for epoch in range(1, 60 * stretch + 1):
            course.finish_epoch(epoch, 60 * stretch, 1 + 4 * math.exp(-epoch / (10 * stretch)))
        assert course.ended is not None
        ends.append(course.ended / stretch)
    assert ends[0] == pytest.approx(ends[1], abs=1.5)


def test_what_is_restored_goes_on_as_what_was_saved() -> None:
    schedule = TermSchedule(adaptive=AdaptiveStop(window=3))
    whole, first = Course(schedule), Course(schedule)
    losses = [5 * 0.8**epoch for epoch in range(40)]
    for epoch, loss in enumerate(losses, start=1):
        whole.finish_epoch(epoch, 40, loss)
        if epoch <= 7:
            first.finish_epoch(epoch, 40, loss)
    second = Course(schedule)
    second.restore(first.state())
    for epoch in range(8, 41):
        second.finish_epoch(epoch, 40, losses[epoch - 1])
    assert second == whole and whole.ended is not None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TermSchedule(shape="cosin"), "a term's schedule is 'cosin'; did you mean 'cosine'"),  # type: ignore[arg-type]
        (lambda: TermSchedule(warmup=-1), "warmup of a term's schedule is -1, expected a finite number >= 0"),
        (lambda: TermSchedule(until=0), "a term that ends at epoch 0 is no term"),
        (lambda: AdaptiveStop(threshold=math.nan), "threshold is nan, expected a finite number"),
        (lambda: AdaptiveStop(window=0), "window is 0 epochs, expected at least 1"),
        (lambda: AdaptiveStop(patience=1), "patience is 1 epochs, expected at least 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, message: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert message in str(caught.value)
