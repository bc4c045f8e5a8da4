"""Teachers on their way into the store: whatever stops that, no run is finished without, and none is lost."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from lgkd._internal.leftovers import lock
from lgkd.cli import run
from lgkd.models.teacher_store import CARD, WEIGHTS, find_card, list_cards, read_card
from lgkd.runner import execute, store_teacher
from tests.support.small import QUICK, World

TEACH = ["--image-size", "16", *QUICK, "--epochs", "1", "--quiet", "--out", "t"]


class Killed(BaseException):
    """Stands for a death: nothing may catch it."""


@pytest.fixture
def teach(world: World, here: Path, monkeypatch: pytest.MonkeyPatch):
    """The command, with a store of its own."""
    monkeypatch.setenv("LGKD_HOME", str(here / "home"))

    def go(*more: str) -> int:
        return run(["train-teacher", "resnet8", str(world.pictures), *TEACH, *more])

    return go


@pytest.fixture
def never_trains(monkeypatch: pytest.MonkeyPatch):
    """From when it is called, no step is made any more."""

    def begin() -> None:
        monkeypatch.setattr("lgkd.training.train_step.Engine.step", lambda *_: pytest.fail("it was trained again"))

    return begin


def status() -> str:
    return json.loads(Path("t/run.json").read_text())["status"]


def store() -> Path:
    return Path(os.environ["LGKD_HOME"]) / "teachers" / "pictures"


def in_store() -> list[str]:
    return sorted(path.name for path in store().iterdir())


def full(*_args, **_more):
    raise OSError(errno.ENOSPC, "No space left on device", "weights.safetensors")


@pytest.mark.parametrize("again", ["the same command", "resume"])
def test_a_teacher_that_a_full_disk_kept_out_of_the_store_comes_there_by(
    again: str, teach, never_trains, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store_teacher, "save_weights", full)
        assert teach() == 2
    assert "No space left on device" in capsys.readouterr().err
    assert status() == "running" and in_store() == []
    never_trains()
    assert (teach() if again == "the same command" else run(["resume", "t", "--quiet"])) == 0
    assert status() == "finished" and in_store() == ["resnet8"]
    assert (
        read_card(store() / "resnet8").weights_sha256
        == json.loads(Path("t/student.json").read_text())["weights_sha256"]
    )


@pytest.mark.parametrize("again", ["the same command", "resume"])
def test_a_death_right_after_the_store_has_it_is_made_good_by(
    again: str, teach, never_trains, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(execute, "finish_run", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            teach()
    assert status() == "running" and in_store() == ["resnet8"]
    never_trains()
    assert (teach() if again == "the same command" else run(["resume", "t", "--quiet"])) == 0
    assert status() == "finished" and in_store() == ["resnet8"]


def test_the_loser_of_two_trainings_is_not_finished_and_may_exchange_the_other(
    world: World, teach, never_trains, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def other_was_quicker(*arguments, **more) -> None:
        shutil.copytree(world.home / "teachers" / "pictures" / "resnet8", store() / "resnet8")
        store_teacher.keep_teacher(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(execute, "keep_teacher", other_was_quicker)
        assert teach() == 2
    place = store() / "resnet8"
    assert capsys.readouterr().err == (
        f"lgkd: another training has put a teacher resnet8 into the store meanwhile ({place}); it was not touched. "
        "This one is in t; to replace the other, repeat the command with --replace\n"
    )
    theirs = read_card(place)
    assert status() == "running"
    assert teach() == 2
    assert "is already in the store" in capsys.readouterr().err
    assert read_card(place) == theirs
    never_trains()
    assert teach("--replace") == 0
    assert status() == "finished" and in_store() == ["resnet8"]
    assert read_card(place).weights_sha256 != theirs.weights_sha256


@pytest.fixture
def died_between(teach, monkeypatch: pytest.MonkeyPatch) -> str:
    """A teacher of seed 0 that was moved aside by a training of seed 1 that died; returns the hash of its weights."""
    assert teach() == 0
    before = read_card(store() / "resnet8").weights_sha256
    real = Path.rename

    def rename(self: Path, target):
        if Path(target) == store() / "resnet8":
            raise Killed
        return real(self, target)

    shutil.rmtree("t")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(Killed):
            teach("--seed", "1", "--replace")
    assert not (store() / "resnet8").exists()
    return before


def test_a_teacher_that_was_moved_aside_is_back_at_the_next_look(died_between: str, capsys) -> None:
    assert run(["teachers", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert str(store() / "resnet8") in json.dumps(listed) and "/." not in json.dumps(listed)
    assert find_card("resnet8", "pictures")[0].weights_sha256 == died_between


def test_a_training_that_died_between_the_renames_goes_on(died_between: str, teach, never_trains) -> None:
    assert find_card("resnet8", "pictures")[0].weights_sha256 == died_between
    never_trains()
    assert teach("--seed", "1", "--replace") == 0
    assert in_store() == ["resnet8"]
    assert find_card("resnet8", "pictures")[0].weights_sha256 != died_between


def test_equal_process_numbers_do_not_meet_and_what_they_left_is_removed(
    world: World, teach, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In containers every training has process number 1."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    left = store() / ".resnet8.1.new"
    shutil.copytree(world.home / "teachers" / "pictures" / "resnet8", left)
    assert list_cards()[0] == [one for one in list_cards()[0] if one[0].dataset != "pictures"]
    assert not [file for file, _ in list_cards()[1] if "pictures" in str(file)]
    assert teach() == 0
    assert in_store() == ["resnet8"]


def test_what_another_process_writes_into_is_no_leftover(world: World, teach) -> None:
    busy, dead = store() / ".resnet8-0123456789abcdef", store() / ".resnet8-fedcba9876543210"
    for folder in (busy, dead):
        folder.mkdir(parents=True)
        (folder / WEIGHTS).write_bytes(b"half")
    handle = os.open(busy, os.O_RDONLY)
    try:
        assert lock(handle)
        assert teach() == 0
        assert in_store() == [busy.name, "resnet8"]
    finally:
        os.close(handle)
    assert not (busy / CARD).exists() and (busy / WEIGHTS).read_bytes() == b"half"
