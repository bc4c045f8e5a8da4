"""A training of so many steps: schedules run over them, its last epoch is a part of one, and it resumes to the bit."""

import math
from pathlib import Path

import pytest

import lgkd
from lgkd.config import Schedule, parse_recipe
from lgkd.errors import InputError, Paused, RecipeError
from lgkd.runner.resolve import resolve_recipe
from tests.support.training import STEPS, StopAfter, digest, make_plan, train

TWELVE = Schedule(warmup_epochs=1, stepped="step", steps=12)


def test_steps_and_epochs_of_equal_length_are_one_schedule() -> None:
    by_steps, by_epochs = Schedule(steps=20, warmup_epochs=1, stepped="step"), Schedule(4, 1, stepped="step")
    assert [by_steps.rate(0.1, step, 5) for step in range(20)] == [by_epochs.rate(0.1, step, 5) for step in range(20)]


def test_the_rate_of_twelve_steps_by_hand() -> None:
    # Of 12 steps, 5 an epoch: the cosine of step s has the phase pi s / 12, after one epoch of warm-up.
    assert TWELVE.rate(1.0, 6, 5) == pytest.approx(0.5 * (1 + math.cos(math.pi * 6 / 12)))
    assert TWELVE.rate(1.0, 11, 5) == pytest.approx(0.5 * (1 + math.cos(math.pi * 11 / 12)))


def test_the_last_epoch_is_a_part_and_is_evaluated(tmp_path: Path) -> None:
    plan = make_plan(schedule=TWELVE)
    assert (plan.steps, plan.epochs, plan.length) == (12, 3, 2.4)
    assert [plan.steps_of(epoch) for epoch in range(3)] == [STEPS, STEPS, 2]
    _, rows = train(tmp_path, schedule=TWELVE)
    assert [row.epoch for row in rows] == [1, 2, 3]
    assert rows[-1].scores and rows[-1].lr == pytest.approx(plan.rate(11))


def test_resumed_in_its_last_part_it_ends_equal_to_the_bit(tmp_path: Path) -> None:
    train(tmp_path / "whole", schedule=TWELVE)
    with pytest.raises(Paused):
        train(tmp_path / "parts", schedule=TWELVE, stop=StopAfter(9))
    train(tmp_path / "parts", schedule=TWELVE)
    assert digest(tmp_path / "whole") == digest(tmp_path / "parts")


def test_a_whole_number_of_epochs_ends_as_the_epochs_do(tmp_path: Path) -> None:
    train(tmp_path / "steps", schedule=Schedule(warmup_epochs=1, stepped="step", steps=2 * STEPS))
    train(tmp_path / "epochs", schedule=Schedule(2, warmup_epochs=1, stepped="step"))
    assert digest(tmp_path / "steps") == digest(tmp_path / "epochs")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "Schedule: steps is missing, and so is schedule.epochs; give one of the two"),
        ({"epochs": 3, "steps": 5}, "Schedule: steps is given beside schedule.epochs; give one of the two"),
        ({"steps": 0}, "Schedule: steps must be >= 1"),
    ],
)
def test_exactly_one_of_the_two_is_given(given: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Schedule(**given)


def test_more_warm_up_than_steps_is_refused() -> None:
    with pytest.raises(InputError, match=r"warmup_epochs is 2, and 7 steps are 1.4 epochs; expected less warm-up"):
        make_plan(schedule=Schedule(warmup_epochs=2, steps=7))


RECIPE = """
about: A test.
trains: student
optimizer: {name: adamw, lr: 1e-3, weight_decay: 0.05}
schedule: {SCHEDULE}
batch_size: 64
"""


def test_a_recipe_of_steps_trains_so_many_and_epochs_on_the_command_line_win(tmp_path: Path) -> None:
    recipe = parse_recipe(RECIPE.replace("SCHEDULE", "steps: 25, warmup_epochs: 0.5"))
    run = lgkd.train("vit_96", "digits", recipe=recipe, image_size=8, out=tmp_path / "run")
    assert run.info["epochs"] == 2 and run.info["steps_per_epoch"] == 18
    assert [row["epoch"] for row in run.metrics] == [1, 2]
    resolved = resolve_recipe(recipe, trains="student", guided=False, epochs=3).schedule
    assert (resolved.epochs, resolved.steps) == (3, None)
    with pytest.raises(RecipeError, match=r"schedule\.steps: is missing, and so is schedule\.epochs"):
        parse_recipe(RECIPE.replace("SCHEDULE", "warmup_epochs: 0.5"))
