"""Locks between processes: exclusive, released by any death, and no reason to refuse a run."""

import errno
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from lgkd._internal import locks
from lgkd._internal.locks import LOCK, LockedError, locked, locked_folder, remove_stale_lock
from tests import CHECKOUT

HOLD = """
import os, sys, time
from pathlib import Path
from lgkd._internal.locks import locked
with locked(Path(sys.argv[1])):
    child = os.fork() if sys.argv[2] == "fork" else 1
    if not child or sys.argv[2] == "alone":
        print(os.getpid(), flush=True)  # by the child: it runs, and has let go of what it inherited
    time.sleep(60)
"""
COUNT = """
import sys
from pathlib import Path
from lgkd._internal.locks import locked_folder
folder, counter = Path(sys.argv[1]), Path(sys.argv[1], "counter")
for _ in range(50):
    with locked_folder(folder):
        counter.write_text(str(int(counter.read_text()) + 1))
"""


def started(code: str, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("forks", ["alone", "fork"])
def test_a_lock_is_held_by_one_process_until_that_is_killed_whatever_it_has_forked(tmp_path: Path, forks: str) -> None:
    holder = started(HOLD, tmp_path / LOCK, forks)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(LockedError), locked(tmp_path / LOCK):
            pass
        holder.kill()
        holder.wait()
        if forks == "fork":
            os.kill(child, 0)  # the copy of the holder still lives
        with locked(tmp_path / LOCK):
            assert [path.name for path in tmp_path.iterdir()] == [LOCK]
        assert list(tmp_path.iterdir()) == []
    finally:
        if forks == "fork":
            os.kill(child, signal.SIGKILL)


def test_processes_that_wait_for_each_other_lose_no_turn(tmp_path: Path) -> None:
    """A lock file is removed while others wait for it: an exclusion that fails there loses counts."""
    (tmp_path / "counter").write_text("0")
    assert [one.wait() for one in [started(COUNT, tmp_path) for _ in range(3)]] == [0, 0, 0]
    assert (tmp_path / "counter").read_text() == "150"
    assert [path.name for path in tmp_path.iterdir()] == ["counter"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EROFS, errno.EBADF])
def test_a_lock_that_the_file_system_refuses_is_told_once_and_refuses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    locks._warn_of_refusal.cache_clear()
    done = []
    with pytest.warns(UserWarning, match="this file system has no locks, so two processes"), locked(tmp_path / LOCK):
        done.append("first")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with locked(tmp_path / LOCK, wait=True):
            done.append("second")
    assert done == ["first", "second"]
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_the_lock_leaves_that_to_whatever_is_written_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store of somebody else is read without a word about locks."""
    locks._warn_of_refusal.cache_clear()
    done = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with locked_folder(tmp_path / "not there"):
            done.append("not there")
        monkeypatch.setattr("fcntl.flock", lambda *_: (_ for _ in ()).throw(PermissionError(errno.EPERM, "no")))
        with locked_folder(tmp_path):
            done.append("not ours")
    assert done == ["not there", "not ours"]
    assert not (tmp_path / "not there").exists()


def test_the_lock_file_of_a_killed_process_can_be_removed_and_one_that_is_held_cannot(tmp_path: Path) -> None:
    remove_stale_lock(tmp_path)
    (tmp_path / LOCK).touch()
    holder = started(HOLD, tmp_path / LOCK, "alone")
    assert holder.stdout is not None and holder.stdout.readline()
    remove_stale_lock(tmp_path)
    assert (tmp_path / LOCK).exists()
    holder.kill()
    holder.wait()
    assert (tmp_path / LOCK).exists()
    remove_stale_lock(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_fails_inside_lets_go_and_is_told(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="inside"), locked(tmp_path / LOCK):
        raise KeyError("inside")
    with locked(tmp_path / LOCK):
        pass
    assert list(tmp_path.iterdir()) == []
