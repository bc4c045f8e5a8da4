"""Implement masked images: the student reconstructs the pixels of hidden patches.

Letters in shapes: B batch, H W image size, N patches, M visible ones, D student width, P pixels of a patch.
"""

from collections.abc import Callable
from typing import Annotated, ClassVar, Protocol

import torch
from torch import Tensor, nn

from lgkd._internal.tokens import gather_tokens, sinusoidal
from lgkd.errors import InputError
from lgkd.losses.base import at_least_single, refuse_unbuilt
from lgkd.losses.map_loss import refuse_second_build
from lgkd.losses.registry import Bounds, register_loss


class VisiblePatches(Protocol):
    """Declare what is read of a student that encodes some patches alone, see `lgkd.models.visible_patches`."""

    @property
    def encode(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the encoder: images and the numbers of M patches of each, int64 (B,M), to tokens (B,T+M,D)."""

    @property
    def prefix(self) -> int:
        """Return T, the number of class and register tokens, which come first."""

    @property
    def grid(self) -> tuple[int, int]:
        """Return the rows and columns of patches."""

    @property
    def patch(self) -> tuple[int, int]:
        """Return height and width of a patch in pixels."""

    @property
    def channels(self) -> int:
        """Return the channels of the images."""

    @property
    def width(self) -> int:
        """Return D."""


@register_loss(
    "masked-images",
    weight=9.0,
    weight_help="Multiplies the mean squared error; 0.9 to the 0.1 of classification in the source.",
)
class MaskedImages(nn.Module):
    """Reconstruct hidden patches from the student's tokens of the visible ones; reads no teacher.

        loss = mean over hidden patches and their pixels of (decoder(student(visible patches)) - pixels)^2

    In every step each image hides a share of its patches, drawn uniformly; the student encodes the others alone, in a
    second and shorter pass with the same weights. A linear layer brings its tokens to the decoder's width, hidden
    patches take a learned token, fixed positions are added to all but class and register tokens; transformer blocks, a
    norm and a linear layer output pixels.
    Pixels are those of the student's normalised images, not normalised again by patch. Draws come from the generators
    of the step, so that a resumed training draws the same; every micro-batch and process draws its own. The decoder
    is dropped after training.

    For plain ViTs on patches, lgkd's and timm's: overlapping tokens would show the pixels to be found.

    Source: Das et al., Limited Data, Unlimited Potential, WACV 2024 (arXiv 2310.20704), as in the authors' code for
    ViT-Tiny: the decoder of He et al. (Masked Autoencoders, arXiv 2111.06377) with width 128, 2 blocks, 16 heads,
    3/4 hidden, loss 0.1 classification + 0.9 this. Chosen here: the frequencies of the decoder's fixed positions.

    Args:
        hidden: Share of the patches that are hidden.
        width: Width of the decoder, a multiple of 4 and of heads.
        depth: Blocks of the decoder.
        heads: Heads of the decoder's attention.
    """

    reads: ClassVar[str] = "images"
    across_batch: ClassVar[bool] = False
    patches: VisiblePatches
    positions: Tensor

    def __init__(
        self,
        hidden: Annotated[float, Bounds(gt=0, le=0.99)] = 0.75,
        width: Annotated[int, Bounds(ge=4, le=65_536)] = 128,
        depth: Annotated[int, Bounds(ge=1, le=100)] = 2,
        heads: Annotated[int, Bounds(ge=1, le=1_024)] = 16,
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.width = width
        self.depth = depth
        self.heads = heads
        self.layers = nn.ModuleDict()
        self.mask_token: Tensor | None = None
        self.visible = 0

    def build(self, patches: VisiblePatches) -> None:
        """Create the decoder for a student's patches; a guide calls this once.

        Raises:
            InputError: it is built already, all or none of the patches would be hidden, or width and heads do not fit.
        """
        refuse_second_build(self, self.layers)
        if self.width % 4 or self.width % self.heads:
            raise InputError(
                f"MaskedImages has a decoder of width {self.width} with {self.heads} heads, expected a multiple of 4 "
                "and of heads"
            )
        count = patches.grid[0] * patches.grid[1]
        self.visible = int(count * (1 - self.hidden) + 1e-9)
        if not 0 < self.visible < count:
            raise InputError(
                f"MaskedImages hides {self.hidden:g} of {count} patches, which leaves {self.visible} visible; expected "
                "at least one of each: use smaller patches, larger images, or another share"
            )
        # Not a submodule: the student is trained, saved and synchronised by its task.
        object.__setattr__(self, "patches", patches)
        blocks = (
            nn.TransformerEncoderLayer(
                self.width,
                self.heads,
                4 * self.width,
                dropout=0.0,
                activation="gelu",
                layer_norm_eps=1e-6,
                batch_first=True,
                norm_first=True,
            )
            for _ in range(self.depth)
        )
        pixels = patches.channels * patches.patch[0] * patches.patch[1]
        self.layers = nn.ModuleDict(
            {
                "enter": nn.Linear(patches.width, self.width),
                "blocks": nn.Sequential(*blocks),
                "norm": nn.LayerNorm(self.width, eps=1e-6),
                "leave": nn.Linear(self.width, pixels),
            }
        )
        for name, weight in self.layers.named_parameters():
            if weight.ndim == 2:
                nn.init.xavier_uniform_(weight)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)
        self.mask_token = nn.Parameter(torch.randn(1, 1, self.width) * 0.02)
        self.register_buffer("positions", sinusoidal(patches.grid, self.width)[None].float(), persistent=False)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Compute the loss, a scalar, for patches that it draws.

        Args:
            images_B3HW: the student's images, normalised.

        Raises:
            InputError: it was not built.
        """
        refuse_unbuilt("MaskedImages", min(len(self.layers), 1), 1)
        rows, columns = self.patches.grid
        noise_BN = torch.rand(images_B3HW.shape[0], rows * columns, device=images_B3HW.device)
        return self.error(images_B3HW, noise_BN.argsort(dim=1))

    def error(self, images_B3HW: Tensor, order_BN: Tensor) -> Tensor:
        """Compute the loss for a given order of each image's patches, int64 (B,N), of which the first are visible.

        Raises:
            InputError: it was not built.
        """
        refuse_unbuilt("MaskedImages", min(len(self.layers), 1), 1)
        assert self.mask_token is not None
        visible_BM, hidden_BN = order_BN[:, : self.visible], order_BN[:, self.visible :]
        seen = self.layers["enter"](self.patches.encode(images_B3HW, visible_BM))
        masked = self.mask_token.to(seen.dtype).expand(len(seen), hidden_BN.shape[1], -1)
        # A token's place is in its position alone, so that the tokens need not be put in order.
        places = gather_tokens(self.positions.expand(len(seen), -1, -1), order_BN)
        places = nn.functional.pad(places, (0, 0, self.patches.prefix, 0))
        tokens = self.layers["blocks"](torch.cat([seen, masked], dim=1) + places)
        found = self.layers["leave"](self.layers["norm"](tokens[:, -hidden_BN.shape[1] :]))
        pixels = gather_tokens(
            cut_into_patches(at_least_single(images_B3HW), self.patches.grid, self.patches.patch), hidden_BN
        )
        return (at_least_single(found) - pixels).square().mean()

    def extra_repr(self) -> str:
        return f"hidden={self.hidden:g}, width={self.width}, depth={self.depth}, heads={self.heads}"


def cut_into_patches(images_B3HW: Tensor, grid: tuple[int, int], patch: tuple[int, int]) -> Tensor:
    """Cut images into patches, row by row: (B,C,H,W) -> (B,N,P), pixels in the order row, column, channel.

    Pixels beyond the last whole patch are left out, as in the student's projection.
    """
    batch, channels = images_B3HW.shape[:2]
    (rows, columns), (height, width) = grid, patch
    whole = images_B3HW[:, :, : rows * height, : columns * width]
    cut = whole.reshape(batch, channels, rows, height, columns, width)
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
