"""What a report is written from, and how a figure becomes a part of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from lgkd.analysis.report.html import blocks
from lgkd.analysis.report.selection import Chosen
from lgkd.analysis.report.svg import inline
from lgkd.data.dataset import Images
from lgkd.runs.plots import as_svg
from lgkd.training.evaluate import Answers

Keep = Callable[[str, Any], None]
"""Is given each figure's name and the figure, to write it as PNG."""


@dataclass(frozen=True)
class Known:
    """Everything that a report is written from.

    Attributes:
        chosen: the runs.
        classes: names, in order.
        answers, baseline_answers: what the main run, and the baseline beside it, say of every test image; None where
            that is not known.
        images: the test split, for examples.
        why_not: why there are no answers, in a sentence.
        scored: which images of another data set the answers are of, in words; nothing for the run's own test split.
        recipe, env: the content of the main run's files.
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

    @property
    def which(self) -> str:
        """Which runs are compared image by image, in a sentence."""
        beside = self.chosen.beside
        return f"Seed {self.chosen.main.seed} against the baseline's seed {beside.seed}." if beside else ""


@dataclass(frozen=True)
class Shown:
    """A figure with what is said of it.

    Attributes:
        name: of its file, and of the picture in the page.
        figure: of matplotlib.
        title, description: for those who do not see it.
        caption: below it.
    """

    name: str
    figure: Any
    title: str
    description: str
    caption: str

    def html(self, keep: Keep) -> Markup:
        """The figure as a part of the page."""
        keep(self.name, self.figure)
        name = f"{self.name}-picture"
        svg = inline(as_svg(self.figure), name)
        figure: Markup = blocks.figure(name, svg, self.title, self.description, self.caption)
        return figure
