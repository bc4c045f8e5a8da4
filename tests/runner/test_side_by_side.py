"""Trainings side by side: order, callbacks, errors and signals of worker processes, on functions that train nothing."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from lgkd.errors import DamagedError, InputError, Interrupted, LgkdError, NonFiniteError, Paused, Remark
from lgkd.runner import side_by_side, workers
from lgkd.runner.jobs import Job
from lgkd.runner.options import Options
from lgkd.runner.side_by_side import train_jobs
from lgkd.training.callbacks import Callback, EpochRow
from tests import CHECKOUT
from tests.support.jobs import HERE, wait_for

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and process groups")


class Notes(Callback):
    """Keeps what it is called with."""

    def __init__(self) -> None:
        self.rows: list[EpochRow] = []
        self.calls: list[Any] = []

    def on_start(self, epochs: int, steps_per_epoch: int) -> None:
        self.calls.append((epochs, steps_per_epoch))

    def on_step(self, epoch: int, step: int, parts: Any, images_per_second: float) -> None:
        self.calls.append((epoch, step, parts, images_per_second))

    def on_epoch(self, row: EpochRow) -> None:
        self.rows.append(row)


def job(name: str, function: str, after: tuple[str, ...] = (), **arguments: Any) -> Job:
    return Job(name, f"run {name}", f"{HERE}:{function}", arguments, after)


def is_alive(pid: int) -> bool:
    """A process runs; one that has ended and that nobody has asked about does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("count", [1, 2])
def test_what_a_run_reports_reaches_its_callbacks_unchanged(count: int) -> None:
    notes, titles, said = Notes(), list[str](), list[str]()

    @contextmanager
    def watch(title: str) -> Iterator[Options]:
        titles.append(title)
        yield {"watchers": (notes,), "say": said.append}

    before = torch.get_num_threads()
    with pytest.warns((UserWarning, Remark), match="an unusual thing"):
        found = train_jobs([job("a", "describe", number=1), job("b", "describe", number=2)], workers=count, watch=watch)
    assert list(found) == ["a", "b"] and [one["number"] for one in found.values()] == [1, 2]
    assert all(one["top1"] == 0.1 + 0.2 for one in found.values())
    assert (found["a"]["pid"] == os.getpid()) == (count == 1)
    assert found["a"]["threads"] == "1" and found["a"]["path"] == sys.path
    assert sorted(titles) == ["run a", "run b"]
    assert said == ["a remark"], "what two runs say is said once"
    assert notes.calls.count((2, 5)) == 2 and notes.calls.count((0, 1, {"loss": 0.1}, 10.0)) == 2
    earlier, last = sorted(notes.rows, key=lambda row: row.epoch)[1:3]
    assert earlier == EpochRow(1, 0.5, {"loss": 1.0, "accuracy": 0.5})
    assert last.lr == 0.1 + 0.2 and last.scores == {"test_top1": 1 / 3} and last.train["loss"] != last.train["loss"]
    assert torch.get_num_threads() == before


def test_two_run_at_a_time_and_a_job_waits_for_those_it_needs(tmp_path: Path) -> None:
    mine, other = str(tmp_path / "mine"), str(tmp_path / "other")
    train_jobs([job("a", "meet", mine=mine, other=other), job("b", "meet", mine=other, other=mine)], workers=2)
    jobs = [
        job("first", "copy_of", writes=str(tmp_path / "1"), adds="x"),
        job("second", "copy_of", ("first",), reads=str(tmp_path / "1"), writes=str(tmp_path / "2"), adds="y"),
        job("third", "copy_of", ("second",), reads=str(tmp_path / "2"), writes=str(tmp_path / "3"), adds="z"),
    ]
    assert list(train_jobs(jobs, workers=3)) == ["first", "second", "third"]
    assert (tmp_path / "3").read_text() == "xyz"
    with pytest.raises(ValueError, match="is after"):
        train_jobs([job("a", "copy_of", ("b",)), job("b", "copy_of", ("a",))], workers=2)


def test_no_more_processes_are_started_than_there_is_memory_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "memory", lambda: type("Memory", (), {"free": 3 << 29})())
    found = train_jobs([job("a", "identify"), job("b", "identify")], workers=2)
    assert {one["pid"] for one in found.values()} == {os.getpid()}


@POSIX
def test_an_error_of_one_run_stops_the_others_which_save_first(tmp_path: Path) -> None:
    began, saved = tmp_path / "began", tmp_path / "saved"
    jobs = [
        job("a", "train_until_stopped", began=str(began), saved=str(saved)),
        Job("b", "run b", f"{HERE}:refuse", {"after": str(began)}),
        job("c", "copy_of", writes=str(tmp_path / "never"), adds="x"),
    ]
    with pytest.raises(InputError, match=r"^run b: the dog is a cat, expected a dog; choose another$"):
        train_jobs(jobs, workers=2)
    assert saved.read_text() == f"[{int(signal.SIGINT)}]"
    assert not is_alive(int(began.read_text())) and not (tmp_path / "never").exists()


