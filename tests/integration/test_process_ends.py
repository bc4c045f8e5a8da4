"""Signals and other ends of several processes: each reaches all of them, and the command names the one at fault."""

import pickle
import signal
import time
from pathlib import Path

import pytest

from lgkd._internal import launch
from lgkd.errors import Interrupted
from tests.support.forking import Nursery
from tests.support.launching import guided, lgkd
from tests.support.small import World


def test_an_interruption_keeps_its_signal_on_the_way_to_other_processes() -> None:
    there = pickle.loads(pickle.dumps(Interrupted("stopped by SIGTERM", 15)))
    assert (str(there), there.exit_code) == ("stopped by SIGTERM", 143)


def test_how_the_processes_ended_is_what_the_command_ends_with(tmp_path: Path) -> None:
    (tmp_path / "0.end").write_text("0\n")
    lost = launch._what_came(tmp_path, 2, None)
    assert lost.code == 1
    assert str(lost) == (
        "process 1 ended without a message. Run the same command again to resume from the last checkpoint"
    )
    (tmp_path / "1.end").write_text("3\nno GPU here")
    assert (launch._what_came(tmp_path, 2, None).code, launch._what_came(tmp_path, 2, None).message) == (
        3,
        "process 1: no GPU here",
    )
    (tmp_path / "0.end").write_text("75\npaused")
    assert (launch._what_came(tmp_path, 2, None).code, launch._what_came(tmp_path, 2, None).message) == (75, None)
    for file in tmp_path.iterdir():
        file.unlink()
    assert launch._what_came(tmp_path, 2, 15).code == 143


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ({1: -9}, "process 1 was killed (SIGKILL), perhaps for lack of memory. "),
        (
            {1: -6},
            "process 1 was aborted (SIGABRT) by a library such as gloo, NCCL or CUDA; the lines above say why. ",
        ),
        ({1: -11}, "process 1 was ended by SIGSEGV; the lines above may say why. "),
        ({1: 70}, "process 1 ended without a message (exit code 70). "),
        ({1: -6, 2: -15}, "process 1 was aborted (SIGABRT) by a library"),
        ({1: -15, 2: -15}, "process 1 was ended by SIGTERM; the lines above may say why; process 2 was"),
        ({1: -200}, "process 1 was ended by signal 200; "),
    ],
)
def test_a_process_that_said_nothing_is_described_by_its_exit_code(
    tmp_path: Path, codes: dict[int, int], said: str
) -> None:
    (tmp_path / "0.end").write_text(f"1\n{launch.LOST}")
    found = launch._what_came(tmp_path, 3 if 2 in codes else 2, None, codes)
    assert found.code == 1
    assert str(found).startswith(said)
    assert ("memory" in str(found)) == (codes == {1: -9})
    assert str(found).endswith(". Run the same command again to resume from the last checkpoint")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "said"), [(6, "was aborted (SIGABRT) by a library"), (9, "was killed (SIGKILL)")])
def test_the_signal_that_ended_a_real_process_is_named(
    nursery: Nursery, tmp_path: Path, number: int, said: str
) -> None:
    (tmp_path / "lgkd").mkdir()
    (tmp_path / "lgkd" / "__init__.py").touch()
    (tmp_path / "lgkd" / "__main__.py").write_text(
        f"import os, time\nos.kill(os.getpid(), {number}) if os.environ['RANK'] == '1' else time.sleep(60)\n"
    )
    code = "from lgkd._internal.launch import _run; print(_run(2, []), flush=True)"
    out, problems = nursery.start(["-c", code], at=tmp_path, PYTHONPATH=str(tmp_path)).communicate()
    assert out.startswith(f"process 1 {said}"), problems


def test_the_process_that_struck_is_named_and_not_only_those_it_left_alone(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "0.end").write_text(f"1\n{launch.LOST}")
    (tmp_path / "1.end").write_text("2\nno memory")
    found = launch._what_came(tmp_path, 2, None)
    assert (found.code, found.message) == (2, "process 1: no memory")
    (tmp_path / "1.end").write_text("1\nunexpected ValueError")
    assert launch._what_came(tmp_path, 2, None).message == "process 1: unexpected ValueError"
    (tmp_path / "1.end").write_text(f"1\n{launch.LOST}")
    assert launch._what_came(tmp_path, 2, None).message == launch.LOST
    (tmp_path / "1.end").unlink()
    assert "process 1 ended without a message" in str(launch._what_came(tmp_path, 2, None))
    twice = launch._what_came(tmp_path, 2, 15)
    assert twice.code == 143
    assert "stopped by SIGTERM before the step was done; run the same command again" in str(twice)
    assert launch.speaks(1, launch.LOST), "without a starter nobody else would"
    monkeypatch.setenv(launch.ENDS, str(tmp_path))
    assert not launch.speaks(1, launch.LOST)
    assert launch.speaks(1, "unexpected ValueError")


def test_a_process_writes_down_how_it_ended_and_the_first_one_speaks(tmp_path: Path, monkeypatch) -> None:
    assert launch.end(75, "paused") == 75
    monkeypatch.setenv(launch.ENDS, str(tmp_path))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launch.end(75, "paused") == 0, "torchrun would end the others"
    assert launch.end(2, "bad") == 2
    assert (tmp_path / "1.end").read_text() == "2\nbad"
    assert not launch.speaks(2)
    monkeypatch.delenv(launch.ENDS)
    assert launch.speaks(2)
    assert not launch.speaks(75), "all say the same"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal here")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 75)])
def test_a_signal_reaches_all_processes_and_leaves_none(
    nursery: Nursery, world: World, tmp_path: Path, number: int, code: int
) -> None:
    process = lgkd(nursery, world, tmp_path, *guided(world, "--nproc", "2", "--epochs", "5000"))
    deadline = time.monotonic() + 200
    while not (tmp_path / "mine/metrics.csv").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    children = [int(word) for word in offspring(process.pid)]
    assert len(children) >= 2
    process.send_signal(number)
    _, error = process.communicate(timeout=90)
    assert process.returncode == code, error
    assert "and saved; run the same command again to resume" in error
    assert list((tmp_path / "mine/checkpoint").glob("step-*"))
    time.sleep(0.5)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def offspring(process: int) -> list[str]:
    """The process ids of a process's children."""
    return Path(f"/proc/{process}/task/{process}/children").read_text().split()
