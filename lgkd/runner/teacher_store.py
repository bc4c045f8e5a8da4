"""Putting a trained teacher into the user's store."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lgkd import __version__
from lgkd._internal.safetensors_io import save_weights
from lgkd.errors import TakenError
from lgkd.models.default_taps import default_taps
from lgkd.models.teacher_card import WEIGHTS, TeacherCard, save_card
from lgkd.runs.folder import now


def keep_teacher(place: Path, model: nn.Module, facts: Mapping[str, Any], *, replace: bool, folder: Path) -> None:
    """Weights and card into the store; the teacher's folder is whole or not there.

    Args:
        place: the folder DATASET/NAME; DATASET exists.
        model: trained, on the CPU.
        facts: what a `TeacherCard` holds and the model does not tell.
        replace: an older teacher there gives way.
        folder: the run's, for the message.

    Raises:
        TakenError: there is one by now, and `replace` is False.
    """
    # Hidden from listings, and its own, so that two trainings do not meet in it.
    passing = place.with_name(f".{place.name}.{os.getpid()}.new")
    old = place.with_name(f".{place.name}.{os.getpid()}.old")
    passing.mkdir()
    try:
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
        if place.exists():
            if not replace:
                raise TakenError(
                    f"another training has put a teacher {place.name} into the store meanwhile ({place}); it was "
                    f"not touched. This one is kept in {folder}"
                )
            place.rename(old)
        passing.rename(place)
    finally:
        shutil.rmtree(passing, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
