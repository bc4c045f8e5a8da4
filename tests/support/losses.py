"""What tests of the losses draw: tensors, pairs of maps, and losses that are built for them."""

import torch
from torch import Tensor, nn

from lgkd.distillation.guide import Guide, Term
from lgkd.losses import TERMS, CrossCorrelation, DenseKD, TeacherHead
from lgkd.models.factory import create_model
from lgkd.models.teacher import Teacher

PAIRS = [((3, 4, 4), (5, 2, 2)), ((2, 2, 2), (7, 2, 2))]
"""Shapes (C,h,w) of two pairs of maps, the student's and the teacher's."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def built(loss: nn.Module) -> nn.Module:
    """A loss whose projections are made, where it has any; of embeddings for widths of 3 and 5, and 4 classes."""
    if isinstance(loss, CrossCorrelation):
        loss.build(3, 5)
    elif isinstance(loss, TeacherHead):
        loss.build(3, 5, normal(4, 5, seed=9))
    elif isinstance(loss, DenseKD):
        loss.build((3, 4, 4), (5, 2, 2), classified=False)
    elif hasattr(loss, "build"):
        loss.build([student for student, _ in PAIRS], [teacher for _, teacher in PAIRS])
    return loss


OF_ATTENTION = ("attention-relations",)
"""Kinds that read the fused projections of an attention, which tests of every kind do not tap."""


def attention_guide(student: nn.Module, kind: str, *, size: int, classes: int, patch_size: int) -> Guide:
    """A guide of a ViT by another one of two heads, on the projections of their first and last of three blocks."""
    options = {"patch_size": patch_size, "depth": 3, "embed_dim": 12, "num_heads": 2}
    network = create_model("deit_tiny", num_classes=classes, image_size=size, options=options)
    taps = ["blocks.0.attn.qkv", "blocks.2.attn.qkv"]
    teacher = Teacher(network, image_size=size, taps=taps)
    return Guide(student, teacher, image_size=size, terms=[Term(TERMS[kind](heads=2), name=kind)], taps=taps)
