"""Describe what a user asks of a sweep: the space, the trainings, and the budget. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lgkd._internal.metric_rules import SELECT_BY, SELECT_LABELS_BY
from lgkd._internal.text import did_you_mean, safe_text
from lgkd.config import Recipe
from lgkd.data.catalogue import CATALOGUE
from lgkd.data.names import Subset, dataset_key, folder_word
from lgkd.data.sources.source import find_source
from lgkd.errors import InputError, MissingError, RecipeError
from lgkd.models.registry import canonical, find
from lgkd.runner.options import OPTIONS, Options
from lgkd.runner.resolve import check_dataset, resolve_recipe
from lgkd.runner.run_folder import recipe_name
from lgkd.runner.selection import check_selection
from lgkd.tuning.space import Space, assignments

NOT_HERE = ("recipe", "time", "folds", "fold", "force")
"""Options of a training that a sweep does not have."""


@dataclass(frozen=True)
class SweepRequest:
    """Hold the arguments of a sweep, checked by names alone.

    Attributes:
        recipe: whose settings are searched.
        dataset: a name or a folder of images.
        student: its name.
        space: the searched keys.
        options: of every training; `val_fraction` is the share that judges, `overrides` are not searched.
        teachers: names of trained teachers; none: the student is unguided.
        student_options: of the student's constructor.
        taps: layers of the student; None for its default ones.
        trials: most trainings, those of earlier calls included.
        seconds: no trial is started that would probably take the sum of all trials' time beyond this; None: no limit.
        prune: whether a trial is ended that is worse than the median of the earlier ones at the same epoch.
    """

    recipe: str | Path | Recipe
    dataset: str | Path
    student: str
    space: Space
    options: Options
    teachers: tuple[str, ...] = ()
    student_options: Mapping[str, Any] = field(default_factory=dict)
    taps: tuple[str, ...] | None = None
    trials: int = 20
    seconds: float | None = None
    prune: bool = False

    def __post_init__(self) -> None:
        """Check names, recipe, space and budget.

        Raises:
            InputError: what is impossible.
            MissingError: Optuna is not installed.
        """
        check_optuna_is_here()
        wrong = [name for name in self.options if name not in OPTIONS or name in NOT_HERE]
        if wrong:
            known = [name for name in OPTIONS if name not in NOT_HERE]
            raise InputError(f"lgkd sweep has no option {wrong[0]!r}; {did_you_mean(wrong[0], known)}")
        if self.options.get("val_fraction") is None:
            raise InputError("a sweep judges settings on held-out images, and there are none; give --val-fraction 0.2")
        if not 1 <= self.trials <= 10_000:
            raise InputError(f"--trials is {self.trials}, expected 1 to 10000")
        check_dataset(self.dataset, self.options.get("data_dir"))
        find(self.student)
        check_selection(self.options.get("select_by"), self.options.get("val_fraction"))
        self.resolved({})
        for key, part in self.space.items():
            for value in part.ends:
                try:
                    self.resolved({key: value})
                except RecipeError as error:
                    raise RecipeError(f"--search {key}={safe_text(str(part))} cannot be used: {error}") from None

    def resolved(self, values: dict[str, Any]) -> Recipe:
        """Return the recipe of a trial with these values.

        Raises:
            RecipeError: they do not fit.
        """
        options = self.options
        return resolve_recipe(
            self.recipe,
            trains="student",
            guided=bool(self.teachers),
            epochs=options.get("epochs"),
            batch_size=options.get("batch_size"),
            image_size=options.get("image_size"),
            precision=options.get("precision"),
            patience=options.get("patience"),
            overrides=self.overrides(values),
        )

    def overrides(self, values: dict[str, Any]) -> list[str]:
        """Return the overrides of a trial: the user's, then its own."""
        return [*(self.options.get("overrides") or ()), *assignments(self.space, values)]

    @property
    def metric(self) -> str:
        """Return the metric on held-out images that judges a trial, a key of `SELECTING`."""
        if (given := self.options.get("select_by")) is not None:
            return str(given)
        several = find_source(self.dataset, data_dir=self.options.get("data_dir"), offline=True).multi_label()
        return next(iter(SELECT_LABELS_BY if several else SELECT_BY))

    @property
    def seed(self) -> int:
        """Return the seed of the trainings, and of the search."""
        return self.options.get("seed") or 0

    @property
    def folder(self) -> Path:
        """Return the folder of the sweep."""
        out = self.options.get("out")
        if out is not None:
            return Path(out).expanduser()
        part = Subset.from_options(self.options).text
        words = ["sweep", folder_word(canonical(self.student)), dataset_key(self.dataset)]
        words += [folder_word(part)] if part is not None else []
        words += ["by-" + "+".join(map(folder_word, self.teachers))] if self.teachers else []
        return Path("runs") / "_".join([*words, recipe_name(self.recipe)])

    def as_dict(self) -> dict[str, Any]:
        """Return the arguments that determine a trial, as JSON values; the budget may be changed between two calls."""
        place = str(self.dataset)
        if place not in CATALOGUE:
            place = str(Path(place).expanduser().resolve())
        given = {name: _plain(value) for name, value in self.options.items() if OPTIONS[name].compared is not None}
        ours = {name: value for name, value in given.items() if value not in (None, [], OPTIONS[name].default)}
        return {
            **ours,
            "dataset": place,
            "student": canonical(self.student),
            "student_options": dict(self.student_options),
            "teachers": list(self.teachers),
            "taps": None if self.taps is None else list(self.taps),
            "recipe": self.resolved({}).model_dump(mode="json", exclude={"about", "source", "expect"}),
            "seed": self.seed,
            "search": {key: str(part) for key, part in self.space.items()},
            "prune": self.prune,
        }


def check_optuna_is_here() -> None:
    """Check that the extra is installed, without importing it.

    Raises:
        MissingError: it is not installed.
    """
    if find_spec("optuna") is None:
        raise MissingError("a sweep needs optuna, which is not installed; get it with: pip install 'lgkd[sweep]'")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
