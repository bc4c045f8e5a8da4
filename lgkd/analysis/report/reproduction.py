"""Build the part of a report on reproduction: commands to paste, in their order, and the recipes they read."""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from lgkd._internal.text import counted
from lgkd.analysis.report.command import command, consequences, preconditions
from lgkd.analysis.report.html import blocks
from lgkd.analysis.report.selection import Chosen
from lgkd.analysis.report.teacher_command import teacher_commands
from lgkd.runs.folder import RECIPE

_OUT = "again"
_END = "END_OF_RECIPE"


class Step(NamedTuple):
    """Represent something to paste into a shell.

    Attributes:
        what: a sentence above it.
        lines: of the shell.
        fold: the summary under which they are folded; empty where they are shown.
    """

    what: str
    lines: Sequence[str]
    fold: str = ""


def reproduction(chosen: Chosen, recipe: str, again: str | None = None) -> list[Markup]:
    """Build the commands that repeat the runs of a report, those of the teachers included.

    Args:
        chosen: the runs.
        recipe: the content of the main run's recipe.yaml.
        again: the command that trained them, where it is not one of a training.
    """
    if again is not None:
        what = "Fit the same images again; where a time is given, the steps that fit in it depend on the machine."
        return [blocks.commands([Step(what, [again])])]
    line = command(chosen, out=_OUT)
    if line is None:
        lost = "This run was started in Python from objects that have no name; repeat that call. Its recipe is below."
        return [blocks.paragraphs([lost])]
    steps = [_file(RECIPE, recipe, "Write the recipe.")]
    for one in teacher_commands(chosen):
        if one.recipe is not None:
            steps.append(_file(*one.recipe, "Write the recipe of the teacher."))
        steps.append(Step(one.what, [one.line]))
    trained = "the student" if len(chosen.ours.runs) == 1 else "the students"
    steps.append(Step(f"Train {trained}. {consequences(chosen)}", [line]))
    steps.append(Step("Write this report again.", [f"lgkd report {_OUT}"]))
    needs = preconditions(chosen)
    return [*([blocks.paragraphs([needs])] if needs is not None else []), blocks.commands(steps)]


def _file(name: str, content: str, what: str) -> Step:
    """Return the shell's lines that write a file; nothing in it is expanded."""
    lines = content.rstrip("\n").split("\n")
    end = _END
    while end in lines:
        end += "_"
    return Step(what, [f"cat > {name} <<'{end}'", *lines, end], f"{name}, {counted(len(lines), 'line')}")
