"""Memory of the machine and of the process, beside what Linux itself tells."""

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
    block = bytearray(b"x") * (256 << 20)
    during, peak = hardware.resident()
    assert 240 << 20 < during - before < 300 << 20
    assert peak >= during
    del block
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
