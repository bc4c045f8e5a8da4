"""Implement `lgkd cache-teacher`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Unpack

import typer

from lgkd.cli import options as o
from lgkd.cli.callbacks import callbacks_of
from lgkd.cli.display import Display, console, show_json
from lgkd.cli.train import resolve_command
from lgkd.runner.options import Options

_OPTIONS = (
    "data_dir", "fraction", "images_per_class", "subset_seed", "image_size", "channels", "recipe", "overrides", "seed",
    "val_fraction", "groups", "folds", "fold", "leave_out_near_copies", "teacher_weights", "stored_side", "device",
    "offline",
)  # fmt: skip


@o.takes_dataset("cifar100")
@o.with_options(only=_OPTIONS, recipe="locality-guidance")
def cache_teacher(
    dataset: str,
    student: o.Student,
    teacher: o.Teachers = None,
    views: Annotated[
        int | None, typer.Option("--views", min=1, help="Augmented views of each image.", show_default="10")
    ] = None,
    replay: Annotated[bool, typer.Option("--replay", help="Cache each image once; replay crop and flip.")] = False,
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
    """Cache a teacher's outputs, to train without the teacher.

    For `lgkd distill --cached auto` with the same options. N augmented views of each
    image are shown in turn, one an epoch; or, with --replay, each image is cached once
    and crop and flip are replayed on the teacher's maps, which is an approximation.

    Example: lgkd cache-teacher --student pvtv2 --teacher resnet56 --views 10
    """
    teachers = teacher or ["resnet56"]
    config = resolve_command("student", student, dataset, options, student_option, teachers, taps, writes=False)
    with Display("cache", quiet=quiet or as_json) as display:
        from lgkd.runner.cache_teacher import CacheSpec, cache_features
        from lgkd.runner.runner import Runner

        spec = CacheSpec(views, replay, storage, folder, max_gb, display.cached)  # type: ignore[arg-type]
        made = cache_features(Runner(config.with_options(**callbacks_of(display))), spec)
    if as_json:
        show_json([asdict(cache) | {"folder": str(cache.folder)} for cache in made])
        return
    shown = console()
    for cache in made:
        how = "whole, for replay" if cache.mode == "replay" else f"in {cache.views} views"
        lay = "" if cache.made else ", reused"
        shown.print(f"{cache.images:,} images {how}, {cache.bytes / 1e9:,.3g} GB{lay}")
        shown.print(f"kept in {cache.folder}", markup=False)
        if cache.approximate and not quiet:
            keys = ", ".join(cache.approximate)
            shown.print(f"a training cannot replay {keys} exactly from it and requires --approximate", markup=False)
