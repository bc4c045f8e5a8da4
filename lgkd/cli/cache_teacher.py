"""`lgkd cache-teacher`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from lgkd.cli import completion
from lgkd.cli import options as o
from lgkd.cli.display import Display, console, show_json
from lgkd.runner.resolve import settle


def cache_teacher(
    student: Annotated[
        str,
        typer.Option(
            "--student",
            help="A name of `lgkd students`, timm:NAME or module:factory.",
            autocompletion=completion.students,
        ),
    ],
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            "--teacher",
            help="A trained teacher of this data set; may be repeated.",
            show_default="resnet56",
            autocompletion=completion.trained_teachers,
        ),
    ] = None,
    dataset: o.Dataset = "cifar100",
    views: Annotated[
        int | None, typer.Option("--views", min=1, help="Augmented views of each image.", show_default="10")
    ] = None,
    replay: Annotated[bool, typer.Option("--replay", help="Whole images once; crop and flip are replayed.")] = False,
    storage: Annotated[str, typer.Option("--storage", help="fp16 or fp32.")] = "fp16",
    max_gb: Annotated[float, typer.Option("--max-gb", metavar="GB", help="Refuse a cache that is larger.")] = 50.0,
    data_dir: o.DataDir = None,
    fraction: o.Fraction = None,
    images_per_class: o.ImagesPerClass = None,
    subset_seed: o.SubsetSeed = 0,
    student_option: o.StudentOption = None,
    image_size: o.ImageSize = None,
    taps: Annotated[
        str | None, typer.Option("--taps", metavar="A,B,C", help="Layers of the student; by default three blocks.")
    ] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", help="A shipped recipe or a YAML file.", autocompletion=completion.recipes)
    ] = "locality-guidance",
    changes: o.Set = None,
    seed: o.Seed = 0,
    val_fraction: o.ValFraction = None,
    leave_out_near_copies: o.LeaveOut = False,
    device: o.Device = None,
    offline: o.Offline = False,
    out: Annotated[Path | None, typer.Option("--out", help="The cache's folder; by default one in the store.")] = None,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Write down what a teacher says, for trainings without it.

    For `lgkd distill --cached auto` with the same options. N augmented views of each
    image are shown in turn, one an epoch; or, with --replay, each image is cached once
    and crop and flip are replayed on the teacher's maps, which is an approximation.

    Example: lgkd cache-teacher --student pvtv2 --teacher resnet56 --views 10
    """
    teachers = teacher or ["resnet56"]
    shared: dict[str, Any] = {
        "data_dir": data_dir,
        "fraction": fraction,
        "images_per_class": images_per_class,
        "subset_seed": subset_seed,
        "image_size": image_size,
        "recipe": recipe,
        "overrides": changes or (),
        "seed": seed,
        "val_fraction": val_fraction,
        "leave_out_near_copies": leave_out_near_copies,
        "device": device,
        "offline": offline,
    }
    settle("student", student, dataset, shared, teachers=teachers, guided=True)
    student_options = o.key_values(student_option, "--student-option")
    with Display("cache", quiet=quiet or as_json) as display:
        from lgkd import api

        made = api.cache_teacher(
            student,
            teachers,
            dataset,
            views=views,
            replay=replay,
            storage=storage,  # type: ignore[arg-type]
            max_gb=max_gb,
            folder=out,
            caching=display.cached,
            taps=[name.strip() for name in taps.split(",")] if taps is not None else None,
            student_options=student_options,
            progress=display.decoded,
            downloading=display.downloading,
            say=display.say,
            **shared,
        )
    if as_json:
        show_json([asdict(cache) | {"folder": str(cache.folder)} for cache in made])
        return
    shown = console()
    for cache in made:
        how = "whole, for replay" if cache.mode == "replay" else f"in {cache.views} views"
        lay = "" if cache.made else ", which lay ready"
        shown.print(f"{cache.images:,} images {how}, {cache.bytes / 1e9:,.3g} GB{lay}")
        shown.print(f"kept in {cache.folder}", markup=False)
        if cache.approximate and not quiet:
            keys = ", ".join(cache.approximate)
            shown.print(f"a training cannot follow {keys} exactly from it and will ask for --approximate", markup=False)
