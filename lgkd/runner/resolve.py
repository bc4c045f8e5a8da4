"""What choices are called and where they lead; no torch, so that a wrong one is told at once."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lgkd.config import Recipe, apply_overrides, load_recipe
from lgkd.config.trackers import check_trackers
from lgkd.data.image_folder import check_some_image
from lgkd.data.locations import known_or_folder
from lgkd.data.names import WITHOUT, dataset_key, folder_word, subset_words
from lgkd.errors import InputError, LgkdError, MissingError, RecipeError, TakenError
from lgkd.models.registry import canonical, find
from lgkd.models.teacher_card import TeacherCard, find_card, put_back, read_card, teacher_folder
from lgkd.runs.folder import STUDENT, is_finished

_TYPED_AS = {
    "schedule.epochs": "--epochs",
    "batch_size": "--batch-size",
    "view.image_size": "--image-size",
    "precision": "--precision",
}


@dataclass(frozen=True)
class Settled:
    """Choices that were found to be possible before anything heavy is imported or read.

    Attributes:
        recipe: complete, with every choice put in.
        subset: the part of the training images, in words; None for all of them.
        store: where a teacher that is to be trained will be kept; None for students.
        cards: of the teachers that guide, as far as they were named.
    """

    recipe: Recipe
    subset: str | None
    store: Path | None
    cards: tuple[TeacherCard, ...]


def settle(
    role: str,
    model: str | None,
    dataset: str | Path | None,
    options: Mapping[str, Any],
    *,
    teachers: Sequence[str] = (),
    guided: bool = False,
    replace: bool = False,
) -> Settled:
    """Check whatever names, the schema and the store can tell; the command line asks before it imports torch.

    Args:
        role: "teacher" or "student".
        model: its name; None for a module made in Python.
        dataset: its name or folder; None for one loaded in Python.
        options: as in `lgkd.runner.runner.Options`.
        teachers: the names of those that guide.
        guided: whether any teacher guides.
        replace: a teacher of that name in the store may be exchanged.

    Raises:
        InputError: a choice that cannot be; MissingError: one that is not here; TakenError: one that is taken.
    """
    if (seed := options.get("seed") or 0) < 0:
        raise InputError(f"the seed is {seed}, expected 0 or more")
    if model is not None:
        find(model)
    if dataset is not None:
        check_dataset(dataset, options.get("data_dir"))
        if (folder := known_or_folder(dataset)) is not None:
            check_some_image(folder)  # before a teacher for it is missed
    recipe = resolve_recipe(
        options["recipe"],
        trains=role,
        guided=guided,
        epochs=options.get("epochs"),
        batch_size=options.get("batch_size"),
        image_size=options.get("image_size"),
        precision=options.get("precision"),
        overrides=options.get("overrides") or (),
    )
    check_extra(options.get("extra"), options.get("extra_share"))
    check_cached(options.get("cached"), guided=guided, approximate=bool(options.get("approximate")))
    check_trackers(options.get("track") or ())
    subset = subset_words(
        options.get("fraction"),
        options.get("images_per_class"),
        options.get("subset_seed") or 0,
        leaves_out=bool(options.get("leave_out_near_copies")),
    )
    store = None
    if role == "teacher" and model is not None and dataset is not None:
        folder = options.get("out") or run_folder(
            model, dataset, subset, None, options["recipe"], options.get("seed") or 0, options.get("extra")
        )
        store = free_place(model, dataset, subset, replace=replace, run=Path(folder))
    cards = []
    if dataset is not None:
        cards = [find_trained_teacher(teacher, dataset, subset=subset)[0] for teacher in teachers]
    return Settled(recipe, subset, store, tuple(cards))


def check_dataset(source: str | Path, data_dir: str | Path | None = None) -> None:
    """A data set must be a known name or a folder, and `data_dir` a folder; what lies in them is looked at later.

    Raises:
        InputError: neither a name nor a folder.
        MissingError: no folder `data_dir`.
    """
    known_or_folder(source)
    if data_dir is not None and not Path(data_dir).expanduser().is_dir():
        raise MissingError(f"there is no folder {data_dir}; expected one that holds {source}, as --data-dir")


def check_extra(extra: str | Path | None, share: float | None) -> None:
    """Extra images must lie in a folder, and a share be a share of them; what lies there is looked at later.

    Raises:
        InputError: a share of nothing, or one out of range.
        MissingError: no folder `extra`.
    """
    if share is not None and not 0 < share < 1:
        raise InputError(f"--extra-share is {share:g}, expected a number between 0 and 1")
    if extra is None:
        if share is not None:
            raise InputError(f"--extra-share {share:g} is a share of no images; name their folder with --extra")
        return
    if not Path(extra).expanduser().is_dir():
        raise MissingError(f"there is no folder {extra}; expected one that holds CLASS/*, as --extra")


def check_cached(
    where: str | Path | Sequence[str | Path] | None, *, guided: bool = True, approximate: bool = False
) -> None:
    """Caches must be "auto" or folders; what lies in them is looked at later.

    Raises:
        InputError: nothing guides, or `approximate` without a cache.
        MissingError: no such folder.
    """
    if where is None:
        if approximate:
            raise InputError("--approximate allows what a cache cannot follow exactly; it needs --cached")
        return
    if not guided:
        raise InputError("--cached is for a guided student; here no teacher guides")
    for folder in [where] if isinstance(where, str | Path) else where:
        if where != "auto" and not Path(folder).expanduser().is_dir():
            raise MissingError(
                f"there is no folder {folder}; expected one that `lgkd cache-teacher` made, or --cached auto"
            )


def free_place(
    architecture: str, dataset: str | Path, subset: str | None, *, replace: bool, run: Path | None = None
) -> Path:
    """The new teacher's folder in the store; refused before hours are spent, not after.

    Args:
        architecture, dataset, subset: of the teacher.
        replace: one of that name may be exchanged.
        run: the folder of the run; the teacher that lies there may be the one that it has put there, before it died.

    Raises:
        TakenError: there is one of that name, and `replace` is False.
    """
    place = teacher_folder(teacher_name(architecture, subset), dataset_key(dataset))
    put_back(place)
    if place.exists() and not replace and not (run is not None and _has_put(run, place)):
        raise TakenError(
            f"a teacher {place.name} for {place.parent.name} is already in the store ({place}{_saw(place)}); it was "
            "not touched. Use it as it is, or exchange it with --replace; if it saw other images, in a folder of the "
            "same name, rename yours"
        )
    return place


def _has_put(run: Path, place: Path) -> bool:
    """Whether the teacher at a place is the one of a run that was trained to its end and not finished."""
    try:
        # Read as it is: only a finished run's student.json is one that is vouched for.
        student = json.loads((run / STUDENT).read_text(encoding="utf-8"))
        return not is_finished(run) and student["weights_sha256"] == read_card(place).weights_sha256
    except (InputError, OSError, ValueError, KeyError, TypeError):
        return False


def _saw(place: Path) -> str:
    """What a teacher of the store was trained on, as its card says; nothing where that cannot be read."""
    try:
        card, _ = find_card(place.name, place.parent.name)
    except LgkdError:
        return ""
    return f", of {card.images:,} images in {len(card.classes)} classes"


def run_folder(
    model: str,
    dataset: str | Path,
    subset: str | None,
    by: str | None,
    recipe: str | Path | Recipe,
    seed: int | None,
    extra: str | Path | None = None,
) -> Path:
    """Where a run goes if nobody says: runs/ in the working folder, named after the choices.

    Args:
        model: a name of the catalogue or a class.
        dataset: a named data set or a folder.
        subset: in the words of `subset_words`.
        by: the teacher.
        recipe: its name is used.
        seed: of the run; None for the folder of several seeds.
        extra: the folder of extra images.
    """
    parts = [folder_word(canonical(model)), dataset_key(dataset)]
    if subset is not None:
        parts.append(folder_word(subset))
    if extra is not None:
        parts.append(f"with-{dataset_key(Path(extra))}")
    if by is not None:
        parts.append(f"by-{folder_word(by)}")
    parts.append(recipe_name(recipe))
    return Path("runs") / "_".join(parts if seed is None else [*parts, f"seed{seed}"])


def recipe_name(recipe: str | Path | Recipe) -> str:
    """What a recipe is called: its shipped name or its file's, "custom" for an object."""
    return "custom" if isinstance(recipe, Recipe) else Path(recipe).stem


