"""Build the parts of a report on the epochs: accuracy on the test split, and the parts of the training loss."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from lgkd.analysis.report.context import Keep, Known, Shown
from lgkd.analysis.report.figures import Line, draw_accuracy, draw_losses, loss_parts
from lgkd.analysis.report.html import blocks
from lgkd.analysis.report.metrics import Curve, curve_of
from lgkd.analysis.report.selection import Chosen
from lgkd.analysis.report.sentences import name_of
from lgkd.runs.plots import BLUE, ORANGE
from lgkd.runs.statistics import in_percent

_ABOUT = {
    "top1": "Share of the test images whose class comes first.",
    "map": "Mean over the classes of the average precision with which test images are ranked.",
}
_BALANCED = "test_balanced_accuracy"


def curves(known: Known, keep: Keep) -> list[Markup]:
    """Build the main metric over the epochs; for classes of unequal size balanced accuracy as well."""
    lines = accuracy_lines(known.chosen)
    if not lines:
        why = "The test split was not evaluated during the training, or not after the same epochs in all runs."
        return [blocks.paragraphs([why])]
    main, units = known.chosen.main.headline, known.chosen.ours.units
    many = any(line.curve.seeds > 1 for line in lines)
    bands = f" Bands go from the lowest to the highest {units.removesuffix('s')}." if many else ""
    balanced = " Balanced accuracy, dashed, is the mean of the classes." if any(line.dashed for line in lines) else ""
    picture = Shown(
        "curves",
        draw_accuracy(lines, units, panels=len(loss_parts(known.chosen.main.rows)), metric=main.title.lower()),
        f"{main.title} on the test split over the epochs",
        "; ".join(f"{line.name} {_course(line.curve)}" for line in lines) + ".",
        f"{_ABOUT[main.key]}{balanced}{bands}",
    )
    columns, rows = ["epoch"], [[f"{epoch:g}"] for epoch in lines[-1].curve.epochs]
    for line in reversed(lines):
        columns += [line.name] if line.curve.seeds == 1 else [f"{line.name}, mean", "lowest", "highest"]
        for row, epoch in zip(rows, lines[-1].curve.epochs, strict=True):
            row += _at(line.curve, epoch)
    listed = blocks.table(f"{main.title} over the epochs", columns, rows)
    return [picture.html(keep), blocks.folded("The same as a table", listed)]


def accuracy_lines(chosen: Chosen) -> list[Line]:
    """Return the lines of the figure, that of the reported runs last; none where nothing was measured."""
    ours, baseline = chosen.ours, chosen.baseline
    name = "guided" if ours.guided else "this run"
    groups = [(ours, name, ORANGE)] if baseline is None else [(baseline, "baseline", BLUE), (ours, name, ORANGE)]
    unequal = ours.unequal or (baseline is not None and baseline.unequal)
    found, main = [], f"test_{chosen.main.headline.key}"
    for group, called, colour in groups:
        for key, dashed in ((_BALANCED, True), (main, False)) if unequal else ((main, False),):
            curve = curve_of(group.runs, key)
            if curve is not None:
                found.append(Line(f"{called}, balanced" if dashed else called, curve, colour, dashed))
    return found if found and not found[-1].dashed and found[-1].colour == ORANGE else []


def _course(curve: Curve) -> str:
    first, last = (f"{in_percent(curve.mean[place])}% at epoch {curve.epochs[place]:g}" for place in (0, -1))
    return f"from {first} to {last}"


def _at(curve: Curve, epoch: float) -> list[str]:
    """Return the cells of one epoch."""
    columns = [curve.mean] if curve.seeds == 1 else [curve.mean, curve.low, curve.high]
    if epoch not in curve.epochs:
        return [""] * len(columns)
    return [f"{in_percent(column[curve.epochs.index(epoch)])}%" for column in columns]


def losses(known: Known, keep: Keep) -> list[Markup]:
    """Build the unweighted parts of the training loss over the epochs."""
    rows = known.chosen.main.rows
    parts = loss_parts(rows)
    if not parts:
        return [blocks.paragraphs(["This run did not record parts of its loss."])]
    ends = [(part.removeprefix("loss_").replace("_", " "), *_ends(rows, part)) for part in parts]
    which = name_of(known.chosen.main)
    picture = Shown(
        "loss",
        draw_losses(rows),
        "Parts of the training loss over the epochs",
        "; ".join(f"{name} from {first} to {last}" for name, first, last in ends) + ".",
        f"{which[0].upper()}{which[1:]}: means over the training batches of an epoch, before weights; each part has "
        "its own scale.",
    )
    listed = blocks.table("Parts of the loss", ("part", "first epoch", "last epoch"), ends)
    return [picture.html(keep), blocks.folded("First and last epoch as a table", listed)]


def _ends(rows: Sequence[Mapping[str, float]], key: str) -> tuple[str, str]:
    values = [row[key] for row in rows if key in row]
    return f"{values[0]:.4g}", f"{values[-1]:.4g}"
