"""A training of so many steps: schedules run over them, its last epoch is a part of one, and it resumes to the bit."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import lgkd
from lgkd.config import Schedule, parse_recipe
from lgkd.errors import InputError, Paused, RecipeError
from lgkd.runner.resolve import resolve_recipe
from lgkd.training.callbacks import Callback, EpochRow
from tests.support.training import STEPS, StopAfter, digest, make_plan, train

TWELVE = Schedule(warmup_epochs=1, stepped="step", steps=12)


class Rates(Callback):
    """Collects the rates of the epochs; a resumed training shows those before it as well."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_epoch(self, row: EpochRow) -> None:
        self.rates.append(row.lr)


def test_steps_and_epochs_of_equal_length_are_one_schedule() -> None:
    by_steps, by_epochs = Schedule(steps=20, warmup_epochs=1, stepped="step"), Schedule(4, 1, stepped="step")
    assert [by_steps.rate(0.1, step, 5) for step in range(20)] == [by_epochs.rate(0.1, step, 5) for step in range(20)]


def test_the_rate_of_twelve_steps_by_hand() -> None:
    # Of 12 steps, 5 an epoch: the cosine of step s has the phase pi s / 12, after one epoch of warm-up.
    assert TWELVE.rate(1.0, 6, 5) == pytest.approx(0.5 * (1 + math.cos(math.pi * 6 / 12)))
    assert TWELVE.rate(1.0, 11, 5) == pytest.approx(0.5 * (1 + math.cos(math.pi * 11 / 12)))


def test_the_linear_rate_of_twelve_steps_by_hand() -> None:
    # Of 12 steps, 5 an epoch: from 0.2 to 1 in the 5 of the warm-up, then by 0.9 / 7 a step, towards 0.1 at step 12.
    line = Schedule(warmup_epochs=1, warmup_factor=0.2, min_lr=0.1, stepped="step", steps=12, decay="linear")
    warm_up = [0.2, 0.36, 0.52, 0.68, 0.84]
    down = [1.0, 6.1 / 7, 5.2 / 7, 4.3 / 7, 3.4 / 7, 2.5 / 7, 1.6 / 7]
    assert [line.rate(1.0, step, 5) for step in range(12)] == pytest.approx([*warm_up, *down], rel=1e-12)
    # By epoch, 2.4 of them: at the warm-up's start, at the peak, and 0.4 epochs before the end of a line of 1.4.
    by_epoch = replace(line, stepped="epoch")
    rates = [0.2] * 5 + [1.0] * 5 + [0.1 + 0.9 * 0.4 / 1.4] * 2
    assert [by_epoch.rate(1.0, step, 5) for step in range(12)] == pytest.approx(rates, rel=1e-12)


@pytest.mark.parametrize("stepped", ["epoch", "step"])
@pytest.mark.parametrize(
    ("length", "warmup"), [({"epochs": 8}, 0), ({"epochs": 8}, 2), ({"epochs": 8}, 1.84), ({"steps": 37}, 0.5)]
)
def test_linear_rates_are_those_of_airbenchs_triangle(stepped: str, length: dict[str, int], warmup: float) -> None:
    # airbench94: np.interp over the steps [0, peak, end] with the values [start, 1, end].
    made = Schedule(**length, warmup_epochs=warmup, warmup_factor=0.2, min_lr=0.07, stepped=stepped, decay="linear")
    end = made.length(7)
    for step in range(made.count(7)):
        at = step // 7 if stepped == "epoch" else step / 7
        wanted = np.interp(at, [0, warmup, end], [0.2, 1.0, 0.07]) if warmup else np.interp(at, [0, end], [1.0, 0.07])
        assert made.rate(1.0, step, 7) == pytest.approx(wanted, rel=1e-12)


def test_an_unnamed_decay_is_the_cosine_to_the_bit() -> None:
    plain = Schedule(9, warmup_epochs=2, min_lr=1e-5, stepped="step")
    for step in range(10, 45):
        wanted = 1e-5 + (0.3 - 1e-5) * 0.5 * (1 + math.cos(math.pi * (step / 5) / 9))
        assert plain.rate(0.3, step, 5) == replace(plain, decay="cosine").rate(0.3, step, 5) == wanted
        assert plain.rate(0.3, step, 5) != replace(plain, decay="linear").rate(0.3, step, 5)


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


@pytest.mark.parametrize("stepped", ["epoch", "step"])
def test_a_resumed_linear_decay_has_the_same_rates(tmp_path: Path, stepped: Literal["epoch", "step"]) -> None:
    line = replace(TWELVE, decay="linear", stepped=stepped)
    whole, parts = Rates(), Rates()
    train(tmp_path / "whole", schedule=line, callbacks=[whole])
    with pytest.raises(Paused):
        train(tmp_path / "parts", schedule=line, stop=StopAfter(8))
    train(tmp_path / "parts", schedule=line, callbacks=[parts])
    assert digest(tmp_path / "whole") == digest(tmp_path / "parts")
    # The rate of each epoch's last step.
    by_hand = [0.01 * (TWELVE.warmup_factor * 0.2 + 0.8), 0.01 * 3 / 7, 0.01 * 1 / 7]
    by_epoch = [0.01 * TWELVE.warmup_factor, 0.01, 0.01 * 0.4 / 1.4]
    assert whole.rates == parts.rates == pytest.approx(by_hand if stepped == "step" else by_epoch, rel=1e-12)


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
        ({"steps": 5, "decay": "line"}, r"Schedule: decay must be 'cosine' or 'linear' \(got 'line'\)"),
    ],
)
def test_exactly_one_of_the_two_is_given(given: dict[str, Any], message: str) -> None:
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
