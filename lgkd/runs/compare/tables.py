"""Write a comparison as a CSV table and as a plot."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lgkd._internal.atomic_io import write_atomic
from lgkd._internal.csv_tables import table
from lgkd.runs.class_results import metrics_of
from lgkd.runs.compare.comparison import Comparison
from lgkd.runs.compare.groups import Group
from lgkd.runs.early_stop import trained_epochs
from lgkd.runs.plots import Measured, colour_of, draw_comparison
from lgkd.runs.statistics import Interval, Summary, summarise

_COLUMNS = (
    "row", "group", "against", "label", "seed", "seeds", "paired", "top1", "sd", "low", "high", "confidence",
    "chosen_on_held_out_top1", "best_on_test_top1", "best_on_test_epoch", "epochs", "dataset", "train_images",
    "training_seconds", "folder", "fold",
)  # fmt: skip


def write_csv(comparison: Comparison, path: Path) -> None:
    """Write a row for every run, group and difference; accuracies from 0 to 1, differences from -1 to 1.

    The column `row` holds the kind of the row. `top1` is that of the last epoch: of a run, the mean of a group, or the
    difference of two groups' means; so are those of the metrics in which every class counts alike. Of several labels an
    image the columns are `map` and so on.
    """
    main = comparison.groups[0].headline
    names = {name: name.replace("top1", main.key) for name in _COLUMNS}
    columns = [*names.values(), *metrics_of(main)]
    rows = (
        {names.get(name, name): value for name, value in row.items()} for row in _rows(comparison, metrics_of(main))
    )
    write_atomic(path, table(columns, rows))


def _rows(comparison: Comparison, metrics: Iterable[str]) -> Iterator[dict[str, Any]]:
    for group in comparison.groups:
        for run in group.runs:
            yield {
                **_facts(group),
                "row": "run",
                "seed": run.seed,
                "epochs": trained_epochs(run.info),
                "fold": "" if run.fold is None else run.fold,
                "top1": run.top1,
                "chosen_on_held_out_top1": "" if run.chosen is None else run.chosen[0],
                "best_on_test_top1": run.best[0],
                "best_on_test_epoch": run.best[1],
                "training_seconds": run.info["results"]["training_seconds"],
                "folder": str(run.folder),
                **_filled({name: run.metric(name) for name in metrics}),
            }
    for group in comparison.groups:
        yield {
            **_facts(group),
            **_interval(group.top1),
            "row": "group",
            "sd": "" if group.sd is None else group.sd,
            "seeds": " ".join(map(str, group.seeds)),
            "chosen_on_held_out_top1": "" if group.chosen is None else group.chosen.mean,
            "best_on_test_top1": group.best.mean,
            "training_seconds": summarise([run.info["results"]["training_seconds"] for run in group.runs]).mean,
            **_filled({name: group.metric(name) for name in metrics}),
        }
    for difference in comparison.differences:
        yield {
            **_interval(difference.interval),
            "row": "difference",
            "group": difference.group.letter,
            "against": difference.reference.letter,
            "label": f"{difference.group.label} - {difference.reference.label}",
            "seeds": " ".join(str(seed) for seed, _ in difference.by_seed),
            "paired": "yes" if difference.paired else "no",
            **_filled({name: difference.interval_of(name) for name in metrics}),
        }


def _filled(values: Mapping[str, float | Summary | Interval | None]) -> dict[str, Any]:
    """Return the cells of metrics, which are empty where a run did not measure them."""
    means = {name: value.mean if isinstance(value, Summary | Interval) else value for name, value in values.items()}
    return {name: "" if mean is None else mean for name, mean in means.items()}


def _facts(group: Group) -> dict[str, Any]:
    info = group.runs[0].info
    return {
        "group": group.letter,
        "label": group.label,
        "epochs": info["epochs"],
        "dataset": info["dataset"]["name"],
        "train_images": info["dataset"].get("train_images", ""),
    }


def _interval(interval: Interval) -> dict[str, Any]:
    ends = {"low": interval.low, "high": interval.high}
    sure = {} if interval.low is None else {"confidence": interval.confidence}
    return {"top1": interval.mean, **{key: "" if end is None else end for key, end in ends.items()}, **sure}


def write_picture(comparison: Comparison, path: Path) -> None:
    """Draw the groups' accuracy over the epochs, and their differences or, where there are none, the groups, as PNG."""
    groups = comparison.groups
    main = groups[0].headline.name
    colours = {group.letter: colour_of(place) for place, group in enumerate(groups)}
    if comparison.differences:
        rows = [
            _measured(
                f"{one.group.letter} - {one.reference.letter}",
                [gain for _, gain in one.by_seed],
                one.interval,
                colours[one.group.letter],
            )
            for one in comparison.differences
        ]
        what = f"difference of {main} after the last epoch, in points"
    else:
        rows = [
            _measured(group.letter, [run.top1 for run in group.runs], group.top1, colours[group.letter])
            for group in groups
        ]
        what = f"{main} after the last epoch, in %"
    info = groups[0].runs[0].info
    tested = "each fold" if groups[0].units == "folds" else f"{info['dataset']['test_images']:,} test images"
    draw_comparison(
        path,
        curves=[(f"{group.letter}  {group.label}", *_curves(group)) for group in groups],
        units=groups[0].units,
        rows=rows,
        what=what,
        signed=bool(comparison.differences),
        title=f"{info['dataset']['name']}: {tested}",
    )


def _measured(label: str, values: Sequence[float], interval: Interval, colour: str) -> Measured:
    low, high = (None if end is None else 100 * end for end in (interval.low, interval.high))
    return Measured(label, [100 * value for value in values], 100 * interval.mean, low, high, colour)


def _curves(group: Group) -> tuple[list[float], list[list[float]]]:
    """Return the epochs at which all seeds were measured, and each seed's accuracies there."""
    key = f"test_{group.headline.key}"
    measured = [{row["epoch"]: row[key] for row in run.rows if key in row} for run in group.runs]
    epochs = sorted(set(measured[0]).intersection(*measured[1:]))
    return epochs, [[curve[epoch] for epoch in epochs] for curve in measured]
