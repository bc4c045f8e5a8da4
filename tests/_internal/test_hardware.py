"""Memory of the machine and of the process, beside what Linux itself tells."""

import mmap
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lgkd._internal import hardware

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="compares with /proc")


def kibibytes(file: str, key: str) -> int:
    """A row of a table of /proc, in bytes."""
    (line,) = (line for line in Path(file).read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) << 10


@LINUX
def test_memory_without_a_container_is_what_linux_tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    found = hardware.memory()
    assert found.total == kibibytes("/proc/meminfo", "MemTotal")
    assert found.free == pytest.approx(kibibytes("/proc/meminfo", "MemAvailable"), rel=0.2)


@LINUX
def test_what_a_process_holds_grows_and_its_peak_stays() -> None:
    before, _ = hardware.resident()
    assert before == pytest.approx(kibibytes("/proc/self/status", "VmRSS"), rel=0.05)
    # Mapped by itself: an allocator that trainings have tuned may keep a freed block for later.
    block = mmap.mmap(-1, 256 << 20)
    for _ in range(256):
        block.write(b"x" * (1 << 20))
    during, peak = hardware.resident()
    assert 240 << 20 < during - before < 300 << 20
    assert peak >= during
    block.close()
    after, still = hardware.resident()
    assert after < during - (200 << 20)
    assert still >= peak - (1 << 20)  # Linux counts pages for each processor, and adds them up late


def test_the_start_of_a_process_is_before_its_first_line_and_after_its_parents() -> None:
    before = time.monotonic()
    code = (
        "import time; first = time.monotonic()\n"
        "from lgkd._internal.hardware import process_start\n"
        "print(process_start(), first)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    start, first = map(float, done.stdout.split())
    # The kernel counts starts in hundredths of a second.
    assert before - 0.05 <= start <= first + 0.05


@LINUX
def test_two_threads_of_one_core_count_once_and_omp_num_threads_limits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Four threads of two cores, and a fifth of a core whose threads nobody lists.
    for cpu, siblings in {0: "0,4", 4: "0,4", 1: "1,5", 5: "1,5"}.items():
        place = tmp_path / f"cpu{cpu}" / "topology"
        place.mkdir(parents=True)
        (place / "thread_siblings_list").write_text(f"{siblings}\n")
    monkeypatch.setattr(hardware, "_CPUS", tmp_path)
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path / "none")
    allowed = {0, 1, 4, 5, 9}
    monkeypatch.setattr("os.sched_getaffinity", lambda _: allowed)
    assert hardware.cores() == 5 and hardware.physical_cores() == 3
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert hardware.side_by_side() == 3
    for text, number in {"2": 2, "1": 1, "8": 3, "2,1": 2, "0": 3, "many": 3, "": 3}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert hardware.side_by_side() == number, text
    allowed -= {1, 5, 9}
    assert hardware.physical_cores() == 1, "bound to the two threads of one core"
    allowed |= {1}
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "cpu.max").write_text("100000 100000\n")
    assert hardware.physical_cores() == 1, "a container with the time of one core"
