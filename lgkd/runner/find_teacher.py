"""Find trained teachers in the store, and the folder of one to be trained. No torch."""

import json
import os
import shlex
from collections.abc import Collection
from pathlib import Path

from lgkd._internal.text import safe_text
from lgkd.data.catalogue import CATALOGUE
from lgkd.data.names import Subset, dataset_key, folder_word, subset_word
from lgkd.data.sources.source import find_source, is_source
from lgkd.errors import InputError, LgkdError, MissingError, MissingTeacherError, TakenError
from lgkd.models.registry import canonical, find
from lgkd.models.teacher_card import Accuracy, TeacherCard, card_size
from lgkd.models.teacher_store import CARD, find_card, list_cards, put_back, read_card, teacher_folder
from lgkd.runs.early_stop import trained_epochs
from lgkd.runs.folder import RUN, STUDENT, is_finished, read_run, read_student


def teacher_name(architecture: str, subset: str | None) -> str:
    """Return the name of a trained teacher: its architecture, and the subset if it saw only a part."""
    name = folder_word(canonical(architecture))
    return name if subset is None else f"{name}--{subset_word(subset)}"


def find_trained_teacher(
    name: str, dataset: str | Path, *, subset: str | None = None, elsewhere: bool = False
) -> tuple[TeacherCard, Path]:
    """Find the card and folder of a trained teacher.

    A teacher of the same subset takes precedence over one of all images; of a fold only its own counts.

    Args:
        name: an architecture, a teacher's name in the store, or the folder of a finished run.
        dataset: a named data set or a folder of images.
        subset: its `text`.
        elsewhere: accept one that is stored under another data set's name and has the classes of this folder; whether
            it was trained on the same images is known once they are decoded, see `of_these_images`.

    Raises:
        MissingTeacherError: there is none; it holds the command that trains it.
        MissingError: there is no such folder.
        InputError: the run in that folder is not finished, damaged, or cannot be a teacher.
        ModelError: the name is not possible for a teacher.
    """
    if (run := _named_run(name)) is not None:
        return card_of_run(run), run
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
    if elsewhere and (found := of_these_classes(name, dataset, subset=subset)):
        return found[0]
    if (Path(name) / RUN).is_file():
        return card_of_run(Path(name).resolve()), Path(name).resolve()
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


def of_these_classes(name: str, dataset: str | Path, *, subset: str | None = None) -> list[tuple[TeacherCard, Path]]:
    """List stored teachers of a name that have the classes of a folder of images, those of the same subset first.

    Of a fold of a cross-validation only its own teachers count: others may have seen the images that it is tested on.
    """
    part = Subset.parse(subset) if subset is not None else None
    folded = part is not None and part.folds is not None
    names = list(dict.fromkeys((teacher_name(name, subset), *([] if folded else [teacher_name(name, None)]))))
    cards = [found for found in list_cards()[0] if found[0].name in names]
    if not cards or (isinstance(dataset, str) and dataset in CATALOGUE) or not is_source(dataset):
        return []
    try:
        classes = list(find_source(dataset, offline=True).listing(fault=lambda _: None).classes)
    except MissingError:  # not downloaded yet, or a package that reads it is not installed
        return []
    fitting = [found for found in cards if found[0].classes == classes]
    return sorted(fitting, key=lambda found: names.index(found[0].name))


def of_these_images(card: TeacherCard, fingerprints: Collection[str]) -> tuple[TeacherCard, Path] | None:
    """Find a stored teacher with a card's name that was trained on the images of a fingerprint, under any name."""
    stored = (found for found in list_cards()[0] if found[0].name == card.name)
    return next((found for found in stored if found[0].fingerprint in fingerprints), None)


def _named_run(name: str) -> Path | None:
    """Return the folder that a path names; None for a name, which the store is searched for first."""
    if os.sep not in name and not name.startswith((".", "~")):
        return None
    place = Path(name).expanduser()
    if not place.is_dir():
        raise MissingError(f"there is no folder {name}; expected a finished run's, or a teacher's name, as --teacher")
    return place.resolve()


def is_run(folder: Path) -> bool:
    """Return whether a teacher's folder is that of a run, and not of a store."""
    return not (folder / CARD).is_file()


def card_of_run(folder: Path) -> TeacherCard:
    """Describe the student of a finished run as a teacher; its layers are chosen when it is loaded.

    Raises:
        InputError: the run is not finished or damaged, its student was made in Python.
    """
    info, about = read_run(folder), read_student(folder)
    if about["name"] is None:
        raise InputError(
            f"{folder} is the run of a {about.get('class')} made in Python; give distill() an lgkd.Teacher of the "
            "module instead"
        )
    try:
        data, results = info["dataset"], info["results"]
        return TeacherCard(
            name=teacher_name(about["name"], data["subset"]),
            architecture=about["name"],
            dataset=data["name"],
            fingerprint=data["fingerprint"],
            classes=about["classes"],
            images=data["train_images"],
            subset=data["subset"],
            image_size=card_size(about["image_size"]),
            mean=about["mean"],
            std=about["std"],
            taps=[],
            accuracy=Accuracy(
                top1=results["test_exact_match" if data.get("multi_label") else "test_top1"],
                balanced_accuracy=results.get("test_balanced_accuracy"),
                map=results.get("test_map"),
                split="test",
                epoch=results["epoch"],
                epochs=trained_epochs(info),
                selected_on=results.get("selected_on"),
            ),
            recipe=info["recipe"],
            seed=info["seed"],
            parameters=info["student"]["parameters"],
            weights_sha256=about["weights_sha256"],
            lgkd_version=info["lgkd"],
            torch_version="",
            created=info["started"],
        )
    except (KeyError, TypeError, ValueError) as error:
        reason = safe_text(" ".join(str(error).split()), 200)
        raise InputError(
            f"{folder / RUN} does not describe a finished run ({reason}); it is damaged, take it from a copy"
        ) from None


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
