"""Measure and check in ten minutes what only a CUDA device can show, and write it as one Markdown table.

    python -m tools.first_gpu_minutes [--out FILE.md] [--device cuda] [--only WORD ...] [--minutes 10]

Every row is a command in a process of its own, with a time limit: one that fails is written as failed, with the first
line of its message, and the rest still runs. The table is written after every row. Run again with the same --out, rows
with a result are kept and the others are run; rows for which there was no time are among those. On another device than
CUDA (`--device cpu`) the sizes are tiny: that tries this tool, and measures nothing.

Exit codes: 0 if every row has a result, 1 if one has not, 2 for wrong usage, such as a device that is not here.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lgkd._internal.atomic_io import write_atomic, write_json

ROOT = Path(__file__).resolve().parent.parent
GPU_TESTS = [
    "tests/benchmark/test_benchmark.py", "tests/data/test_loader.py", "tests/data/transforms/test_augment.py",
    "tests/training/test_determinism.py", "tests/training/test_loop.py", "tests/training/test_sam.py",
    "tests/training/test_step_costs.py",
]  # fmt: skip
_SMALL_VIT = (
    "--student-option patch_size=8 --student-option depth=3 --student-option embed_dim=32 --student-option num_heads=2"
)
_TINY = {"vit": f"--student deit_tiny --teacher resnet8 --image-size 32 {_SMALL_VIT}", "cnn": "--teacher resnet8"}
_FULL = {"vit": "--student deit_tiny --teacher resnet56 --image-size 224", "cnn": "--teacher resnet56 --image-size 32"}
TARGETS = {"vit": "13,500 images/s", "cnn": "50,000 images/s", "cnn best": "100,000 images/s"}
"""Of docs/performance.md; estimates."""


@dataclass(frozen=True)
class Row:
    """Describe one row of the table.

    Attributes:
        name: of the row, and its key when the tool is run again.
        words: of the command, after the interpreter.
        limit: seconds after which it is ended.
        estimate: seconds that it is expected to take on an H200; never measured.
        read: makes the result of its standard output.
        target: estimate of docs/performance.md for the result.
    """

    name: str
    words: Sequence[str]
    limit: float
    estimate: float
    read: Callable[[str], str]
    target: str = ""


@dataclass
class Facts:
    """Hold what the whole table was measured with."""

    card: str
    driver: str
    torch: str
    commit: str
    command: str
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))

    def same(self, stored: dict[str, Any]) -> bool:
        """Return whether stored rows were measured with the same card, driver, torch and commit."""
        return all(stored.get(name) == getattr(self, name) for name in ("card", "driver", "torch", "commit"))


def last_line(out: str) -> str:
    """Return the last line with text."""
    return next((line.strip() for line in reversed(out.splitlines()) if line.strip()), "")


def skipped_result(out: str) -> str:
    """Return pytest's last line without its frame."""
    return last_line(out).strip("= ")


def passed_result(out: str) -> str:
    """Return pytest's last line without its frame; refuse one without tests that passed."""
    if " passed" not in (result := skipped_result(out)):
        raise ValueError(f"no test passed: {result}")
    return result


def bench_result(out: str) -> str:
    """Read a sweep's JSON: images a second of whole step and augmentation, and peak memory, by batch size."""
    document = json.loads(out[out.index("{") :])
    rows = []
    for row in document["rows"]:
        whole, data = (row["parts"][name]["images_per_second"]["median"] for name in ("whole", "data"))
        peak = row["memory"]["peak_bytes"] / 2**30
        one = f"{whole:,.0f} images/s, augmentation alone {data:,.0f} images/s, peak {peak:.2f} GiB"
        rows.append(one if len(document["rows"]) == 1 else f"batch {row['value']:,}: {one}")
    return f"{'; '.join(rows)} ({document['precision']})"


def bench_row(name: str, kind: str, batches: str, options: str, times: tuple[float, float], device: str) -> Row:
    """Make the row of a bench; `times` are its limit and its estimate in seconds."""
    tiny = not device.startswith("cuda")
    sizes = "2,4" if "," in batches and tiny else "4" if tiny else batches
    few = "--images 20 --steps 1 --repeats 1" if tiny else "--repeats 3"
    model = (_TINY if tiny else _FULL)[kind.partition(" ")[0]]
    words = f"-m lgkd bench {model} --device {device} {options} --sweep batch-size={sizes} {few} --json"
    if tiny:
        return Row(f"tiny, in place of: {name}", words.split(), *times, bench_result)
    return Row(name, words.split(), *times, bench_result, TARGETS[kind])


def rows_for(device: str) -> list[Row]:
    """Return all rows in the order in which they are run."""
    tiny = [] if device.startswith("cuda") else ["--tiny"]
    check = ["-m", "tools.first_gpu_checks"]
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "-k"]
    whole, where, tested = "--compile whole", ["--device", device, *tiny], skipped_result if tiny else passed_result
    return [
        Row("tests that need a GPU", [*pytest, "not recorded", *GPU_TESTS], 150, 75, tested),
        Row("an epoch twice, --deterministic", [*check, "deterministic", *where], 90, 30, last_line),
        Row("SGD in fp16 after a skipped first step", [*check, "momentum", *where], 60, 15, last_line),
        Row("CUDA graphs, two micro-batches", [*pytest, "recorded", GPU_TESTS[-1]], 120, 45, tested),
        bench_row("guided DeiT-Tiny, 224 px, batch 128, eager", "vit", "128", "--compile off", (90, 20), device),
        bench_row("the same, --compile blocks", "vit", "128", "--compile blocks", (90, 35), device),
        bench_row("the same, --compile whole", "vit", "128", whole, (150, 60), device),
        bench_row("the same, whole and --cuda-graphs", "vit", "128", f"{whole} --cuda-graphs", (120, 40), device),
        bench_row("ResNet-56, 32 px, batch 128, eager", "cnn", "128", "--compile off", (60, 15), device),
        bench_row("ResNet-56, --compile whole", "cnn", "128", whole, (150, 70), device),
        bench_row("ResNet-56, whole and --cuda-graphs", "cnn", "128", f"{whole} --cuda-graphs", (120, 40), device),
        bench_row("ResNet-56, larger batches, eager", "cnn best", "512,2048,8192", "--compile off", (90, 40), device),
    ]


