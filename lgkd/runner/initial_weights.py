"""Locate the trained weights that a training starts from. No torch, so that errors come at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lgkd._internal.atomic_io import sha256_of
from lgkd.data.sources.download import is_offline
from lgkd.errors import InputError, MissingError
from lgkd.runs.folder import STUDENT, STUDENT_WEIGHTS, has_checkpoint, read_run, read_student
from lgkd.runs.hub import is_hub, pull


@dataclass(frozen=True)
class InitialWeights:
    """Describe the weights that a training starts from.

    Attributes:
        place: the folder or file, absolute.
        sha256: of the file of weights, in hex digits.
        file: of weights; None for a resumed run whose parent is gone, whose checkpoint has its weights.
        origin: the file and its model, for messages.
        classes: their names in the order of the logits; None where the file does not say.
        image_size: (height, width) of the images of their training, in pixels; None where the file does not say.
        epochs_before: epochs of the checkpoint that is continued, those of its own parents included; None: only weights
            are loaded.
        record: run.json's, of a resumed run whose parent is gone.
    """

    place: Path
    sha256: str
    file: Path | None
    origin: str = ""
    classes: tuple[str, ...] | None = None
    image_size: tuple[int, int] | None = None
    epochs_before: int | None = None
    record: Mapping[str, Any] | None = None


def find_initial(
    source: str | Path | None, *, with_optimizer: bool = False, offline: bool = False
) -> InitialWeights | None:
    """Find the weights of a finished run's folder (or an export's), of a .safetensors file, or on the hub.

    A file student.safetensors with its student.json beside it is read as its folder.

    Args:
        source: the folder or file, or hf:OWNER/NAME; None: the training starts from untrained weights.
        with_optimizer: whether the run's last checkpoint is continued.
        offline: open no connection.

    Raises:
        MissingError: there is no such file or folder.
        InputError: an unfinished run, a file of another kind, or no checkpoint where it is continued.
    """
    if source is None:
        if with_optimizer:
            raise InputError("--with-optimizer continues from a checkpoint; name the run's folder with --init")
        return None
    if is_hub(source):
        source = pull(source, offline=is_offline(offline))
    place = Path(source).expanduser().resolve()
    if not place.exists():
        raise MissingError(
            f"there is nothing at {source}; expected the folder of a finished run or a .safetensors file, as --init"
        )
    folder = place.parent if place.name == STUDENT_WEIGHTS and (place.parent / STUDENT).is_file() else place
    if folder.is_dir():
        about = read_student(folder)
        options = " ".join(f"{key}={value}" for key, value in about["options"].items())
        model = about["name"] or about.get("class")
        return InitialWeights(
            place,
            about["weights_sha256"],
            folder / STUDENT_WEIGHTS,
            f"{folder / STUDENT_WEIGHTS} ({model}{' with ' + options if options else ''})",
            tuple(about["classes"]),
            (about["image_size"][0], about["image_size"][1]),
            epochs_before=_epochs_of(folder) if with_optimizer else None,
        )
    if with_optimizer:
        raise InputError(f"{source} is a file, and --with-optimizer continues from a checkpoint; name the run's folder")
    if place.suffix.lower() != ".safetensors":
        raise InputError(
            f"{source} is not a .safetensors file; --init expects one, or the folder of a finished run. Published "
            "weights of other formats are stored by `lgkd import-teacher`"
        )
    try:
        return InitialWeights(place, sha256_of(place), place, str(place))
    except OSError as error:
        raise InputError(
            f"{place} cannot be read ({error.strerror}); make it readable, or name another --init"
        ) from None


def _epochs_of(folder: Path) -> int:
    """Return the epochs that a run's weights have been trained for, those of the runs that it continues included."""
    if not has_checkpoint(folder):
        raise InputError(
            f"{folder} holds no checkpoint to continue from; start from its weights, without --with-optimizer"
        )
    info = read_run(folder)
    before = info.get("init")
    epochs = [info.get("epochs"), before.get("epochs_before") if isinstance(before, Mapping) else 0]
    return sum(one for one in epochs if isinstance(one, int))


def recorded_initial(record: Any, origin: Path) -> InitialWeights:
    """Describe the initial weights of a run whose parent is gone, from `init` of its run.json.

    Raises:
        InputError: that is damaged.
    """
    if not isinstance(record, Mapping) or not all(isinstance(record.get(key), str) for key in ("path", "sha256")):
        raise InputError(f"{origin} lacks a proper init; it is damaged or something else, take it from a copy")
    epochs = record.get("epochs_before")
    before = epochs if isinstance(epochs, int) else None
    return InitialWeights(Path(record["path"]), record["sha256"], None, epochs_before=before, record=record)
