"""Trainings that take hours: what is reported of them, when, and with which command instead."""

import json
from pathlib import Path

import pytest

from lgkd._internal.safetensors_io import load_weights
from lgkd.cli import long_training as module
from lgkd.cli import run
from lgkd.cli.long_training import LongTraining, faster_command, short_limit
from lgkd.runner import dry_run
from lgkd.runner.cost import Cost
from lgkd.runner.resolve import resolve
from lgkd.training import loop
from tests.support.small import DISTILL, QUICK, TRAIN, World, everything_below

SPOKEN = "on this machine"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LGKD_HOME", str(world.home))
    return folder


def followed(seconds_a_step: float, steps: int, *, epochs: int = 300, per_epoch: int = 100) -> list[str]:
    """The sentences on a training of which so many steps have been made."""
    said: list[str] = []
    clock = [0.0]
    watcher = LongTraining(said.append, None, clock=lambda: clock[0])
    watcher.on_start(epochs, per_epoch)
    for step in range(steps):
        # The first step takes ten times as long, as those that compile or allocate do.
        clock[0] += seconds_a_step * (10 if step == 0 else 1)
        watcher.on_step(step // per_epoch, step % per_epoch, {}, 0.0)
    return said


def test_a_long_training_is_reported_once_by_steps_after_the_first() -> None:
    # 30,000 steps of 0.5 s are 4h10m, of which the 7 until 3 s were measured are made.
    assert followed(0.5, 50) == ["this training takes about 4h09m on this machine"]
    assert followed(0.5, 6) == []


def test_a_training_of_less_than_three_hours_is_not_reported() -> None:
    assert followed(0.35, 50) == []
    assert len(followed(0.37, 50)) == 1


def test_what_is_left_counts_and_slow_steps_are_measured_too() -> None:
    assert len(followed(4000.0, 2, epochs=1, per_epoch=5)) == 1
    assert followed(4000.0, 4, epochs=1, per_epoch=4) == []


@pytest.mark.parametrize(
    ("typed", "rest"),
    [
        (
            ["--student", "deit_tiny", "--recipe", "supervised", "--epochs=300", "--seed", "3"],
            "--student deit_tiny --seed 3",
        ),
        (["--student", "deit_tiny", "--set", "schedule.steps=9", "--out", "runs/mine"], "--student deit_tiny"),
        (["--student", "deit_tiny", "--set", "mix.cutmix=0", "--dry-run"], "--student deit_tiny --set mix.cutmix=0"),
    ],
)
def test_the_command_instead_is_the_typed_one_with_another_length(
    typed: list[str], rest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_INSTEAD", {"student": ("quickstart", "45m")})
    config = resolve("student", "deit_tiny", "digits", {"recipe": "supervised"})
    found = faster_command(config, ["train", *typed, "--dataset", "digits"])
    assert found == f"lgkd train {rest} --dataset digits --recipe quickstart --time 45m"
    assert faster_command(config, None) is None


def test_a_recipe_that_is_not_shipped_is_not_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve("student", "deit_tiny", "digits", {"recipe": "supervised"})
    monkeypatch.setattr(module, "_INSTEAD", {"student": ("no-such-recipe", "45m")})
    assert faster_command(config, ["train"]) is None


def test_a_running_training_is_reported_and_is_the_same_to_the_bit(
    here: Path, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop, "_SECONDS_BETWEEN_LOOKS", -1.0)
    monkeypatch.setattr(module, "_MEASURED", 0.0)
    monkeypatch.setattr(module, "LONG", -1.0)
    monkeypatch.setattr(module, "_INSTEAD", {"student": ("quickstart", "45m")})
    words = [*TRAIN, "--dataset", str(world.pictures)]
    loud = [word for word in words if word != "--quiet"]
    assert run([*loud, "--out", "loud"]) == 0
    spoken = capsys.readouterr().err
    assert spoken.count(SPOKEN) == 1 and "--recipe quickstart --time 45m" in " ".join(spoken.split())
    assert run([*words, "--out", "quiet"]) == 0
    assert SPOKEN not in capsys.readouterr().err
    assert run([*loud, "--json", "--out", "json"]) == 0
    assert SPOKEN not in "".join(capsys.readouterr())
    loud_weights, quiet_weights, json_weights = (
        load_weights(Path(name) / "student.safetensors") for name in ("loud", "quiet", "json")
    )
    assert all((loud_weights[name] == quiet_weights[name]).all() for name in loud_weights)
    assert all((loud_weights[name] == json_weights[name]).all() for name in loud_weights)


def test_of_several_seeds_it_is_reported_once(
    here: Path, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop, "_SECONDS_BETWEEN_LOOKS", -1.0)
    monkeypatch.setattr(module, "_MEASURED", 0.0)
    monkeypatch.setattr(module, "LONG", -1.0)
    loud = [word for word in TRAIN if word != "--quiet"]
    assert run([*loud, "--dataset", str(world.pictures), "--seeds", "0,1", "--out", "series"]) == 0
    assert capsys.readouterr().err.count(SPOKEN) == 1


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a dry run measure 2,000 s a step and 0.01 s an image."""
    monkeypatch.setattr(dry_run, "measure", lambda *_, **__: Cost(5, 2000.0, 0.01, 0, "", 1))


def estimated(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> dict:
    assert run([*(word for word in words if word != "--quiet"), "--dry-run", "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_a_dry_run_reports_a_long_training(here: Path, world: World, slow: None, monkeypatch, capsys) -> None:
    monkeypatch.setattr(module, "_INSTEAD", {"student": ("quickstart", "45m"), "teacher": ("teacher-short", "45m")})
    words = [*TRAIN, "--dataset", str(world.pictures)]
    # 6 steps of 2,000 s.
    (sentence,) = [one for one in estimated(words, capsys)["cautions"] if SPOKEN in one]
    assert sentence.startswith("this training takes about 3h20m on this machine; a training of 45m: lgkd train ")
    assert sentence.endswith("--recipe quickstart --time 45m") and "--epochs" not in sentence
    (sentence,) = [one for one in estimated([*words, "--seeds", "0,1"], capsys)["cautions"] if SPOKEN in one]
    assert sentence.startswith("each of these trainings takes about 3h20m")
    teacher = ["train-teacher", "resnet8", str(world.pictures), *QUICK, "--image-size", "16", "--replace"]
    (sentence,) = [one for one in estimated(teacher, capsys)["cautions"] if SPOKEN in one]
    assert sentence.endswith("--recipe teacher-short --time 45m")


def test_a_dry_run_remarks_on_a_limit_far_below_the_need(here: Path, world: World, slow: None, capsys) -> None:
    words = [*TRAIN, "--dataset", str(world.pictures)]
    told = estimated([*words, "--max-time", "100"], capsys)["cautions"]
    # 12,000.24 s with the evaluations.
    assert any(
        one.startswith("--max-time 100 is 0.8% of the estimated 3h20m: the command has to be run about 121 times")
        for one in told
    )
    told = estimated([*words, "--seeds", "0,1", "--max-time", "1300"], capsys)["cautions"]
    assert any("of the estimated 6h40m: the command has to be run about 19 times" in one for one in told)
    told = estimated([*words, "--max-time", "1300"], capsys)["cautions"]
    assert not any(one.startswith("--max-time") for one in told)


@pytest.mark.parametrize(("limit", "spoken"), [(None, False), (9.9, True), (10.0, False), (0.0, False)])
def test_a_limit_is_short_below_a_tenth(limit: float | None, spoken: bool) -> None:
    assert (short_limit(limit, 100.0) is not None) == spoken


def test_a_dry_run_prices_the_training_of_a_missing_teacher(here: Path, world: World, slow: None, capsys) -> None:
    words = [*DISTILL, "--dataset", str(world.pictures)]
    words[words.index("resnet8")] = "resnet20"
    before = everything_below(here, world.home, world.pictures)
    told = estimated(words, capsys, code=3)
    (first,) = told["teachers_to_train"]
    assert everything_below(here, world.home, world.pictures) == before, "a dry run writes nothing"
    alone = estimated(["train-teacher", "resnet20", str(world.pictures)], capsys)
    assert (
        first["seconds"] == alone["seconds"] and first["epochs"] == alone["epochs"] and first["steps"] == alone["steps"]
    )
    assert first["command"] == f"lgkd train-teacher resnet20 {world.pictures}"
    assert told["teachers"] == ["resnet20"] and "by-resnet20" in told["folder"] and len(told["pairs"]) == 3
    assert told["seconds"]["training"] == 6 * 2000
    assert any(one.startswith("the training of the teacher resnet20 takes about ") for one in told["cautions"])
    assert not any("no card" in one for one in told["cautions"])
    assert run([*(word for word in words if word != "--quiet"), "--dry-run", "--with-baseline"]) == 3
    shown = capsys.readouterr()
    assert "first resnet20  the teacher is not trained yet: about" in shown.out
    assert "no teacher 'resnet20' is trained for" in shown.err


def test_a_dry_run_with_a_trained_and_a_missing_teacher_prices_one(
    here: Path, world: World, slow: None, capsys
) -> None:
    words = [*DISTILL, "--dataset", str(world.pictures), "--teacher", "resnet20"]
    told = estimated(words, capsys, code=3)
    assert [one["name"] for one in told["teachers_to_train"]] == ["resnet20"]
    assert told["teachers"] == ["resnet8", "resnet20"] and "by-resnet8-resnet20" in told["folder"]


def test_a_dry_run_of_a_teacher_that_cannot_be_priced_is_refused_as_before(here: Path, capsys) -> None:
    words = ["distill", "--student", "deit_tiny", "--teacher", "resnet32", "--dataset", "cifar10", "--dry-run"]
    assert run(words) == 3
    shown = capsys.readouterr()
    assert "no teacher 'resnet32' is trained for cifar10 yet" in shown.err and "would train" not in shown.out
