"""The torture itself is sound, and a small share of it loses nothing; what it has found stays mended."""

import errno
import fcntl
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import lgkd.cli
import lgkd.runner.record
import lgkd.runner.runner
from lgkd._internal.atomic_io import write_atomic, write_json
from lgkd._internal.locks import LOCK
from lgkd.cli import run
from lgkd.data.image_folder import read_tree
from lgkd.distillation.teacher_cache.storage import Layout, Writer, open_cache
from lgkd.errors import DataError, InputError
from lgkd.runs.folder import read_metrics
from lgkd.training.checkpoint import load_newest
from lgkd.training.state import read_progress
from tests.support.small import DISTILL, World, environment, make_pictures
from tools.golden.old_run import FOLDER
from tools.soak import soak
from tools.torture import __main__ as torture
from tools.torture import archives, offline, places, recipes, teachers, yaml_texts
from tools.torture.arena import TEACHER, TOKEN, Arena, Started, expect_same, newest
from tools.torture.kills import POINTS
from tools.torture.parts import PARTS, Lost, Trials, expect
from tools.torture.pickles import vouch
from tools.torture.processes import strike
from tools.torture.soaking import MOST_GROWTH


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars of seconds are the command's own; a test on a busy machine fails for what hangs alone."""
    for module in (archives, offline, recipes, yaml_texts):
        monkeypatch.setattr(module, "WITHIN", 60.0)


def trials(wanted: int, seconds: float = 1e6) -> Trials:
    return Trials(wanted, random.Random(0), time.monotonic() + seconds)


def test_every_row_that_the_torture_answers_to_has_a_part() -> None:
    assert {part.row for part in PARTS.values()} == {f"R{number}" for number in range(1, 24)}
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


# ---------------------------------------------------------------------------- a small share of the parts


@pytest.fixture
def arena(world: World, tmp_path: Path) -> Arena:
    return Arena(tmp_path / "arena", world)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("images", 4), ("memory", 4), ("recipes", 80), ("pickles", 6), ("factories", 3), ("archives", 12), ("yaml", 12),
        ("golden", 1), ("old", 4), ("trackers", 3), ("flips", 40),
    ],
)  # fmt: skip
def test_a_share_of_a_part_loses_nothing(arena: Arena, name: str, count: int) -> None:
    made = trials(count)
    PARTS[name].run(arena, made)
    assert made.failures == []
    assert made.made == count


@pytest.mark.parametrize("kind", ["publisher's archive, here", "train on what is not here", "an unreachable network"])
def test_what_is_here_needs_no_network_and_what_is_not_is_told_at_once(arena: Arena, kind: str, monkeypatch) -> None:
    (arena.root / "here").mkdir()
    offline.hear_something(arena.root / "ears")
    offline.KINDS[kind](arena, arena.root / "here", trials(1), "--offline", monkeypatch)


@pytest.mark.parametrize("kind", ["other classes", "other weights", "weights of another network", "it stays as it was"])
def test_a_teacher_is_what_its_card_says_and_stays_so(arena: Arena, kind: str) -> None:
    for name, given in (("home", arena.world.home), ("pictures", arena.world.pictures)):
        shutil.copytree(given, arena.root / name)
    teachers.KINDS[kind](arena, arena.root, random.Random(0))


@pytest.mark.parametrize(
    ("kind", "action"),
    [
        ("no standard output", "recipes"),
        ("a store that cannot be written", "teachers"),
        ("a folder in other scripts, in ASCII", "check"),
        ("a working folder that is gone", "recipes"),
    ],
)
def test_odd_places_are_worked_in_or_refused_in_a_sentence(arena: Arena, kind: str, action: str) -> None:
    (arena.root / "odd").mkdir()
    with places.PLACES[kind](arena, arena.root / "odd") as place:
        if place is None:
            pytest.skip("not to be had here")
        places.tried(arena, place, action)


def test_a_training_holds_no_more_memory_and_files_the_longer_it_lasts() -> None:
    memory, files = soak(240, warm=80, every=80)
    assert memory < MOST_GROWTH
    assert files == 0


def test_the_old_run_that_is_kept_is_small() -> None:
    sizes = [path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()]
    assert len(sizes) > 15
    assert sum(sizes) < 100_000


# ---------------------------------------------------------------------------- found by the torture


