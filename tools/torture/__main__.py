"""`python -m tools.torture [PART...]`: makes the trials, prints a table; code 1 if any was lost."""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tools.torture import (  # noqa: F401  each registers its parts
    archives,
    beginnings,
    damage,
    equality,
    factories,
    flips,
    golden,
    images,
    kills,
    memory,
    offline,
    old,
    pickles,
    places,
    processes,
    recipes,
    signals,
    soaking,
    teachers,
    trackers,
    yaml_texts,
)
from tools.torture.arena import Arena
from tools.torture.parts import PARTS, Trials


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that are asked for; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.torture",
        epilog="parts: " + "; ".join(f"{name} ({part.row}): {part.passes}" for name, part in PARTS.items()),
    )
    parser.add_argument("parts", metavar="PART", nargs="*", help="by default all", choices=[[], *PARTS])
    parser.add_argument("--trials", type=int, help="of each part, instead of its own number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="no trial of a part is begun after so many")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found")
    chosen = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory(prefix="lgkd-torture-") as scratch:
        arena = Arena(Path(scratch))
        for name in chosen.parts or PARTS:
            print(f"{name} ...", file=sys.stderr, flush=True)
            rows.append(make(arena, name, chosen.trials, chosen.seed, chosen.minutes))
            print(_line(rows[-1]), flush=True)
            for failure in rows[-1]["failures"]:
                print(f"  lost: {failure}", flush=True)
            if chosen.json is not None:
                told = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "seed": chosen.seed, "parts": rows}
                chosen.json.write_text(json.dumps(told, indent=1) + "\n")
    lost = sum(len(row["failures"]) for row in rows)
    print(f"\n{'part':<14} {'row':<5} {'trials':>6} {'lost':>5} {'seconds':>8}  met")
    for row in rows:
        print(_line(row))
    return 1 if lost or any(row["trials"] == 0 for row in rows) else 0


def make(arena: Arena, name: str, trials: int | None, seed: int, minutes: float) -> dict:
    """The trials of one part, and what came of them."""
    part = PARTS[name]
    begun = time.monotonic()
    # Each part has a seed of its own, so that it draws the same alone and among others.
    made = Trials(trials or part.trials, random.Random(f"{seed} {name}"), begun + 60 * minutes)
    with made.judging("the part itself"):
        part.run(arena, made)
    return {
        "part": name,
        "row": part.row,
        "passes": part.passes,
        "trials": made.made,
        "failures": made.failures,
        "seconds": round(time.monotonic() - begun, 1),
        "met": dict(sorted(made.seen.items())),
    }


def _line(row: dict) -> str:
    met = ", ".join(f"{what} {count}" for what, count in row["met"].items())
    lost, seconds = len(row["failures"]), row["seconds"]
    return f"{row['part']:<14} {row['row']:<5} {row['trials']:>6} {lost:>5} {seconds:>8.1f}  {met}"


if __name__ == "__main__":
    sys.exit(main())
