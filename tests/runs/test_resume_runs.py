"""Runs that are stopped and go on, through the command line: the same command, or `lgkd resume`."""

import fcntl
import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from lgkd._internal.locks import LOCK
from lgkd._internal.safetensors_io import load_weights
from lgkd.cli import run
from lgkd.runs.folder import read_metrics
from tests.support.costs import is_cost
from tests.support.small import DISTILL, QUICK, TRAIN, World, environment, everything_below, pause_after, snapshot


def guided(world: World, *more: str) -> list[str]:
    return [*DISTILL, "--dataset", str(world.pictures), "--out", "mine", *more]


def paused(world: World, monkeypatch: pytest.MonkeyPatch, steps: int = 2, *more: str) -> None:
    with monkeypatch.context() as patch:
        pause_after(patch, steps)
        assert run(guided(world, *more)) == 75


def plain_rows(folder: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if not is_cost(k)} for row in read_metrics(folder)]


def same_end(one: Path, other: Path) -> None:
    mine, theirs = (load_weights(folder / "student.safetensors") for folder in (one, other))
    assert mine.keys() == theirs.keys()
    assert all((mine[name] == theirs[name]).all() for name in mine)
    assert plain_rows(one) == plain_rows(other)


def test_the_same_command_goes_on_and_ends_as_the_undisturbed_run(world, here, monkeypatch, capsys):
    paused(world, monkeypatch)
    assert "paused after 0 seconds and saved; run the same command again to resume" in capsys.readouterr().err
    assert json.loads(Path("mine/run.json").read_text())["status"] == "running"
    for command in ("predict", "evaluate", "export"):
        assert run([command, "mine", *(["pictures"] if command == "predict" else [])]) == 2
        assert "mine is not finished; resume it by: lgkd resume mine" in capsys.readouterr().err
    assert run(guided(world)) == 0
    same_end(Path("mine"), world.guided_run)
    info = json.loads(Path("mine/run.json").read_text())
    assert info["status"] == "finished"
    assert info["resumed"] == 1


def test_lgkd_resume_goes_on_from_the_folder_alone(world, here, monkeypatch, capsys):
    paused(world, monkeypatch, 5)
    monkeypatch.chdir("/")
    assert run(["resume", str(here / "mine"), "--quiet"]) == 0
    same_end(here / "mine", world.guided_run)


def test_max_time_of_nothing_makes_a_step_a_job_and_the_chain_ends_as_one_long_run(world, here):
    codes = []
    while not codes or codes[-1] == 75:
        codes.append(run(guided(world, "--max-time", "0")))
    assert codes == [75] * (len(codes) - 1) + [0]
    assert len(codes) == 2 * 3  # two epochs of three steps; the last step ends the training
    same_end(Path("mine"), world.guided_run)


def test_a_finished_run_is_left_alone(world, here, monkeypatch, capsys):
    shutil.copytree(world.guided_run, "mine")
    before = snapshot(here)
    assert run(guided(world)) == 2
    assert "already holds a finished run" in capsys.readouterr().err
    assert run(["resume", "mine"]) == 2
    assert "mine is finished" in capsys.readouterr().err
    assert snapshot(here) == before


def test_a_changed_recipe_is_told_field_by_field_and_nothing_is_touched(world, here, monkeypatch, capsys):
    paused(world, monkeypatch)
    before = snapshot(here)
    capsys.readouterr()
    assert run(guided(world, "--set", "optimizer.lr=0.002", "--seed", "4")) == 2
    error = capsys.readouterr().err
    assert "holds an unfinished run (deit_tiny guided by resnet8 on pictures, seed 0) that differs" in error
    assert "  seed: was 0, now 4" in error
    assert "  recipe.optimizer.lr: was 0.0005, now 0.002" in error
    assert "--force" in error
    assert snapshot(here) == before


def test_force_goes_on_all_the_same_and_says_what_differs(world, here, monkeypatch, capsys):
    paused(world, monkeypatch)
    changed = [word for word in guided(world, "--set", "optimizer.lr=0.002", "--force") if word != "--quiet"]
    assert run(changed) == 0
    assert "resuming although it differs: recipe.optimizer.lr: was 0.0005, now 0.002" in capsys.readouterr().err
    assert plain_rows(Path("mine"))[-1]["lr"] != plain_rows(world.guided_run)[-1]["lr"]


@pytest.mark.parametrize("changed", ["depth=4", "embed_dim=64"])
def test_weights_that_do_not_fit_leave_the_folder_as_it_is_even_if_forced(world, here, monkeypatch, capsys, changed):
    command = [*TRAIN, "--dataset", str(world.pictures), "--out", "mine", "--track", "tensorboard"]
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert run(command) == 75
    before = everything_below(here)
    capsys.readouterr()
    assert run([*command, "--student-option", changed, "--force"]) == 2
    assert "belongs to another training" in capsys.readouterr().err
    assert everything_below(here) == before
    assert run(command) == 0, "of what it was begun with"
    same_end(Path("mine"), world.unguided_run)


