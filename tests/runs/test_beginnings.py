"""Commands that are killed while their folder begins: the same command succeeds, and nothing of the dead is left."""

import json
import shutil
from pathlib import Path

import pytest

from lgkd._internal.locks import LOCK
from lgkd._internal.safetensors_io import load_weights
from lgkd.cli import run
from lgkd.errors import InputError, TakenError
from lgkd.experiments.catalogue import EXPERIMENTS
from lgkd.experiments.quickstart import quickstart
from lgkd.experiments.quickstart_folder import BEGUN, begun
from lgkd.runs.folder import check_free, read_run, write_run
from lgkd.runs.identity import lock_run
from tests.support.beginnings import COMMANDS, Place
from tests.support.forking import Nursery
from tests.support.reproducing import TINY
from tests.support.small import QUICK, TRAIN, World, pause_after, snapshot

QUICKEST = ("train", "inspect", "export")


def die(nursery: Nursery, place: Place, change: int) -> None:
    """Let the command die ahead of a change of the disk; it must have come so far over what earlier ones left."""
    words = ["-m", "tests.support.dying", str(change), *place.dying]
    child = nursery.start(words, at=place.root, LGKD_HOME=str(place.home), LGKD_OFFLINE="1")
    _, said = child.communicate()
    assert child.poll() == -9, said


@pytest.mark.parametrize(
    "name", [name if name in QUICKEST else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS]
)
def test_whatever_a_killed_command_left_the_same_command_goes_on_over_it(
    name: str, world: World, nursery: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place.make(name, tmp_path / "here", world, decoded=True)
    for change in (1, 3, 6) if name == "export" else (1, 2, 3, 4, 5, 6, 8, 10, 12):
        die(nursery, place, change)
    monkeypatch.setenv("LGKD_HOME", str(place.home))
    monkeypatch.setitem(EXPERIMENTS, "tiny", TINY)
    assert run(place.words) == 0
    assert place.left() == []
    assert list(place.root.rglob(LOCK)) == []


def test_a_run_that_was_killed_in_its_beginning_ends_as_the_undisturbed_one(
    world: World, nursery: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place.make("train", tmp_path / "here", world)
    monkeypatch.setenv("LGKD_HOME", str(place.home))
    shutil.copytree(world.unguided_run, place.out)
    # Of the finished run only run.json is left, and says that it is under way.
    for path in list(place.out.iterdir()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_run(place.out, {**read_run(world.unguided_run), "status": "running"})
    for name in ("recipe.yaml", "env.json"):
        (place.out / name).write_bytes(b"")  # cut by a power failure
    assert run(place.words) == 0
    mine, theirs = (load_weights(folder / "student.safetensors") for folder in (place.out, world.unguided_run))
    assert all((mine[name] == theirs[name]).all() for name in theirs)


def test_other_settings_begin_anew_where_nothing_was_kept_and_not_where_an_epoch_was_measured(
    world: World, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*TRAIN, "--dataset", str(world.pictures), "--out", "mine"]
    with monkeypatch.context() as patch:
        pause_after(patch, 5)
        assert run(command) == 75
    shutil.rmtree("mine/checkpoint")
    before = snapshot(here)
    assert run([*command, "--seed", "1"]) == 2
    assert "seed: was 0, now 1" in capsys.readouterr().err
    assert snapshot(here) == before
    Path("mine/metrics.csv").unlink()
    assert run([*command, "--seed", "1"]) == 0
    assert read_run(Path("mine"))["seed"] == 1 and "resumed" not in read_run(Path("mine"))


def test_a_folder_with_anything_of_somebody_else_is_never_taken_for_a_beginning(tmp_path: Path) -> None:
    (tmp_path / ".run.json.1.0123abcd.tmp").write_text("{")
    assert check_free(tmp_path)
    for name in ("notes.txt", ".run.json.tmp", ".run.json.1.0123abcd.tmp.bak", ".notes.txt.1.0123abcd.tmp"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(TakenError, match="nothing was touched"):
            check_free(tmp_path)
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


def test_resume_says_where_there_is_nothing_to_go_on_with(
    world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine").mkdir()
    write_run(Path("mine"), {**read_run(world.unguided_run), "status": "running"})
    assert run(["resume", "mine"]) == 2
    assert capsys.readouterr().err == (
        "lgkd: mine was stopped before its recipe.yaml was written, so there is nothing to resume; repeat the "
        "command that started it\n"
    )


def test_env_json_waits_for_git_before_the_folder_begins(
    world: World, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(_device: str):
        assert not Path("mine/run.json").exists()
        raise InputError("git was asked")

    monkeypatch.setattr("lgkd.runner.execute.environment", slow)
    assert run([*TRAIN, "--dataset", str(world.pictures), "--out", "mine"]) == 2


def test_a_quickstart_of_other_choices_that_was_stopped_is_told(tmp_path: Path) -> None:
    out = tmp_path / "q"
    choices = {"seeds": [3], "epochs": 1, "held_out": False, "overrides": []}
    with pytest.raises(RuntimeError), begun(out, choices):
        raise RuntimeError("killed")
    assert json.loads((out / BEGUN).read_text()) == choices
    before = snapshot(out)
    with pytest.raises(TakenError) as caught:
        quickstart(out, seeds=[3, 4], epochs=1)
    assert str(caught.value) == (
        f"{out} holds a quickstart of other choices that was stopped (seeds [3]); nothing was touched. Repeat it with "
        "these, or choose another --out"
    )
    assert snapshot(out) == before


def test_a_quickstart_without_a_place_takes_up_the_one_that_was_stopped_and_leaves_one_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    choices = {"seeds": [3], "epochs": 1, "held_out": False, "overrides": []}
    with pytest.raises(RuntimeError), begun(None, choices):
        raise RuntimeError("killed")
    with begun(None, choices) as again:
        assert again == Path("quickstart")
        with begun(None, choices) as beside:
            assert beside == Path("quickstart-2")
    assert not (again / BEGUN).exists()
    (again / "results.json").write_text("{}")
    with lock_run(tmp_path / "quickstart-2"), begun(None, choices) as third:
        assert third == Path("quickstart-3")


def test_a_series_that_was_killed_in_a_members_beginning_goes_on(
    world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    member = Path("series/seed1-unguided")
    member.mkdir(parents=True)
    (member / ".run.json.7.0123abcd.tmp").write_text("{")
    (member / LOCK).touch()
    words = [*TRAIN, *QUICK, "--epochs", "1", "--dataset", str(world.pictures), "--seeds", "1", "--out", "series"]
    assert run(words) == 0, capsys.readouterr().err
    assert not list(member.glob(".*"))
    (member / LOCK).touch()  # as of one that was killed when its run had just ended
    assert run(words) == 0, capsys.readouterr().err
    assert not list(member.glob(".*"))
