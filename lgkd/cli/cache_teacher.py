"""`lgkd cache-teacher`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Unpack

import typer

from lgkd.cli import options as o
from lgkd.cli.display import Display, console, show_json
from lgkd.cli.train import watched
from lgkd.runner.options import Options
from lgkd.runner.resolve import settle

_OPTIONS = (
    "data_dir", "fraction", "images_per_class", "subset_seed", "image_size", "recipe", "overrides", "seed",
    "val_fraction", "leave_out_near_copies", "device", "offline",
)  # fmt: skip


@o.with_options(only=_OPTIONS, recipe="locality-guidance")
def cache_teacher(
    student: o.Student,
    teacher: o.Teachers = None,
    dataset: o.Dataset = "cifar100",
    views: Annotated[
        int | None, typer.Option("--views", min=1, help="Augmented views of each image.", show_default="10")
    ] = None,
    replay: Annotated[bool, typer.Option("--replay", help="Whole images once; crop and flip are replayed.")] = False,
    storage: Annotated[str, typer.Option("--storage", help="fp16 or fp32.")] = "fp16",
    max_gb: Annotated[float, typer.Option("--max-gb", metavar="GB", help="Refuse a cache that is larger.")] = 50.0,
    student_option: o.StudentOption = None,
    taps: o.Taps = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="The cache's folder; by default one in the store."), o.Before("out")
    ] = None,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
    **options: Unpack[Options],
) -> None:
    """Write down what a teacher says, for trainings without it.

    For `lgkd distill --cached auto` with the same options. N augmented views of each
    image are shown in turn, one an epoch; or, with --replay, each image is cached once
    and crop and flip are replayed on the teacher's maps, which is an approximation.

    Example: lgkd cache-teacher --student pvtv2 --teacher resnet56 --views 10
    """
    teachers = teacher or ["resnet56"]
    settle("student", student, dataset, options, teachers=teachers, guided=True)
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
            folder=folder,
            caching=display.cached,
            taps=[name.strip() for name in taps.split(",")] if taps is not None else None,
            student_options=student_options,
            **{**options, **watched(display)},
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
