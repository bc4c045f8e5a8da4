"""Trainings of a given time: the number of steps against a simulated clock, the option, its refusals and its folder."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

import lgkd
from lgkd.analysis.report.command import command as report_command
from lgkd.analysis.report.selection import choose
from lgkd.analysis.report.sentences import summary
from lgkd.cli import run
from lgkd.config import Recipe, apply_overrides, dump_recipe, load_recipe
from lgkd.errors import InputError
from lgkd.runner import dry_run
from lgkd.runner import fit_time as module
from lgkd.runner.cost import Cost
from lgkd.runner.fit_time import fit_time
from lgkd.runner.length_settings import settle_recipe, settled
from lgkd.runner.resolve import resolve
from lgkd.runner.time_budget import parse_time, steps_within, training_seconds
from lgkd.runs.compare import compare
from lgkd.runs.compare.summary import summary_lines
from lgkd.runs.equal_length import equal_minutes, read_fitted
from tests.support.timed import SMALL, TINY, WORDS, options_of


def simulated(steps: int, step: float, evaluation: float, per_epoch: int, every: int) -> float:
    """The seconds of a training, step by step."""
    clock, epochs = 0.0, -(-steps // per_epoch)
    for number in range(1, steps + 1):
        clock += step
        epoch, ends = -(-number // per_epoch), number % per_epoch == 0 or number == steps
        if ends and (epoch % every == 0 or epoch == epochs):
            clock += evaluation
    return clock


@pytest.mark.parametrize("evaluation", [0.0, 0.7, 30.0])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("seconds", [1.0, 59.0, 1000.0])
def test_the_steps_are_the_most_that_fit(seconds: float, every: int, evaluation: float) -> None:
    found = steps_within(seconds, 0.1, evaluation, 25, every)
    assert found == 0 or simulated(found, 0.1, evaluation, 25, every) <= seconds + 1e-6
    assert simulated(found + 1, 0.1, evaluation, 25, every) > seconds - 1e-6 or found == 0
    if found:
        assert training_seconds(found, 0.1, evaluation, 25, every) == pytest.approx(
            simulated(found, 0.1, evaluation, 25, every)
        )


@pytest.mark.parametrize("most", [1, 4])
@pytest.mark.parametrize("evaluation", [0.0, 0.7, 30.0])
@pytest.mark.parametrize("seconds", [100.0, 1000.0, 20_000.0])
def test_limited_evaluations_leave_more_time_for_steps(seconds: float, evaluation: float, most: int) -> None:
    def limited(steps: int) -> float:
        return simulated(steps, 0.1, evaluation, 25, max(2, math.ceil(math.ceil(steps / 25) / most)))

    found = steps_within(seconds, 0.1, evaluation, 25, 2, most)
    assert limited(found) <= seconds + 1e-6
    assert training_seconds(found, 0.1, evaluation, 25, 2, most) >= limited(found) - 1e-6
    # The interval is a whole number of epochs: fewer evaluations than the limit may be left.
    assert found >= steps_within(seconds, 0.1, evaluation, 25, 2)
    assert training_seconds(found + 1, 0.1, evaluation, 25, 2, most) > seconds - 1e-6


def test_the_interval_of_evaluations_follows_the_length() -> None:
    recipe = load_recipe("fast")
    assert (recipe.evaluate_every, recipe.evaluations) == (1, 4)
    assert [recipe.evaluation_interval(epochs) for epochs in (1, 4, 5, 8, 9, 1000)] == [1, 1, 2, 2, 3, 250]
    assert load_recipe("teacher").evaluation_interval(300) == 1


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("90", 90), ("45m", 2700), ("2h", 7200), ("1h30m", 5400), (7.5, 7.5), (3, 3)]
)
def test_times_are_read(text: str | float, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-3", "soon", "1.5h", "3d", 0, -1.0, float("inf"), float("nan"), True])
def test_other_times_are_refused(text: str | float) -> None:
    with pytest.raises(InputError, match="expected seconds, or text like 90s, 45m, 2h or 1h30m"):
        parse_time(text)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps of 5 s and evaluations of 10 ms an image, whatever they take here; the list grows with each measuring.

    Beside them a start is short, on a busy machine too.
    """
    calls: list[int] = []

    def measure(*_: object, longest: float) -> Cost:
        assert 3 <= longest <= 30
        calls.append(1)
        return Cost(5, 5.0, 0.01, 0, "", 1)

    monkeypatch.setattr(module, "measure", measure)
    return calls