def test_a_checkpoint_that_is_damaged_leaves_the_folder_as_it_is(world, here, monkeypatch, capsys):
    paused(world, monkeypatch)
    (step,) = Path("mine/checkpoint").glob("step-*")
    (step / "student.safetensors").write_bytes(b"")
    before = everything_below(here)
    assert run(guided(world, "--force")) == 2
    assert "no checkpoint can be used" in capsys.readouterr().err
    assert everything_below(here) == before


def test_what_only_looks_like_a_checkpoint_is_passed_over(world, here):
    (Path("mine") / "checkpoint" / "step-one").mkdir(parents=True)
    shutil.copy(world.guided_run / "recipe.yaml", "mine")
    about = json.loads((world.guided_run / "run.json").read_text())
    Path("mine/run.json").write_text(json.dumps({**about, "status": "running", "epochs": 2}))
    shutil.copy(world.guided_run / "env.json", "mine")
    assert run(guided(world)) == 0
    same_end(Path("mine"), world.guided_run)


def test_changed_images_are_noticed(world, here, monkeypatch, capsys, tmp_path):
    pictures = tmp_path / "pictures"
    shutil.copytree(world.pictures, pictures)
    command = [*TRAIN, "--dataset", str(pictures), "--out", "mine"]
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert run(command) == 75
    shutil.copy(pictures / "train" / "rows" / "0.png", pictures / "train" / "rows" / "1.png")
    capsys.readouterr()
    assert run(command) == 2
    assert "dataset.fingerprint: was " in capsys.readouterr().err


def test_another_version_is_noticed(world, here, monkeypatch, capsys):
    paused(world, monkeypatch)
    env = json.loads(Path("mine/env.json").read_text())
    env["packages"]["torch"] = "2.10.0"
    Path("mine/env.json").write_text(json.dumps(env))
    assert run(guided(world)) == 2
    assert 'versions.torch: was "2.10.0", now ' in capsys.readouterr().err


def test_a_second_process_in_the_same_folder_is_sent_away(world, here, monkeypatch, capsys):
    paused(world, monkeypatch)
    before = snapshot(here)
    with Path("mine", LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert run(guided(world)) == 5
    assert "mine is locked by another process" in capsys.readouterr().err
    Path("mine", LOCK).unlink()
    assert snapshot(here) == before


def test_an_interrupted_teacher_goes_on_and_reaches_the_store(world, here, monkeypatch):
    command = ["train-teacher", "resnet8", str(world.pictures), *QUICK, "--image-size", "16", "--quiet", "--out", "t"]
    monkeypatch.setenv("LGKD_HOME", str(here / "home"))
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert run(command) == 75
    assert not (here / "home" / "teachers" / "pictures").exists() or not list(
        (here / "home" / "teachers" / "pictures").iterdir()
    )
    assert run(["resume", "t", "--quiet"]) == 0
    assert (here / "home" / "teachers" / "pictures" / "resnet8" / "card.json").is_file()
    same_end(Path("t"), world.teacher_run)


def test_the_best_epoch_is_chosen_on_held_out_images_and_the_test_split_selects_nothing(world, here):
    command = [*TRAIN, "--dataset", str(world.pictures), "--out", "mine", "--val-fraction", "0.25", "--epochs", "6"]
    assert run(command) == 0
    rows = read_metrics(Path("mine"))
    results = json.loads(Path("mine/run.json").read_text())["results"]
    best = max(rows, key=lambda row: row["val_top1"])
    assert results["selected_on"] == "val"
    assert results["epoch"] == best["epoch"]
    assert results["test_top1"] == best["test_top1"]
    assert json.loads(Path("mine/run.json").read_text())["dataset"]["val_images"] == 6
    assert json.loads(Path("mine/run.json").read_text())["dataset"]["train_images"] == 18


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 75)])
def test_a_signal_saves_and_ends_with_its_code_and_the_run_goes_on(world, here, nursery, number, code):
    command = ["-m", "lgkd", *guided(world, "--epochs", "2000", "--set", "evaluate_every=1000")]
    process = nursery.start(command, **environment(world.home))
    for _ in range(2400):
        metrics = Path("mine/metrics.csv")
        if metrics.exists() and metrics.read_text().count("\n") > 2:
            break
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    assert "finishing the step and saving" in error
    assert "run the same command again to resume" in error
    assert run(guided(world, "--epochs", "2000", "--set", "evaluate_every=1000", "--max-time", "0")) == 75
