"""Choose weights for teachers of timm: their own ones, or a file. No torch, so that errors come at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lgkd.errors import InputError, MissingError

PRETRAINED: Final = "pretrained"


@dataclass(frozen=True)
class TimmTeacher:
    """Describe a teacher of timm that was trained on other images and classes, such as ImageNet's.

    Attributes:
        name: `timm:NAME`.
        file: of its weights; None: timm's own, which are downloaded.
    """

    name: str
    file: Path | None


def timm_teachers(names: Sequence[object], weights: str | Path | Sequence[str | Path] | None) -> dict[int, TimmTeacher]:
    """Pair the weights with the teachers `timm:NAME`, in order; return those teachers by their places.

    Args:
        names: of all teachers.
        weights: for each of them a .safetensors file, or "pretrained" for timm's own.

    Raises:
        InputError: another number of weights than of such teachers, or a file of another kind.
        MissingError: there is no such file.
    """
    given = [] if weights is None else [weights] if isinstance(weights, str | Path) else list(weights)
    if not given:
        return {}
    places = [place for place, name in enumerate(names) if isinstance(name, str) and name.startswith("timm:")]
    if len(places) != len(given):
        raise InputError(
            f"--teacher-weights is given {len(given)} times for {len(places)} teachers timm:NAME; expected one for "
            "each, in their order, and none for other teachers"
        )
    return {place: TimmTeacher(str(names[place]), _file(one)) for place, one in zip(places, given, strict=True)}


def _file(one: str | Path) -> Path | None:
    if one == PRETRAINED:
        return None
    place = Path(one).expanduser().resolve()
    if not place.is_file():
        raise MissingError(f"there is no file {one}; expected weights in a .safetensors file, or {PRETRAINED}")
    if place.suffix.lower() != ".safetensors":
        raise InputError(
            f"{one} is not a .safetensors file; --teacher-weights expects one, or {PRETRAINED} for timm's own weights"
        )
    return place
