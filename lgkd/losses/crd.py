"""Implement contrastive representation distillation, with memories of all training images.

Letters in shapes: B batch, N training images, K negatives, D C widths of embeddings, E width of the comparison.
"""

import math
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.errors import InputError
from lgkd.losses.base import embeddings_of, without_autocast
from lgkd.losses.map_loss import refuse_second_build
from lgkd.losses.registry import Bounds, Temperature, register_loss

_EPSILON = 1e-7
"""Added to a denominator in the authors' code."""


@register_loss("crd", weight=0.8, weight_help="Multiplies the sum of both directions.")
class CRD(nn.Module):
    """Tell an image's own embedding of the other network from those of other images, by noise contrast.

        s_b = l2(W_S student_b), t_b = l2(W_T teacher_b), of width E; memories M_S, M_T of N rows
        P_S(b, j) = exp(s_b . M_T[j] / T) / Z_S,   P_T(b, j) = exp(t_b . M_S[j] / T) / Z_T
        loss = - 1/B * sum over S, T and b of ( log P(b, b) / (P(b, b) + c)
               + sum over K drawn j of log (K/N) / (P(b, j) + c) ),   c = K/N + 1e-7

    W_S and W_T are learned, with bias. Negatives j are drawn anew in every step, uniformly and with
    replacement, among the images of other classes (among all others where images have several labels). After a step
    M[b] becomes l2(momentum M[b] + (1 - momentum) e_b), e_b the embedding in its own network's memory; an
    image that a batch contains several times counts with its mean, and a row that would not be finite stays as it
    was. Z_S and Z_T are N times the mean of exp
    over the first batch and all N rows, and then stay (the authors take the mean over the drawn rows).

    The memories, 2 N E numbers, are in the checkpoint, so that a resumed training is the uninterrupted one.
    They are updated once in a step, so that the batch cannot be split into micro-batches; several processes
    each update their copy with the whole batch, and draw their own negatives.

    Source: Tian, Krishnan, Isola, Contrastive Representation Distillation, ICLR 2020 (arXiv 1910.10699), and
    the authors' code: weight 0.8, with 1 for the classification; their mode "exact", negatives of other
    classes, drawn without replacement where there are K.

    Args:
        negatives: Images that each image is compared with, K.
        temperature: Inner products are divided by it.
        momentum: Share of the old row in a memory's update.
        width: Width in which the embeddings are compared, E.
    """

    reads: ClassVar[str] = "embeddings"
    across_batch: ClassVar[bool] = True
    takes_index: ClassVar[bool] = True

    students: Tensor
    teachers: Tensor
    log_z: Tensor
    order: Tensor
    first: Tensor
    size: Tensor

    def __init__(
        self,
        negatives: Annotated[int, Bounds(ge=1, le=1_000_000)] = 16384,
        temperature: Temperature = 0.07,
        momentum: Annotated[float, Bounds(ge=0, le=1)] = 0.5,
        width: Annotated[int, Bounds(ge=1, le=65_536)] = 128,
    ) -> None:
        super().__init__()
        self.negatives = negatives
        self.temperature = temperature
        self.momentum = momentum
        self.width = width
        self.projections = nn.ModuleList()

    def build(self, student_width: int, teacher_width: int, labels: Tensor) -> None:
        """Create the projections and the memories; a guide calls this once.

        Args:
            student_width, teacher_width: of the embeddings.
            labels: of all training images in the order of their indices: classes (N,), or (N,K) of several labels.

        Raises:
            InputError: it is built already, or there are no images of two classes.
        """
        refuse_second_build(self, self.projections)
        classes = labels if labels.ndim == 1 else torch.arange(len(labels))
        found, place, counts = torch.unique(classes.cpu(), return_inverse=True, return_counts=True)
        if len(found) < 2:
            raise InputError(
                f"CRD: the {len(labels)} training images are of {len(found)} class, expected images of at least two, "
                "of which the negatives are drawn; use another term"
            )
        self.projections = nn.ModuleList([nn.Linear(student_width, self.width), nn.Linear(teacher_width, self.width)])
        span = 1 / math.sqrt(self.width / 3)
        self.register_buffer("students", torch.empty(len(labels), self.width).uniform_(-span, span))
        self.register_buffer("teachers", torch.empty(len(labels), self.width).uniform_(-span, span))
        self.register_buffer("log_z", torch.full((2,), torch.inf))
        # Images sorted by class: all others of an image are the places outside of its class's interval.
        starts = counts.cumsum(0) - counts
        self.register_buffer("order", place.argsort(stable=True), persistent=False)
        self.register_buffer("first", starts[place], persistent=False)
        self.register_buffer("size", counts[place], persistent=False)

    def forward(self, student_embedding: Tensor, teacher_embedding: Tensor, index: Tensor) -> Tensor:
        """Compute the loss, a scalar, and update the memories while in training mode.

        Args:
            student_embedding, teacher_embedding: (B,D) and (B,C).
            index: places of the images among the training images, int64 (B,).

        Raises:
            InputError: shapes do not fit, or it was not built.
        """
        if not len(self.projections):
            raise InputError("CRD has no projections; call build(student_width, teacher_width, labels) first")
        index = index.to(self.students.device)
        return self.contrast(student_embedding, teacher_embedding, index, self.draw(index))

    def draw(self, index_B: Tensor) -> Tensor:
        """Draw negatives of other classes for each image: places among the training images, int64 (B,K)."""
        first, size = self.first[index_B, None], self.size[index_B, None]
        others = len(self.order) - size
        drawn = torch.rand(len(index_B), self.negatives, device=index_B.device)
        place = torch.minimum((drawn * others).long(), others - 1)
        return self.order[place + torch.where(place >= first, size, 0)]

    def contrast(self, student_BD: Tensor, teacher_BC: Tensor, index_B: Tensor, negatives_BK: Tensor) -> Tensor:
        """Compute the loss for given negatives, and update the memories while in training mode."""
        student, teacher = embeddings_of("CRD", student_BD, teacher_BC)
        with without_autocast(student):
            embedded = [
                F.normalize(project(one.to(self.students.dtype)), dim=1)
                for project, one in zip(self.projections, (student, teacher), strict=True)
            ]
            # The rows change below, before the backward pass.
            memories = self.teachers.clone(), self.students.clone()
            scores = [one @ rows.T / self.temperature for one, rows in zip(embedded, memories, strict=True)]
        first = torch.stack([each.detach().logsumexp(dim=(0, 1)) for each in scores]) - math.log(len(index_B))
        log_z = torch.where(self.log_z.isinf(), first.to(self.log_z.dtype), self.log_z)
        loss = sum(
            (self._noise_contrast(each - log_z[side], index_B, negatives_BK) for side, each in enumerate(scores)),
            start=student.new_zeros(()),
        )
        if self.training:
            self._remember(embedded, index_B, log_z)
        return loss

    def _noise_contrast(self, log_p_BN: Tensor, index_B: Tensor, negatives_BK: Tensor) -> Tensor:
        share = negatives_BK.shape[1] / len(self.order)
        log_c = math.log(share + _EPSILON)
        own, others = log_p_BN.gather(1, index_B[:, None]), log_p_BN.gather(1, negatives_BK)
        # log P / (P + c) and log share / (P + c), without the powers, which overflow at low temperatures.
        right = F.softplus(log_c - own).sum(dim=1)
        wrong = (F.softplus(others - log_c) + (log_c - math.log(share))).sum(dim=1)
        return (right + wrong).mean()

    @torch.no_grad()
    def _remember(self, embedded: list[Tensor], index_B: Tensor, log_z: Tensor) -> None:
        """Move the batch's rows of both memories towards its embeddings."""
        # Rows of an image that is there several times are equal, so that the order of writing does not matter.
        same = (index_B[:, None] == index_B).to(embedded[0].dtype)
        with without_autocast(same):
            means = [(same / same.sum(dim=1, keepdim=True)) @ one.detach() for one in embedded]
        for memory, mean in zip((self.students, self.teachers), means, strict=True):
            old = memory[index_B]
            new = F.normalize(self.momentum * old + (1 - self.momentum) * mean.to(memory.dtype), dim=1)
            # A step that is not finite is skipped, and must not stay in the memories either.
            memory.index_copy_(0, index_B, torch.where(new.isfinite().all(dim=1, keepdim=True), new, old))
        self.log_z.copy_(torch.where(log_z.isfinite(), log_z, self.log_z))

    def extra_repr(self) -> str:
        return (
            f"negatives={self.negatives}, temperature={self.temperature:g}, momentum={self.momentum:g}, "
            f"width={self.width}"
        )
