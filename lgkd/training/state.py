"""What a training is made of at one moment, as named parts that can be written down and put back."""

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lgkd.errors import InputError


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        epoch: epochs that are done.
        step: steps of the current epoch that are done.
        accumulate: micro-batches a step; grows when memory runs out.
        seconds: spent in the current epoch so far.
        rows: the finished epochs, as plain dictionaries.
        sums: the current epoch's meters.
        best: epoch and score of the best epoch on held-out images.
        courses: the task's extra state, as the checkpoint had it.
    """

    epoch: int = 0
    step: int = 0
    accumulate: int = 1
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    images: int = 0
    best: dict[str, float] | None = None
    courses: list[dict[str, Any]] = field(default_factory=list)


def _counts(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_number(value: Any) -> bool:
    # JSON knows whole numbers that no float holds, and Python's reader NaN and Infinity.
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_number(number) for number in value.values())


_ROW: dict[str, Callable[[Any], bool]] = {
    "epoch": _counts,
    "lr": _is_number,
    "train": _are_numbers,
    "scores": _are_numbers,
    "seconds": _is_number,
    "evaluation_seconds": _is_number,
    "images_per_second": _is_number,
    "memory_mb": lambda value: value is None or _is_number(value),
}
"""What an epoch's row holds; see `EpochRow`."""

_LATER = {"memory_mb"}
"""What rows of older checkpoints lack."""


def _is_row(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() | _LATER != _ROW.keys():
        return False
    return all(_ROW[key](value[key]) for key in value)


def _is_best(value: Any) -> bool:
    return _are_numbers(value) and value.keys() == {"epoch", "score"}


# What a checkpoint's state must hold for a training to go on with it.
_PROPER: dict[str, Callable[[Any], bool]] = {
    "progress.epoch": _counts,
    "progress.step": _counts,
    "progress.accumulate": lambda value: _counts(value) and value > 0,
    "progress.seconds": lambda value: _is_number(value) and value >= 0,
    "progress.rows": lambda value: isinstance(value, list) and all(_is_row(row) for row in value),
    "progress.images": _counts,
    "progress.best": lambda value: value is None or _is_best(value),
    "progress.courses": lambda value: isinstance(value, list) and all(isinstance(course, dict) for course in value),
    "threads": _counts,
    "processes": _counts,
}


def read_progress(state: Mapping[str, Any], file: Path) -> Progress:
    """How far a training was, by a checkpoint's state.

    Raises:
        InputError: the state is whole, and yet not as this lgkd writes it; names the key.
    """
    inner = state.get("progress")
    found = {f"progress.{key}": value for key, value in (inner if isinstance(inner, dict) else {}).items()}
    flat = found | {key: state[key] for key in ("threads", "processes") if key in state}
    wrong = [key for key, proper in _PROPER.items() if key not in flat or not proper(flat[key])]
    # Such a key may be anything: it is shown as text, and not at length.
    strange = [key for key in flat if key not in _PROPER]
    wrong += [key if re.fullmatch(r"[a-z_.]{1,60}", key) else repr(key[:60]) for key in strange[:3]]
    if not wrong and len(flat["progress.rows"]) != flat["progress.epoch"]:
        wrong = ["progress.rows"]
    if wrong:
        raise InputError(
            f"{file} lacks a proper {', '.join(wrong)}; another version of lgkd wrote it: use that one, or move the "
            "run's folder away to begin again"
        )
    return Progress(**state["progress"])


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors under the names of the weights they belong to: `NAME|exp_avg`."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {
        f"{names[id(parameter)]}|{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        # timm's Muon notes which way a weight goes, and finds out again.
        if value is not None and not isinstance(value, bool)
    }


def restore_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put saved tensors back; every weight that has some must be there.

    Raises:
        InputError: the tensors are of other weights.
    """
    weights = dict(module.named_parameters())
    for key, value in tensors.items():
        name, _, kind = key.rpartition("|")
        if name not in weights:
            raise InputError(
                f"the checkpoint has optimiser state of {name!r}, which this training does not have; move the run's "
                "folder away to begin again"
            )
        weight = weights[name]
        # Moments lie where their weight lies, in its layout. Counters too where a fused optimiser reads them there;
        # others read them on the host, and would wait for the device at each.
        there = weight.device if optimizer.defaults.get("fused") else "cpu"
        placed = value.to(there) if value.ndim == 0 else torch.empty_like(weight).copy_(value)
        optimizer.state[weight][kind] = placed


def all_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Tell if every floating-point tensor is finite."""
    return all(bool(torch.isfinite(value).all()) for value in tensors.values() if value.is_floating_point())
