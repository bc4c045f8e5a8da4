"""Resolve the options of a training: recipe, subset, teachers, folders. No torch, so that errors come at once."""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from lgkd._internal.text import did_you_mean
from lgkd.config import Recipe, load_recipe
from lgkd.config.length_rules import without_teacher
from lgkd.config.overrides import try_overrides
from lgkd.config.problems import Problem, dotted, in_order
from lgkd.config.trackers import check_trackers
from lgkd.data.groups import COLUMN, Groups
from lgkd.data.names import Subset, parse_side
from lgkd.data.sources.source import Source, find_source
from lgkd.errors import InputError, MissingError, RecipeError
from lgkd.models.registry import canonical, find
from lgkd.models.teacher_card import TeacherCard
from lgkd.runner.find_teacher import find_trained_teacher, free_place, is_run
from lgkd.runner.initial_weights import InitialWeights, find_initial
from lgkd.runner.options import OPTIONS, Options
from lgkd.runner.run_folder import recipe_name, run_folder
from lgkd.runner.selection import check_early_stopping, check_selection, has_val
from lgkd.runner.time_budget import check_time
from lgkd.runner.timm_teacher import TimmTeacher, timm_teachers
from lgkd.runs.folder import RECIPE

if TYPE_CHECKING:
    from torch import nn

    from lgkd.data.dataset import DataSet
    from lgkd.models.teacher import Teacher

Role = Literal["teacher", "student"]

_TYPED_AS = {
    "schedule.epochs": "--epochs",
    "batch_size": "--batch-size",
    "view.image_size": "--image-size",
    "view.channels": "--channels",
    "precision": "--precision",
    "early_stopping.patience": "--patience",
}


@dataclass(frozen=True)
class ResolvedConfig:
    """Hold the checked settings of one training; torch is not imported, and no image is read.

    Attributes:
        role: "teacher" or "student".
        model: the name of the model to train, or a module.
        model_options: passed to its constructor.
        dataset: a name, a folder, or a loaded `DataSet`.
        options: see `Options`.
        recipe: complete, with every option applied.
        subset: of the training images.
        groups: of which whole ones are held out; None: images are.
        teachers: of the guides; of a named one its card and folder.
        taps: layers of the student; None for its default ones.
        folder: of the run, or of all runs of a sweep.
        store: destination of a trained teacher; None for a student.
        replace: whether a teacher in the store is replaced.
        call: `teachers` by name and all other arguments for `lgkd resume`; None where something has no name.
        initial: the trained weights that it starts from; None: from untrained ones.
        fitted: time to which the number of steps was fitted, as run.json stores it; None where it was not.
    """

    role: Role
    model: "str | nn.Module"
    model_options: Mapping[str, Any]
    dataset: "str | Path | DataSet"
    options: Options
    recipe: Recipe
    subset: Subset
    groups: Groups | None
    teachers: "tuple[Teacher | tuple[TeacherCard, Path] | TimmTeacher, ...]"
    taps: tuple[str, ...] | None
    folder: Path
    store: Path | None
    replace: bool
    call: Mapping[str, Any] | None
    initial: InitialWeights | None = None
    fitted: Mapping[str, Any] | None = None

    @property
    def seed(self) -> int:
        """Return the seed of weights, order and augmentation."""
        return self.options.get("seed") or 0

    @property
    def model_name(self) -> str:
        """Return the model's canonical name, or the class of a module."""
        return canonical(self.model) if isinstance(self.model, str) else type(self.model).__name__

    @property
    def teacher_names(self) -> list[str]:
        """Return the names of the guiding teachers in the store; the class of a module without a card."""
        return [_teacher_name(teacher) for teacher in self.teachers]

    def with_resolved(self, *, options: Options, recipe: Recipe | None = None) -> "ResolvedConfig":
        """Replace the options, and perhaps the recipe that they lead to."""
        return replace(self, options=options, recipe=self.recipe if recipe is None else recipe)

    def with_options(self, **options: Unpack[Options]) -> "ResolvedConfig":
        """Replace options that no resolved value depends on: callbacks, the seed, the folder."""
        chosen: Options = {**self.options, **options}
        return replace(self, options=chosen, folder=Path(options.get("out") or self.folder))


