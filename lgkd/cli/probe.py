"""Implement `lgkd probe`."""

from typing import TYPE_CHECKING, Annotated

import typer

from lgkd.analysis.probe.options import NEIGHBOURS, TEMPERATURE, check_options
from lgkd.cli import completion
from lgkd.cli import options as o
from lgkd.cli.display import console, say, show_json, show_table
from lgkd.runner.resolve import check_dataset
from lgkd.runs.statistics import in_percent, summarise

if TYPE_CHECKING:
    from lgkd.analysis.probe.probe import ProbeScores

_SCORES = ("knn", "knn_plain", "linear", "linear_balanced")


def probe(
    runs: o.SeriesFolders,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            help="Images to probe on, of any classes; by default those that the first run was trained on.",
            autocompletion=completion.datasets,
        ),
    ] = None,
    data_dir: o.DataDir = None,
    fraction: Annotated[float | None, o.training_option("fraction")] = None,
    images_per_class: Annotated[int | None, o.training_option("images_per_class")] = None,
    subset_seed: Annotated[int, o.training_option("subset_seed")] = 0,
    val_fraction: Annotated[
        float | None,
        typer.Option(
            "--val-fraction",
            help="Share of the training images that the linear probe's regularisation is chosen on; by default the "
            "split val, else 0.2.",
        ),
    ] = None,
    neighbours: Annotated[int, typer.Option("--neighbours", metavar="K", help="Number of neighbours.")] = NEIGHBOURS,
    temperature: Annotated[
        float, typer.Option("--temperature", help="Temperature of the weighted votes.")
    ] = TEMPERATURE,
    device: o.Device = None,
    offline: o.Offline = False,
    use: o.Use = None,
    as_json: o.Json = False,
) -> None:
    """Probe frozen features: nearest neighbours, linear.

    Each student is frozen, and classifiers are fitted to the inputs of its head: weighted
    and plain k-nearest neighbours, and logistic regression. With --dataset, of other
    images than it was trained on, which shows how far its features carry over.

    Example: lgkd probe runs/guided runs/unguided --dataset flowers/
    """
    o.bring_in(use)
    check_options(neighbours, temperature, val_fraction)
    if dataset is not None:
        check_dataset(dataset, data_dir, offline=offline)
    from lgkd.analysis.probe.probe import probe as probe_runs
    from lgkd.runs.compare.find import find_runs
    from lgkd.runs.compare.groups import group_runs

    groups = group_runs(find_runs(runs, None if as_json else say))
    folders = [run.folder for group in groups for run in group.runs]
    found = probe_runs(
        folders, dataset=dataset, data_dir=data_dir, fraction=fraction, images_per_class=images_per_class,
        subset_seed=subset_seed, val_fraction=val_fraction, neighbours=neighbours, temperature=temperature,
        device=device, offline=offline, say=say,
    )  # fmt: skip
    if as_json:
        show_json({"format": 1, "runs": [one.as_dict() for one in found]})
        return
    labels = [f"{group.label}, seed {run.seed}" for group in groups for run in group.runs]
    first = found[0]
    shown = f"{first.train_images:,} training and {first.test_images:,} test images of {first.dataset}"
    show_table(
        f"classifiers on frozen features, {shown}: top-1 in %",
        ("run", "features", f"{first.neighbours}-NN", "equal votes", "linear", "balanced"),
        [
            (label, one.width, *(in_percent(getattr(one, key)) for key in _SCORES))
            for label, one in zip(labels, found, strict=True)
        ],
        right=range(1, 6),
    )
    if len(groups) < len(found):
        _show_means([(group.label, [found.pop(0) for _ in group.runs]) for group in groups])


def _show_means(groups: "list[tuple[str, list[ProbeScores]]]") -> None:
    """Print mean and standard deviation over the seeds of each group."""
    console().print("")
    show_table(
        "mean and standard deviation over seeds",
        ("runs", "seeds", "k-NN", "sd", "linear", "sd"),
        [
            (label, len(group), *_mean([one.knn for one in group]), *_mean([one.linear for one in group]))
            for label, group in groups
        ],
        right=range(1, 6),
    )


def _mean(values: list[float]) -> tuple[str, str]:
    found = summarise(values)
    return in_percent(found.mean), "-" if found.sd is None else in_percent(found.sd)