def test_a_pipe_among_the_images_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "pictures")
    os.mkfifo(folder / "train" / "rows" / "x.png")
    with pytest.raises(DataError, match=r"rows/x\.png is a pipe, a device or the like, expected an image; remove it"):
        read_tree(folder)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda state: state.pop("threads"), "threads"),
        (lambda state: state["progress"].pop("courses"), "progress.courses"),
        (lambda state: state["progress"].update(images=None), "progress.images"),
        (lambda state: state["progress"].update(accumulate=[1]), "progress.accumulate"),
        (lambda state: state["progress"].update(mood="good"), "progress.mood"),
        (lambda state: state["progress"].update(epoch=2), "progress.rows"),
        (lambda state: state.update(progress="far"), "progress.epoch, progress.step"),
    ],
)
def test_the_state_of_another_version_is_refused_by_its_key(change: Callable[[dict], object], found: str) -> None:
    state = json.loads(next((FOLDER / "paused" / "checkpoint").glob("*/state.json")).read_text())
    assert read_progress(state, Path("state.json")).images == 64
    change(state)
    with pytest.raises(InputError, match=rf"^state\.json lacks a valid {found}.*; another version of lgkd wrote it"):
        read_progress(state, Path("state.json"))


@pytest.mark.parametrize("content", [b"[]", b"no JSON", b"\x80\x04", b'{"step": "x"}'])
def test_a_state_that_is_none_is_passed_over_though_its_hash_is_right(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "step-00000001"
    shutil.copytree(next((FOLDER / "paused" / "checkpoint").iterdir()), folder)
    (folder / "state.json").write_bytes(content)
    vouch(folder / "state.json")
    with pytest.raises(InputError, match=r"no checkpoint can be used: .*state\.json (holds no state|does not say)"):
        load_newest(tmp_path)


def test_an_archive_of_arrays_in_the_place_of_a_cached_array_is_refused(tmp_path: Path) -> None:
    layout = Layout({"logits": (10,)}, views=1, images=4, storage="fp32")
    writer = Writer(tmp_path / "cache", {"of": "a test"}, layout, {})
    writer.add({"logits": np.zeros((4, 10), np.float32)})
    writer.finish()
    writer.close()
    assert open_cache(tmp_path / "cache").arrays["logits"].shape == (1, 4, 10)
    np.savez(tmp_path / "other.npz", np.zeros((1, 4, 10), np.float32))
    (tmp_path / "other.npz").rename(tmp_path / "cache" / "logits.npy")
    vouch(tmp_path / "cache" / "logits.npy")
    with pytest.raises(InputError, match=r"logits\.npy cannot be read \(the magic string is not correct"):
        open_cache(tmp_path / "cache")


def test_memory_that_runs_out_on_a_cpu_outside_of_a_step_is_no_fault_of_lgkd(monkeypatch, capsys) -> None:
    def no_memory(*_: object) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr(lgkd.cli, "_run", no_memory)
    assert run(["train"]) == 1
    assert re.fullmatch(r"lgkd: not enough memory \(.*\); use a smaller --batch-size, .*\n", capsys.readouterr().err)


def test_a_class_whose_name_is_no_text_is_refused_before_a_card_has_to_hold_it(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "pictures")
    (folder / "train" / "rows").rename(folder / "train" / "größe 日本")
    (folder / "train" / "checks").rename(folder / "train" / os.fsdecode(b"ch\xffcks"))
    with pytest.raises(
        DataError, match=r"train has a class folder whose name is not text \('ch\\udcffcks'\); rename it"
    ):
        read_tree(folder)


def test_a_link_to_itself_hides_nothing_that_lies_beside_it(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "pictures")
    for number in range(20):
        (folder / "train" / "rows" / f"loop{number}.png").symlink_to(f"loop{number}.png")
    faults: list[str] = []
    tree = read_tree(folder, fault=faults.append)
    assert len(tree.train) == 24
    assert len(faults) == 20 and all("Too many levels of symbolic links" in fault for fault in faults)


def test_class_names_are_the_same_where_the_environment_says_that_names_are_ascii(tmp_path: Path) -> None:
    make_pictures(tmp_path / "pictures", ("rows", "größe 日本", "تفاح"))
    code = "import sys; from pathlib import Path; from lgkd.data.image_folder import read_tree\n"
    code += (
        "tree = read_tree(Path('pictures')); print(ascii(tree.classes), len(tree.train), sys.getfilesystemencoding())"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(tmp_path) | ascii_only,
        capture_output=True,
        text=True,
    )
    names = sorted(["rows", "größe 日本", "تفاح"])
    assert done.stdout == f"({', '.join(map(ascii, names))}) 24 ascii\n", done.stderr


@pytest.mark.parametrize("content", [b"\x80\x02c", b"epoch\nx\n", b"epoch\n1,2\n", b"epoch\n\0\n"])
def test_metrics_that_are_no_table_of_numbers_are_told_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"metrics\.csv is not a table of numbers \(.*\); it is damaged"):
        read_metrics(tmp_path)