def resolve_recipe(
    recipe: str | Path | Recipe,
    *,
    trains: str,
    guided: bool,
    epochs: int | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    precision: str | None = None,
    overrides: Sequence[str] = (),
) -> Recipe:
    """A recipe with the choices of the command line put in; `overrides` come last and win.

    A training made shorter or longer by `epochs` keeps its share of warm-up.

    Raises:
        RecipeError: a mistake in the recipe or an override, or a recipe for another purpose.
    """
    name = recipe_name(recipe)
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    given: dict[str, object] = {
        "schedule.epochs": epochs,
        "batch_size": batch_size,
        "view.image_size": image_size,
        "precision": precision,
    }
    given = {key: value for key, value in given.items() if value is not None}
    chosen = [f"{key}={value}" for key, value in given.items()]
    if epochs is not None:
        share = recipe.schedule.warmup_epochs / recipe.schedule.epochs
        chosen.append(f"schedule.warmup_epochs={round(share * max(epochs, 0), 4)}")
    try:
        # One call, so that all mistakes are told at once.
        recipe = apply_overrides(recipe, [*chosen, *overrides])
    except RecipeError as error:
        raise RecipeError(_as_typed(str(error), given, overrides)) from None
    if recipe.trains != trains:
        raise RecipeError(f"the recipe {name} trains a {recipe.trains}, expected one for a {trains}; "
                          "`lgkd recipes` lists what each is for")  # fmt: skip
    if guided and recipe.guide is None:
        raise RecipeError(f"the recipe {name} has no guide, so nothing would be distilled; use one that has, such as "
                          "locality-guidance, or train without a teacher by `lgkd train`")  # fmt: skip
    if not guided and recipe.guide is not None:
        # What is written beside the weights must be what was done.
        recipe = recipe.model_copy(update={"guide": None})
    return recipe


