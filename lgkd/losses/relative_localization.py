"""Implement dense relative localization: the distance of two positions, from the student's features there.

Letters in shapes: B batch, M pairs of positions, D student width, h w map size.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.errors import InputError
from lgkd.losses.base import at_least_single, refuse_unbuilt
from lgkd.losses.map_loss import MapShape, refuse_second_build
from lgkd.losses.registry import Bounds, register_loss


@register_loss(
    "dense-relative-localization",
    weight=0.5,
    weight_help="Multiplies the mean error of a distance; the published weight for Swin, 0.1 for CvT and T2T.",
)
class DenseRelativeLocalization(nn.Module):
    """Predict the distance of two positions of the student's last map from the features there; reads no teacher.

        loss = 1/(2 B M) * sum over b and m of |MLP([S(p_bm), S(q_bm)]) - (p_bm - q_bm) - (h-1, w-1)|_1

    S is the map of the last tap; p and q are positions of its grid, rows and columns, drawn uniformly and
    independently for every image and step; the MLP has two hidden layers with ReLU. The errors of both
    coordinates are averaged. Positions come from the generators of the step, so that a resumed training
    draws the same; every micro-batch and process draws its own. A guide of such terms alone does not run its
    teacher.

    Source: Liu et al., Efficient Training of Visual Transformers with Small Datasets, NeurIPS 2021 (arXiv
    2106.03746), the L1 form, as in the authors' code, where distances are not divided by the size of the
    grid: 32 pairs, hidden width 512; the weight grows over 20 epochs and then falls linearly to 0 at the end
    (here: `schedule` with a warm-up and a cosine). Their maps have the last norm applied; here a tap decides.

    Args:
        pairs: Pairs of positions for each image, M.
        hidden: Width of the two hidden layers.
    """

    reads: ClassVar[str] = "student-maps"
    across_batch: ClassVar[bool] = False

    def __init__(
        self,
        pairs: Annotated[int, Bounds(ge=1, le=100_000)] = 32,
        hidden: Annotated[int, Bounds(ge=1, le=65_536)] = 512,
    ) -> None:
        super().__init__()
        self.pairs = pairs
        self.hidden = hidden
        self.layers = nn.Sequential()

    def build(self, student_shapes: Sequence[MapShape]) -> None:
        """Create the layers for the last of the student's maps, shapes (D,h,w); a guide calls this once.

        Raises:
            InputError: it is built already, or the map has a single position.
        """
        refuse_second_build(self, self.layers)
        width, height, across = student_shapes[-1]
        if height * across == 1:
            raise InputError(
                "DenseRelativeLocalization: the last map of the student is 1 x 1, expected at least two positions; tap "
                "an earlier layer, or use larger images or smaller patches"
            )
        self.layers = nn.Sequential(
            nn.Linear(2 * width, self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, 2),
        )

    def forward(self, student_maps: Sequence[Tensor]) -> Tensor:
        """Compute the loss, a scalar, for positions that it draws.

        Args:
            student_maps: maps (B,D,h,w), of which the last one is read.

        Raises:
            InputError: it was not built.
        """
        last = student_maps[-1]
        count, _, height, width = last.shape
        shape = (2, count, self.pairs)
        rows = torch.randint(height, shape, device=last.device)
        columns = torch.randint(width, shape, device=last.device)
        return self.error(last, rows, columns)

    def error(self, map_BDhw: Tensor, rows_2BM: Tensor, columns_2BM: Tensor) -> Tensor:
        """Compute the loss for given positions: rows and columns of p and q, int64.

        Raises:
            InputError: it was not built.
        """
        refuse_unbuilt("DenseRelativeLocalization", min(len(self.layers), 1), 1)
        height, width = map_BDhw.shape[-2:]
        tokens_BND = map_BDhw.flatten(2).mT
        places = (rows_2BM * width + columns_2BM).unsqueeze(-1).expand(-1, -1, -1, tokens_BND.shape[2])
        here, there = (tokens_BND.gather(1, place) for place in places)
        found = at_least_single(self.layers(torch.cat([here, there], dim=2)))
        down = rows_2BM[0] - rows_2BM[1] + (height - 1)
        right = columns_2BM[0] - columns_2BM[1] + (width - 1)
        return F.l1_loss(found, torch.stack([down, right], dim=2).to(found.dtype))

    def extra_repr(self) -> str:
        return f"pairs={self.pairs}, hidden={self.hidden}"
