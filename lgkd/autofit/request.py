"""Describe what a user asks of a fit: the arguments that determine what is trained. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lgkd._internal.text import did_you_mean
from lgkd.autofit.inputs import Wishes
from lgkd.autofit.plan import Plan
from lgkd.config import Recipe
from lgkd.data.names import Subset, dataset_key, folder_word, place_of
from lgkd.errors import InputError
from lgkd.models.registry import canonical, find
from lgkd.runner.options import OPTIONS, Options
from lgkd.runner.resolve import check_dataset, resolve_recipe
from lgkd.runner.run_folder import recipe_name
from lgkd.runner.selection import check_early_stopping, has_val
from lgkd.runner.time_budget import check_time, parse_time
from lgkd.runs.compare.layout import check_seeds

TIME = "1h"
"""Time where neither it nor a number of epochs is given."""
NOT_HERE = ("cached", "approximate", "force")
"""Options of a training that a fit does not have."""
_OWN = ("recipe", "image_size", "batch_size", "overrides", "seed", "time", "out")
"""Options whose value is of one training."""


@dataclass(frozen=True)
class Request:
    """Hold the arguments of a fit, checked by names alone.

    Attributes:
        dataset: a name or a folder of images.
        options: of trainings; `recipe`, `image_size` and `overrides` are those of the students.
        student, teacher: architectures; None leaves the choice to the rules.
        student_options: of the student's constructor.
        teacher_recipe, teacher_image_size, teacher_overrides: of the teacher.
        baseline: whether the student is trained unguided, too.
        seeds: of the students.
        flip: whether images are mirrored left to right.
    """

    dataset: str | Path
    options: Options
    student: str | None = None
    teacher: str | None = None
    student_options: Mapping[str, Any] = field(default_factory=dict)
    teacher_recipe: str | Path | Recipe = "teacher-fast"
    teacher_image_size: int | tuple[int, int] | None = None
    teacher_overrides: tuple[str, ...] = ()
    baseline: bool = False
    seeds: tuple[int, ...] = (0,)
    flip: bool = True

    def __post_init__(self) -> None:
        """Check names, recipes, seeds and the time.

        Raises:
            InputError: what is impossible.
        """
        wrong = [name for name in self.options if name not in OPTIONS or name in NOT_HERE]
        if wrong:
            raise InputError(f"lgkd.fit has no option {wrong[0]!r}; {did_you_mean(wrong[0], OPTIONS)}")
        if not isinstance(self.dataset, str | Path):
            raise InputError(
                f"the data set is a {type(self.dataset).__name__}, expected a name or a folder; a report reads it again"
            )
        check_dataset(self.dataset, self.options.get("data_dir"))
        check_seeds(self.seeds)
        for model in (self.student, self.teacher):
            if model is not None:
                find(model)
        check_time(self.options)
        _ = self.wishes

    @property
    def seconds(self) -> float | None:
        """Return the time of the whole fit; None where epochs or steps are given."""
        time = self.options.get("time")
        if time is None and self.options.get("epochs") is not None:
            return None
        return parse_time(time or TIME)

    @property
    def folds(self) -> tuple[int | None, ...]:
        """Return the folds of a cross-validation that are trained for in turn; a single None without."""
        subset = Subset.from_options(self.options)
        return (None,) if subset.fold is not None else tuple(one.fold for one in subset.each_fold) or (None,)

    @property
    def trainings(self) -> int:
        """Return the number of students of a kind: one for each seed and fold."""
        return len(self.seeds) * len(self.folds)

    @property
    def recipe(self) -> str | Path | Recipe:
        """Return the students' recipe."""
        return self.options.get("recipe") or "fast"

    @property
    def baseline_overrides(self) -> tuple[str, ...]:
        """Return the changes of the recipe for the unguided student: a rate that is better for it, unless one is given.

        dev/LOG.md, 2026-11-28: on held-out images Muon was best at 1e-2 with a guide and at 3e-3 without one.
        """
        given = [one.replace(" ", "") for one in self.options.get("overrides") or ()]
        if recipe_name(self.recipe) != "fast" or any(one.startswith("optimizer.") for one in given):
            return ()
        return ("optimizer.lr=3e-3",)

    @property
    def folder(self) -> Path:
        """Return the folder of the fit."""
        out = self.options.get("out")
        if out is not None:
            return Path(out).expanduser()
        part = Subset.from_options(self.options).text
        words = ["fit", dataset_key(self.dataset), *([folder_word(part)] if part is not None else [])]
        return Path("runs") / "_".join(words)

    @property
    def wishes(self) -> Wishes:
        """Return what the rules have to respect.

        Raises:
            RecipeError: a recipe does not fit, or an override has a mistake.
            InputError: early stopping without held-out images.
        """
        own, theirs = self.options.get("overrides") or (), self.teacher_overrides
        patience = self.options.get("patience")
        student = resolve_recipe(self.recipe, trains="student", guided=True, patience=patience, overrides=own)
        teacher = resolve_recipe(
            self.teacher_recipe, trains="teacher", guided=False, patience=patience, overrides=theirs
        )
        for recipe in (teacher, student):
            check_early_stopping(recipe.early_stopping, self.options.get("val_fraction"), lambda: has_val(self.dataset))
        names = recipe_name(self.teacher_recipe), recipe_name(self.recipe)
        return Wishes(
            seconds=self.seconds,
            epochs=self.options.get("epochs"),
            baseline=self.baseline,
            seeds=self.seeds,
            flip=self.flip,
            student=self.student,
            teacher=self.teacher,
            student_options=self.student_options,
            recipe=(names[1], student.batch_size),
            teacher_recipe=(names[0], teacher.batch_size),
            custom_recipes=names != ("teacher-fast", "fast"),
            image_size=self.options.get("image_size"),
            teacher_image_size=self.teacher_image_size,
            batch_size=self.options.get("batch_size"),
        )

    def teacher_options(self, plan: Plan, fold: int | None = None) -> Options:
        """Return the options of the teacher's training, without its folder and its time."""
        return {
            **self._common(plan, fold),
            "recipe": self.teacher_recipe,
            "image_size": plan.teacher_image_size,
            "batch_size": plan.teacher_batch_size,
            "overrides": [*plan.overrides, *self.teacher_overrides],
            "seed": self.seeds[0],
        }

    def student_training(self, plan: Plan, seconds: float | None, fold: int | None = None) -> Options:
        """Return the options of the students' trainings, without folder and seed.

        Args:
            plan: of the fit.
            seconds: of one training; None where its length is known.
            fold: of `folds`.
        """
        return {
            **self._common(plan, fold),
            "recipe": self.recipe,
            "image_size": plan.image_size,
            "batch_size": plan.batch_size,
            "overrides": [*plan.overrides, *plan.student_overrides, *(self.options.get("overrides") or ())],
            **({"time": seconds} if seconds is not None else {}),
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the arguments that determine what is trained, as JSON values."""
        place = place_of(self.dataset) or str(self.dataset)
        ours = {name: _plain(value) for name, value in self.options.items() if _is_compared(name) and value is not None}
        ours = {name: value for name, value in ours.items() if value != OPTIONS[name].default and value != []}
        return {
            **ours,
            "dataset": place,
            "student": None if self.student is None else canonical(self.student),
            "teacher": None if self.teacher is None else canonical(self.teacher),
            "student_options": dict(self.student_options),
            "recipe": _plain(self.recipe),
            "teacher_recipe": _plain(self.teacher_recipe),
            "teacher_image_size": _plain(self.teacher_image_size),
            "teacher_overrides": list(self.teacher_overrides),
            "time": self.seconds,
            "baseline": self.baseline,
            "seeds": list(self.seeds),
            "flip": self.flip,
        }

    def _common(self, plan: Plan, fold: int | None) -> Options:
        ours: Options = {name: value for name, value in self.options.items() if name not in _OWN}  # type: ignore[assignment]
        if fold is not None:
            ours["fold"] = fold
        if plan.stored_side is not None and ours.get("stored_side") is None:
            ours["stored_side"] = plan.stored_side
        return ours


def _is_compared(name: str) -> bool:
    return OPTIONS[name].compared is not None and name not in ("recipe", "time", "seed")


def _plain(value: Any) -> Any:
    if isinstance(value, Recipe):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
