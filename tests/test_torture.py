"""The torture itself is sound, and a small share of it: one of two processes is struck."""

import errno
import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lgkd.job
import lgkd.journal
from lgkd.cli import run
from lgkd.files import write_whole
from tests.small_world import DISTILL, World
from tests.torture import __main__ as torture
from tests.torture.arena import TEACHER, TOKEN, Arena, Started, expect_same
from tests.torture.kills import POINTS
from tests.torture.parts import PARTS, Lost, Trials, expect
from tests.torture.processes import strike


def trials(wanted: int, seconds: float = 1e6) -> Trials:
    return Trials(wanted, random.Random(0), time.monotonic() + seconds)


def test_every_row_that_the_torture_answers_to_has_a_part() -> None:
    assert {part.row for part in PARTS.values()} == {"R1", "R2", "R3", "R4", "R5", "R7", "R13", "R16", "R17", "R18"}
    assert all(part.trials > 0 and part.passes for part in PARTS.values())
    assert PARTS["saves"].trials == len(set(POINTS)) == 18


def test_what_is_lost_is_counted_and_nothing_is_begun_after_its_time() -> None:
    made = trials(3)
    while made.left():
        with made.one(f"trial {made.made}"):
            expect(made.made != 2, "the second")
            if made.made == 3:
                raise ValueError("unforeseen")
    assert made.made == 3
    assert made.failures == ["trial 1: the second", "trial 2: ValueError('unforeseen')"]
    assert not trials(3, seconds=-1).left()


def test_the_command_ends_with_1_where_a_trial_was_lost_or_none_was_made(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(torture, "Arena", lambda root: None)
    drawn = []

    def lossy(arena: None, made: Trials) -> None:
        while made.left():
            drawn.append(made.draw.random())
            with made.one("it"):
                expect(made.made < 3, "lost")

    part = next(iter(PARTS.values()))
    monkeypatch.setitem(PARTS, part.name, type(part)(part.name, part.row, part.passes, 4, lossy))
    file = tmp_path / "found.json"
    assert torture.main([part.name, "--json", str(file)]) == 1
    assert json.loads(file.read_text())["parts"][0]["failures"] == ["it: lost", "it: lost"]
    assert "lost: it: lost" in capsys.readouterr().out
    assert torture.main([part.name, "--trials", "2"]) == 0
    assert drawn[4:] == drawn[:2], "the same seed draws the same"
    assert torture.main([part.name, "--seed", "1", "--trials", "1"]) == 0
    assert drawn[6] != drawn[0]
    assert torture.main([part.name, "--minutes", "0"]) == 1


def test_a_process_that_is_left_over_is_found_and_ended(tmp_path: Path) -> None:
    leaves = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    process = subprocess.Popen([sys.executable, "-c", leaves], env=os.environ | {TOKEN: "orphan-test"})
    process.wait()
    started = Started(process, "orphan-test", tmp_path / "none")
    assert len(started.alive()) == 1
    with pytest.raises(Lost, match="1 processes were left"):
        started.expect_no_orphans(0.2)
    assert not started.alive()


def test_a_difference_in_a_single_part_loses_the_trial() -> None:
    expect_same({"ema": "1", "student": "2"}, {"ema": "1", "student": "2"})
    with pytest.raises(Lost, match="differs from the undisturbed run in student"):
        expect_same({"ema": "1", "student": "3"}, {"ema": "1", "student": "2"})
    with pytest.raises(Lost, match="in ema"):
        expect_same({"student": "2"}, {"ema": "1", "student": "2"})


# ---------------------------------------------------------------------------- found by the torture


def test_a_disk_that_is_full_when_a_file_is_written_leaves_the_old_one_and_is_told(tmp_path, monkeypatch) -> None:
    file = tmp_path / "metrics.csv"
    file.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_room)
        with pytest.raises(OSError, match=r"No space left on device: '.*metrics\.csv'"):
            write_whole(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_run_that_meets_a_full_disk_outside_of_a_save_ends_with_2_and_goes_on(
    world: World, here: Path, monkeypatch, capsys
) -> None:
    command = [*DISTILL, "--dataset", str(world.pictures), "--out", "mine"]
    with monkeypatch.context() as patch:
        patch.setattr(lgkd.journal, "write_metrics", no_room)
        assert run(command) == 2
    assert capsys.readouterr().err == (
        "lgkd: No space left on device; what was there before is whole. Make room and run the same command again\n"
    )
    assert run(command) == 0
    mine, its = (folder / "student.safetensors" for folder in (here / "mine", world.guided_run))
    assert mine.read_bytes() == its.read_bytes()


def test_who_comes_second_into_a_folder_that_was_free_is_sent_away_with_5(
    world: World, here: Path, monkeypatch
) -> None:
    real, handles = lgkd.job.make_plan, []

    def meanwhile(*words, **named):
        shutil.copytree(world.guided_run, here / "mine")
        handles.append(os.open(here / "mine", os.O_RDONLY))
        fcntl.flock(handles[0], fcntl.LOCK_EX)
        return real(*words, **named)

    monkeypatch.setattr(lgkd.job, "make_plan", meanwhile)
    assert run([*DISTILL, "--dataset", str(world.pictures), "--out", "mine"]) == 5
    os.close(handles[0])


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.slow
def test_when_one_of_two_processes_is_struck_all_end_as_documented(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "arena" / "home"))
    assert run([*TEACHER, "--quiet", "--device", "cpu", "--out", str(tmp_path / "teacher")]) == 0
    arena, made = Arena(tmp_path / "arena"), trials(2)
    strike(arena, made, "nan", 1, resume=False)
    strike(arena, made, "kill", 0)
    assert made.failures == []
    assert made.made == 2
