"""Standard output that nobody reads or that has no room, and memory that runs out: told as what they are."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lgkd._internal.out_of_memory import lack_of_memory
from lgkd.cli import run
from lgkd.errors import ModelError
from tests.support.small import environment

FULL = Path("/dev/full")
UNSHOWN = (
    "lgkd: the command has finished, but its output could not be written to standard output (No space left on "
    "device); redirect it elsewhere. The files that it wrote are complete, and need not be made again\n"
)


def lgkd(words: list[str], tmp_path: Path, *, unbuffered: bool = False, **streams: object) -> tuple[int, str]:
    more = {"PYTHONUNBUFFERED": "1"} if unbuffered else {}
    done = subprocess.run(
        [sys.executable, "-m", "lgkd", *words],
        cwd=tmp_path,
        env={**environment(tmp_path), **more},
        text=True,
        **{"stderr": subprocess.PIPE, **streams},
    )
    return done.returncode, done.stderr or ""


@pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_full_disk_behind_standard_output_is_no_failure_of_the_work(tmp_path: Path, unbuffered: bool) -> None:
    with FULL.open("w") as full:
        assert lgkd(["students"], tmp_path, unbuffered=unbuffered, stdout=full) == (2, UNSHOWN)
        assert lgkd(["doctor"], tmp_path, stdout=subprocess.DEVNULL, stderr=full)[0] == 0
        code, said = lgkd(["studens"], tmp_path, stdout=full)
    assert code == 2 and said.startswith("lgkd: there is no command 'studens'")


def test_a_reader_that_has_left_ends_nothing_and_is_not_told(tmp_path: Path) -> None:
    for words in (["students"], ["students", "--json"], ["--help"]):
        reading, writing = os.pipe()
        os.close(reading)
        try:
            assert lgkd(words, tmp_path, stdout=writing) == (0, ""), words
        finally:
            os.close(writing)


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("can't start new thread"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory", "/lib/scipy"), True),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), True),
        (ImportError("x.so: failed to map segment from shared object: Operation not permitted"), False),
        (ImportError("x.so: cannot allocate memory in static TLS block"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (KeyError("surprise"), False),
    ],
)
def test_a_lack_of_memory_is_known_by_whatever_name_and_behind_whatever_error(error: Exception, lacks: bool) -> None:
    assert (lack_of_memory(error) is not None) is lacks
    try:
        raise ModelError("net cannot be made") from error
    except ModelError as outer:
        assert (lack_of_memory(outer) is not None) is lacks


def test_a_limit_of_addresses_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError("torch cannot be loaded")

    monkeypatch.setattr("lgkd.cli._run", no_memory)
    monkeypatch.setattr("lgkd.cli.memory.address_limit", lambda: 300 * 2**20)
    begin = (
        "lgkd: not enough memory (torch cannot be loaded); this process may use 300 MiB of address space: "
        "raise that limit"
    )
    assert run(["predict"]) == 1
    assert capsys.readouterr().err == f"{begin} (ulimit -v)\n"
    assert run(["distill"]) == 1
    assert capsys.readouterr().err == f"{begin} (ulimit -v), or use a smaller --batch-size\n"


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v is Linux's")
def test_torch_that_does_not_fit_under_a_limit_is_no_fault_of_lgkd(tmp_path: Path) -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (300_000 * 1024,) * 2)

    words = ["train", "--student", "deit_tiny", "--dataset", "digits"]
    code, said = lgkd(words, tmp_path, stdout=subprocess.DEVNULL, preexec_fn=limit)
    assert code == 1 and "not enough memory (" in said and "293 MiB of address space" in said
    assert "bug in lgkd" not in said