def test_a_path_that_is_no_text_is_written_down_and_read_again(tmp_path: Path) -> None:
    path = os.fsdecode(b"/data/a\xff\xfeb/\xc3\xa9")
    write_json(tmp_path / "run.json", {"path": path})
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8")) == {"path": path}
    write_json(tmp_path / "run.json", {"path": "/é"})
    assert "/é" in (tmp_path / "run.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ('exec "$@" >&-', 0, ""),
        ('exec "$@" 2>&-', 0, ""),
        ('exec "$@" > /dev/full', 2, "lgkd: the command has finished"),
        ('cd gone && rmdir ../gone && exec "$@"', 2, "lgkd: the working folder no longer exists"),
    ],
)
def test_without_a_place_for_its_words_or_for_itself_a_command_ends_in_order(
    tmp_path: Path, script: str, code: int, said: str
) -> None:
    (tmp_path / "gone").mkdir()
    done = subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, "-m", "lgkd", "datasets", "digits", "--json"],
        cwd=tmp_path,
        env=environment(tmp_path / "home"),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (done.returncode, done.stderr[: len(said)], done.stderr.count("\n")) == (code, said, bool(said))


def test_a_disk_that_is_full_when_a_file_is_written_leaves_the_old_one_and_is_told(tmp_path, monkeypatch) -> None:
    file = tmp_path / "metrics.csv"
    file.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_room)
        with pytest.raises(OSError, match=r"No space left on device: '.*metrics\.csv'"):
            write_atomic(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_run_that_meets_a_full_disk_outside_of_a_save_ends_with_2_and_goes_on(
    world: World, here: Path, monkeypatch, capsys
) -> None:
    command = [*DISTILL, "--dataset", str(world.pictures), "--out", "mine"]
    with monkeypatch.context() as patch:
        patch.setattr(lgkd.runner.record, "write_metrics", no_room)
        assert run(command) == 2
    assert capsys.readouterr().err == (
        "lgkd: No space left on device; earlier content is intact. Free some space, run the same command again\n"
    )
    assert run(command) == 0
    mine, its = (folder / "student.safetensors" for folder in (here / "mine", world.guided_run))
    assert mine.read_bytes() == its.read_bytes()


def test_who_comes_second_into_a_folder_that_was_free_is_sent_away_with_5(
    world: World, here: Path, monkeypatch
) -> None:
    real, handles = lgkd.runner.runner.make_plan, []

    def meanwhile(*words, **named):
        shutil.copytree(world.guided_run, here / "mine")
        handles.append((here / "mine" / LOCK).open("w"))
        fcntl.flock(handles[0], fcntl.LOCK_EX)
        return real(*words, **named)

    monkeypatch.setattr(lgkd.runner.runner, "make_plan", meanwhile)
    assert run([*DISTILL, "--dataset", str(world.pictures), "--out", "mine"]) == 5
    handles[0].close()


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.slow
def test_when_one_of_two_processes_is_struck_all_end_as_documented(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "arena" / "home"))
    assert run([*TEACHER, "--quiet", "--device", "cpu", "--out", str(tmp_path / "teacher")]) == 0
    arena, made = Arena(tmp_path / "arena"), trials(2)
    out = tmp_path / "struck"
    strike(arena, made, "kill", 0, out=out, resume=False)
    saved = newest(out)
    strike(arena, made, "nan", 1, out=out, resume=False)  # the same command goes on, and meets it
    assert made.failures == []
    assert made.made == 2
    assert 0 < saved < newest(out)
