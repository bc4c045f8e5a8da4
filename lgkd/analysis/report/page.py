"""Build a report as one self-contained HTML page: no script, no request, pictures embedded."""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from lgkd import __version__
from lgkd._internal.metric_rules import MAP
from lgkd.analysis.report import examples, predictions, sentences
from lgkd.analysis.report.context import Keep, Known
from lgkd.analysis.report.curves import curves, losses
from lgkd.analysis.report.html import blocks
from lgkd.analysis.report.labels import label_scores
from lgkd.analysis.report.reproduction import reproduction
from lgkd.analysis.report.verdict import verdict

GENERATOR = '<meta name="generator" content="lgkd report">'
"""Tag by which a report is recognised."""


class Part(NamedTuple):
    """Represent a section of the page: its name in links, its heading, and its content.

    Attributes:
        name, title, blocks: of the section.
        half: on wide pages another section is beside it.
    """

    name: str
    title: str
    blocks: Sequence[Markup]
    half: bool = False


def write_page(known: Known, keep: Keep) -> str:
    """Build the whole page; `keep` is given its figures."""
    parts = [
        Part("summary", "What was trained", [blocks.prose(sentences.summary(known.chosen))]),
        Part("curves", f"{known.chosen.main.headline.title} over the epochs", curves(known, keep), half=True),
        Part("loss", "Parts of the loss", losses(known, keep), half=True),
        *_answered(known, keep),
        *_facts(known),
    ]
    info = known.chosen.main.info
    title = f"{sentences.who(info)}, on {info['dataset']['name']}"
    return str(blocks.page(title, verdict(known), parts, __version__))


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
    mistakes = Part("mistakes", "Surest mistakes", examples.surest(known, ours, known.images))
    changed = Part("examples", "Mistakes corrected and added", examples.changed(known, ours, known.images))
    return [*found, mistakes, changed]


def _facts(known: Known) -> list[Part]:
    """Build the parts on cost, reproduction and environment."""
    main = known.chosen.main
    costs = sentences.cost(main.info, main.rows, main.folder)
    made_with = blocks.table("Where it was trained", (), sentences.environment(known.env), words=2)
    recipe, name = known.recipe.split("\n"), sentences.name_of(main)
    return [
        Part("cost", "Cost", [blocks.table(f"Cost of the run of {name}", (), costs, words=2)], half=True),
        Part(
            "settings",
            "Settings and machine",
            [blocks.folded("Recipe", blocks.text(recipe)), blocks.folded("Environment", made_with)],
            half=True,
        ),
        Part("again", "How to reproduce it", reproduction(known.chosen, known.recipe, known.again)),
    ]
