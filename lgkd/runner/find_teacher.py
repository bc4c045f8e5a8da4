"""Find trained teachers in the store, and the folder of one to be trained. No torch."""

import json
import shlex
from pathlib import Path

from lgkd.data.names import Subset, dataset_key, folder_word, subset_word
from lgkd.errors import InputError, LgkdError, MissingTeacherError, TakenError
from lgkd.models.registry import canonical, find
from lgkd.models.teacher_card import TeacherCard, find_card, put_back, read_card, teacher_folder
from lgkd.runs.folder import STUDENT, is_finished


def teacher_name(architecture: str, subset: str | None) -> str:
    """Return the name of a trained teacher: its architecture, and the subset if it saw only a part."""
    name = folder_word(canonical(architecture))
    return name if subset is None else f"{name}--{subset_word(subset)}"


def find_trained_teacher(name: str, dataset: str | Path, *, subset: str | None = None) -> tuple[TeacherCard, Path]:
    """Find the card and folder of a trained teacher.

    A teacher of the same subset takes precedence over one of all images; of a fold only its own counts.

    Args:
        name: an architecture, or a teacher's name in the store.
        dataset: a named data set or a folder of images.
        subset: its `text`.

    Raises:
        MissingTeacherError: there is none; it holds the command that trains it.
        ModelError: the name is not possible for a teacher.
    """
    key = dataset_key(dataset)
    try:
        return find_card(teacher_name(name, subset), key)
    except MissingTeacherError as error:
        others = error.others
    part = Subset.parse(subset) if subset is not None else None
    # A teacher of other images than those of the fold may have seen the ones that the student is tested on.
    if subset is not None and (part is None or part.folds is None):
        try:
            return find_card(teacher_name(name, None), key)
        except MissingTeacherError:
            pass
    architecture = name.partition("--")[0]
    find(architecture)
    chosen = part.command_options if part is not None else ""
    command = " ".join(word for word in ("lgkd train-teacher", architecture, shlex.quote(str(dataset)), chosen) if word)
    known = f"; trained for {key}: {', '.join(others)}" if others else ""
    of_it = f" without fold {part.fold} of {part.folds}" if part is not None and part.folds is not None else ""
    raise MissingTeacherError(
        f"no teacher {name!r} is trained for {dataset}{of_it} yet; make it with: {command}{known}",
        name=name, dataset=key, command=command, others=others,
    )  # fmt: skip


def free_place(
    architecture: str, dataset: str | Path, subset: str | None, *, replace: bool, run: Path | None = None
) -> Path:
    """Return the new teacher's folder in the store; refused before hours are spent, not after.

    Args:
        architecture, dataset, subset: of the teacher.
        replace: whether one of that name may be replaced.
        run: the folder of the run; a teacher in the store may come from this run, before it died.

    Raises:
        TakenError: there is one of that name, and `replace` is False.
    """
    place = teacher_folder(teacher_name(architecture, subset), dataset_key(dataset))
    put_back(place)
    if place.exists() and not replace and not (run is not None and _has_put(run, place)):
        raise TakenError(
            f"a teacher {place.name} for {place.parent.name} is already in the store ({place}{_saw(place)}); it was "
            "not touched. Use it as it is, or replace it with --replace; if it saw other images, in a folder of the "
            "same name, rename yours"
        )
    return place


def _has_put(run: Path, place: Path) -> bool:
    """Return whether a stored teacher comes from a run that was trained to its end and not finished."""
    try:
        # Read without verification: only a finished run's student.json has a manifest.
        student = json.loads((run / STUDENT).read_text(encoding="utf-8"))
        return not is_finished(run) and student["weights_sha256"] == read_card(place).weights_sha256
    except (InputError, OSError, ValueError, KeyError, TypeError):
        return False


def _saw(place: Path) -> str:
    """Describe the training data of a stored teacher from its card; "" where that cannot be read."""
    try:
        card, _ = find_card(place.name, place.parent.name)
    except LgkdError:
        return ""
    return f", of {card.images:,} images in {len(card.classes)} classes"
