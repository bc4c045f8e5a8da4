"""The time to an accuracy: whole trainings of doubled length on digits, with seconds that are steps."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lgkd import api
from lgkd.benchmark import to_accuracy
from lgkd.benchmark.options import Choices
from lgkd.benchmark.target import Target, as_share
from lgkd.benchmark.to_accuracy import bench_to_accuracy, held_out_dataset
from lgkd.cli import run as lgkd
from lgkd.cli.bench_to_accuracy import show_to_accuracy
from lgkd.data.load import load_dataset
from lgkd.errors import InputError, Interrupted, LgkdError, Paused
from lgkd.runner.fit_time import with_length
from lgkd.runner.resolve import ResolvedConfig
from lgkd.runner.time_budget import parse_time

STUDENT = "lgkd.quickstart:small_vit"
GUIDED = Choices(student=STUDENT, teacher="resnet8", dataset="digits", recipe="quickstart", device="cpu", seed=3)
STEPS = Target(1.0, "20s", "40s", teacher_time="21s")
TYPED = ["bench", "--student", STUDENT, "--dataset", "digits", "--recipe", "quickstart", "--device", "cpu"]


def fit_steps(config: ResolvedConfig, *, began: float | None = None) -> ResolvedConfig:
    """A training of as many steps as it has seconds: no test depends on how fast the machine is."""
    return with_length(config, int(parse_time(config.options.get("time") or 0)), 0.25, None)


@pytest.fixture
def seconds_are_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_accuracy, "fit_time", fit_steps)


@pytest.fixture(scope="module")
def never(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All trainings, since none is without a mistake."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LGKD_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(to_accuracy, "fit_time", fit_steps)
        return bench_to_accuracy(GUIDED, STEPS, command="typed")


def test_whole_trainings_of_doubled_time_are_made_until_one_is_good_enough(
    never: dict[str, Any], seconds_are_steps: None
) -> None:
    rows = never["rows"]
    assert [(row["kind"], row["time"], row["steps"]) for row in rows] == [
        (kind, steps, steps) for kind in ("guided", "unguided") for steps in (20, 40)
    ]
    assert never["reached"] == {"guided": None, "unguided": None} and not any(row["reached"] for row in rows)
    alone = [row for row in rows if row["kind"] == "unguided"]
    wanted = alone[1]["accuracy"]
    assert wanted > alone[0]["accuracy"]
    found = bench_to_accuracy(replace(GUIDED, teacher=None), replace(STEPS, accuracy=wanted, teacher_time=None))
    assert [row["accuracy"] for row in found["rows"]] == [alone[0]["accuracy"], wanted], "the same seed, the same bits"
    assert found["reached"] == {"unguided": found["rows"][1]} and found["teacher"] is None


def test_a_row_is_a_training_of_its_own_on_what_is_not_held_out(never: dict[str, Any], tmp_path: Path) -> None:
    data = held_out_dataset(load_dataset("digits"))
    run = api.train(
        STUDENT, data, recipe="quickstart", seed=3, device="cpu", out=tmp_path / "run",
        overrides=["schedule.epochs=null", "schedule.steps=40", "schedule.warmup_epochs=0.25"],
    )  # fmt: skip
    (row,) = (row for row in never["rows"] if (row["kind"], row["steps"]) == ("unguided", 40))
    assert row["accuracy"] == run.metrics[-1]["test_top1"]
    assert never["images"] == {"train": len(data.train), "held_out": len(data.test), "share": 0.1}


def test_the_test_split_is_not_used_and_no_image_is_on_both_sides() -> None:
    digits, data = load_dataset("digits"), held_out_dataset(load_dataset("digits"))
    train, held = set(data.train.names), set(data.test.names)
    assert not train & held and train | held == set(digits.train.names)
    assert data.fingerprint != digits.fingerprint and len(data.test.labels.unique()) == 10


def test_the_teacher_is_counted_in_every_guided_row_and_in_no_other(never: dict[str, Any]) -> None:
    teacher = never["teacher"]
    assert teacher["name"] == "resnet8" and teacher["steps"] == 21 and not teacher["stored"]
    assert teacher["seconds"] > 0 and teacher["cpu_seconds"] > 0 and 0 <= teacher["accuracy"] <= 1
    for row in never["rows"]:
        part = {"guided": teacher, "unguided": {"seconds": 0, "cpu_seconds": 0}}[row["kind"]]
        assert row["teacher_seconds"] == part["seconds"] and row["teacher_cpu_seconds"] == part["cpu_seconds"]
        assert row["total_seconds"] == row["seconds"] + part["seconds"] > 0
        assert row["total_cpu_seconds"] == row["cpu_seconds"] + part["cpu_seconds"] > 0


def test_what_is_needed_to_quote_it_is_there(never: dict[str, Any]) -> None:
    again = json.loads(json.dumps(never))
    assert again["seeds"] == [3] and again["command"] == "typed" and again["target"]["accuracy"] == 1.0
    assert {"threads", "cores", "processor", "packages", "variables", "git"} <= again["machine"].keys()
    assert again["choices"]["recipe"] == "quickstart" and "doubled time" in again["protocol"]


def test_the_teacher_of_the_store_is_taken_and_not_counted(
    seconds_are_steps: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.train_teacher("resnet8", "digits", epochs=1, device="cpu", out=tmp_path / "teacher")
    target = Target(0.01, "20s", "20s", stored_teacher=True)
    found = bench_to_accuracy(GUIDED, target)
    assert [row["kind"] for row in found["rows"]] == ["guided", "unguided"] and found["teacher"]["stored"]
    assert all(row["reached"] and row["total_seconds"] == row["seconds"] for row in found["rows"])
    show_to_accuracy(found)
    assert "its training is not counted, and it may have seen the held-out images" in capsys.readouterr().out


def test_times_are_doubled_up_to_the_longest() -> None:
    assert Target(0.5, "1m", "1h").times == [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0]
    assert Target(0.5, "1m", "1m").times == [60.0]
    assert Target(0.5, "90s", "6m").times == [90.0, 180.0, 360.0]
    assert [as_share(one) for one in (0.5, 50, 1, 100)] == [0.5, 0.5, 1.0, 1.0]


def test_the_command_prints_every_training_and_writes_the_same_as_json(
    seconds_are_steps: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = [*TYPED, "--to-accuracy", "99.9", "--first-time", "20", "--longest-time", "40", "--out"]
    assert lgkd([*words, str(tmp_path / "figures.json")]) == 0
    out, err = capsys.readouterr()
    kept = json.loads((tmp_path / "figures.json").read_text())
    assert [row["steps"] for row in kept["rows"]] == [20, 40] and "unguided, 20 s" in err
    for row in kept["rows"]:
        assert f"{row['accuracy']:.2%} -" in out
    assert "unguided: not reached in 40, the longest training." in out and "One seed" in out
    assert max(map(len, out.splitlines()[:8])) <= 80


def test_a_table_has_the_clock_and_the_processor_with_and_without_the_teacher(
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = {
        "kind": "guided", "time": 60.0, "steps": 1234, "accuracy": 0.5125, "reached": True, "seconds": 59.6,
        "cpu_seconds": 65.0, "teacher_seconds": 30.0, "teacher_cpu_seconds": 40.0, "total_seconds": 89.6,
        "total_cpu_seconds": 105.0,
    }  # fmt: skip
    machine = {"gpu": None, "processor": "P", "threads": 1, "cores": 2, "packages": {"torch": "2", "lgkd": "1"}}
    document = {
        "choices": {"student": "s", "teacher": "t", "dataset": "d", "recipe": "r"}, "machine": machine, "seeds": [3],
        "images": {"train": 90, "held_out": 10}, "target": {"accuracy": 0.5, "longest": "1h"}, "protocol": "so",
        "teacher": {"name": "t", "stored": False}, "rows": [row], "reached": {"guided": row, "unguided": None},
    }  # fmt: skip
    show_to_accuracy(document)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["s and t on d, recipe r, 90 images", "P, 1 of 2 threads, torch 2, lgkd 1, seed 3"]
    assert lines[4].split() == ["guided", "1m00s", "1,234", "51.25%", "1:00", "1:30", "1:05", "1:45"]
    assert lines[6:8] == [
        "guided: 51.25% in 1.5 minutes, of which 0.5 minutes the teacher's, 1.8 minutes of processor time.",
        "unguided: not reached in 1h, the longest training.",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to-accuracy", "0"], "--to-accuracy is 0 of 1, expected a share above 0, like 0.5, or percent, like 50"),
        (["--to-accuracy", "101"], "--to-accuracy is 1.01 of 1, expected"),
        (["--to-accuracy", "50", "--first-time", "2h"], "--first-time 2h is longer than --longest-time 1h; give"),
        (["--to-accuracy", "50", "--first-time", "soon"], "--time is 'soon', expected seconds"),
        (["--to-accuracy", "50", "--stored-teacher", "--teacher-time", "1m"], "has no --teacher-time; leave one"),
        (["--to-accuracy", "50", "--against", "plain"], "leave out --sweep, --against and --profile"),
        (["--to-accuracy", "50", "--teacher", "resnet8", "--teacher-recipe", "supervised"], "trains a student"),
    ],
)
def test_bad_options_are_told_in_one_line(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert lgkd([*TYPED, *words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


@pytest.mark.parametrize("missing", ["student", "dataset"])
def test_a_student_and_real_images_are_needed(missing: str) -> None:
    with pytest.raises(InputError, match=f"there is no --{missing}; name one"):
        bench_to_accuracy(replace(GUIDED, recipe=None, **{missing: None}), STEPS)


@pytest.mark.parametrize(
    ("error", "code"), [(Interrupted("saved; resume", 2), 130), (Interrupted("x", 15), 143), (Paused("x"), 75)]
)
def test_a_stopped_bench_does_not_advise_to_resume(
    error: LgkdError, code: int, seconds_are_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("lgkd.runner.runner.Runner.run", stop)
    with pytest.raises(type(error), match="are not kept; run the same command again, and it begins anew") as caught:
        bench_to_accuracy(replace(GUIDED, teacher=None), STEPS)
    assert caught.value.exit_code == code
