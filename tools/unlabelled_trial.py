"""Try images without labels, in throw-away code on lgkd's API (issue 21, part 1, stage 1): one arm a call.

python -m tools.unlabelled_trial ARM --data DATA/cifar100 --work FOLDER [--labelled 10] [--steps 5000] [--seed 0]

Every class of CIFAR-100's training images is split into labelled ones, held-out ones, on which the arms are compared,
and the rest, whose labels are not read: they are put into folders of random classes, and a training takes these as
extra images, half of every batch, that the cross entropy leaves out. The test split is not read.

| arm | extra images | terms |
|---|---|---|
| control-maps, control | none | maps; maps and logits |
| maps, both | without labels | the same, on all images |
| pseudo | those of which the teacher is surer than 0.7, under its class | maps and logits, cross entropy on all |
| retrained1, retrained2 | without labels | maps and logits; teacher trained again on its pseudo labels |

Batches of 64 in every arm: with extra images 32 of them are labelled. Prints a line of JSON.
"""

import argparse
import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lgkd.distillation.classification import ClassificationLoss
from lgkd.distillation.tasks import Batch, Guided

TEACHER, STUDENT = "fastnet_small", "vit_96_conv"
MAPS = "{kind: locality, normalize: channel, weight: 25.0, schedule: {shape: cosine}}"
LOGITS = "{kind: standardized-kd, temperature: 2.0, eps: 0.1, weight: 3.0}"
THRESHOLD = 0.7
ARMS = ("control-maps", "control", "maps", "both", "pseudo", "retrained1", "retrained2")