def test_a_run_by_time_is_the_run_of_its_steps_to_the_bit(measured: list[int], tmp_path: Path) -> None:
    said: list[str] = []
    timed = lgkd.train("vit_96", "digits", time="450s", out=tmp_path / "timed", say=said.append, **SMALL)
    schedule = load_recipe(tmp_path / "timed" / "recipe.yaml").schedule
    # 18 steps of 5 s and 599 images of 10 ms are 96 s an epoch: at most 4.6 of them in 448 s.
    assert schedule.epochs is None and 50 <= schedule.steps <= 83
    assert any(line.startswith(f"{schedule.steps} steps (") for line in said)
    warm = load_recipe("supervised").schedule
    assert schedule.warmup_epochs == pytest.approx(warm.warmup_epochs / warm.epochs * schedule.steps / 18, abs=1e-3)
    changes = [
        "schedule.epochs=null",
        f"schedule.steps={schedule.steps}",
        f"schedule.warmup_epochs={schedule.warmup_epochs}",
    ]
    counted = lgkd.train("vit_96", "digits", overrides=changes, out=tmp_path / "counted", **SMALL)
    weights = [one.student.state_dict() for one in (timed, counted)]
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())


def test_the_same_command_resumes_with_the_steps_of_the_folder(
    measured: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", *WORDS, "--time", "450s", "--out", str(tmp_path / "run")]
    assert run([*command, "--max-time", "0.01"]) == 75
    steps = load_recipe(tmp_path / "run" / "recipe.yaml").schedule.steps
    assert run(command) == 0
    assert len(measured) == 1
    assert load_recipe(tmp_path / "run" / "recipe.yaml").schedule.steps == steps
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["epochs"] == -(-steps // 18) and info["time"] == {"seconds": 450, "timed": "own"}


@pytest.mark.parametrize("words", [["resume"], ["train", *WORDS, "--time", "5m", "--out"]])
def test_a_resumed_run_keeps_the_time_that_its_steps_were_fitted_to(
    words: list[str], measured: list[int], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert run(["train", *WORDS, "--time", "900s", "--out", str(folder), "--max-time", "0.01"]) == 75
    assert run([*words, str(folder), "--quiet"]) == 0
    info = json.loads((folder / "run.json").read_text())
    assert info["status"] == "finished" and info["time"] == {"seconds": 900, "timed": "own"}


@pytest.mark.parametrize("damaged", [None, 450, {"seconds": "450", "timed": "own"}, {"seconds": 450, "timed": "both"}])
def test_a_damaged_time_of_a_run_is_not_used(damaged: object) -> None:
    good = {"time": {"seconds": 450, "timed": "own"}}
    assert read_fitted(good) == {"seconds": 450.0, "timed": "own"} and equal_minutes(good, good) == 450
    assert read_fitted({"time": damaged}) is None and equal_minutes(good, {"time": damaged}) is None
    assert equal_minutes(good, {"time": {"seconds": 450, "timed": "guided"}}) is None
    assert equal_minutes(good, {"time": {"seconds": 451, "timed": "own"}}) is None


def test_both_arms_have_the_steps_that_were_measured_once(measured: list[int], tmp_path: Path) -> None:
    lgkd.train_teacher("resnet8", "digits", epochs=1, out=tmp_path / "teacher")
    series = lgkd.distill_series(
        "vit_96", "resnet8", "digits", seeds=(0,), with_baseline=True, time="450s", image_size=8, batch_size=64,
        student_options=TINY, out=tmp_path / "series",
    )  # fmt: skip
    schedules = {str(load_recipe(folder / "recipe.yaml").schedule) for folder in series.folders}
    assert len(series.folders) == 2 and len(schedules) == 1 and len(measured) == 1
    times = {folder.name: json.loads((folder / "run.json").read_text())["time"] for folder in series.folders}
    assert times["seed0-guided"] == {"seconds": 450, "timed": "own"}
    assert times["seed0-unguided"] == {"seconds": 450, "timed": "guided"}
    (difference,) = series.comparison.differences
    assert difference.equal == "steps"
    steps = load_recipe(series.folders[0] / "recipe.yaml").schedule.steps
    assert f"Equal steps: A and B were trained for {steps} steps each." in summary_lines(series.comparison)


RULES = """by_length:
- from_epochs: 2
  set: {view: {flip: 0.25}}
- from_epochs: 4
  set: {view: {flip: 0.75}, label_smoothing: 0.25}
"""


@pytest.fixture
def ruled(tmp_path: Path) -> Path:
    """A recipe whose settings follow the length."""
    file = tmp_path / "ruled.yaml"
    file.write_text(dump_recipe(apply_overrides(load_recipe("supervised"), ["label_smoothing=0.125"])) + RULES)
    return file


def steps_of(costs: dict[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a step take so many seconds by the flip of the recipe, and evaluations nothing."""

    def measure(_student: object, _guides: object, recipe: Recipe, *_: object, longest: float) -> Cost:
        return Cost(5, costs[recipe.view.flip], 0.0, 0, "", 1)

    monkeypatch.setattr(module, "measure", measure)


@pytest.mark.parametrize(
    ("costs", "flip", "fewest", "most"),
    [
        # 18 steps an epoch: 448 s less the start, of a minute at most, are enough for some 59, 44 and 89 steps.
        ({0.5: 7.5, 0.25: 7.5, 0.75: 10}, 0.25, 50, 59),
        ({0.5: 5, 0.25: 5, 0.75: 5}, 0.75, 72, 89),
        # At first 4 epochs fit, with the slower settings of that length 3: the last step before them.
        ({0.5: 5, 0.25: 5, 0.75: 7.5}, 0.25, 71, 71),
    ],
)
def test_the_steps_of_a_time_and_the_settings_that_follow_from_them_agree(
    costs: dict[float, float], flip: float, fewest: int, most: int, ruled: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    steps_of(costs, monkeypatch)
    small = {**SMALL, "recipe": ruled}
    config = fit_time(resolve("student", "vit_96", "digits", {"time": 450, **options_of(small)}, model_options=TINY))
    assert fewest <= config.recipe.schedule.steps <= most
    settled, _ = settle_recipe(config, 18)
    assert settled.recipe.view.flip == flip and settled.recipe.by_length is None


def test_a_training_has_the_settings_of_its_length_and_stores_them_without_rules(ruled: Path, tmp_path: Path) -> None:
    said: list[str] = []
    small = {**SMALL, "recipe": ruled}
    length = ["schedule.epochs=null", "schedule.steps=36", "schedule.warmup_epochs=0"]
    made = lgkd.train("vit_96", "digits", overrides=length, out=tmp_path / "a", say=said.append, **small)
    stored = load_recipe(tmp_path / "a" / "recipe.yaml")
    assert (stored.view.flip, stored.label_smoothing, stored.by_length) == (0.25, 0.125, None)
    assert "the recipe sets for a training of 2 epochs: view.flip=0.25 (from 2 epochs)" in said
    resolved = resolve("student", "vit_96", "digits", {"overrides": length, **options_of(small)}, model_options=TINY)
    assert settled(resolved.recipe, resolved.options, 18) == stored
    plain = [*length, "label_smoothing=0.125", "view.flip=0.25"]
    alike = lgkd.train("vit_96", "digits", overrides=plain, out=tmp_path / "b", **SMALL)
    weights = [one.student.state_dict() for one in (made, alike)]
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())


def test_what_is_typed_wins_over_a_rule_and_is_not_reported_as_one(ruled: Path, tmp_path: Path, capsys) -> None:
    said: list[str] = []
    small = {**SMALL, "recipe": ruled, "epochs": 2}
    lgkd.train("vit_96", "digits", overrides=["view.flip=0"], out=tmp_path / "a", say=said.append, **small)
    assert load_recipe(tmp_path / "a" / "recipe.yaml").view.flip == 0
    assert not any("the recipe sets" in sentence for sentence in said)
    words = [
        "train",
        *WORDS,
        "--recipe",
        str(ruled),
        "--epochs",
        "2",
        "--dry-run",
        "--json",
        "--out",
        str(tmp_path / "b"),
    ]
    assert run(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recipe"]["view"]["flip"] == 0.25 and "by_length" not in found["recipe"]
    assert any(sentence.startswith("the recipe sets for a training of 2 epochs") for sentence in found["cautions"])


def test_a_dry_run_of_a_time_shows_the_settings_of_its_length(
    ruled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dry_run, "measure", lambda *_, **__: Cost(5, 0.5, 0.0, 0, "", 1))
    assert run(["train", *WORDS, "--recipe", str(ruled), "--time", "45s", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    # 43 s of 500 ms are 86 steps, 4.8 epochs.
    assert found["steps"] == 86 and found["recipe"]["view"]["flip"] == 0.75 and "by_length" not in found["recipe"]
    assert any("the steps were timed without these settings" in sentence for sentence in found["cautions"])


def test_a_resumed_training_keeps_the_settings_of_its_length(ruled: Path, tmp_path: Path) -> None:
    command = ["train", *WORDS, "--recipe", str(ruled), "--epochs", "2", "--out", str(tmp_path / "run")]
    assert run([*command, "--max-time", "0.01"]) == 75
    before = (tmp_path / "run" / "recipe.yaml").read_text()
    assert run(command) == 0
    assert (tmp_path / "run" / "recipe.yaml").read_text() == before
    assert load_recipe(tmp_path / "run" / "recipe.yaml").view.flip == 0.25


def test_the_arms_of_equal_minutes_have_the_steps_that_fit_and_comparisons_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[bool] = []

    def measure(_student: object, guides: Sequence[object], *_: object, longest: float) -> Cost:
        calls.append(bool(guides))
        return Cost(5, 6.0 if guides else 4.0, 0.0, 0, "", 1)

    monkeypatch.setattr(module, "measure", measure)
    lgkd.train_teacher("resnet8", "digits", epochs=1, out=tmp_path / "teacher")
    words = ["distill", "--teacher", "resnet8", "--seeds", "0,1", "--with-baseline", "--time", "400s", *WORDS]
    assert run([*words, "--equal", "minutes", "--out", str(tmp_path / "m")]) == 0
    printed = capsys.readouterr().out
    assert calls == [True, False]
    steps = {
        name: {load_recipe(folder / "recipe.yaml").schedule.steps for folder in (tmp_path / "m").glob(f"*-{name}")}
        for name in ("guided", "unguided")
    }
    (guided,), (unguided,) = steps["guided"], steps["unguided"]
    # 398 s less the start, of a minute at most, at 6 and 4 s.
    assert 50 <= guided <= 66 < 75 <= unguided <= 99
    sentence = f"Equal minutes: A and B were each trained for the steps that fit in 400 s (A {unguided}, B {guided})."
    assert sentence in " ".join(printed.split())
    info = json.loads((tmp_path / "m" / "seed0-unguided" / "run.json").read_text())
    assert info["time"] == {"seconds": 400, "timed": "own"}
    found = compare(tmp_path / "m")
    assert found.differences[0].equal == "minutes" and found.differences[0].paired
    assert not any("schedule" in remark for remark in found.remarks)
    chosen = choose([tmp_path / "m"])
    assert chosen.baseline is not None and sentence in " ".join(summary(chosen))
    # The stored recipe has the guided student's steps, which would be the baseline's, too.
    assert "--with-baseline" not in str(report_command(chosen, out="again"))
    # The same command keeps every run, and measures nothing again.
    assert run([*words, "--equal", "minutes", "--out", str(tmp_path / "m")]) == 0
    assert calls == [True, False]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            ["--with-baseline"],
            "--equal minutes gives each arm the steps that fit in one time, and there is none; add",
        ),
        (["--time", "5m"], "--equal minutes is for two arms, and there is one; add --with-baseline"),
    ],
)
def test_equal_minutes_need_a_time_and_a_baseline(given: list[str], words: str, capsys) -> None:
    assert run(["distill", "--teacher", "resnet8", *WORDS, "--equal", "minutes", *given]) == 2
    assert words in capsys.readouterr().err


def test_another_equality_is_refused(capsys) -> None:
    assert run(["distill", "--teacher", "resnet8", *WORDS, "--equal", "hours"]) == 2
    assert "--equal is 'hours', expected steps or minutes" in capsys.readouterr().err


def test_too_short_a_time_is_refused_with_the_least(measured: list[int], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the time of 3s is enough for \d+ steps?, expected 50 or more; give \d+ sec"):
        lgkd.train("vit_96", "digits", time="3s", out=tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("other", [["--epochs", "3"], ["--set", "schedule.epochs=3"], ["--set", "schedule.steps=30"]])
def test_two_lengths_are_refused(other: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", *WORDS, "--time", "5m", *other]) == 2
    assert f"--time 5m and {' '.join(other)} both set the length" in capsys.readouterr().err


def test_a_dry_run_shows_the_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", *WORDS, "--time", "100s", "--dry-run", "--json", "--out", str(tmp_path / "run")]
    assert run(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recipe"]["schedule"]["steps"] == found["steps"] and found["recipe"]["schedule"]["epochs"] is None
    assert 40 < found["seconds"]["together"] <= 98.5
