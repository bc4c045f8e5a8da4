"""Find, read and write trained teachers in their folders.

A teacher is a folder `DATASET/NAME/` with `card.json` and `weights.safetensors`. No torch here,
so that listing teachers takes milliseconds.
"""

import re
import secrets
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from lgkd._internal.atomic_io import sha256_of, write_atomic
from lgkd._internal.locks import locked_folder
from lgkd._internal.manifest import compare, read_manifest
from lgkd._internal.paths import home, teachers_folder
from lgkd._internal.text import safe_text
from lgkd.errors import DamagedError, InputError, MissingTeacherError
from lgkd.models.teacher_card import TeacherCard, safe

CARD = "card.json"
WEIGHTS = "weights.safetensors"
MAX_BYTES = 16_000_000

# Earlier versions of lgkd ended it with a point and a process number.
_ASIDE = re.compile(r"\.(.+?)(?:-[0-9a-f]{16}|\.\d+)\.old")


def teacher_folder(name: str, dataset: str) -> Path:
    """Return the folder of this teacher in the user's store; it need not exist. InputError on an unsafe name."""
    return home() / "teachers" / safe_name(dataset, "data set") / safe_name(name, "teacher")


def safe_name(text: str, what: str = "name") -> str:
    """Return `text` if it can name a folder; raise InputError otherwise.

    Args:
        text: the given name.
        what: its description in the message.
    """
    try:
        return safe(text)
    except ValueError as error:
        raise InputError(f"{text!r} cannot name a {what}'s folder: it {error}") from None


def find_card(name: str, dataset: str) -> tuple[TeacherCard, Path]:
    """Find the card and folder of a trained teacher: in the user's store, else among those with lgkd.

    Raises:
        MissingTeacherError: there is no such teacher; the error has the command that trains it.
        InputError: an unsafe name, or a card that cannot be read or belongs to another teacher.
    """
    kept = teacher_folder(name, dataset)
    put_back(kept)
    for folder in (kept, teachers_folder() / dataset / name):
        if (folder / CARD).is_file():
            return read_card(folder), folder
    others = tuple(sorted({card.name for card, _ in list_cards()[0] if card.dataset == dataset}))
    known = f"; trained for {dataset}: {', '.join(others)}" if others else ""
    command = f"lgkd train-teacher {name} {dataset}"
    raise MissingTeacherError(
        f"there is no teacher {name} trained on {dataset} yet; train one: {command}{known}",
        name=name, dataset=dataset, command=command, others=others,
    )  # fmt: skip


def list_cards() -> tuple[list[tuple[TeacherCard, Path]], list[tuple[Path, str]]]:
    """List all trained teachers with their folders, and the cards that cannot be read with the reason.

    Sorted by data set and name. A teacher in the user's store hides the one of the same name and
    data set that comes with lgkd, as `find_card` does.
    """
    cards: dict[tuple[str, str], tuple[TeacherCard, Path]] = {}
    broken: list[tuple[Path, str]] = []
    hidden: set[tuple[str, str]] = set()
    for aside in (home() / "teachers").glob("*/.*.old"):
        if (found := _ASIDE.fullmatch(aside.name)) is not None:
            put_back(aside.with_name(found[1]))
    for root in (home() / "teachers", teachers_folder()):
        # Hidden ones are teachers that are still being stored there.
        for file in sorted(root.glob(f"[!.]*/[!.]*/{CARD}")):
            folder = file.parent
            place = (folder.parent.name, folder.name)
            if place in hidden:
                continue
            hidden.add(place)
            try:
                cards[place] = (read_card(folder), folder)
            except InputError as error:
                broken.append((file, str(error)))
    return [cards[place] for place in sorted(cards)], broken


def aside_of(place: Path) -> Path:
    """Return the path where a teacher is moved aside while another one replaces it."""
    return place.with_name(f".{place.name}-{secrets.token_hex(8)}.old")


def put_back(place: Path) -> None:
    """Restore a teacher that was moved aside by a process that ended before it could store the new one.

    Do nothing where a teacher is present, where none was moved aside, and in a read-only store.
    """
    if place.exists() or not _moved_aside(place):
        return
    with locked_folder(place.parent), suppress(OSError):  # a process that is replacing it holds the lock
        for aside in _moved_aside(place):
            if not place.exists():
                aside.rename(place)


def _moved_aside(place: Path) -> list[Path]:
    """Return the complete teachers that were moved aside from a path, the latest first."""
    found = []
    with suppress(OSError):
        for other in place.parent.iterdir():
            match = _ASIDE.fullmatch(other.name)
            if match is not None and match[1] == place.name and (other / CARD).is_file():
                found.append(other)
        found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return found


def save_card(card: TeacherCard, folder: Path) -> Path:
    """Write `card.json` into a folder, which is created if necessary, and return its path.

    The file is complete or absent, and its mode follows the umask, so that others on a shared
    machine can read it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / CARD
    write_atomic(target, card.model_dump_json(indent=2).encode() + b"\n")
    return target


def verify_weights(card: TeacherCard, folder: Path) -> Path:
    """Return the path of a teacher's weights after checking their SHA-256 against the card.

    Raises:
        DamagedError: the weights are missing, cannot be read, or are not those of the card.
    """
    file = folder / WEIGHTS
    try:
        found = sha256_of(file)
    except OSError as error:
        raise DamagedError(
            f"{file}: cannot be read ({error.strerror})",
            f"train the teacher again: lgkd train-teacher {card.name} {card.dataset}",
        ) from None
    if found != card.weights_sha256:
        raise DamagedError(
            f"{file}: has SHA-256 {found}, its card says {card.weights_sha256}; the file is damaged or another file",
            f"train it again: lgkd train-teacher {card.name} {card.dataset}",
        )
    return file


def read_card(folder: Path) -> TeacherCard:
    """Read the teacher's card in a folder DATASET/NAME.

    Raises:
        InputError: it cannot be read, does not match its manifest, or belongs to another teacher.
    """
    file = folder / CARD
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); make it readable, or remove the folder") from None
    if len(raw) > MAX_BYTES:
        raise InputError(
            f"{file}: longer than {MAX_BYTES:,} bytes; this is not a card, remove the folder and train the teacher "
            "again"
        )
    if (manifest := read_manifest(folder)) is not None:
        compare(file, manifest, raw)
    try:
        card = TeacherCard.model_validate_json(raw)
    except ValidationError as error:
        raise InputError(f"{file}: not a teacher's card: {_summary(error)}") from None
    if (card.dataset, card.name) != (folder.parent.name, folder.name):
        raise InputError(
            f"{file}: is the card of {card.name} on {card.dataset}, but is in the folder of "
            f"{folder.name} on {folder.parent.name}; move it back"
        )
    return card


def _summary(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False)
    if any(one["loc"] == ("version",) for one in found):
        return "another version of the format; this lgkd reads version 1"
    places = [".".join(safe_text(str(part)) for part in one["loc"]) for one in found]
    words = [": ".join([*filter(None, [place]), one["msg"]]) for place, one in zip(places, found, strict=True)]
    more = f"; and {len(words) - 5} more" if len(words) > 5 else ""
    text = "; ".join(words[:5]) + more
    return "".join(sign if sign.isprintable() else "?" for sign in text)
