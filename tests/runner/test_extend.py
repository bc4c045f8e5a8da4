"""More epochs for a finished run: to the bit those of a longer one where the learning rate is constant."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import lgkd
from lgkd.cli import run
from lgkd.errors import InputError, TakenError
from lgkd.runs.folder import read_metrics
from lgkd.training.checkpointer import Checkpointer
from tests.support.small import DISTILL, QUICK, TINY_OPTIONS, TRAIN, World, make_pictures, pause_after, snapshot

RATE = 5e-4
CONSTANT = [f"optimizer.lr={RATE}", f"schedule.min_lr={RATE}", "schedule.warmup_epochs=0", "view.alternate_flip=true"]
SETTINGS = [word for setting in CONSTANT for word in ("--set", setting)]
SCHEDULE_FREE = ["--set", "optimizer.name=schedule-free-adamw", "--set", "ema=null", "--set", "drop_path=0.2"]
AVERAGED = ["--set", "ema={decay: 0.99, warmup: true}", "--set", "drop_path=0.2"]


@pytest.fixture(autouse=True)
def _here(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(world.home / "teachers", tmp_path / "home" / "teachers")
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def student(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "student.safetensors")


def about(folder: str) -> dict:
    return json.loads(Path(folder, "run.json").read_text())


def equal(one: str, other: str) -> bool:
    ours, theirs = student(one), student(other)
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize(
    "words", [[*TRAIN, *AVERAGED], DISTILL, [*TRAIN, *SCHEDULE_FREE]], ids=["averaged", "guided", "schedule-free"]
)
def test_two_and_two_epochs_are_four_at_a_constant_rate(world: World, words: list[str]) -> None:
    command = [*words, "--dataset", str(world.pictures), *SETTINGS]
    assert run([*command, "--epochs", "4", "--out", "four"]) == 0
    assert run([*command, "--epochs", "2", "--out", "two"]) == 0
    before = snapshot(Path("two"))
    assert run(["resume", "two", "--extend", "2", "--quiet"]) == 0
    assert equal("two_extended", "four") and not equal("two", "four")
    assert snapshot(Path("two")) == before
    found = about("two_extended")
    assert found["epochs"] == 2 and found["init"]["epochs_before"] == 2
    assert found["init"]["path"] == str(Path("two").resolve())
    assert found["results"]["test_top1"] == about("four")["results"]["test_top1"]
    ours, theirs = read_metrics(Path("two_extended")), read_metrics(Path("four"))[2:]
    assert [row["loss"] for row in ours] == [row["loss"] for row in theirs]
    assert [row["epoch"] for row in ours] == [1, 2]


def test_an_extension_can_be_stopped_and_extended_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [*TRAIN, *AVERAGED, "--dataset", str(world.pictures), *SETTINGS]
    assert run([*command, "--epochs", "3", "--out", "three"]) == 0
    assert run([*command, "--epochs", "1", "--out", "one"]) == 0
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert run(["resume", "one", "--extend", "1", "--out", "two", "--quiet"]) == 75
    Path("one").rename("moved")
    assert run(["resume", "two", "--quiet"]) == 0, "its checkpoint has all that it needs"
    lgkd.resume("two", extend=1, out="again")
    assert about("again")["init"]["epochs_before"] == 2
    assert equal("again", "three")


def test_the_rate_starts_at_the_recipes_peak_again_and_without_warm_up(world: World) -> None:
    command = [
        *TRAIN,
        "--dataset",
        str(world.pictures),
        "--set",
        "schedule.warmup_epochs=1",
        "--set",
        "schedule.stepped=epoch",
    ]
    assert run([*command, "--out", "short"]) == 0
    made = lgkd.resume("short", extend=2)
    recipe = lgkd.load_recipe("short/recipe.yaml")
    rates = [row["lr"] for row in made.metrics]
    low, high = recipe.schedule.min_lr, recipe.optimizer.lr
    assert rates == pytest.approx([high, low + (high - low) / 2])  # cosine over two epochs, by epoch


def test_the_optimiser_makes_a_difference_to_weights_alone(world: World) -> None:
    command = [*TRAIN, "--dataset", str(world.pictures), *SETTINGS, "--epochs", "1", "--init", str(world.unguided_run)]
    assert run([*command, "--out", "weights"]) == 0
    assert run([*command, "--with-optimizer", "--out", "all"]) == 0
    assert not equal("weights", "all")
    assert "epochs_before" not in about("weights")["init"] and about("all")["init"]["epochs_before"] == 2
    assert about("all")["call"]["options"]["with_optimizer"] is True


def test_what_cannot_be_extended_says_why(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"a teacher's run, .* by: lgkd train-teacher resnet8 ... --init"):
        lgkd.resume(world.teacher_run, extend=1)
    shutil.copytree(world.unguided_run, "bare")
    shutil.rmtree("bare/checkpoint")
    with pytest.raises(InputError, match="bare holds no checkpoint to continue from; start from its weights"):
        lgkd.resume("bare", extend=1)
    options = {"student_options": TINY_OPTIONS, "image_size": 16, "epochs": 1, "batch_size": 8, "out": "new"}
    with pytest.raises(
        InputError, match="--with-optimizer continues from a checkpoint; name the run's folder with --init"
    ):
        lgkd.train("deit_tiny", world.pictures, with_optimizer=True, **options)
    shutil.copy(world.unguided_run / "student.safetensors", "bare.safetensors")
    with pytest.raises(
        InputError, match=r"bare.safetensors is a file, and --with-optimizer continues from a checkpoint"
    ):
        lgkd.train("deit_tiny", world.pictures, init="bare.safetensors", with_optimizer=True, **options)
    with pytest.raises(InputError, match=r"is of another kind of training \(.*; start from its weights alone, without"):
        lgkd.distill(
            "deit_tiny", "resnet8", world.pictures, init=world.unguided_run, with_optimizer=True, **options
        )  # fmt: skip
    renamed = make_pictures(Path("renamed"), ("a", "b", "c"), train=2, test=1)
    with pytest.raises(InputError, match="was trained on other classes or another image size, and its optimiser state"):
        lgkd.train("deit_tiny", renamed, init=world.unguided_run, with_optimizer=True, **options)
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert run([*TRAIN, "--dataset", str(world.pictures), "--out", "stopped"]) == 75
    with pytest.raises(InputError, match=r"stopped is not finished; resume it by: lgkd resume stopped"):
        lgkd.resume("stopped", extend=1)
    Path("taken").mkdir()
    Path("taken/x").write_text("")
    with pytest.raises(TakenError, match="taken already holds a file or folder not of an lgkd run"):
        lgkd.resume(world.unguided_run, extend=1, out="taken")
    assert run(["resume", str(world.unguided_run), "--out", "elsewhere"]) == 2


def test_out_is_for_extensions_alone(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["resume", str(world.unguided_run), "--out", "elsewhere"]) == 2
    assert "--out elsewhere is for --extend; a stopped run is resumed in its own folder" in capsys.readouterr().err


def test_a_folder_without_checkpoints_is_no_start(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    checkpointer = Checkpointer(tmp_path / "own", start_from=tmp_path / "empty")
    with pytest.raises(InputError, match="empty holds no checkpoint; start from the weights alone"):
        checkpointer.restore(None, None)  # type: ignore[arg-type]


def test_quick_words_are_those_of_two_epochs() -> None:
    assert QUICK[:2] == ["--epochs", "2"], "as epochs_before above"
