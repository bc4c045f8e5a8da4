"""Put a trained teacher into the user's store."""

import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lgkd import __version__
from lgkd._internal.atomic_io import flush_folder
from lgkd._internal.leftovers import Scratch, remove_leftover
from lgkd._internal.locks import locked_folder
from lgkd._internal.manifest import write_manifest
from lgkd._internal.safetensors_io import save_weights
from lgkd.errors import InputError, TakenError
from lgkd.models.default_taps import default_taps
from lgkd.models.teacher_card import TeacherCard
from lgkd.models.teacher_store import CARD, WEIGHTS, aside_of, put_back, read_card, save_card
from lgkd.runs.folder import now


def keep_teacher(
    place: Path, model: nn.Module, facts: Mapping[str, Any], *, replace: bool, folder: Path
) -> TeacherCard:
    """Write weights and card to the store; the teacher's folder is complete or absent.

    Where this very teacher is stored already nothing is changed: its training died right after it had been stored.

    Args:
        place: the folder DATASET/NAME; DATASET exists.
        model: trained, on the CPU.
        facts: the fields of a `TeacherCard` that the model does not provide.
        replace: whether an older teacher there is replaced.
        folder: the run's, for the message.

    Returns:
        Its card.

    Raises:
        TakenError: there is now another one, and `replace` is False.
    """
    put_back(place)
    _remove_leftovers(place)
    with Scratch(place) as passing:
        card = TeacherCard(
            name=place.name,
            dataset=place.parent.name,
            taps=default_taps(model),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            weights_sha256=save_weights(model.state_dict(), passing / WEIGHTS),
            lgkd_version=__version__,
            torch_version=torch.__version__,
            created=now(),
            **facts,
        )
        save_card(card, passing)
        write_manifest(passing, (CARD, WEIGHTS))
        # Readers of the store wait meanwhile, and a process that dies here leaves a state that the next reader repairs.
        with locked_folder(place.parent):
            if place.exists() and not replace:
                if _holds(place, card.weights_sha256):
                    return card
                raise TakenError(
                    f"another training has put a teacher {place.name} into the store meanwhile ({place}); it was "
                    f"not touched. This one is in {folder}; to replace the other, repeat the command with --replace"
                )
            _give_name(passing, place)
    return card


def _give_name(passing: Path, place: Path) -> None:
    """Rename a complete teacher to its name; an older one of that name is moved aside, and then removed."""
    old = None
    if place.exists():
        old = aside_of(place)
        place.rename(old)
    try:
        passing.rename(place)
    except OSError:
        if old is not None:
            old.rename(place)
        raise
    flush_folder(place.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _holds(place: Path, sha256: str) -> bool:
    """Check a stored teacher by the hash of its weights."""
    try:
        return read_card(place).weights_sha256 == sha256
    except InputError:
        return False


def _remove_leftovers(place: Path) -> None:
    """Remove what killed trainings left beside a teacher's folder; those of earlier versions have a process number."""
    names = re.compile(rf"\.{re.escape(place.name)}(?:-[0-9a-f]{{16}}\.old|\.\d+\.(?:old|new))")
    with locked_folder(place.parent), suppress(OSError):
        for other in place.parent.iterdir():
            # An older one that was moved aside is removed only where a teacher has taken its name.
            if names.fullmatch(other.name) and (place.exists() or other.suffix == ".new"):
                remove_leftover(other)


def poor_teacher(card: TeacherCard, largest_class: float | None = None) -> str | None:
    """Warn of a poor teacher; None on a good one.

    Args:
        card: the teacher's.
        largest_class: as for `TeacherCard.no_better_than`.
    """
    poor = card.no_better_than(largest_class)
    if poor is None:
        return None
    return (
        f"a poor teacher: {card.name} has {card.accuracy.shown} on {card.accuracy.split}, {poor}; train it "
        "longer before using it"
    )
