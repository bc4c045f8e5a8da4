"""What the losses share: checks of their options and inputs, and the precision they compute in."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from lgkd._internal.text import did_you_mean
from lgkd.errors import InputError


def at_least_single(tensor: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def without_autocast(like: Tensor) -> torch.autocast:
    """A context in which products are computed in the precision of their factors, on the device of `like`."""
    return torch.autocast(like.device.type, enabled=False)


MOST_FACTOR, MOST_TEMPERATURE = 1_000_000, 1000
"""The largest factor and temperature, as in a recipe."""


def checked_number(loss: str, option: str, value: float, *, above: float | None = None, most: float) -> float:
    """A number up to `most`, > `above`, or >= 0 where `above` is None; else an InputError that names the option."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or (value < 0 if above is None else value <= above) or value > most:
        bound = ">= 0" if above is None else f"> {above:g}"
        raise InputError(f"{loss}: {option} is {value!r}, expected a number {bound} and <= {most:g}")
    return float(value)


def checked_whole(loss: str, option: str, value: int, *, most: int) -> int:
    """A whole number from 1 to `most`; else an InputError that names the option."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise InputError(f"{loss}: {option} is {value!r}, expected a whole number >= 1 and <= {most}")
    return value


def checked_temperature(loss: str, value: float) -> float:
    """A temperature that logits can be divided by; else an InputError."""
    return checked_number(loss, "temperature", value, above=0, most=MOST_TEMPERATURE)


def checked_factor(loss: str, option: str, value: float) -> float:
    """A factor of a part of a loss; else an InputError that names the option."""
    return checked_number(loss, option, value, most=MOST_FACTOR)


def checked_choice(loss: str, option: str, value: str, choices: Iterable[str]) -> None:
    """InputError with the closest choice unless `value` is one of them."""
    choices = list(choices)
    if value not in choices:
        raise InputError(f"{loss}: unknown {option} {value!r}; {did_you_mean(str(value), choices)}")


def logits_of(loss: str, student_BK: Tensor, teacher_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Both logits in at least single precision, the teacher's without gradient.

    Raises:
        InputError: they are not two equal (B,K).
    """
    if student_BK.ndim != 2 or student_BK.shape != teacher_BK.shape:
        raise InputError(
            f"{loss}: the student's logits are {tuple(student_BK.shape)} and the teacher's {tuple(teacher_BK.shape)}; "
            "both must be (B,K), of the same images and classes"
        )
    return at_least_single(student_BK), at_least_single(teacher_BK.detach())


def embeddings_of(loss: str, student_BD: Tensor, teacher_BC: Tensor) -> tuple[Tensor, Tensor]:
    """Both embeddings in at least single precision, the teacher's without gradient.

    Raises:
        InputError: they are not (B,D) and (B,C), or of different batches.
    """
    if student_BD.ndim != 2 or teacher_BC.ndim != 2 or len(student_BD) != len(teacher_BC):
        raise InputError(
            f"{loss}: the student's embedding is {tuple(student_BD.shape)} and the teacher's "
            f"{tuple(teacher_BC.shape)}; they must be (B,D) and (B,C), pooled features of the same images"
        )
    return at_least_single(student_BD), at_least_single(teacher_BC.detach())


def refuse_unbuilt(name: str, built: int, given: int) -> None:
    """Raise an InputError if a loss was built for another number of pairs."""
    if built != given:
        raise InputError(
            f"{name} was built for {built} pairs and given {given} student maps; call "
            "build(student_shapes, teacher_shapes) first, or hand it to a Guide"
        )