def _as_typed(message: str, given: Mapping[str, object], overrides: Sequence[str]) -> str:
    """The mistakes by the names of the options that were typed; a single one on one line."""
    keys = {override.partition("=")[0].strip() for override in overrides}
    lines = []
    for line in message.splitlines()[1:]:
        path, colon, rest = line.strip().partition(": ")
        if colon and path in given and path not in keys:
            lines.append(f"{_TYPED_AS[path]} {rest}")
        elif colon and path not in keys:
            lines.append(line.strip())
        else:
            lines.append(f"--set {line.strip()}")
    return lines[0] if len(lines) == 1 else f"{len(lines)} problems with the options\n  " + "\n  ".join(lines)


def teacher_name(architecture: str, subset: str | None) -> str:
    """What a trained teacher is kept as: its architecture, and the subset if it saw only a part."""
    name = folder_word(canonical(architecture))
    return name if subset is None else f"{name}--{folder_word(subset)}"


def find_trained_teacher(name: str, dataset: str | Path, *, subset: str | None = None) -> tuple[TeacherCard, Path]:
    """The card and folder of a trained teacher.

    The one that saw the same subset comes first; failing that, the one that saw everything.

    Args:
        name: an architecture, or the name that a teacher is kept under.
        dataset: a named data set or a folder of images.
        subset: in the words of `subset_words`.

    Raises:
        MissingError: there is none; the message holds the command that makes it.
        ModelError: no teacher could have that name.
    """
    key = dataset_key(dataset)
    try:
        return find_card(teacher_name(name, subset), key)
    except MissingError as error:
        missing = error
    if subset is not None:
        try:
            return find_card(teacher_name(name, None), key)
        except MissingError:
            pass
    architecture = name.partition("--")[0]
    find(architecture)
    _, trained_for, known = str(missing).partition("; trained for")
    raise MissingError(
        f"no teacher {name!r} is trained for {dataset} yet; make it with: "
        f"lgkd train-teacher {architecture} {shlex.quote(str(dataset))}{_subset_options(subset)}{trained_for}{known}"
    )


def _subset_options(subset: str | None) -> str:
    """The options of the command line that choose a subset, from its words."""
    if subset is None:
        return ""
    part, without = subset.removesuffix(WITHOUT).removesuffix(", "), subset.endswith(WITHOUT)
    left = " --leave-out-near-copies" if without else ""
    if not part:
        return left
    amount, _, seed = part.partition(", seed ")
    words = amount.split()
    chosen = f" --fraction {words[1]}" if words[0] == "fraction" else f" --images-per-class {words[0]}"
    return chosen + (f" --subset-seed {seed}" if seed != "0" else "") + left
