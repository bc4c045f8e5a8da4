"""`lgkd train-teacher`, `lgkd distill`, `lgkd train`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lgkd.choices import run_folder, settle
from lgkd.cli import options as o
from lgkd.cli.screen import Display, console, duration, show_json
from lgkd.launch import is_first, share
from lgkd.runs import check_free, describe, read_run

if TYPE_CHECKING:
    from lgkd.api import Run


def train_teacher(
    context: typer.Context,
    teacher: Annotated[str, typer.Argument(help="A name of `lgkd teachers`, timm:NAME or package.module:factory.")],
    dataset: Annotated[str, typer.Argument(help="A named data set or a folder of images.")] = "cifar100",
    data_dir: o.DataDir = None,
    fraction: o.Fraction = None,
    images_per_class: o.ImagesPerClass = None,
    subset_seed: o.SubsetSeed = 0,
    extra: o.Extra = None,
    extra_share: o.ExtraShare = None,
    teacher_option: o.TeacherOption = None,
    image_size: o.ImageSize = None,
    recipe: Annotated[str, typer.Option("--recipe", help="A shipped recipe or a YAML file.")] = "teacher",
    epochs: o.Epochs = None,
    batch_size: o.BatchSize = None,
    changes: o.Set = None,
    seed: o.Seed = 0,
    precision: o.Precision = None,
    compile: o.Compile = None,  # noqa: A002
    cuda_graphs: o.CudaGraphs = False,
    val_fraction: o.ValFraction = None,
    device: o.Device = None,
    deterministic: o.Deterministic = False,
    offline: o.Offline = False,
    max_time: o.MaxTime = None,
    nproc: o.Nproc = None,
    out: o.Out = None,
    force: o.Force = False,
    replace: Annotated[bool, typer.Option("--replace", help="Exchange a teacher of that name in the store.")] = False,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Train a teacher, and keep it for students to come.

    It goes, with its card, into the store ($LGKD_HOME, or ~/.cache/lgkd).

    Example: lgkd train-teacher resnet56 cifar100
    """
    shared = _shared(locals(), "teacher", teacher, dataset, replace=replace)
    teacher_options = o.key_values(teacher_option, "--teacher-option")
    share(nproc, context.obj)
    with Display(f"teacher {teacher}", quiet=quiet or as_json or not is_first()) as display:
        from lgkd import api

        run = api.train_teacher(
            teacher,
            dataset,
            teacher_options=teacher_options,
            replace=replace,
            **shared,
            **_watched(display),
        )
    _report(run, as_json=as_json)


def distill(
    context: typer.Context,
    student: Annotated[str, typer.Option("--student", help="A name of `lgkd students`, timm:NAME or module:factory.")],
    teacher: Annotated[
        list[str] | None,
        typer.Option("--teacher", help="A trained teacher of this data set; may be repeated.", show_default="resnet56"),
    ] = None,
    dataset: o.Dataset = "cifar100",
    data_dir: o.DataDir = None,
    fraction: o.Fraction = None,
    images_per_class: o.ImagesPerClass = None,
    subset_seed: o.SubsetSeed = 0,
    extra: o.Extra = None,
    extra_share: o.ExtraShare = None,
    student_option: o.StudentOption = None,
    image_size: o.ImageSize = None,
    taps: Annotated[
        str | None, typer.Option("--taps", metavar="A,B,C", help="Layers of the student; by default three blocks.")
    ] = None,
    recipe: Annotated[str, typer.Option("--recipe", help="A shipped recipe or a YAML file.")] = "locality-guidance",
    epochs: o.Epochs = None,
    batch_size: o.BatchSize = None,
    changes: o.Set = None,
    use: o.Use = None,
    seed: o.Seed = 0,
    precision: o.Precision = None,
    compile: o.Compile = None,  # noqa: A002
    cuda_graphs: o.CudaGraphs = False,
    val_fraction: o.ValFraction = None,
    cached: Annotated[
        list[str] | None,
        typer.Option("--cached", metavar="FOLDER", help="Read the teacher from a cache; auto: from the store."),
    ] = None,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="With --cached, allow what it cannot follow exactly.")
    ] = False,
    device: o.Device = None,
    deterministic: o.Deterministic = False,
    offline: o.Offline = False,
    max_time: o.MaxTime = None,
    nproc: o.Nproc = None,
    out: o.Out = None,
    force: o.Force = False,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Train a student that a frozen teacher guides: the main job.

    Example: lgkd distill --student pvtv2 --teacher resnet56
    """
    o.bring_in(use)
    teachers = teacher or ["resnet56"]
    shared = _shared(locals(), "student", student, dataset, by=teachers)
    student_options = o.key_values(student_option, "--student-option")
    share(nproc, context.obj)
    with Display(f"guided {student}", quiet=quiet or as_json or not is_first()) as display:
        from lgkd import api

        run = api.distill(
            student,
            teachers,
            dataset,
            taps=[name.strip() for name in taps.split(",")] if taps is not None else None,
            student_options=student_options,
            **shared,
            **_watched(display),
        )
    _report(run, as_json=as_json)


def train(
    context: typer.Context,
    student: Annotated[str, typer.Option("--student", help="A name of `lgkd students`, timm:NAME or module:factory.")],
    dataset: o.Dataset = "cifar100",
    data_dir: o.DataDir = None,
    fraction: o.Fraction = None,
    images_per_class: o.ImagesPerClass = None,
    subset_seed: o.SubsetSeed = 0,
    extra: o.Extra = None,
    extra_share: o.ExtraShare = None,
    student_option: o.StudentOption = None,
    image_size: o.ImageSize = None,
    recipe: Annotated[str, typer.Option("--recipe", help="A shipped recipe or a YAML file.")] = "supervised",
    epochs: o.Epochs = None,
    batch_size: o.BatchSize = None,
    changes: o.Set = None,
    seed: o.Seed = 0,
    precision: o.Precision = None,
    compile: o.Compile = None,  # noqa: A002
    cuda_graphs: o.CudaGraphs = False,
    val_fraction: o.ValFraction = None,
    device: o.Device = None,
    deterministic: o.Deterministic = False,
    offline: o.Offline = False,
    max_time: o.MaxTime = None,
    nproc: o.Nproc = None,
    out: o.Out = None,
    force: o.Force = False,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Train a student without a teacher: the baseline.

    Example: lgkd train --student pvtv2
    """
    shared = _shared(locals(), "student", student, dataset)
    student_options = o.key_values(student_option, "--student-option")
    share(nproc, context.obj)
    with Display(f"unguided {student}", quiet=quiet or as_json or not is_first()) as display:
        from lgkd import api

        run = api.train(
            student,
            dataset,
            student_options=student_options,
            **shared,
            **_watched(display),
        )
    _report(run, as_json=as_json)