def resolve(
    role: Role,
    model: "str | nn.Module",
    dataset: "str | Path | DataSet",
    options: Options,
    *,
    model_options: Mapping[str, Any] | None = None,
    teachers: "Sequence[str | Teacher]" = (),
    taps: Sequence[str] | None = None,
    replace: bool = False,
    store: Path | None = None,
    several: bool = False,
) -> ResolvedConfig:
    """Check options against names, the schema and the store, and resolve them.

    Args:
        role, model, dataset, options, model_options, taps: see `ResolvedConfig`.
        teachers: names of the guiding teachers, or loaded ones.
        replace: a teacher of that name in the store may be replaced.
        store: folder DATASET/NAME for a teacher, even if it exists; the user's store is then neither read
            nor changed, and the run cannot be resumed by its folder alone.
        several: the folder is that of several seeds.

    Raises:
        InputError: an impossible option; MissingError: something is missing; TakenError: a folder is taken.
    """
    unknown = sorted(options.keys() - OPTIONS.keys())
    if unknown:
        raise InputError(f"there is no option {unknown[0]!r}; {did_you_mean(unknown[0], OPTIONS)}")
    elsewhere = store is not None
    arguments = dict(model_options or {})
    _check_plain(arguments, f"{role} options", scalars=role == "teacher")
    if (seed := options.get("seed") or 0) < 0:
        raise InputError(f"the seed is {seed}, expected 0 or more")
    if several and not isinstance(model, str):
        raise InputError(
            f"the student is a {type(model).__name__}, which can be trained once; for several seeds give a name or "
            "package.module:factory, so that each starts with a new one"
        )
    if isinstance(model, str):
        find(model)
    source = dataset if isinstance(dataset, str | Path) else dataset.name
    if isinstance(dataset, str | Path):
        found_source = check_dataset(dataset, options.get("data_dir"), offline=bool(options.get("offline")))
        found_source.check()  # before a missing teacher is reported
        if options.get("folds") is not None and options.get("groups") is None and found_source.group_column():
            options = {**options, "groups": COLUMN}
    check_time(options)
    recipe = resolve_recipe(
        options["recipe"],
        trains=role,
        guided=bool(teachers),
        epochs=options.get("epochs"),
        batch_size=options.get("batch_size"),
        image_size=options.get("image_size"),
        channels=options.get("channels"),
        precision=options.get("precision"),
        patience=options.get("patience"),
        overrides=options.get("overrides") or (),
    )
    val = functools.partial(has_val, dataset)
    check_selection(options.get("select_by"), options.get("val_fraction"), has_val=val)
    check_early_stopping(recipe.early_stopping, options.get("val_fraction"), has_val=val)
    check_extra(options.get("extra"), options.get("extra_share"))
    check_cached(options.get("cached"), guided=bool(teachers), approximate=bool(options.get("approximate")))
    if (side := options.get("stored_side")) is not None:
        parse_side(side)
    check_trackers(options.get("track") or ())
    initial = find_initial(
        options.get("init"),
        with_optimizer=bool(options.get("with_optimizer")),
        offline=bool(options.get("offline")),
    )
    groups = Groups.parse(options.get("groups"))
    subset = Subset.from_options(options)
    folded = subset.folds is not None and subset.fold is None
    if folded and not several:
        raise InputError(
            f"--folds {subset.folds} is several trainings; name the fold of this one, like fold=1, or train all by "
            "train_series, distill_series or the command line"
        )
    others = timm_teachers(teachers, options.get("teacher_weights"))
    # Of several folds the teachers of all are looked for, before the first is trained.
    found, *_ = [
        [
            others[number] if number in others
            else find_trained_teacher(one, source, subset=part.text, elsewhere=True) if isinstance(one, str)
            else one
            for number, one in enumerate(teachers)
        ]
        for part in (subset.each_fold if folded else [subset])
    ]  # fmt: skip
    folder = options.get("out") or run_folder(
        model if isinstance(model, str) else type(model).__name__,
        source,
        subset.text,
        "+".join(_teacher_name(teacher, folded=folded) for teacher in found) or None,
        options["recipe"],
        None if several else seed,
        options.get("extra"),
        initial.place if initial is not None else None,
    )
    if role == "teacher" and not elsewhere:
        if not isinstance(model, str):
            raise InputError("a teacher is stored by name; give a name or package.module:factory, not a module")
        # Each of several folds is stored under its own name; its place is looked up with its own options.
        store = None if folded else free_place(model, source, subset.text, replace=replace, run=Path(folder))
    call, named = None, isinstance(model, str) and isinstance(dataset, str | Path) and not elsewhere
    if named and all(isinstance(teacher, str) for teacher in teachers):
        named_as = [
            str(one[1]) if isinstance(one, tuple) and is_run(one[1]) else name
            for name, one in zip(teachers, found, strict=True)
        ]
        call = {"teachers": named_as, "taps": list(taps) if taps is not None else None, "replace": replace}
    return ResolvedConfig(
        role=role,
        model=model,
        model_options=arguments,
        dataset=dataset,
        options=options,
        recipe=recipe,
        subset=subset,
        groups=groups,
        teachers=tuple(found),
        taps=tuple(taps) if taps is not None else None,
        folder=Path(folder),
        store=store,
        replace=replace or elsewhere,
        call=call,
        initial=initial,
    )


