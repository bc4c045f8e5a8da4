"""Write the robustness of runs: JSON, CSV, and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lgkd._internal.atomic_io import write_atomic
from lgkd._internal.csv_tables import table
from lgkd.analysis.inspect.corruptions import STRENGTHS
from lgkd.analysis.robustness.robustness import DIFFERENCES, KINDS, Effect, Level, Robustness, is_number
from lgkd.runs.compare import Difference
from lgkd.runs.compare.groups import Group
from lgkd.runs.plots import GREY, colour_of, finish, new_figure, wrapped


def as_dict(found: Robustness) -> dict[str, Any]:
    """Return everything as plain numbers and strings, as `lgkd robustness --json` shows it; accuracies from 0 to 1."""
    return {
        "format": 1,
        "measured_on": {"test_images": found.images, "scored": found.scored},
        "strengths": {kind: list(values) for kind, values in STRENGTHS.items()},
        "metrics": {
            metric: {
                "groups": [_about_group(found, metric, group) for group in found.comparison.groups],
                "differences": [
                    _about_difference(one, effects)
                    for one, effects in zip(found.comparison.differences, found.effects[metric], strict=True)
                ],
            }
            for metric in found.levels
        },
        "remarks": list(found.remarks),
    }


def _about_group(found: Robustness, metric: str, group: Group) -> dict[str, Any]:
    quantities = ("clean", "corrupted", "relative_drop", "mce", "relative_mce")
    summaries = {name: found.summary(metric, group, name) for name in quantities}
    return {
        "group": group.letter,
        "label": group.label,
        "seeds": group.seeds,
        **{name: None if one is None else {"mean": one.mean, "sd": one.sd} for name, one in summaries.items()},
        "runs": [
            {
                "folder": str(run.folder),
                "seed": run.seed,
                **{name: getattr(level, name) for name in quantities},
                "by_corruption": {kind: list(values) for kind, values in level.by_kind.items()},
            }
            for run, level in zip(group.runs, found.levels[metric][group.letter], strict=True)
        ],
    }


def _about_difference(difference: Difference, effects: Mapping[str, Effect]) -> dict[str, Any]:
    def about(effect: Effect) -> dict[str, Any]:
        images, seeds = effect.over_images, effect.over_seeds
        value = images.mean if is_number(images.mean) else None
        ends = {"value": value, "low": images.low, "high": images.high, "confidence": images.confidence}
        over_seeds = None if seeds is None or seeds.low is None else {"low": seeds.low, "high": seeds.high}
        return {**ends, "interval_over": "images", "over_seeds": over_seeds}

    by_kind = {kind: {"corrupted": about(effects[f"corrupted {kind}"]), "ce": about(effects[f"ce {kind}"])}
               for kind in KINDS}  # fmt: skip
    return {
        "group": difference.group.letter,
        "against": difference.reference.letter,
        "paired_by_seed": difference.paired,
        **{name: about(effects[name]) for name in (*DIFFERENCES, "mce", "relative_mce")},
        "by_corruption": by_kind,
    }


def write_csv(found: Robustness, path: Path) -> None:
    """Write a row for every run, metric, corruption and severity; severity 0 is the original image."""
    rows = [
        {
            "group": group.letter,
            "label": group.label,
            "seed": run.seed,
            "folder": str(run.folder),
            "metric": metric,
            "corruption": kind,
            "severity": severity,
            "strength": strength,
            "accuracy": accuracy,
        }
        for metric, levels in found.levels.items()
        for group in found.comparison.groups
        for run, level in zip(group.runs, levels[group.letter], strict=True)
        for kind, severity, strength, accuracy in _conditions(level)
    ]
    write_atomic(path, table(list(rows[0]), rows))


def _conditions(level: Level) -> list[tuple[str, int, float | str, float]]:
    corrupted = [
        (kind, severity, strength, accuracy)
        for kind, strengths in STRENGTHS.items()
        for severity, (strength, accuracy) in enumerate(zip(strengths, level.by_kind[kind], strict=True), 1)
    ]
    return [("none", 0, "", level.clean), *corrupted]


def draw_robustness(found: Robustness, path: Path) -> None:
    """Draw accuracy over severity, mean of the corruptions, and differences by corruption, as PNG.

    Balanced accuracy is drawn where the classes are of unequal size.
    """
    metric = list(found.levels)[-1]
    name = {"top1": "top-1 accuracy"}.get(metric, metric.replace("_", " "))
    differences = found.comparison.differences
    figure, axes = new_figure(1 + bool(differences), width=6.4, height=4.4)
    panels = list(axes) if differences else [axes]
    lines = [
        _draw_severities(panels[0], found.levels[metric][group.letter], colour_of(place))
        for place, group in enumerate(found.comparison.groups)
    ]
    panels[0].set(xlabel="severity (0: original images)", ylabel=f"{name}, mean over corruptions")
    panels[0].set_ylim(bottom=0)
    panels[0].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    panels[0].set_title(f"{found.images:,} test images", loc="left", fontweight="bold")
    letters = [group.letter for group in found.comparison.groups]
    rows = ("clean", "corrupted", *(f"corrupted {kind}" for kind in KINDS))
    for place, (difference, effects) in enumerate(zip(differences, found.effects[metric], strict=True)):
        shift = 0.5 * (place - (len(differences) - 1) / 2) / len(differences)
        _draw_effects(
            panels[1],
            f"{difference.group.letter} - {difference.reference.letter}",
            [effects[row] for row in rows],
            shift,
            colour_of(letters.index(difference.group.letter)),
        )
    if differences:
        panels[1].axvline(0, color=GREY, linewidth=1.2)
        panels[1].set_yticks(range(len(rows)), ["original images", "mean of corruptions", *KINDS])
        panels[1].set_ylim(len(rows) - 0.5, -0.5)
        panels[1].set_xlabel(f"difference of {name}, in points")
    # Names can be long, so that they stand above the panels and not in them.
    names = [wrapped(f"{group.letter}  {group.label}", 100 if differences else 50) for group in found.comparison.groups]
    figure.legend(lines, names, loc="outside upper left", frameon=False, fontsize=9)
    what = "thick: mean of the seeds, thin: each seed; bar: 95% bootstrap interval over images"
    figure.supxlabel(what, fontsize=8, color=GREY, x=0.98, ha="right")
    finish(figure, panels, path)


def _draw_severities(axis: Any, levels: Sequence[Level], colour: str) -> Any:
    curves = [
        [level.clean, *(sum(column) / len(column) for column in zip(*level.by_kind.values(), strict=True))]
        for level in levels
    ]
    mean = [sum(column) / len(column) for column in zip(*curves, strict=True)]
    for curve in curves:
        axis.plot(range(len(curve)), curve, color=colour, linewidth=0.8, alpha=0.45)
    axis.set_xticks(range(len(mean)))
    return axis.plot(range(len(mean)), mean, color=colour, linewidth=2.4, marker="o", markersize=4)[0]


def _draw_effects(axis: Any, label: str, effects: Sequence[Effect], shift: float, colour: str) -> None:
    for place, effect in enumerate(effects):
        found = effect.over_images
        if found.low is not None and found.high is not None:
            axis.plot([100 * found.low, 100 * found.high], [place + shift] * 2, "-", color=colour, linewidth=2.2)
        axis.plot(
            [100 * found.mean], [place + shift], "D", color=colour, markersize=6, label=label if not place else None
        )