def facts_of(device: str, command: str) -> Facts:
    """Read card, driver, versions and commit."""
    import torch

    from lgkd._internal.git import git_state
    from lgkd.runs.folder import environment

    driver = "none"
    if device.startswith("cuda") and (asked := shutil.which("nvidia-smi")) is not None:
        words = [asked, "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = last_line(subprocess.run(words, capture_output=True, text=True, check=False).stdout) or "unknown"
    machine, state = environment(device), git_state(ROOT) or {"commit": "unknown", "changed": None}
    card = machine["gpu"] or f"no GPU: {machine['processor']}"
    commit = state["commit"][:12] + (" with changes" if state["changed"] else "")
    cuda = f", CUDA {torch.version.cuda}" if machine["gpu"] else ""
    return Facts(card, driver, f"{torch.__version__}{cuda}", commit, command)


def first_line(out: str, err: str) -> str:
    """Return the first line of the message with which a command failed."""
    for pattern, text in ((r"(?:FAILED|ERROR) .+", out), (r"lgkd: (?!remark: ).+", err)):
        if (found := re.search(rf"^{pattern}$", text, re.MULTILINE)) is not None:
            return found[0]
    raised = re.findall(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt)\b.*$", err, re.MULTILINE)
    return raised[-1] if raised else last_line(err) or last_line(out) or "no message"


def run_row(row: Row, limit: float) -> dict[str, Any]:
    """Run a row's command in a process group of its own; return its result or its failure."""
    began = time.monotonic()
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    child = subprocess.Popen(
        [sys.executable, *row.words], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    try:
        out, err = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        failed: str | None = f"took more than {limit:,.0f} s"
    except BaseException:
        os.killpg(child.pid, signal.SIGKILL)
        raise
    else:
        # pytest's code 5: no test was left to run.
        failed = first_line(out, err) if child.returncode not in (0, 5 if "pytest" in row.words else 0) else None
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
    result = ""
    if failed is None:
        try:
            result = row.read(out)
        except (ValueError, KeyError, TypeError) as error:
            failed = f"its output cannot be read: {type(error).__name__}: {error}"
    return {"result": result, "failed": failed, "seconds": round(time.monotonic() - began, 1)}


def table(facts: Facts, rows: Sequence[Row], done: dict[str, dict[str, Any]]) -> str:
    """Write the table in Markdown."""
    lines = [
        "# First minutes on a GPU", "",
        f"{facts.card}; driver {facts.driver}; torch {facts.torch}; lgkd {facts.commit}; {facts.date}", "",
        f"`{facts.command}`", "",
        "| row | result | target (an estimate) | seconds | command |", "|---|---|---|---:|---|",
    ]  # fmt: skip
    for row in rows:
        one = done.get(row.name)
        result = (
            "not run" if one is None else one["result"] if one["failed"] is None else f"**failed**: {one['failed']}"
        )
        seconds = "" if one is None else f"{one['seconds']:,.0f}"
        cells = [row.name, result, row.target, seconds, f"`python {shlex.join(row.words)}`"]
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def measure(
    rows: Sequence[Row], facts: Facts, out: Path, *, minutes: float, only: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Run the rows without a result for which there is time, and write the table after each.

    Raises:
        ValueError: the file holds rows of another card, driver, torch or commit.
    """
    kept = out.with_suffix(".json")
    done: dict[str, dict[str, Any]] = {}
    if kept.is_file():
        stored = json.loads(kept.read_text(encoding="utf-8"))
        if not facts.same(stored["facts"]):
            raise ValueError(f"{kept} has rows of {stored['facts']}; choose another --out")
        done = {name: one for name, one in stored["rows"].items() if one["failed"] is None}
    ends = time.monotonic() + 60 * minutes
    for row in rows:
        if row.name in done or (only and not any(word.lower() in row.name.lower() for word in only)):
            continue
        left = ends - time.monotonic()
        if left < 5:
            break
        print(f"{row.name} ...", file=sys.stderr, flush=True)
        done[row.name] = run_row(row, min(row.limit, left))
        write_json(kept, {"facts": vars(facts), "rows": done})
        write_atomic(out, table(facts, rows, done).encode())
    write_atomic(out, table(facts, rows, done).encode())
    return done


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.first_gpu_minutes", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("first-gpu-minutes.md"), metavar="FILE.md")
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N; another one tries the tool with tiny sizes")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="rows that hold one of these words")
    parser.add_argument("--minutes", type=float, default=10.0, help="after which no row is begun; 10 if not given")
    given = parser.parse_args(words)
    from lgkd.errors import InputError
    from lgkd.training.precision import choose_device

    command = shlex.join(["python", "-m", "tools.first_gpu_minutes", *words])
    rows = rows_for(given.device)
    try:
        choose_device(given.device)
        done = measure(rows, facts_of(given.device, command), given.out, minutes=given.minutes, only=given.only)
    except (InputError, ValueError, OSError) as error:
        print(f"first_gpu_minutes: {error}", file=sys.stderr)
        return 2
    print(given.out.read_text(encoding="utf-8"), end="")
    return 0 if all(row.name in done and done[row.name]["failed"] is None for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
