"""Folders of finished runs, made in milliseconds: what a comparison reads, with the accuracies that a test wants."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lgkd._internal.atomic_io import write_atomic
from lgkd.config import dump_recipe, load_recipe
from lgkd.runs.folder import RECIPE, write_metrics, write_run

STUDENT = {"name": "deit_tiny", "options": {}, "image_size": [32, 32], "parameters": 7}
TEACHER = {"name": "resnet8", "kept_as": "resnet8", "sha256": "a" * 64, "subset": None, "batch_norm": "running"}


def make_run(folder: Path, *curve: float, seed: int = 0, guided: bool = False, **changes: Any) -> Path:
    """A finished run in a folder.

    Args:
        folder: is made.
        curve: accuracy on the test split after each epoch, 0 to 1.
        seed, guided: of the run.
        changes: `kind`, `status`, `recipe` (its name), `overrides` (of what the recipe says, by attribute), `dataset`,
            `student`, `teacher` and `results` (all dictionaries that are put over the made ones), and any other key.
    """
    epochs = len(curve)
    rows = [{"epoch": place, "lr": 0.1, "loss": 1.0, "test_top1": top1} for place, top1 in enumerate(curve, 1)]
    peak = max(rows, key=lambda row: row["test_top1"])
    recipe = load_recipe("locality-guidance")
    recipe = recipe.model_copy(update={} if guided else {"guide": None})
    recipe = recipe.model_copy(update=changes.pop("overrides", {}))
    dataset = {
        "name": "digits", "path": None, "data_dir": None, "fingerprint": "f" * 64, "classes": 10, "train_images": 200,
        "test_images": 599, "val_images": None, "subset": None, "extra": None,
    }  # fmt: skip
    results = {
        "test_top1": curve[-1],
        "epoch": epochs,
        "selected_on": None,
        "best_epoch_on_the_test_split": {"epoch": peak["epoch"], "test_top1": peak["test_top1"]},
        "training_seconds": 2.0,
    }
    info: dict[str, Any] = {
        "kind": "distill" if guided else "train",
        "status": "finished",
        "student": STUDENT | changes.pop("student", {}),
        "teacher": (TEACHER | changes.pop("teacher", {})) if guided else None,
        "more_teachers": [],
        "cached": None,
        "pairs": [{"student": "blocks.0", "teacher": "stage1"}] if guided else [],
        "dataset": dataset | changes.pop("dataset", {}),
        "recipe": "locality-guidance",
        "seed": seed,
        "device": "cpu",
        "precision": "fp32",
        "epochs": epochs,
        "steps_per_epoch": 5,
        "results": results | changes.pop("results", {}),
    }  # fmt: skip
    folder.mkdir(parents=True)
    write_run(folder, info | changes)
    write_metrics(folder, rows)
    write_atomic(folder / RECIPE, dump_recipe(recipe).encode())
    return folder


def make_seeds(folder: Path, ends: Sequence[float], *, guided: bool = False, first: int = 0, **changes: Any) -> Path:
    """A folder of runs whose accuracy after the second and last epoch is given; after the first it is 0.05 more."""
    for seed, end in enumerate(ends, first):
        who = "guided" if guided else "unguided"
        make_run(folder / f"seed{seed}-{who}", end + 0.05, end, seed=seed, guided=guided, **changes)
    return folder
