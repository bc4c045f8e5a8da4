"""Print the end of a training: accuracy, folder, report, and the next command for a teacher."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from lgkd._internal.launch import is_first
from lgkd._internal.metric_rules import headline
from lgkd.cli.compare import show_comparison
from lgkd.cli.display import console, duration, line_of, say, show_json
from lgkd.errors import LgkdError
from lgkd.runs.class_results import class_metrics, has_unequal_classes, selected_by
from lgkd.runs.ended_terms import ended_terms
from lgkd.runs.statistics import in_percent

_LEAST, _MOST = 32, 96
"""Sides of images, in pixels, between which vit_128 follows its teacher's."""

if TYPE_CHECKING:
    from lgkd.runner.run import Run
    from lgkd.runner.sweep import Series


_PARTS = ("fraction", "images_per_class", "folds", "fold")
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
    # One that ends this evening, whatever the teacher took.
    words = ["lgkd", "distill", "--student", "vit_128", "--teacher", name, "--dataset", dataset]
    words += ["--recipe", "locality-guidance" if about.get("multi_label") else "fast", "--time", "45m"]
    side = info["student"]["image_size"][0]
    words += ["--image-size", str(side)] if _LEAST < side <= _MOST else []
    given = {"data_dir": data_dir, **{key: options.get(key) for key in _PARTS}}
    if about["subset"]:
        given["subset_seed"] = options.get("subset_seed") or None
    for key, value in given.items():
        words += [] if value is None else ["--" + key.replace("_", "-"), str(value)]
    part = f" ({about['subset']})" if about["subset"] else ""
    console().print(
        line_of(f"as teacher {name} for {about['name']}{part} in the store; next: {shlex.join(words)}"), soft_wrap=True
    )


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
    for one in ended_terms(run.info, run.metrics):
        out.print(line_of(str(one)), soft_wrap=True)
    out.print(f"kept in {Path(run.folder)}", soft_wrap=True)
