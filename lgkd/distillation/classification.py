"""Compute the classification loss: cross entropy, with class weights and logit adjustment.

Letters in shapes: B batch, K classes.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.data.batch import Batch


def count_correct(logits_BK: Tensor, targets: Tensor) -> Tensor:
    """Count the images whose largest logit is that of their class, or of the largest part of a mix: a scalar.

    Args:
        logits_BK: of the images.
        targets: class numbers, int64 (B,), or distributions over classes, float (B,K).
    """
    labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
    return (logits_BK.argmax(dim=1) == labels).sum()


class LabelLoss(nn.Module, ABC):
    """Compare logits with the labels of a batch: the loss of a task besides its guides."""

    @abstractmethod
    def forward(self, logits_BK: Tensor, batch: Batch) -> Tensor:
        """Return the loss of a batch, a scalar."""

    @abstractmethod
    def correct(self, logits_BK: Tensor, targets: Tensor) -> Tensor:
        """Return the number of images that are classified correctly, a scalar, for the training's accuracy."""


class ClassificationLoss(LabelLoss):
    """Compute the mean cross entropy against class numbers or distributions, never in half precision.

    With `adjustment` a the logits z become z + a, in this loss alone (logit adjustment: Menon et al., 2021,
    https://arxiv.org/abs/2007.07314). With `weights` w it is that of `torch.nn.CrossEntropyLoss(weight=w)`: against
    class numbers the sum of w_y times the cross entropy, divided by the sum of w_y; against distributions every class's
    part times its weight, divided by the number of images. The sum of w_y is that of the whole batch, over all
    processes and micro-batches, where the loader has passed it (`Batch.weight`).

    Args:
        weights: float (K,), of the classes; None: unweighted.
        adjustment: float (K,), added to the logits; None: nothing.
    """

    weights: Tensor | None
    adjustment: Tensor | None

    def __init__(self, weights: Tensor | None = None, adjustment: Tensor | None = None) -> None:
        super().__init__()
        # They come from recipe and data, so that a checkpoint has no need of them.
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("adjustment", adjustment, persistent=False)

    def forward(self, logits_BK: Tensor, batch: Batch) -> Tensor:
        """Return the loss of a batch, a scalar."""
        if logits_BK.dtype in (torch.float16, torch.bfloat16):
            logits_BK = logits_BK.float()
        if self.adjustment is not None:
            logits_BK = logits_BK + self.adjustment.to(logits_BK.dtype)
        if self.weights is None:
            return F.cross_entropy(logits_BK, batch.targets)
        weights = self.weights.to(logits_BK.dtype)
        if batch.targets.ndim == 2 or batch.weight is None:
            return F.cross_entropy(logits_BK, batch.targets, weight=weights)
        total = F.cross_entropy(logits_BK, batch.targets, weight=weights, reduction="sum")
        return total / (len(logits_BK) * batch.weight.to(logits_BK.dtype))

    def correct(self, logits_BK: Tensor, targets: Tensor) -> Tensor:
        """Return the number of images whose largest logit is that of their class, or of the largest part of a mix."""
        return count_correct(logits_BK, targets)


class MultiLabelLoss(LabelLoss):
    """Compute the binary cross entropy of every class by itself, for images with several labels.

        loss = - 1 / (B K) * sum over b and k of w_k y_bk log p_bk + (1 - y_bk) log(1 - p_bk),   p = sigmoid(logits)

    That of `torch.nn.BCEWithLogitsLoss(pos_weight=w)`, never in half precision. Targets may be between 0 and 1, as of
    mixed images and with label smoothing.

    Args:
        weights: float (K,), of the positive labels of every class; None: 1.
    """

    weights: Tensor | None

    def __init__(self, weights: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits_BK: Tensor, batch: Batch) -> Tensor:
        if logits_BK.dtype in (torch.float16, torch.bfloat16):
            logits_BK = logits_BK.float()
        weights = None if self.weights is None else self.weights.to(logits_BK.dtype)
        return F.binary_cross_entropy_with_logits(logits_BK, batch.targets.to(logits_BK.dtype), pos_weight=weights)

    def correct(self, logits_BK: Tensor, targets: Tensor) -> Tensor:
        """Return the sum over images of the share of classes that are rightly named or left out, at a probability of
        0.5."""
        return ((logits_BK > 0) == (targets > 0.5)).double().mean(dim=1).sum()
