"""Convert images to tokens: plain patches, shifted patches (SPT), and convolutions with pooling (CCT).

Each has `grid_size`, the rows and columns of its tokens, which are ordered row by row.

Letters in shapes: B batch, H W image size, P patch size, N = h w tokens, D width.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.errors import ModelError
from lgkd.models.fitting_sizes import dividing_patches, multiples_near
from lgkd.models.vit.checks import whole


class PatchTokens(nn.Module):
    """Map every patch of P x P pixels linearly: (B,3,H,W) -> (B,N,D), with h = H/P and w = W/P.

    Source: Dosovitskiy et al., arXiv 2010.11929. The layer is named `proj`, a convolution, as in timm.

    Args:
        image_size: (height, width), multiples of P.
        patch_size: P.
        width: D.
        he: start the weights from He's fan-in distribution, as the compact transformers do, instead of torch's.
        in_chans: channels of the images.

    Raises:
        ModelError: images that do not divide into patches.
    """

    def __init__(
        self, image_size: tuple[int, int], patch_size: int, width: int, *, he: bool = False, in_chans: int = 3
    ) -> None:
        super().__init__()
        self.grid_size = patch_grid(image_size, patch_size)
        self.proj = nn.Conv2d(in_chans, width, patch_size, stride=patch_size)
        if he:
            nn.init.kaiming_normal_(self.proj.weight)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return tokens (B,N,D)."""
        return _in_rows(self.proj(images_B3HW))


class ShiftedPatchTokens(nn.Module):
    """Tokenise shifted patches (SPT), which include their surroundings: (B,3,H,W) -> (B,N,D).

    The image and its four copies moved by half a patch along the diagonals (moved-in pixels are black, that is 0) are
    stacked to 15 channels and cut into patches of 15 P^2 numbers, mapped to tokens by a LayerNorm and a linear layer.

    Source: Lee et al., arXiv 2112.13492, and the authors' code; a half is rounded down.

    Args:
        image_size: (height, width), multiples of P.
        patch_size: P, at least 2.
        width: D.
        in_chans: channels of the images; 5 times as many are stacked.

    Raises:
        ModelError: images that do not divide into patches, or patches of a single pixel, which have no half.
    """

    def __init__(self, image_size: tuple[int, int], patch_size: int, width: int, *, in_chans: int = 3) -> None:
        super().__init__()
        self.grid_size = patch_grid(image_size, whole("patch_size of tokenizer=shifted", patch_size, 2))
        self.patch_size = patch_size
        self.norm = nn.LayerNorm(5 * in_chans * patch_size**2)
        self.proj = nn.Linear(5 * in_chans * patch_size**2, width)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return tokens (B,N,D)."""
        patches_BChw = F.pixel_unshuffle(self.shifted(images_B3HW), self.patch_size)
        return self.proj(self.norm(patches_BChw.flatten(2).transpose(1, 2)))  # type: ignore[no-any-return]

    def shifted(self, images_B3HW: Tensor) -> Tensor:
        """Stack the images and copies moved to the lower right, lower left, upper right, upper left: (B,15,H,W)."""
        half = self.patch_size // 2
        height, width = images_B3HW.shape[-2:]
        padded = F.pad(images_B3HW, (half, half, half, half))
        corners = ((0, 0), (0, 2 * half), (2 * half, 0), (2 * half, 2 * half))
        moved = [padded[..., top : top + height, left : left + width] for top, left in corners]
        return torch.cat([images_B3HW, *moved], dim=1)


class ConvTokens(nn.Module):
    """Tokenise images by convolutions as CCT does: (B,3,H,W) -> (B,N,D).

    Repeated `layers` times: a convolution without bias, ReLU, and max pooling of 3 x 3 with stride 2, which halves the
    grid. A kernel of k has stride max(1, (k-1)/2 - 1) and padding (k-1)/2: 3 has stride 1, 7 has stride 2. Neighbouring
    tokens overlap, and the grid need not divide the image.

    Source: Hassani et al., Escaping the Big Data Paradigm with Compact Transformers, arXiv 2104.05704, and the
    authors' code, also for the weights, drawn from He's fan-in distribution.

    Args:
        image_size: (height, width).
        width: D, the channels of the last convolution.
        kernel: k, odd, at least 3.
        layers: number of convolutions.
        hidden: channels of the convolutions before the last.
        in_chans: channels of the images.

    Raises:
        ModelError: a kernel that is even or 1, or no convolution.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        width: int,
        *,
        kernel: int = 3,
        layers: int = 1,
        hidden: int = 64,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        whole("embed_dim", width)
        if whole("conv_kernel", kernel, 3) % 2 == 0:
            raise ModelError(f"conv_kernel is {kernel}, expected an odd number, which has a middle")
        stride, padding = max(1, kernel // 2 - 1), kernel // 2
        channels = [in_chans, *[whole("conv_width", hidden)] * (whole("conv_layers", layers) - 1), width]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, kernel, stride, padding, bias=False) for before, after in pairwise(channels)
        )
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight)  # type: ignore[arg-type]
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        rows, columns = image_size
        for step in (stride, 2) * layers:
            # For both, n positions with a step of s give the next whole number from n / s.
            rows, columns = -(-rows // step), -(-columns // step)
        self.grid_size = (rows, columns)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return tokens (B,N,D)."""
        x = images_B3HW
        for conv in self.convs:
            x = self.pool(F.relu(conv(x)))
        return _in_rows(x)


def _in_rows(map_BDhw: Tensor) -> Tensor:
    """Return the positions of a map as tokens (B,N,D), each a row in memory.

    Elementwise operations keep the order in memory: without a copy here, every normalisation of a residual stream
    without class tokens would read it across.
    """
    return map_BDhw.flatten(2).transpose(1, 2).contiguous()


def patch_grid(image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Compute rows and columns of whole patches.

    Raises:
        ModelError: the images do not divide into them.
    """
    height, width = image_size
    if height % whole("patch_size", patch_size) or width % patch_size or not height or not width:
        raise ModelError(
            f"images of {height} x {width} pixels do not divide into patches of {patch_size} x {patch_size}; choose "
            f"another patch_size or image size{_fitting(image_size, patch_size)}"
        )
    return height // patch_size, width // patch_size


def _fitting(image_size: tuple[int, int], patch_size: int) -> str:
    if min(image_size) < 1:
        return ""
    patches = dividing_patches(image_size)
    return f": {multiples_near(image_size, patch_size)}{f', or patches of {patches}' if patches else ''}"
