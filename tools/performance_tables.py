"""Measure the figures of docs/performance.md and print the tables of dev/LOG.md.

python -m tools.performance_tables [WORD ...]

With words only the commands that hold one of them are run; options come after the words and win over the command's
own, as in `python -m tools.performance_tables DeiT --device cuda`. Each command goes to a process of its own; every
figure is of that command's JSON document. The words `processes` and `startup` stand for two measurements that are made
with trainings on digits.
"""

import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_AGAINST = "--against plain --repeats 5"
COMMANDS = {
    "DeiT-Ti, 32 px, patches of 4, guided by ResNet-56": (
        "--student deit_tiny --student-option patch_size=4 --image-size 32 --teacher resnet56 --batch-size 64 "
        f"{_AGAINST}"
    ),
    "DeiT-Ti, 224 px, guided by ResNet-56": f"--student deit_tiny --teacher resnet56 --batch-size 32 {_AGAINST}",
    "PVTv2-B0, 64 px, guided by ResNet-56": (
        f"--student pvtv2 --image-size 64 --teacher resnet56 --batch-size 64 {_AGAINST}"
    ),
    "PVTv2-B0, 224 px, guided by ResNet-56": f"--student pvtv2 --teacher resnet56 --batch-size 32 {_AGAINST}",
    "ResNet-56, 32 px, its own training": f"--teacher resnet56 --batch-size 128 {_AGAINST}",
}
SWEEPS = {
    "batch size": "--student pvtv2 --image-size 64 --teacher resnet56 --sweep batch-size=16,32,64,128 --repeats 3",
    "image size": "--student pvtv2 --teacher resnet56 --batch-size 16 --sweep image-size=32,64,128,224 --repeats 3",
    "images": "--teacher resnet20 --batch-size 128 --sweep images=1000,10000,100000,1000000 --repeats 3",
}


ON_DIGITS = (
    "--dataset digits --student deit_tiny --student-option patch_size=4 --image-size 32 --batch-size 64 "
    "--set evaluate_every=10 --device cpu"
)
STARTS = 3


def run_lgkd(words: str, **environment: str) -> None:
    """A command in a process of its own, which must end well."""
    command = [sys.executable, "-m", "lgkd", *words.split()]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | environment)


def processes_rows() -> list[str]:
    """Images a second of DeiT-Ti at 32 px in one process and in two, a thread each, epoch by epoch in one training."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for count in (1, 2):
            out = Path(scratch) / str(count)
            several = f" --nproc {count}" if count > 1 else ""
            run_lgkd(f"train {ON_DIGITS} --epochs 4 --quiet --out {out}{several}", OMP_NUM_THREADS="1")
            with (out / "metrics.csv").open(newline="") as file:
                rates = [float(row["images_per_second"]) for row in csv.DictReader(file)][1:]
            rows.append(f"| processes | {count} | | {statistics.median(rates):,.0f} | |")
    return rows


def startup_rows() -> list[str]:
    """Seconds from the command until the first step on digits is done, and those of help, a listing and an error."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        store = {"LGKD_HOME": str(Path(scratch) / "home")}
        run_lgkd(f"train-teacher resnet8 digits --epochs 1 --quiet --out {scratch}/teacher", **store)
        guided = f"distill {ON_DIGITS} --teacher resnet8 --epochs 4 --quiet --max-time 0.001"
        commands = {
            "`lgkd distill` on digits, to the end of its first step": guided,
            "`lgkd --help`": "--help",
            "`lgkd students`": "students",
            "an error of the recipe": "train --student deit_tiny --set optimizer.lr=-1",
        }
        for what, words in commands.items():
            taken = []
            for start in range(STARTS):
                out = f" --out {scratch}/run{start}" if words == guided else ""
                command = [sys.executable, "-m", "lgkd", *(words + out).split()]
                began = time.perf_counter()
                done = subprocess.run(command, env=os.environ | store, capture_output=True, check=False)
                taken.append(time.perf_counter() - began)
                assert done.returncode == {guided: 75}.get(words, 2 if "=-1" in words else 0), done.stderr
            rows.append(f"| {what} | {statistics.median(taken):.2f} s ({min(taken):.2f} to {max(taken):.2f}) |")
    return rows


def measured(options: str, more: list[str]) -> dict[str, Any]:
    """The JSON document of a bench, made by a process of its own."""
    words = [sys.executable, "-m", "lgkd", "bench", *options.split(), *more, "--json"]
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)


def spread(values: dict[str, float], digits: int) -> str:
    return f"{values['median']:,.{digits}f} ({values['low']:,.{digits}f} to {values['high']:,.{digits}f})"


def rate(part: dict[str, Any]) -> str:
    median = part["images_per_second"]["median"]
    return f"{median:,.{0 if median >= 100 else 1}f}"


def training_rows(what: str, document: dict[str, Any]) -> tuple[str, str, str]:
    """A row of each of the three tables: the whole step, the pipeline, and what a step is made of."""
    plain, ours = document["against"]["plain"], document["parts"]
    same = f"whole {document['precision']}"
    times = plain["times_as_fast"]
    whole = (
        f"| {what} | {rate(ours['whole'])} | {rate(plain['parts']['whole fp32'])} | {rate(plain['parts'][same])} | "
        f"{spread(times['whole fp32'], 2)} | {spread(times[same], 2)} |"
    )
    pipeline = f"| {what} | {rate(ours['data'])} | {rate(plain['parts']['data'])} | {spread(times['data'], 2)} |"
    overhead = spread(document["guidance_overhead"], 2) if document["guidance_overhead"] else ""
    done, shares = document["arithmetic"], document["shares_of_time"]
    made_of = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    return (
        whole,
        pipeline,
        f"| {what} | {overhead} | {done['flops_per_image'] / 1e9:.2f} | {done['share_of_peak']:.1%} of "
        f"{done['peak_flops_per_second'] / 1e9:,.0f} | {document['memory']['peak_bytes'] / 2**20:,.0f} / "
        f"{plain['peak_memory_bytes'] / 2**20:,.0f} | {made_of} |",
    )


def sweep_rows(what: str, document: dict[str, Any]) -> list[str]:
    return [
        f"| {what} | {row['value']:,} | {rate(row['parts']['data'])} | {rate(row['parts']['whole'])} | "
        f"{row['memory']['peak_bytes'] / 2**20:,.0f} |"
        for row in document["rows"]
    ]


def main(words: list[str]) -> None:
    first = next((place for place, word in enumerate(words) if word.startswith("--")), len(words))
    wanted, more = words[:first], words[first:]
    rows: list[tuple[str, str, str]] = []
    swept: list[str] = []
    for what, options in (COMMANDS | SWEEPS).items():
        if wanted and not any(word in what or word in options for word in wanted):
            continue
        document = measured(options, more)
        print(document["command"], "|", document["date"], document["machine"]["threads"], "threads", flush=True)
        if what in COMMANDS:
            rows.append(training_rows(what, document))
            print("\n".join(rows[-1]), flush=True)
        else:
            swept += sweep_rows(what, document)
    if not wanted or "processes" in wanted:
        swept += processes_rows()
    if not wanted or "startup" in wanted:
        print("\n" + "\n".join(startup_rows()), flush=True)
    for table in zip(*rows, strict=True):
        print("\n" + "\n".join(table))
    print("\n" + "\n".join(swept))


if __name__ == "__main__":
    main(sys.argv[1:])
