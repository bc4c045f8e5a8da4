"""Checks of inputs and the precision of computation, shared by the losses."""

import torch
from torch import Tensor

from lgkd.errors import InputError


def at_least_single(tensor: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def without_autocast(like: Tensor) -> torch.autocast:
    """A context in which products are computed in the precision of their factors, on the device of `like`."""
    return torch.autocast(like.device.type, enabled=False)


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
