"""Complete names of students, teachers, data sets, recipes and runs in a shell. No torch in here.

Completion runs while a user types, so it prints nothing and never fails; without a match the shell offers files.
"""

from collections.abc import Iterable
from pathlib import Path

from lgkd._internal.metric_rules import SELECTING
from lgkd._internal.paths import recipe_names, teachers_folder
from lgkd.config.options import COMPILE
from lgkd.config.trackers import KNOWN
from lgkd.data.catalogue import CATALOGUE
from lgkd.errors import LgkdError
from lgkd.experiments.catalogue import EXPERIMENTS
from lgkd.models.registry import MODELS, names
from lgkd.models.teacher_store import list_cards
from lgkd.runs.folder import RUN

_PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def students(incomplete: str) -> list[str]:
    """List students, by all their names."""
    return _starting(_with_aliases(names("student")), incomplete)


def teachers(incomplete: str) -> list[str]:
    """List architectures of teachers."""
    return _starting(_with_aliases(names("teacher")), incomplete)


def trained_teachers(incomplete: str) -> list[str]:
    """List trained teachers, the user's own first; architectures where the user has none."""
    try:
        found = list_cards()[0]
    except (LgkdError, OSError):
        found = []
    found.sort(key=lambda one: teachers_folder() in one[1].parents)
    if not found or teachers_folder() in found[0][1].parents:
        return teachers(incomplete)
    cards = [card for card, _ in found]
    return _starting(dict.fromkeys(word for card in cards for word in (card.architecture, card.name)), incomplete)


def models(incomplete: str) -> list[str]:
    """List students and teachers."""
    return _starting(_with_aliases(names()), incomplete)


def shown_teachers(incomplete: str) -> list[str]:
    """List architectures of teachers, and trained teachers."""
    return sorted({*teachers(incomplete), *trained_teachers(incomplete)})


def datasets(incomplete: str) -> list[str]:
    """List named data sets."""
    return _starting(CATALOGUE, incomplete)


def recipes(incomplete: str) -> list[str]:
    """List the shipped recipes."""
    return _starting(recipe_names(), incomplete)


def experiments(incomplete: str) -> list[str]:
    """List named experiments."""
    return _starting(EXPERIMENTS, incomplete)


def trackers(incomplete: str) -> list[str]:
    """List trackers."""
    return _starting(KNOWN, incomplete)


def precisions(incomplete: str) -> list[str]:
    """List number formats."""
    return _starting(_PRECISIONS, incomplete)


def compiled(incomplete: str) -> list[str]:
    """List what can be compiled."""
    return _starting(COMPILE, incomplete)


def selecting_metrics(incomplete: str) -> list[str]:
    """List metrics that may select the epoch."""
    return _starting(SELECTING, incomplete)


def runs(incomplete: str) -> list[str]:
    """List folders of runs and of sweeps: those below runs/, or below the typed folder."""
    typed = incomplete if "/" in incomplete else f"runs/{incomplete}"
    above = Path(typed.rpartition("/")[0] or "/")
    try:
        found = [path for path in above.iterdir() if (path / RUN).is_file() or any(path.glob(f"*/{RUN}"))]
    except OSError:
        return []
    prefix = incomplete if "/" in incomplete or "runs/".startswith(incomplete) else typed
    return sorted(str(path) for path in found if str(path).startswith(prefix))


def _with_aliases(canonical: Iterable[str]) -> list[str]:
    return [word for name in canonical for word in (name, *MODELS[name].aliases)]


def _starting(words: Iterable[str], incomplete: str) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]
