"""What a training is made of at one moment, as named parts that can be written down and put back."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lgkd.errors import InputError
from lgkd.tasks import Task


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
        courses: for each guide, how far its terms are.
    """

    epoch: int = 0
    step: int = 0
    accumulate: int = 1
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    images: int = 0
    best: dict[str, float] | None = None
    courses: list[dict[str, Any]] = field(default_factory=list)


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors under the names of the weights they belong to: `NAME|exp_avg`."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {
        f"{names[id(parameter)]}|{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if value is not None
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
            raise InputError(f"the checkpoint has optimiser state of {name!r}, which this training does not have")
        weight = weights[name]
        # Counters stay what they are; moments lie where their weight lies, in its layout.
        placed = value.to(weight.device) if value.ndim == 0 else torch.empty_like(weight).copy_(value)
        optimizer.state[weight][kind] = placed


def split_parts(task: Task) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The student's weights and the guides' (their projections), apart."""
    return task.student.state_dict(), task.guides.state_dict() if isinstance(task.guides, nn.Module) else {}


def all_finite(tensors: dict[str, Tensor]) -> bool:
    """Whether every floating-point tensor is finite."""
    return all(bool(torch.isfinite(value).all()) for value in tensors.values() if value.is_floating_point())
