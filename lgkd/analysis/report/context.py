"""Hold the inputs of a report, and turn figures into parts of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from lgkd.analysis.report.html import blocks
from lgkd.analysis.report.selection import Chosen
from lgkd.analysis.report.sentences import name_of
from lgkd.analysis.report.svg import inline
from lgkd.data.dataset import Images
from lgkd.runs.plots import as_svg
from lgkd.training.evaluate import Answers

Keep = Callable[[str, Any], None]
"""Callback that is given each figure's name and the figure, to write it as PNG."""


@dataclass(frozen=True)
class Known:
    """Hold all inputs of a report.

    Attributes:
        chosen: the runs.
        classes: names, in order.
        answers, baseline_answers: predictions of the main run, and of the baseline beside it, for every test image;
            None where they are unknown.
        images: the test split, for examples.
        why_not: reason for missing predictions, in a sentence.
        scored: description of the images of another data set that were predicted; empty for the run's own test split.
        recipe, env: the content of the main run's files.
        again: the command that trained the runs, where it is not one of a training, such as `lgkd fit`.
    """

    chosen: Chosen
    classes: Sequence[str]
    answers: Answers | None
    baseline_answers: Answers | None
    images: Images | None
    why_not: str
    scored: str
    recipe: str
    env: Mapping[str, Any]
    again: str | None = None

    @property
    def which(self) -> str:
        """Return a sentence on the runs that are compared image by image."""
        beside = self.chosen.beside
        if beside is None:
            return ""
        ours, theirs = name_of(self.chosen.main), name_of(beside)
        return f"{ours[0].upper()}{ours[1:]} against the baseline's{'' if theirs == ours else f' {theirs}'}."


@dataclass(frozen=True)
class Shown:
    """Represent a figure with its texts.

    Attributes:
        name: of its file, and of the picture in the page.
        figure: of matplotlib.
        title, description: read aloud by screen readers.
        caption: below it.
        kind: "large" for a picture as wide as the page.
    """

    name: str
    figure: Any
    title: str
    description: str
    caption: str
    kind: str = ""

    def html(self, keep: Keep) -> Markup:
        """Return the figure as a part of the page."""
        keep(self.name, self.figure)
        name = f"{self.name}-picture"
        svg = inline(as_svg(self.figure), name)
        figure: Markup = blocks.figure(name, svg, self.title, self.description, self.caption, self.kind)
        return figure
