"""Trainings of a given time: the number of steps against a simulated clock, the option, its refusals and its folder."""

import json
from pathlib import Path

import pytest

import lgkd
from lgkd.cli import run
from lgkd.config import load_recipe
from lgkd.errors import InputError
from lgkd.runner import fit_time as module
from lgkd.runner.cost import Cost
from lgkd.runner.time_budget import parse_time, steps_within, training_seconds

TINY = {"patch_size": 4, "depth": 3, "embed_dim": 24, "num_heads": 2}
SMALL = {"recipe": "supervised", "image_size": 8, "batch_size": 64, "student_options": TINY}
OPTIONS = [word for name, value in TINY.items() for word in ("--student-option", f"{name}={value}")]
WORDS = [*OPTIONS, "--student", "vit_96", "--dataset", "digits", "--image-size", "8", "--batch-size", "64", "--quiet"]


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
    """Steps of 500 ms and evaluations of 1 ms an image, whatever they take here; the list grows with each measuring."""
    calls: list[int] = []

    def measure(*_: object, longest: float) -> Cost:
        assert 3 <= longest <= 30
        calls.append(1)
        return Cost(5, 0.5, 0.001, 0, "", 1)

    monkeypatch.setattr(module, "measure", measure)
    return calls


def test_a_run_by_time_is_the_run_of_its_steps_to_the_bit(measured: list[int], tmp_path: Path) -> None:
    said: list[str] = []
    timed = lgkd.train("vit_96", "digits", time="45s", out=tmp_path / "timed", say=said.append, **SMALL)
    schedule = load_recipe(tmp_path / "timed" / "recipe.yaml").schedule
    # 18 steps of 500 ms and 599 images of 1 ms are 9.6 s an epoch: at most 4.4 of them in 43 s.
    assert schedule.epochs is None and 50 <= schedule.steps <= 80
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
    command = ["train", *WORDS, "--time", "45s", "--out", str(tmp_path / "run")]
    assert run([*command, "--max-time", "0.01"]) == 75
    steps = load_recipe(tmp_path / "run" / "recipe.yaml").schedule.steps
    assert run(command) == 0
    assert len(measured) == 1
    assert load_recipe(tmp_path / "run" / "recipe.yaml").schedule.steps == steps
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["epochs"] == -(-steps // 18)


def test_both_arms_have_the_steps_that_were_measured_once(measured: list[int], tmp_path: Path) -> None:
    lgkd.train_teacher("resnet8", "digits", epochs=1, out=tmp_path / "teacher")
    series = lgkd.distill_series(
        "vit_96", "resnet8", "digits", seeds=(0,), with_baseline=True, time="45s", image_size=8, batch_size=64,
        student_options=TINY, out=tmp_path / "series",
    )  # fmt: skip
    schedules = {str(load_recipe(folder / "recipe.yaml").schedule) for folder in series.folders}
    assert len(series.folders) == 2 and len(schedules) == 1 and len(measured) == 1


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