def resume(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="The folder of a run that was stopped.")],
    use: o.Use = None,
    data_dir: o.DataDir = None,
    device: o.Device = None,
    max_time: o.MaxTime = None,
    nproc: o.Nproc = None,
    force: o.Force = False,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Go on with a run that was stopped.

    It takes up its last good checkpoint; repeating the command that began it does the same.

    Example: lgkd resume runs/pvt_v2_b0_cifar100_by-resnet56_locality-guidance_seed0
    """
    o.bring_in(use)
    info = read_run(run)
    share(nproc, context.obj)
    given = {"data_dir": data_dir, "device": device, "max_time": max_time, "force": force or None}
    with Display(describe(info), quiet=quiet or as_json or not is_first()) as display:
        from lgkd import api

        chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        done = api.resume(run, **chosen, **_watched(display))
    _report(done, as_json=as_json)


_MORE = (
    "precision", "compile", "cuda_graphs", "seed", "extra", "extra_share", "val_fraction", "device", "deterministic",
    "offline", "max_time", "out", "force",
)  # fmt: skip


def _shared(
    chosen: dict[str, Any], role: str, model: str, dataset: str, *, by: Sequence[str] = (), replace: bool = False
) -> dict[str, Any]:
    """The options that all three commands hand on; what names and files tell is refused before torch is imported."""
    names = ("data_dir", "fraction", "images_per_class", "subset_seed", "recipe", "epochs", "batch_size", "image_size")
    shared = {name: chosen[name] for name in (*names, *_MORE)}
    shared["overrides"] = chosen["changes"] or ()
    if (cached := chosen.get("cached")) is not None:
        shared["cached"] = cached[0] if len(cached) == 1 else cached
    if chosen.get("approximate"):
        shared["approximate"] = True
    settled = settle(role, model, dataset, shared, teachers=by, guided=bool(by), replace=replace)
    guided_by = "+".join(card.name for card in settled.cards) or None
    named = (model, dataset, settled.subset, guided_by, chosen["recipe"], chosen["seed"], chosen["extra"])
    check_free(chosen["out"] or run_folder(*named))
    return shared


def _watched(display: Display) -> dict[str, Any]:
    return {"watchers": (display,), "progress": display.decoded, "downloading": display.downloading, "say": display.say}


def _report(run: "Run", *, as_json: bool) -> None:
    if not is_first():
        return
    if as_json:
        show_json({"folder": str(run.folder), **run.info})
        return
    results = run.info["results"]
    best = results["best_epoch_on_the_test_split"]
    seconds = results["training_seconds"] + results["evaluation_seconds"]
    out = console()
    how = "chosen on held-out images" if results["selected_on"] else "the last; nothing was selected"
    out.print(
        f"test top-1 {run.top1:.2%} after epoch {results['epoch']} ({how}), "
        f"calibration error {results['test_ece']:.1%}, {duration(seconds)}"
    )
    if best["epoch"] != results["epoch"]:
        out.print(
            f"best epoch on the test split: {best['test_top1']:.2%} (epoch {best['epoch']}), the figure that papers "
            "print; one seed is no result"
        )
    out.print(f"kept in {Path(run.folder)}")