@POSIX
def test_a_process_that_is_killed_is_told_with_its_last_words() -> None:
    with pytest.raises(LgkdError) as caught:
        train_jobs([job("a", "die"), job("b", "identify")], workers=2)
    assert str(caught.value) == (
        "the process of run a was killed (SIGKILL), perhaps for lack of memory: last words; run the same command again "
        "to resume, with OMP_NUM_THREADS=1 to train one after the other"
    )


def test_an_error_that_nobody_foresaw_has_the_lines_of_the_worker() -> None:
    with pytest.raises(RuntimeError, match=r"^run [ab]: KeyError: 'colour'") as caught:
        train_jobs([job("a", "crash"), job("b", "crash")], workers=2)
    assert "in crash" in "".join(caught.value.__notes__)


@pytest.mark.parametrize(
    "error", [InputError("a"), NonFiniteError("b"), DamagedError("c", "d"), Interrupted("e", 15), MemoryError("f")]
)
def test_an_error_keeps_its_class_its_message_and_its_exit_code(error: Exception, monkeypatch) -> None:
    def fail(arguments: Any, send: Any) -> None:
        raise error

    monkeypatch.setattr("tests.support.jobs.interrupt", fail)
    message = workers._answer({"function": f"{HERE}:interrupt", "arguments": {}}, print)
    again = workers.as_error(json.loads(json.dumps(message))["error"], "run a")
    assert type(again) is type(error) and str(again) == f"run a: {error}"
    assert getattr(again, "exit_code", None) == getattr(error, "exit_code", None)


def test_a_run_that_is_stopped_before_its_training_is_interrupted() -> None:
    message = workers._answer({"function": f"{HERE}:interrupt", "arguments": {}}, print)
    assert message["error"]["kind"] == "Interrupted" and message["error"]["exit_code"] == 130


@POSIX
@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [(signal.SIGINT, Interrupted, 130), (signal.SIGTERM, Interrupted, 143), (signal.SIGUSR1, Paused, 75)],
)
def test_a_signal_lets_all_runs_save_and_leaves_no_process(
    number: signal.Signals, kind: type[LgkdError], code: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def places(name: str) -> dict[str, str]:
        return {"began": str(tmp_path / f"{name}.began"), "saved": str(tmp_path / f"{name}.saved")}

    def send() -> None:
        wait_for(lambda: all((tmp_path / f"{name}.began").is_file() for name in "ab"))
        os.kill(os.getpid(), number)

    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    sender = threading.Thread(target=send)
    sender.start()
    message = f"stopped by {number.name} and saved; run the same command again to resume"
    with pytest.raises(kind, match=message) as caught:
        train_jobs([job(name, "train_until_stopped", **places(name)) for name in "abc"], workers=2)
    sender.join()
    assert caught.value.exit_code == code
    assert [(tmp_path / f"{name}.saved").is_file() for name in "abc"] == [True, True, False]
    assert not any(is_alive(int((tmp_path / f"{name}.began").read_text())) for name in "ab")
    assert before == [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    assert "lgkd: finishing the steps and saving" in capfd.readouterr().err


@POSIX
@pytest.mark.parametrize("case", ["second", "killed"])
def test_a_second_signal_or_a_kill_of_the_starter_leaves_no_process(case: str, tmp_path: Path) -> None:
    if case == "killed" and sys.platform != "linux":
        pytest.skip("elsewhere a run is ended when it reports next")
    words = [sys.executable, "-m", "tests.support.jobs", str(tmp_path), "deaf" if case == "second" else ""]
    started = subprocess.Popen(words, cwd=CHECKOUT, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: all((tmp_path / f"{name}.began").is_file() for name in "ab"))
    wait_for(lambda: all((tmp_path / f"{name}.began").read_text().isdecimal() for name in "ab"))
    pids = [int((tmp_path / f"{name}.began").read_text()) for name in "ab"]
    if case == "second":
        assert started.stderr is not None
        started.send_signal(signal.SIGTERM)
        while "finishing the steps" not in started.stderr.readline():
            pass
        started.send_signal(signal.SIGTERM)
        assert started.wait(600) == 128 + signal.SIGTERM
    else:
        started.kill()
        started.wait(600)
        wait_for(lambda: all((tmp_path / f"{name}.saved").is_file() for name in "ab"))
    wait_for(lambda: not any(map(is_alive, pids)))


def test_a_module_in_the_working_folder_does_not_replace_one_of_pythons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    assert list(train_jobs([job("a", "identify"), job("b", "identify")], workers=2)) == ["a", "b"]
