"""Freeze a teacher with its own image size and normalisation.

Letters in shapes: B batch, K classes, H W image size.
"""

from collections.abc import Sequence
from typing import Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd._internal.text import did_you_mean
from lgkd.data.constants import IMAGENET_MEAN, IMAGENET_STD, LUMA
from lgkd.errors import InputError
from lgkd.models.default_taps import default_taps
from lgkd.models.factory import ImageSize, pair
from lgkd.models.forward_checks import no_logits
from lgkd.models.teacher_card import TeacherCard

BatchNormMode = Literal["running", "batch"]


class Teacher(nn.Module):
    """Run a model that takes no gradient and never changes, regardless of its parent's mode.

    `train()` cannot put it into training mode: `requires_grad=False` alone would leave BatchNorm
    to normalise by the student's batch and let its running statistics drift.

    Args:
        model: maps (B,3,H,W), or (B,1,H,W) for grey levels, to logits (B,K).
        image_size: pixels of its training images, one number or (height, width).
        mean, std: normalisation it was trained with, a number each for red, green and blue, or one for grey levels.
        taps: names of its layers to read, early to late; None for the defaults.
        batch_norm: "running" uses the statistics learned in training; "batch" those of each batch,
            as the released code of Locality Guidance does. In neither mode are they updated.
        card: description of its training.
    """

    mean: Tensor
    std: Tensor
    luma: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        image_size: ImageSize,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        taps: Sequence[str] | None = None,
        batch_norm: BatchNormMode = "running",
        card: TeacherCard | None = None,
    ) -> None:
        super().__init__()
        if len(mean) not in (1, 3) or len(std) != len(mean):
            raise InputError(
                f"the teacher's mean has {len(mean)} numbers and its std {len(std)}, expected three each, or one "
                "each for a model of one channel"
            )
        self.model = model.requires_grad_(False)
        self.image_size = pair(image_size)
        self.taps = list(taps) if taps is not None else default_taps(model)
        self.card = card
        self.source: dict[str, str] = {}
        """Where it is from, for run.json: the folder "run" whose student it is, or timm's "name" and "weights"."""
        self.channels = len(mean)
        self.register_buffer("mean", _column(mean), persistent=False)
        self.register_buffer("std", _column(std), persistent=False)
        self.register_buffer("luma", _column(LUMA), persistent=False)
        self.use_batch_norm(batch_norm)

    def use_batch_norm(self, mode: BatchNormMode) -> Self:
        """Normalise by "running" statistics or by those of each "batch"; neither mode changes them."""
        if mode not in get_args(BatchNormMode):
            raise InputError(f"teacher_bn is {mode!r}; {did_you_mean(mode, get_args(BatchNormMode))}")
        self.batch_norm: BatchNormMode = mode
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                # Without tracking, training mode uses the batch and touches no buffer.
                module.track_running_stats = mode == "running"
        return self.train()

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        super().train(False)
        if self.batch_norm == "batch":
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.training = True
        return self

    def view(self, images_B3HW: Tensor, mean_311: Tensor, std_311: Tensor, *, antialias: bool = False) -> Tensor:
        """Convert the student's images to the teacher's size (bilinear), channels and normalisation.

        Grey levels are shown in all three channels of a teacher that takes three; a teacher of one channel is shown the
        luminance of colours.

        Args:
            images_B3HW: the student's input, normalised by `mean_311` and `std_311`; (B,1,H,W) and (1,1,1) for one of
                grey levels.
        """
        images = images_B3HW
        if images.shape[-2:] != self.image_size:
            images = smaller(images, self.image_size, antialias=antialias)
        if self.channels == 1 and images.shape[1] == 3:
            grey = (images * (self.luma * std_311)).sum(dim=1, keepdim=True) + (self.luma * mean_311).sum()
            return (grey - self.mean) / self.std
        # One multiplication and one addition; where both normalisations are equal they are 1 and 0.
        return images * (std_311 / self.std) + (mean_311 - self.mean) / self.std

    @torch.no_grad()
    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return logits (B,K) for images of its own size and normalisation."""
        logits = self.model(images_B3HW)
        if not isinstance(logits, Tensor):
            raise no_logits(f"the teacher {type(self.model).__name__}", logits)
        return logits


def smaller(images_B3HW: Tensor, size: tuple[int, int], *, antialias: bool = False) -> Tensor:
    """Resize bilinearly with `align_corners=False`, (B,3,H,W) -> (B,3,h,w).

    Where both sides shrink by whole odd factors, as from 224 to 32, every sample without antialias falls on a pixel:
    reading these pixels gives the same numbers at a tenth of the cost.
    """
    (height, width), (rows, columns) = images_B3HW.shape[-2:], size
    down, across = height // rows, width // columns
    if height == down * rows and width == across * columns and down % 2 and across % 2 and not antialias:
        return images_B3HW[..., down // 2 :: down, across // 2 :: across]
    return F.interpolate(images_B3HW, size=size, mode="bilinear", align_corners=False, antialias=antialias)


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor([float(value) for value in values]).view(-1, 1, 1)
