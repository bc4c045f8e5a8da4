"""Try a start without labels, in throw-away code on lgkd's commands (issue 21, part 4): one arm and seed a call.

python -m tools.start_trial guided|start --data FOLDER --work FOLDER [--minutes 6] [--seed 0] -- STUDENT OPTIONS

Every training image is its own class (Cao, Yu and Wu, arXiv 2201.10728), with crops and CutMix, for half of the time;
then the student is guided for the other half. The other arm is guided for all of it. Both change the images alike,
whatever their epochs. The teacher is trained once for each work folder, by the first call, which has to be alone; it is
not counted. Student options are those of `lgkd train`, such as `--student vit_96`; teacher options follow
`--teacher-options`, as one word. Prints a line of JSON: the accuracy on the test split, epochs and processor time of
all parts. `--time` chooses the steps by the clock, so keep the machine alike for both arms.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

TEACHER = "fastnet_small"


def each_its_own_class(data: Path, work: Path) -> Path:
    """Link the training images as a data set with a class for each; its test split are the same images."""
    root = work / "own-classes"
    if root.is_dir():
        return root
    making = work / "own-classes-making"
    shutil.rmtree(making, ignore_errors=True)
    for number, file in enumerate(sorted((data / "train").glob("*/*"))):
        for split in ("train", "test"):
            folder = making / split / f"image{number:05}"
            folder.mkdir(parents=True)
            (folder / file.name).symlink_to(file.resolve())
    making.rename(root)
    return root


def run(words: list[str]) -> None:
    """Run a command of lgkd, or end with its exit code."""
    from lgkd.cli import run as command

    code = command(words)
    if code:
        raise SystemExit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arm", choices=("guided", "start"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--teacher-epochs", type=int, default=150)
    parser.add_argument("--teacher-options", default="", metavar="WORDS", help="such as '--image-size 64'")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("student", nargs="+", help="options of the student, after --")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    os.environ["LGKD_HOME"] = str(given.work / "home")
    if not any((given.work / "home" / "teachers").glob("*/*/card.json")):
        words = ["train-teacher", TEACHER, str(given.data), "--recipe", "teacher-fast", "--set", "evaluations=1"]
        words += ["--epochs", str(given.teacher_epochs), "--batch-size", "64", "--out", str(given.work / "teacher")]
        run([*words, *given.teacher_options.split(), "--quiet"])
    common = [*given.student, "--recipe", "fast", "--batch-size", "64", "--seed", str(given.seed), "--quiet"]
    alike = ("evaluations=1", "by_length=null", "view.rand_augment=rand-m9-mstd0.5-inc1", "view.erase=0.25")
    common += [word for change in alike for word in ("--set", change)]
    parts = list[Path]()
    seconds, init = 60 * given.minutes, list[str]()
    if given.arm == "start":
        seconds /= 2
        started = given.work / f"started-seed{given.seed}"
        words = ["train", "--dataset", str(each_its_own_class(given.data, given.work)), *common, "--out", str(started)]
        parts.append(started)
        for change in ("view.crop=random-resized", "view.scale=[0.14,1.0]", "mix.cutmix=0.5"):
            words += ["--set", change]
        # As unguided students are trained: the lower rate.
        run([*words, "--set", "optimizer.lr=3e-3", "--time", f"{seconds:.0f}s"])
        init = ["--init", str(started)]
    out = given.work / f"{given.arm}-seed{given.seed}"
    words = ["distill", "--dataset", str(given.data), "--teacher", TEACHER, *common, *init, "--out", str(out)]
    run([*words, "--time", f"{seconds:.0f}s"])
    parts.append(out)
    found = [json.loads((part / "run.json").read_text()) for part in parts]
    row = {"arm": given.arm, "seed": given.seed}
    row |= {key: found[-1]["results"][key] for key in ("test_top1", "test_balanced_accuracy")}
    row["epochs"] = [one["epochs"] for one in found]
    row["processor_seconds"] = [one["results"]["processor_seconds"] for one in found]
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
