"""Print the end of a training: accuracy, folder, report, and the next command for a teacher."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lgkd._internal.launch import is_first
from lgkd._internal.metric_rules import headline
from lgkd.cli.compare import show_comparison
from lgkd.cli.display import console, duration, line_of, say, show_json
from lgkd.config.values import size_text
from lgkd.data.sources.source import find_source
from lgkd.errors import LgkdError
from lgkd.runs.class_results import class_metrics, has_unequal_classes, selected_by
from lgkd.runs.early_stop import stopped_early
from lgkd.runs.ended_terms import ended_terms
from lgkd.runs.statistics import in_percent

_LEAST, _MOST = 32, 96
"""Sides of images, in pixels, between which vit_128 follows its teacher's."""

_MINUTES = 45
"""Length of a proposed training; with start-up and evaluation it ends within the hour."""

if TYPE_CHECKING:
    from lgkd.runner.resolve import ResolvedConfig
    from lgkd.runner.run import Run
    from lgkd.runner.sweep import Series


PARTS = ("fraction", "images_per_class", "folds", "fold", "groups", "leave_out_near_copies")
"""Options that choose the images of a teacher, which its students repeat."""


def print_series(series: "Series", *, as_json: bool) -> None:
    """Print the comparison of several runs, and their folder."""
    if not is_first():
        return
    if as_json:
        show_json({"folder": str(series.folder), **series.comparison.as_dict()})
        return
    show_comparison(series.comparison)
    console().print(f"kept in {series.folder}", soft_wrap=True)


def write_page(folder: Path, out: Path | None = None) -> None:
    """Write the report of a run; a failure is only reported, as the training has succeeded."""
    if not is_first():
        return
    from lgkd.analysis.report.report import write_report

    try:
        say(f"report in {write_report(folder, out=out)}")
    except LgkdError as error:
        say(f"no report was written: {error}")


def print_next_step(run: "Run", dataset: str, data_dir: str | Path | None) -> None:
    """Print where a trained teacher is stored, and a command that uses it."""
    if not is_first():
        return
    info = run.info
    name, about, options = info["student"]["name"], info["dataset"], (info.get("call") or {}).get("options") or {}
    chosen: dict[str, Any] = {key: options.get(key) for key in PARTS}
    if about["subset"]:
        chosen["subset_seed"] = options.get("subset_seed") or None
    several = bool(about.get("multi_label"))
    size = info["student"]["image_size"]
    line = next_command(name, dataset, size=size, data_dir=data_dir, multi_label=several, **chosen)
    part = f" ({about['subset']})" if about["subset"] else ""
    console().print(line_of(f"as teacher {name} for {about['name']}{part} in the store; next: {line}"), soft_wrap=True)


def print_next_of_folds(config: "ResolvedConfig", teacher: str, dataset: str) -> None:
    """Print a command that uses the teachers of all folds."""
    if not is_first():
        return
    options: Mapping[str, Any] = config.options
    size = options.get("image_size") or config.recipe.view.image_size
    chosen: dict[str, Any] = {key: options.get(key) for key in PARTS}
    several = find_source(dataset, data_dir=options.get("data_dir"), offline=True).multi_label()
    line = next_command(
        teacher, dataset, size=size, data_dir=options.get("data_dir"), multi_label=several,
        trainings=options.get("folds") or 1, subset_seed=options.get("subset_seed") or None,
        **chosen,
    )  # fmt: skip
    console().print(line_of(f"next: {line}"), soft_wrap=True)


def next_command(
    teacher: str,
    dataset: str,
    *,
    size: int | Sequence[int] | None,
    data_dir: str | Path | None = None,
    trainings: int = 1,
    multi_label: bool = False,
    **chosen: Any,
) -> str:
    """Compose a command that trains a student by a teacher and ends this evening, whatever the teacher took.

    Args:
        teacher, dataset, data_dir: as typed.
        size: of the teacher's images in pixels: side, or (height, width); None: unknown.
        trainings: number of those that the command runs in turn, which share its time.
        multi_label: of the data set; not every recipe takes several labels an image.
        chosen: options by name that select images; None: not given.
    """
    words = ["lgkd", "distill", "--student", "vit_128", "--teacher", teacher, "--dataset", dataset]
    words += ["--recipe", "locality-guidance" if multi_label else "fast", "--time", f"{max(1, _MINUTES // trainings)}m"]
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        fits = min(height, width) > _LEAST and max(height, width) <= _MOST
        words += ["--image-size", size_text((height, width))] if fits or height != width else []
    for key, value in {"data_dir": data_dir, **chosen}.items():
        if value is not None and value is not False:
            words += ["--" + key.replace("_", "-"), *([] if value is True else [str(value)])]
    return shlex.join(words)


def print_run(run: "Run", *, as_json: bool) -> None:
    """Print the results of a run, and its folder."""
    if not is_first():
        return
    if as_json:
        show_json({"folder": str(run.folder), **run.info})
        return
    results = run.info["results"]
    best = results["best_epoch_on_the_test_split"]
    seconds = results["training_seconds"] + results["evaluation_seconds"]
    out = console()
    how = "the last; nothing was selected"
    if results["selected_on"]:
        how = f"chosen on held-out images by {selected_by(results)}"
    alike = ""
    main = headline(results)
    if main.key == "map" or has_unequal_classes(results):
        alike = "".join(f"{name} {value}, " for name, value in class_metrics(results).items())
    out.print(
        f"test {main.short} {in_percent(run.top1)}% after epoch {results['epoch']} ({how}), {alike}"
        + (f"calibration error {in_percent(results['test_ece'])}%, " if "test_ece" in results else "")
        + duration(seconds)
    )
    if best["epoch"] != results["epoch"]:
        out.print(
            f"best epoch on the test split: {in_percent(best[f'test_{main.key}'])}% (epoch {best['epoch']}), the "
            "figure that papers print; one seed is not a result"
        )
    if (stopped := stopped_early(run.info)) is not None:
        out.print(line_of(str(stopped)), soft_wrap=True)
    for one in ended_terms(run.info, run.metrics):
        out.print(line_of(str(one)), soft_wrap=True)
    out.print(f"kept in {Path(run.folder)}", soft_wrap=True)
