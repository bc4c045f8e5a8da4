"""Define the batch that a loader yields and a task takes.

Letters in shapes: B batch, K classes, H W image size, h w size of a view.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


class _Known(Protocol):
    """Describe features of a batch, such as `lgkd.distillation.features.Features`."""

    def split(self, pieces: int) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Batch:
    """Hold images with their labels, and optional teacher views, teacher features and indices.

    Args:
        images: (B,3,H,W), normalised for the student.
        targets: class numbers, int64 (B,), or distributions over classes, float (B,K); of several labels an image 1 for
            each of its classes, else 0, float (B,K), in between where images are mixed.
        views: for each guide the images of its teacher, (B,3,h,w) in the teacher's size and the student's
            normalisation; None, or none at all: they are made of `images`.
        taught: for each guide the features of its teacher for these images, if computed already; None, or none at
            all: the teacher is run.
        index: places of the samples in the data set, int64 (B,), on the host where a loader yields them; None
            where unknown.
        weight: mean class weight over the images of the whole batch of a step, of which this may be a share: a float
            scalar; None: the mean over these images.
    """

    images: Tensor
    targets: Tensor
    views: tuple[Tensor | None, ...] = ()
    taught: tuple[_Known | None, ...] = ()
    index: Tensor | None = None
    weight: Tensor | None = None

    def split(self, pieces: int) -> list["Batch"]:
        """Split into nearly equal parts, in order."""
        views = [_parts(view, pieces) for view in self.views]
        taught = [[None] * pieces if known is None else known.split(pieces) for known in self.taught]
        index = _parts(self.index, pieces)
        return [
            Batch(
                images,
                targets,
                tuple(view[number] for view in views),
                tuple(known[number] for known in taught),
                index[number],
                self.weight,
            )
            for number, (images, targets) in enumerate(
                zip(self.images.tensor_split(pieces), self.targets.tensor_split(pieces), strict=True)
            )
        ]


def _parts(tensor: Tensor | None, pieces: int) -> Sequence[Tensor | None]:
    return [None] * pieces if tensor is None else tensor.tensor_split(pieces)