def _teacher_name(teacher: Any, *, folded: bool = False) -> str:
    if isinstance(teacher, tuple):
        # Each fold has its own, of this architecture.
        return str(teacher[0].architecture if folded else teacher[0].name)
    if isinstance(teacher, TimmTeacher):
        return teacher.name
    card = getattr(teacher, "card", None)
    return card.name if card else type(getattr(teacher, "model", teacher)).__name__


def _check_plain(options: Mapping[str, Any], what: str, *, scalars: bool) -> None:
    """Refuse options that cannot be stored, without which the model could not be rebuilt."""
    try:
        json.dumps(options, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: {error}; expected plain numbers, words, true or false") from None
    odd = [key for key, value in options.items() if not isinstance(value, bool | int | float | str)]
    if scalars and odd:
        raise InputError(f"{what}: {odd[0]} is {options[odd[0]]!r}, expected a number, a word, true or false")


def check_dataset(source: str | Path, data_dir: str | Path | None = None, *, offline: bool = False) -> Source:
    """Find the source of a data set, and check that `data_dir` is a folder; their content is checked later.

    Raises:
        InputError: neither a name nor a folder or file.
        MissingError: no folder `data_dir`.
    """
    found = find_source(source, data_dir=data_dir, offline=offline)
    if data_dir is not None and not Path(data_dir).expanduser().is_dir():
        raise MissingError(f"there is no folder {data_dir}; expected one that holds {source}, as --data-dir")
    return found


def check_extra(extra: str | Path | None, share: float | None) -> None:
    """Check that extra images are in a folder, and their share is valid; the content is checked later.

    Raises:
        InputError: a share without images, or one out of range.
        MissingError: no folder `extra`.
    """
    if share is not None and not 0 < share < 1:
        raise InputError(f"--extra-share is {share:g}, expected a number between 0 and 1")
    if extra is None:
        if share is not None:
            raise InputError(f"--extra-share {share:g} has no images to be a share of; name their folder with --extra")
        return
    if not Path(extra).expanduser().is_dir():
        raise MissingError(f"there is no folder {extra}; expected one that holds CLASS/*, as --extra")


def check_cached(
    where: str | Path | Sequence[str | Path] | None, *, guided: bool = True, approximate: bool = False
) -> None:
    """Check that caches are "auto" or folders; their content is checked later.

    Raises:
        InputError: there is no teacher, or `approximate` without a cache.
        MissingError: no such folder.
    """
    if where is None:
        if approximate:
            raise InputError("--approximate allows what a cache cannot follow exactly; it needs --cached")
        return
    if not guided:
        raise InputError("--cached is for a guided student; here is no teacher")
    for folder in [where] if isinstance(where, str | Path) else where:
        if where != "auto" and not Path(folder).expanduser().is_dir():
            raise MissingError(
                f"there is no folder {folder}; expected one that `lgkd cache-teacher` made, or --cached auto"
            )


def resolve_recipe(
    recipe: str | Path | Recipe,
    *,
    trains: str,
    guided: bool,
    epochs: int | None = None,
    batch_size: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    precision: str | None = None,
    patience: int | None = None,
    overrides: Sequence[str] = (),
) -> Recipe:
    """Apply the options of the command line to a recipe; `overrides` are applied last.

    A training that is made shorter or longer by `epochs` keeps its share of warm-up.

    Raises:
        RecipeError: a mistake in the recipe or an override, or a recipe for another purpose.
    """
    name, given_recipe = recipe_name(recipe), recipe
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    given: dict[str, object] = {
        "schedule.epochs": epochs,
        "batch_size": batch_size,
        "view.image_size": list(image_size) if isinstance(image_size, tuple) else image_size,
        "view.channels": channels,
        "precision": precision,
        "early_stopping.patience": patience,
    }
    given = {key: value for key, value in given.items() if value is not None}
    chosen = [f"{key}={value}" for key, value in given.items()]
    if epochs is not None and recipe.schedule.epochs is not None:
        share = recipe.schedule.warmup_epochs / recipe.schedule.epochs
        chosen.append(f"schedule.warmup_epochs={round(share * max(epochs, 0), 4)}")
    elif epochs is not None:
        chosen.append("schedule.steps=null")
    # One call, so that all mistakes are reported at once.
    changed = try_overrides(recipe, [*chosen, *overrides])
    if isinstance(changed, list):
        raise RecipeError(_as_typed(changed, given, overrides))
    recipe = changed
    if recipe.trains != trains:
        raise RecipeError(f"the recipe {name} trains a {recipe.trains}, expected one for a {trains}; "
                          "`lgkd recipes` lists what each is for")  # fmt: skip
    if guided and recipe.guide is None:
        raise RecipeError(f"the recipe {name} has no guide, so nothing would be distilled; use one with a guide, like "
                          "locality-guidance, or train without a teacher by `lgkd train`")  # fmt: skip
    terms = recipe.guide.terms if recipe.guide is not None else ()
    # Earlier versions began such runs, which are resumed by the recipe in their folders.
    resumed = isinstance(given_recipe, Path) and given_recipe.name == RECIPE
    if guided and not resumed and not any(term.reads_teacher for term in terms):
        titles = ", ".join(term.title for term in terms)
        raise RecipeError(f"the terms of the recipe {name} ({titles}) read the student alone, so no teacher would be "
                          "run; train without one by `lgkd train`, or add a term that reads a teacher")  # fmt: skip
    if not guided and recipe.guide is not None:
        # The recipe stored beside the weights must describe the training.
        recipe = without_teacher(recipe)
    return recipe


def _as_typed(problems: Sequence[Problem], given: Mapping[str, object], overrides: Sequence[str]) -> str:
    """Format the mistakes with the names of the typed options; a single one on one line."""
    typed = [f"{override.partition('=')[0].strip()}." for override in overrides]
    lines = []
    for problem in in_order(problems):
        key = dotted(problem.path)
        if not key or any(one.startswith(f"{key}.") for one in typed):
            lines.append(f"--set {problem}")
        else:
            lines.append(f"{_TYPED_AS[key]} {problem.message}" if key in given else str(problem))
    return lines[0] if len(lines) == 1 else f"{len(lines)} problems with the options\n  " + "\n  ".join(lines)
