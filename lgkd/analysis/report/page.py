"""Build a report as one self-contained HTML page: no script, no request, pictures embedded."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from lgkd import __version__
from lgkd._internal.metric_rules import MAP, shows_top5
from lgkd.analysis.report import predictions, sentences
from lgkd.analysis.report.command import command, notes
from lgkd.analysis.report.context import Keep, Known, Shown
from lgkd.analysis.report.figures import draw_accuracy, draw_losses, loss_parts
from lgkd.analysis.report.html import blocks
from lgkd.analysis.report.labels import label_scores
from lgkd.analysis.report.metrics import Curve, curve_of
from lgkd.runs.class_results import LABEL_METRICS, in_words
from lgkd.runs.statistics import in_percent

GENERATOR = '<meta name="generator" content="lgkd report">'
"""Tag by which a report is recognised."""


_ABOUT = {
    "top1": "Share of the test images whose class comes first.",
    "map": "Mean over the classes of the average precision with which test images are ranked.",
}


class Part(NamedTuple):
    """Represent a section of the page: its name in links, its heading, and its content."""

    name: str
    title: str
    blocks: Sequence[Markup]


def write_page(known: Known, keep: Keep) -> str:
    """Build the whole page; `keep` is given its figures."""
    parts = [
        Part("summary", "Summary", _summary(known)),
        Part("curves", f"{known.chosen.main.headline.title} over the epochs", _curves(known, keep)),
        Part("loss", "Parts of the loss", _losses(known, keep)),
        *_answered(known, keep),
        *_facts(known),
    ]
    info = known.chosen.main.info
    title = f"{sentences.who(info)}, on {info['dataset']['name']}"
    return str(blocks.page(title, sentences.when([run.info for run in known.chosen.ours.runs]), parts, __version__))


def _summary(known: Known) -> list[Markup]:
    chosen, results = known.chosen, known.chosen.main.info["results"]
    single = len(chosen.ours.runs) == 1
    main = chosen.ours.headline
    several = main == MAP
    of_seeds = "" if single else ", mean of seeds"
    key = [(f"test {main.key_figure}{of_seeds}", f"{in_percent(chosen.ours.top1.mean)}%")]
    for name, title in LABEL_METRICS.items():
        if several and (found := chosen.ours.metric(name)) is not None:
            key.append((f"{title}{of_seeds}", in_words(name, found.mean)))
    balanced = chosen.ours.metric("balanced_accuracy") if chosen.ours.unequal else None
    if balanced is not None:
        key.append((f"balanced accuracy{'' if single else ', mean of seeds'}", f"{in_percent(balanced.mean)}%"))
    difference = chosen.difference
    if difference is not None:
        gain = difference.interval
        key.append(("gain, points" if gain.count > 1 else "gain, points, one seed", in_percent(gain.mean, signed=True)))
        if gain.low is not None and gain.high is not None:
            low, high = (in_percent(end, signed=True) for end in (gain.low, gain.high))
            key.append(("95% interval of the gain", f"{low} to {high}"))
        alike = difference.interval_of("balanced_accuracy") if difference.unequal else None
        if alike is not None:
            key.append(("gain in balanced accuracy, points", in_percent(alike.mean, signed=True)))
    if shows_top5(len(known.classes)) and not several:
        key.append((f"among the first five, seed {chosen.main.seed}", f"{in_percent(results['test_top5'])}%"))
    if not several:
        key.append((f"calibration error, seed {chosen.main.seed}", f"{in_percent(results['test_ece'])}%"))
    return [blocks.paragraphs(sentences.summary(chosen)), blocks.tiles(key)]


def _curves(known: Known, keep: Keep) -> list[Markup]:
    chosen = known.chosen
    ours = curve_of(chosen.ours.runs)
    if ours is None:
        return [blocks.paragraphs(["The test split was not evaluated during the training."])]
    theirs = curve_of(chosen.baseline.runs) if chosen.baseline is not None else None
    name = "guided" if chosen.ours.guided else "this run"
    main = chosen.main.headline
    first, last = (f"{in_percent(ours.mean[place])}% at epoch {ours.epochs[place]:g}" for place in (0, -1))
    text = f"From {first} to {last}"
    bands = " Bands go from the lowest to the highest seed." if ours.seeds > 1 or (theirs and theirs.seeds > 1) else ""
    picture = Shown(
        "curves",
        draw_accuracy(ours, theirs, name, main.name),
        f"{main.title} on the test split over the epochs",
        f"{text}; the baseline ends at {in_percent(theirs.mean[-1])}%." if theirs else f"{text}.",
        f"{_ABOUT[main.key]}{bands}",
    )
    columns, rows = ["epoch"], [[f"{epoch:g}"] for epoch in ours.epochs]
    for who, curve in ((name, ours), ("baseline", theirs)):
        if curve is not None:
            columns += [who] if curve.seeds == 1 else [f"{who}, mean", "lowest", "highest"]
            for row, epoch in zip(rows, ours.epochs, strict=True):
                row += _at(curve, epoch)
    listed = blocks.table(f"{main.title} over the epochs", columns, rows)
    return [picture.html(keep), blocks.folded("The same as a table", listed)]


def _at(curve: Curve, epoch: float) -> list[str]:
    """Return the cells of one epoch."""
    columns = [curve.mean] if curve.seeds == 1 else [curve.mean, curve.low, curve.high]
    if epoch not in curve.epochs:
        return [""] * len(columns)
    return [f"{in_percent(column[curve.epochs.index(epoch)])}%" for column in columns]


def _losses(known: Known, keep: Keep) -> list[Markup]:
    rows = known.chosen.main.rows
    parts = loss_parts(rows)
    if not parts:
        return [blocks.paragraphs(["This run did not record parts of its loss."])]
    ends = [(part.removeprefix("loss_").replace("_", " "), *_ends(rows, part)) for part in parts]
    picture = Shown(
        "loss",
        draw_losses(rows),
        "Parts of the training loss over the epochs",
        "; ".join(f"{name} from {first} to {last}" for name, first, last in ends) + ".",
        f"Seed {known.chosen.main.seed}: means over the training batches of an epoch, before weights; each part has "
        "its own scale.",
    )
    listed = blocks.table("Parts of the loss", ("part", "first epoch", "last epoch"), ends)
    return [picture.html(keep), blocks.folded("First and last epoch as a table", listed)]


def _ends(rows: Sequence[Mapping[str, float]], key: str) -> tuple[str, str]:
    values = [row[key] for row in rows if key in row]
    return f"{values[0]:.4g}", f"{values[-1]:.4g}"


def _answered(known: Known, keep: Keep) -> list[Part]:
    """Build the parts that need predictions for the test images."""
    ours = known.answers
    if known.chosen.main.headline == MAP:
        return [Part("classes", "Class by class", label_scores(known))]
    parts = (
        ("classes", "Class by class", predictions.classes),
        ("confusion", "Confusion matrix", predictions.confusions),
        ("calibration", "Calibration", predictions.calibration),
    )
    if ours is None or known.images is None:
        return [Part(name, title, [blocks.paragraphs([known.why_not])]) for name, title, _ in parts]
    which = [blocks.paragraphs([f"Measured on {known.scored}."])] if known.scored else []
    found = [Part(name, title, [*which, *write(known, ours, keep)]) for name, title, write in parts]
    changed = predictions.examples(known, ours, known.images)
    return [*found, Part("examples", "Mistakes corrected and added", changed)]


def _facts(known: Known) -> list[Part]:
    """Build the parts on cost, reproduction and environment."""
    main = known.chosen.main
    line = command(known.chosen, out="again")
    if line is None:
        lost = "This run was started in Python from objects that have no name; repeat that call. Its recipe is below."
        again = [blocks.paragraphs([lost])]
    else:
        before, after = notes(known.chosen)
        again = [blocks.paragraphs([before]), blocks.text([line]), blocks.paragraphs([after])]
    costs = sentences.cost(main.info, main.rows, main.folder)
    made_with = sentences.environment(known.env)
    return [
        Part("cost", "Cost", [blocks.table(f"Cost of the run of seed {main.seed}", (), costs, words=2)]),
        Part("again", "How to reproduce it", again),
        Part("recipe", "Recipe", [blocks.text(known.recipe.split("\n"))]),
        Part("environment", "Environment", [blocks.table("Where it was trained", (), made_with, words=2)]),
    ]
