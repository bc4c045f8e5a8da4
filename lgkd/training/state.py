"""Save and restore the state of a training as named parts."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lgkd.errors import InputError
from lgkd.training.callbacks import EpochRow, are_numbers, is_count, is_number


@dataclass
class Progress:
    """Hold the progress of a training.

    Attributes:
        epoch: finished epochs.
        step: finished steps of the current epoch.
        accumulate: micro-batches per step; grows when memory runs out.
        seconds: spent in the current epoch so far.
        rows: the finished epochs.
        images: of the current epoch so far, over all processes; as the checkpoint had it.
        best: epoch and score of the best epoch on held-out images.
        processor_seconds: of this process in the current epoch so far; None if an older version began the epoch.
    """

    epoch: int = 0
    step: int = 0
    accumulate: int = 1
    seconds: float = 0.0
    rows: list[EpochRow] = field(default_factory=list)
    images: int = 0
    best: dict[str, float] | None = None
    processor_seconds: float | None = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the progress in JSON values, for a checkpoint."""
        return {**vars(self), "rows": [row.state_dict() for row in self.rows]}


def _are_rows(value: Any) -> bool:
    try:
        return isinstance(value, list) and all(isinstance(EpochRow.from_state_dict(row), EpochRow) for row in value)
    except ValueError:
        return False


def _is_best(value: Any) -> bool:
    return are_numbers(value) and value.keys() == {"epoch", "score"}


# Required entries of a checkpoint's state for a training to be resumed.
_PROPER: dict[str, Callable[[Any], bool]] = {
    "progress.epoch": is_count,
    "progress.step": is_count,
    "progress.accumulate": lambda value: is_count(value) and value > 0,
    "progress.seconds": lambda value: is_number(value) and value >= 0,
    "progress.rows": _are_rows,
    "progress.images": is_count,
    "progress.best": lambda value: value is None or _is_best(value),
    "progress.courses": lambda value: isinstance(value, list) and all(isinstance(course, dict) for course in value),
    "progress.processor_seconds": lambda value: value is None or (is_number(value) and value >= 0),
    "threads": is_count,
    "processes": is_count,
}


def read_progress(state: Mapping[str, Any], file: Path) -> Progress:
    """Restore the progress of a training from a checkpoint's state.

    Raises:
        InputError: the state differs from the format of this lgkd; the message names the key.
    """
    inner = state.get("progress")
    found = {f"progress.{key}": value for key, value in (inner if isinstance(inner, dict) else {}).items()}
    found.setdefault("progress.processor_seconds", None)
    flat = found | {key: state[key] for key in ("threads", "processes") if key in state}
    wrong = [key for key, proper in _PROPER.items() if key not in flat or not proper(flat[key])]
    # Such a key may be any text: it is printed safely, and shortened.
    strange = [key for key in flat if key not in _PROPER]
    wrong += [key if re.fullmatch(r"[a-z_.]{1,60}", key) else repr(key[:60]) for key in strange[:3]]
    if not wrong and len(flat["progress.rows"]) != flat["progress.epoch"]:
        wrong = ["progress.rows"]
    if wrong:
        raise InputError(
            f"{file} lacks a valid {', '.join(wrong)}; another version of lgkd wrote it: use that one, or move the "
            "run's folder away to start again"
        )
    rows = [EpochRow.from_state_dict(row) for row in flat["progress.rows"]]
    return Progress(**{column.name: flat[f"progress.{column.name}"] for column in fields(Progress)} | {"rows": rows})


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's tensors by the names of their weights: `NAME|exp_avg`."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {
        f"{names[id(parameter)]}|{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        # timm's Muon stores the group of a weight, and determines it again.
        if value is not None and not isinstance(value, bool)
    }


def restore_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore saved tensors; all their weights must exist.

    Raises:
        InputError: the tensors are of other weights.
    """
    weights = dict(module.named_parameters())
    for key, value in tensors.items():
        name, _, kind = key.rpartition("|")
        if name not in weights:
            raise InputError(
                f"the checkpoint has optimiser state of {name!r}, which this training does not have; move the run's "
                "folder away to start again"
            )
        weight = weights[name]
        # Moments are on the device of their weight, in its layout. So are counters if a fused optimiser reads them
        # there; others read them on the host, and would wait for the device at each.
        there = weight.device if optimizer.defaults.get("fused") else "cpu"
        placed = value.to(there) if value.ndim == 0 else torch.empty_like(weight).copy_(value)
        optimizer.state[weight][kind] = placed


def all_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Return True if every floating-point tensor is finite."""
    return all(bool(torch.isfinite(value).all()) for value in tensors.values() if value.is_floating_point())
