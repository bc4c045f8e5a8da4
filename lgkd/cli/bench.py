"""Implement `lgkd bench`."""

import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from lgkd.benchmark.options import Choices, check_file, read_sweep
from lgkd.benchmark.target import Target, as_share, check_trained
from lgkd.cli import completion
from lgkd.cli import options as o
from lgkd.cli.bench_to_accuracy import show_to_accuracy
from lgkd.cli.display import after_compiled, console, say, show_json, show_pairs, show_table
from lgkd.errors import InputError


@o.takes_dataset(about="A named data set or a folder; by default images are generated.")
def bench(
    context: typer.Context,
    dataset: str | None = None,
    student: Annotated[
        str | None,
        typer.Option(
            "--student",
            help="A name of `lgkd students`, timm:NAME or module:factory.",
            autocompletion=completion.students,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            help="Teacher of the student; alone, its own training is measured.",
            autocompletion=completion.teachers,
        ),
    ] = None,
    data_dir: o.DataDir = None,
    student_option: o.StudentOption = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            help="A shipped recipe or a YAML file; by default the one that fits.",
            autocompletion=completion.recipes,
        ),
    ] = None,
    image_size: o.ImageSize = None,
    batch_size: o.BatchSize = None,
    precision: o.Precision = None,
    changes: o.Set = None,
    device: o.Device = None,
    compiled: o.Compile = None,
    cuda_graphs: o.CudaGraphs = False,
    images: Annotated[int, typer.Option("--images", help="Number of generated images.")] = 5000,
    source_size: Annotated[int, typer.Option("--source-size", help="Side of the generated images, in pixels.")] = 32,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Steps of a lap; by default as many as take half a second.")
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", help="Laps of every part, interleaved.")] = 5,
    against: Annotated[
        str | None, typer.Option("--against", metavar="plain", help="Compare with a hand-written loop.")
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option("--sweep", metavar="NAME=A,B", help="Vary batch-size, image-size or images."),
    ] = None,
    profile: Annotated[
        Path | None, typer.Option("--profile", metavar="FILE", help="Write the costliest operations to a text file.")
    ] = None,
    to_accuracy: Annotated[
        float | None,
        typer.Option("--to-accuracy", metavar="TOP1", help="Time trainings to this held-out accuracy: 0.5, or 50."),
    ] = None,
    first_time: Annotated[
        str, typer.Option("--first-time", metavar="TIME", help="With --to-accuracy, time of the first training.")
    ] = "1m",
    longest_time: Annotated[
        str, typer.Option("--longest-time", metavar="TIME", help="With --to-accuracy, no training takes longer.")
    ] = "1h",
    teacher_recipe: Annotated[
        str,
        typer.Option(
            "--teacher-recipe",
            help="With --to-accuracy, recipe of the teacher's training.",
            autocompletion=completion.recipes,
        ),
    ] = "teacher",
    teacher_time: Annotated[
        str | None,
        typer.Option("--teacher-time", metavar="TIME", help="With --to-accuracy, instead of its recipe's length."),
    ] = None,
    stored_teacher: Annotated[
        bool,
        typer.Option("--stored-teacher", help="With --to-accuracy, train no teacher: take that of the store."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Also write the figures to a JSON file.")
    ] = None,
    seed: o.Seed = 0,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Measure the speed and the cost of a training.

    Needs neither a data set nor a trained teacher. With --to-accuracy, whole trainings of
    doubled time are made on a data set, until student and guided student have an accuracy.
    docs/performance.md describes how every figure is measured.

    Example: lgkd bench --student deit_tiny --teacher resnet56 --against plain
    """
    choices = Choices(
        student=student,
        teacher=teacher,
        student_options=o.key_values(student_option, "--student-option"),
        dataset=dataset,
        data_dir=str(data_dir) if data_dir is not None else None,
        recipe=recipe,
        image_size=image_size,
        batch_size=batch_size,
        precision=precision,
        overrides=tuple(changes or ()),
        device=device,
        compile=cast(Any, compiled),  # the word has been replaced by its value
        cuda_graphs=cuda_graphs,
        images=images,
        source_size=source_size,
        seed=seed,
    )
    varied = read_sweep(sweep) if sweep is not None else None
    target = None
    if to_accuracy is not None:
        if sweep is not None or against is not None or profile is not None:
            raise InputError("--to-accuracy trains; leave out --sweep, --against and --profile, or run twice")
        share = as_share(to_accuracy)
        target = Target(share, first_time, longest_time, teacher_recipe, teacher_time, stored_teacher)
        check_trained(choices, target)
    if varied is not None and (against is not None or profile is not None):
        raise InputError("--sweep measures lgkd alone; leave out --against and --profile, or run twice")
    if out is not None:
        check_file(out, "--out")
    if profile is not None:
        # The profiler's library would log to standard error.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    words = context.obj or []
    notify = (lambda _: None) if quiet or as_json else say
    command = shlex.join(["lgkd", *words])
    if target is not None:
        from lgkd.benchmark.to_accuracy import bench_to_accuracy

        document = bench_to_accuracy(choices, target, command=command, say=notify)
        _write(document, out)
        if as_json:
            show_json(document)
        else:
            show_to_accuracy(document)
        return
    from lgkd.benchmark import run

    shared: dict[str, Any] = {"steps": steps, "repeats": repeats, "command": command, "say": notify}
    if varied is not None:
        document = run.sweep(choices, *varied, **shared)
    else:
        document = run.bench(choices, against=against, profile=profile, **shared)
    _write(document, out)
    if as_json:
        show_json(document)
    elif varied is not None:
        _show_sweep(document)
    else:
        _show(document)


def _write(document: Mapping[str, Any], out: Path | None) -> None:
    if out is not None:
        from lgkd._internal.atomic_io import write_json

        write_json(out, document)


def _show(document: Mapping[str, Any]) -> None:
    _show_heading(document)
    plain = document.get("against", {}).get("plain")
    parts = document["parts"] | {f"plain {name}": one for name, one in (plain or {"parts": {}})["parts"].items()}
    show_table(
        "",
        ("part", "images/s", "lowest", "highest", "ms a step"),
        ((name, *_rates(one), f"{1000 * one['seconds_per_step']['median']:,.1f}") for name, one in parts.items()),
        right=(1, 2, 3, 4),
    )
    show_pairs(dict(_figures(document, plain)))


def _show_heading(document: Mapping[str, Any]) -> None:
    choices, machine = document["choices"], document["machine"]
    who = choices["student"] or f"teacher {choices['teacher']}"
    by = f" guided by {choices['teacher']}" if choices["student"] and choices["teacher"] else ""
    height, width = document["image_size"]
    how = ", ".join(
        (
            *([f"{height} x {width} px"] if document.get("varied") != "image_size" else []),
            *([f"batches of {document['batch_size']}"] if document.get("varied") != "batch_size" else []),
            document["precision"],
        )
    )
    console().print(f"{who}{by}: {how}{after_compiled(document['compiled'])}")
    console().print(f"{machine['gpu'] or machine['processor']}, {machine['threads']} threads, "
                    f"torch {machine['packages']['torch']}, {document['repeats']} rounds")  # fmt: skip


def _rates(part: Mapping[str, Any]) -> tuple[str, str, str]:
    rate = part["images_per_second"]
    digits = 1 if rate["median"] < 100 else 0
    return tuple(f"{rate[key]:,.{digits}f}" for key in ("median", "low", "high"))  # type: ignore[return-value]


def _figures(document: Mapping[str, Any], plain: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    if plain is not None:
        for name, times in plain["times_as_fast"].items():
            yield f"against plain {name}", f"{_ratio(times)} times as fast"
        yield "plain loop's workers", ", ".join(f"{count} ({name})" for name, count in plain["workers"].items())
        yield "plain loop's peak memory", _mebibytes(plain["peak_memory_bytes"])
    if document["guidance_overhead"] is not None:
        yield "guided / unguided step", f"{_ratio(document['guidance_overhead'])} times the time"
    shares = [f"{name} {share:.0%}" for name, share in document["shares_of_time"].items()]
    yield "time of an eager step", ", ".join(shares[:4]) + ","
    yield "", ", ".join(shares[4:])
    done = document["arithmetic"]
    yield (
        "arithmetic",
        f"{done['flops_per_image'] / 1e9:.2f} GFLOP an image, {done['flops_per_second'] / 1e9:,.0f} GFLOP/s",
    )
    yield (
        "share of measured peak",
        f"{done['share_of_peak']:.1%} of {done['peak_flops_per_second'] / 1e9:,.0f} GFLOP/s "
        f"(products of {done['peak_matrix_size']:,})",
    )
    yield "peak memory", f"{_mebibytes(document['memory']['peak_bytes'])} ({document['memory']['kind']})"
    for one in document.get("profile", ()):
        yield f"{one['share']:.0%} of the time", f"{one['operation']}, {one['milliseconds_per_step']:.1f} ms a step"


def _ratio(spread: Mapping[str, float]) -> str:
    return f"{spread['median']:.2f} ({spread['low']:.2f} to {spread['high']:.2f})"


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"


def _show_sweep(document: Mapping[str, Any]) -> None:
    _show_heading(document)
    show_table(
        "",
        (document["varied"].replace("_", " "), "data images/s", "whole images/s", "ms a step", "peak memory"),
        (
            (
                f"{row['value']:,}",
                _rates(row["parts"]["data"])[0],
                _rates(row["parts"]["whole"])[0],
                f"{1000 * row['parts']['whole']['seconds_per_step']['median']:,.1f}",
                _mebibytes(row["memory"]["peak_bytes"]),
            )
            for row in document["rows"]
        ),
        right=(0, 1, 2, 3, 4),
    )
