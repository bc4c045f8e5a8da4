"""`lgkd train-teacher`, `lgkd distill`, `lgkd train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lgkd.choices import find_trained_teacher, resolve_recipe, subset_words
from lgkd.cli import options as o
from lgkd.cli.screen import Display, console, duration, show_json
from lgkd.models.catalogue import find

if TYPE_CHECKING:
    from lgkd.job import Run


def train_teacher(
    teacher: Annotated[str, typer.Argument(help="A name of `lgkd teachers`, timm:NAME or package.module:factory.")],
    dataset: Annotated[str, typer.Argument(help="A named data set or a folder of images.")] = "cifar100",
    data_dir: o.DataDir = None,
    fraction: o.Fraction = None,
    images_per_class: o.ImagesPerClass = None,
    subset_seed: o.SubsetSeed = 0,
    teacher_option: o.TeacherOption = None,
    image_size: o.ImageSize = None,
    recipe: Annotated[str, typer.Option("--recipe", help="A shipped recipe or a YAML file.")] = "teacher",
    epochs: o.Epochs = None,
    batch_size: o.BatchSize = None,
    changes: o.Set = None,
    seed: o.Seed = 0,
    precision: o.Precision = None,
    device: o.Device = None,
    out: o.Out = None,
    replace: Annotated[bool, typer.Option("--replace", help="Exchange a teacher of that name in the store.")] = False,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Train a teacher and keep it, with its card, in the user's store.

    Example: lgkd train-teacher resnet56 cifar100
    """
    shared = _shared(locals(), trains="teacher", guided=False)
    find(teacher)
    with Display(f"teacher {teacher}", quiet=quiet or as_json) as display:
        from lgkd import api

        run = api.train_teacher(
            teacher,
            dataset,
            teacher_options=o.key_values(teacher_option, "--teacher-option"),
            replace=replace,
            **shared,
            **_watched(display),
        )
    _report(run, as_json=as_json)


def distill(
    student: Annotated[str, typer.Option("--student", help="A name of `lgkd students`, timm:NAME or module:factory.")],
    teacher: Annotated[str, typer.Option("--teacher", help="A trained teacher of this data set.")] = "resnet56",
    dataset: o.Dataset = "cifar100",
    data_dir: o.DataDir = None,
    fraction: o.Fraction = None,
    images_per_class: o.ImagesPerClass = None,
    subset_seed: o.SubsetSeed = 0,
    student_option: o.StudentOption = None,
    image_size: o.ImageSize = None,
    taps: Annotated[
        str | None, typer.Option("--taps", metavar="A,B,C", help="Layers of the student; first, middle and last block.")
    ] = None,
    recipe: Annotated[str, typer.Option("--recipe", help="A shipped recipe or a YAML file.")] = "locality-guidance",
    epochs: o.Epochs = None,
    batch_size: o.BatchSize = None,
    changes: o.Set = None,
    seed: o.Seed = 0,
    precision: o.Precision = None,
    device: o.Device = None,
    out: o.Out = None,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Train a student that a frozen teacher guides: the main job.

    Example: lgkd distill --student pvtv2 --teacher resnet56
    """
    shared = _shared(locals(), trains="student", guided=True)
    find(student)
    find_trained_teacher(teacher, dataset, subset=subset_words(fraction, images_per_class, subset_seed))
    with Display(f"guided {student}", quiet=quiet or as_json) as display:
        from lgkd import api

        run = api.distill(
            student,
            teacher,
            dataset,
            taps=[name.strip() for name in taps.split(",")] if taps is not None else None,
            student_options=o.key_values(student_option, "--student-option"),
            **shared,
            **_watched(display),
        )
    _report(run, as_json=as_json)


def train(
    student: Annotated[str, typer.Option("--student", help="A name of `lgkd students`, timm:NAME or module:factory.")],
    dataset: o.Dataset = "cifar100",
    data_dir: o.DataDir = None,
    fraction: o.Fraction = None,
    images_per_class: o.ImagesPerClass = None,
    subset_seed: o.SubsetSeed = 0,
    student_option: o.StudentOption = None,
    image_size: o.ImageSize = None,
    recipe: Annotated[str, typer.Option("--recipe", help="A shipped recipe or a YAML file.")] = "supervised",
    epochs: o.Epochs = None,
    batch_size: o.BatchSize = None,
    changes: o.Set = None,
    seed: o.Seed = 0,
    precision: o.Precision = None,
    device: o.Device = None,
    out: o.Out = None,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Train a student without a teacher: the baseline.

    Example: lgkd train --student pvtv2
    """
    shared = _shared(locals(), trains="student", guided=False)
    find(student)
    with Display(f"unguided {student}", quiet=quiet or as_json) as display:
        from lgkd import api

        run = api.train(
            student,
            dataset,
            student_options=o.key_values(student_option, "--student-option"),
            **shared,
            **_watched(display),
        )
    _report(run, as_json=as_json)


def _shared(chosen: dict[str, Any], *, trains: str, guided: bool) -> dict[str, Any]:
    """The options that all three commands hand on; what a recipe can refuse is refused before torch is imported."""
    recipe = resolve_recipe(
        chosen["recipe"],
        trains=trains,
        guided=guided,
        epochs=chosen["epochs"],
        batch_size=chosen["batch_size"],
        image_size=chosen["image_size"],
        precision=chosen["precision"],
        overrides=chosen["changes"] or (),
    )
    assert recipe.trains == trains
    names = ("data_dir", "fraction", "images_per_class", "subset_seed", "recipe", "epochs", "batch_size", "image_size")
    shared = {name: chosen[name] for name in (*names, "precision", "seed", "device", "out")}
    return shared | {"overrides": chosen["changes"] or ()}


def _watched(display: Display) -> dict[str, Any]:
    return {"watchers": (display,), "progress": display.decoded, "say": display.say}


def _report(run: "Run", *, as_json: bool) -> None:
    if as_json:
        show_json({"folder": str(run.folder), **run.info})
        return
    results = run.info["results"]
    best = results["best_epoch_on_the_test_split"]
    seconds = results["training_seconds"] + results["evaluation_seconds"]
    out = console()
    out.print(
        f"test top-1 {run.top1:.2%} after epoch {results['epoch']} (the last; nothing was selected), "
        f"calibration error {results['test_ece']:.1%}, {duration(seconds)}"
    )
    if best["epoch"] != results["epoch"]:
        out.print(
            f"best epoch on the test split: {best['test_top1']:.2%} (epoch {best['epoch']}), the figure that papers "
            "print; one seed is no result"
        )
    out.print(f"kept in {Path(run.folder)}")
