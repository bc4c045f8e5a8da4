"""The inputs for which other people's losses were run; the order of the draws is part of them."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class GoldenInputs:
    """Two of each: logits (8,100), labels (8,), maps of three stages, embeddings (8,64)."""

    student_logits: Tensor
    teacher_logits: Tensor
    labels: Tensor
    student_maps: list[Tensor]
    teacher_maps: list[Tensor]
    student_embedding: Tensor
    teacher_embedding: Tensor


@cache
def golden_inputs() -> GoldenInputs:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        logits = torch.randn(8, 100) * 3, torch.randn(8, 100) * 3
        labels = torch.randint(0, 100, (8,))
        shapes = [(8, 16, 32, 32), (8, 32, 16, 16), (8, 64, 8, 8)]
        maps = [torch.randn(shape).abs() for shape in shapes], [torch.randn(shape).abs() for shape in shapes]
        return GoldenInputs(*logits, labels, *maps, torch.randn(8, 64), torch.randn(8, 64))