class OnLabelled(ClassificationLoss):
    """Average the cross entropy over the labelled images of a batch: those before `count` in the data set's order."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, logits_BK: Tensor, batch: Batch) -> Tensor:
        assert batch.index is not None
        kept = batch.index < self.count
        return super().forward(logits_BK[kept], Batch(batch.images[kept], batch.targets[kept]))


def divide(data: Path, work: Path, labelled: int, held_out: int) -> Path:
    """Link labelled images as a data set whose test split are the held-out ones, and the others by random classes."""
    root = work / f"split-{labelled}-{held_out}"
    if root.is_dir():
        return root
    draw, classes = random.Random(0), sorted(one.name for one in (data / "train").iterdir())
    making = work / f"making-{os.getpid()}"
    for name in classes:
        files = sorted((data / "train" / name).iterdir())
        draw.shuffle(files)
        for place, file in enumerate(files):
            if place < labelled:
                target = making / "set" / "train" / name
            elif place < labelled + held_out:
                target = making / "set" / "test" / name
            else:
                target = making / "without" / draw.choice(classes)
            target.mkdir(parents=True, exist_ok=True)
            (target / f"{name}-{file.name}").symlink_to(file.resolve())
    making.rename(root)
    return root


def train_teacher(root: Path, home: Path, extra: Path | None, epochs: int) -> None:
    """Train the teacher on the labelled images, and on pseudo-labelled ones if given, into a store."""
    if any((home / "teachers").glob("*/*/card.json")):
        return
    words = ["train-teacher", TEACHER, str(root / "set"), "--recipe", "teacher-fast", "--epochs", str(epochs)]
    words += ["--batch-size", "100", "--set", "evaluations=1", "--out", str(home / "run"), "--quiet"]
    if extra is not None:
        words += ["--extra", str(extra), "--extra-share", "0.8"]
    run_in(home, words)


def run_in(home: Path, words: list[str]) -> None:
    """Run a command of lgkd with a store, or end with its exit code."""
    from lgkd.cli import run

    os.environ["LGKD_HOME"] = str(home)
    code = run(words)
    if code:
        raise SystemExit(code)


@torch.no_grad()
def pseudo_labels(root: Path, home: Path, out: Path) -> int:
    """Link the unlabelled images that a teacher is sure of under its classes; return their number."""
    import lgkd

    if not out.is_dir():
        os.environ["LGKD_HOME"] = str(home)
        teacher = lgkd.load_teacher(TEACHER, dataset=str(root / "set"))
        files = sorted((root / "without").glob("*/*"))
        classes = sorted(one.name for one in (root / "set" / "train").iterdir())
        making = out.with_name(f"{out.name}-making")
        shutil.rmtree(making, ignore_errors=True)
        for name in classes:
            (making / name).mkdir(parents=True)
        right = kept = 0
        for first in range(0, len(files), 500):
            some = files[first : first + 500]
            images = torch.stack([_pixels(file) for file in some])
            view = (images - teacher.mean.view(-1, 1, 1)) / teacher.std.view(-1, 1, 1)
            sure, found = teacher.model(view).float().softmax(1).max(1)
            for file, share, label in zip(some, sure.tolist(), found.tolist(), strict=True):
                if share > THRESHOLD:
                    (making / classes[label] / file.name).symlink_to(file.resolve())
                    kept, right = kept + 1, right + file.name.startswith(f"{classes[label]}-")
        for name in classes:  # lgkd refuses a class without images
            if not any((making / name).iterdir()):
                (making / name).rmdir()
        print(f"pseudo labels: {kept:,} of {len(files):,} kept, {right / max(kept, 1):.1%} of these right", flush=True)
        making.rename(out)
    return sum(1 for _ in out.glob("*/*"))


def _pixels(file: Path) -> Tensor:
    with Image.open(file) as image:
        return torch.as_tensor(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1).float() / 255


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("arm", choices=ARMS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--labelled", type=int, default=10)
    parser.add_argument("--held-out", type=int, default=10)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--teacher-epochs", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    root = divide(given.data, given.work, given.labelled, given.held_out)
    homes = [given.work / f"{root.name}-round{number}" for number in range(3)]
    train_teacher(root, homes[0], None, given.teacher_epochs)
    rounds = int(given.arm[-1]) if given.arm.startswith("retrained") else 0
    for number in range(rounds):
        found = given.work / f"{root.name}-pseudo{number}"
        pseudo_labels(root, homes[number], found)
        train_teacher(root, homes[number + 1], found, given.teacher_epochs)
    extra = None if given.arm.startswith("control") else root / "without"
    if given.arm == "pseudo":
        extra = given.work / f"{root.name}-pseudo0"
        pseudo_labels(root, homes[0], extra)
    terms = f"[{MAPS}]" if given.arm.endswith("maps") else f"[{MAPS}, {LOGITS}]"
    out = given.work / f"{root.name}-{given.arm}-seed{given.seed}-steps{given.steps}"
    words = ["distill", "--student", STUDENT, "--teacher", TEACHER, "--dataset", str(root / "set"), "--recipe", "fast"]
    words += ["--batch-size", "64", "--seed", str(given.seed), "--out", str(out), "--quiet"]
    changes = [f"guide.terms={terms}", "schedule.epochs=null", f"schedule.steps={given.steps}", "evaluations=1"]
    # Mixing would cross the two kinds of images, so that no arm mixes.
    changes += ["by_length=null", "view.rand_augment=rand-m9-mstd0.5-inc1", "view.erase=0.25"]
    words += [word for change in changes for word in ("--set", change)]
    if extra is not None:
        words += ["--extra", str(extra), "--extra-share", "0.5"]
    if extra is not None and given.arm != "pseudo":
        _leave_out(100 * given.labelled)
    began = time.process_time()
    run_in(homes[rounds], words)
    results: dict[str, Any] = json.loads((out / "run.json").read_text())
    print(
        json.dumps(
            {
                "arm": given.arm,
                "seed": given.seed,
                "steps": given.steps,
                "held_out_top1": results["results"]["test_top1"],
                "teacher": results["teacher"].get("test_top1"),
                "processor_minutes": round((time.process_time() - began) / 60, 1),
            }
        ),
        flush=True,
    )


def _leave_out(count: int) -> None:
    """Let the cross entropy of the next training leave out all images after the first `count`."""
    from lgkd.runner import execute

    made = execute.make_task

    def make_task(*args: Any, **options: Any) -> Any:
        task = made(*args, **options)
        assert isinstance(task, Guided)
        task.classification = OnLabelled(count)
        object.__setattr__(task, "places", lambda index, device: index.to(device))
        return task

    execute.make_task = make_task


if __name__ == "__main__":
    main()
