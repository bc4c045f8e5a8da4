"""Runs of the format as it is now, kept so that later versions of lgkd have something old to read.

    python -m tools.golden.old_run        writes tests/golden/old_run/ anew

Run it only where the format has been given a new number, and then into a folder of another name beside the old one.
A teacher of a thousand weights, a finished guided run of digits, and one that was paused in its first epoch; of the
finished run without checkpoint and picture, which nothing reads again.
"""

import os
import shutil
from pathlib import Path

from lgkd.cli import run

FOLDER = Path(__file__).resolve().parent.parent.parent / "tests" / "golden" / "old_run"
LITTLE = "tests.torture.students:Little"
STUDENT = ["--student", "deit_tiny"]
for _option in ("patch_size=4", "depth=3", "embed_dim=4", "num_heads=1"):
    STUDENT += ["--student-option", _option]
SHARED = ["--batch-size", "64", "--device", "cpu", "--quiet"]
TEACH = ["train-teacher", LITTLE, "digits", "--image-size", "8", "--epochs", "10", *SHARED]
DISTILL = ["distill", *STUDENT, "--teacher", LITTLE, "--dataset", "digits", "--recipe", "quickstart", *SHARED]
DISTILL += ["--set", "ema.decay=0.9", "--set", "optimizer.lr=0.02"]


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    os.environ |= {"LGKD_HOME": str(FOLDER / "home"), "OMP_NUM_THREADS": "1"}
    taught = FOLDER / "taught"
    assert run([*TEACH, "--out", str(taught)]) == 0
    assert run([*DISTILL, "--epochs", "12", "--out", str(FOLDER / "finished")]) == 0
    assert run([*DISTILL, "--epochs", "2", "--out", str(FOLDER / "paused"), "--max-time", "0"]) == 75
    for spare in (taught, FOLDER / "home" / "cache", FOLDER / "finished" / "checkpoint"):
        shutil.rmtree(spare, ignore_errors=True)
    (FOLDER / "finished" / "curves.png").unlink()
    print(f"{sum(path.stat().st_size for path in FOLDER.rglob('*') if path.is_file()):,} bytes in {FOLDER}")


if __name__ == "__main__":
    main()
