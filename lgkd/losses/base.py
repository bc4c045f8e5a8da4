"""Check the inputs of losses, and set their precision of computation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lgkd.errors import InputError


def at_least_single(tensor: Tensor) -> Tensor:
    """Convert half precision to float32; keep float32 and float64."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def without_autocast(like: Tensor) -> torch.autocast:
    """Disable autocast on the device of `like`, so that products keep the precision of their factors."""
    return torch.autocast(like.device.type, enabled=False)


def averaged(map_BChw: Tensor, grid: tuple[int, int]) -> Tensor:
    """Average a map down to a coarser grid, by adaptive average pooling: (B,C,*grid).

    The backward pass of torch's pooling is not deterministic on CUDA, and refused where deterministic algorithms are
    required. There it is computed as two matrix products, which have deterministic ones.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return F.adaptive_avg_pool2d(map_BChw, grid)
    down, across = (_averaging(map_BChw, axis, cells) for axis, cells in zip((-2, -1), grid, strict=True))
    with without_autocast(map_BChw):
        return down @ map_BChw @ across.T


def at_coarser_grid(first_BChw: Tensor, second_BChw: Tensor) -> tuple[Tensor, Tensor]:
    """Average two maps to the smaller number of rows and the smaller number of columns of the two."""
    grid = min(first_BChw.shape[-2], second_BChw.shape[-2]), min(first_BChw.shape[-1], second_BChw.shape[-1])
    first, second = (one if one.shape[-2:] == grid else averaged(one, grid) for one in (first_BChw, second_BChw))
    return first, second


def _averaging(like: Tensor, axis: int, cells: int) -> Tensor:
    """Return the matrix that averages an axis of `like` to `cells` cells, (cells, length); windows as torch's."""
    length = like.shape[axis]
    cell = torch.arange(cells, device=like.device)[:, None]
    place = torch.arange(length, device=like.device)
    # From floor(i length / cells) to ceil((i + 1) length / cells): neighbouring windows may overlap.
    inside = ((place >= cell * length // cells) & (place * cells < (cell + 1) * length)).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


def logits_of(loss: str, student_BK: Tensor, teacher_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Return both logits in at least single precision, the teacher's without gradient.

    Raises:
        InputError: they do not both have the same shape (B,K).
    """
    if student_BK.ndim != 2 or student_BK.shape != teacher_BK.shape:
        raise InputError(
            f"{loss}: the student's logits are {tuple(student_BK.shape)} and the teacher's {tuple(teacher_BK.shape)}; "
            "both must be (B,K), of the same images and classes"
        )
    return at_least_single(student_BK), at_least_single(teacher_BK.detach())


def embeddings_of(loss: str, student_BD: Tensor, teacher_BC: Tensor) -> tuple[Tensor, Tensor]:
    """Return both embeddings in at least single precision, the teacher's without gradient.

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
    """Refuse a number of pairs for which a loss was not built, with an InputError."""
    if built != given:
        raise InputError(
            f"{name} was built for {built} pairs and given {given} student maps; call "
            "build(student_shapes, teacher_shapes) first, or pass it to a Guide"
        )
