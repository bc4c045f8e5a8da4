"""Build a CNN for small images that trains in minutes and serves as a teacher.

Letters in shapes: B batch, K classes, H W image size.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lgkd.errors import ModelError
from lgkd.models.cnn.resnet import check_classes

_DIRECTIONS = 16
"""Principal directions of a patch of 3 x 3 pixels in 3 colours that the stem keeps; with their negatives 32 filters."""

_POOLS: dict[str, type[nn.Module]] = {"max": nn.AdaptiveMaxPool2d, "avg": nn.AdaptiveAvgPool2d}


class FastNet(nn.Module):
    """Classify small images by whitening filters, three groups of two convolutions and a head: (B,3,H,W) -> (B,K).

    The stem's 32 filters of 3x3 pixels are the first 16 principal directions of the training images' patches and their
    negatives, scaled to unit variance; they are fixed, their biases are learned. A group is convolution, max pooling,
    BatchNorm, GELU, convolution, BatchNorm, GELU. Convolutions start as the identity on their first inputs. BatchNorm
    learns shifts only. `stem`, `group1`, `group2`, `group3` output maps of 32 channels at (H,W), and of `widths`
    channels at (H/2,W/2), (H/4,W/4) and (H/8,W/8); the groups guide.
    Patches of images of one channel have 9 directions, so that their stem has 18 filters and not 32.

    `fastnet_guide` is another form for guidance by the minute: `pool_first` pools before a group's first convolution,
    which then costs a quarter; with `output_stride` 4 the third group works on the grid of the second, the grid of a
    ViT with patches of 4 pixels; `global_pool="avg"` averages the last map, so that the classifier sees the places that
    guidance teaches (dev/LOG.md, 2026-11-30, compared on held-out images).

    Source: the network of Keller Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, arXiv 2404.00498. Changed
    here for guidance: filters of 3x3 with padding instead of 2x2 without, padding in the pools' inputs, so that maps
    are 32, 16 and 8 wide at 32 px, and a last pool over the remaining grid.

    Args:
        num_classes: K, at least 1.
        widths: channels of the three groups.
        in_chans: channels of the images.
        output_stride: pixels of the image a side that a place of the last map stands for, 8 or 4.
        pool_first: pool before the first convolution of a group instead of after it.
        global_pool: pooling of the last map, `max` or `avg`.

    Raises:
        ModelError: not three widths of at least 1, an unknown stride or pooling, or a number of classes below 1.
    """

    lgkd_taps = ("group1", "group2", "group3")
    lgkd_classifier = "fc"

    def __init__(
        self,
        num_classes: int,
        widths: Sequence[int] = (64, 256, 256),
        in_chans: int = 3,
        output_stride: int = 8,
        pool_first: bool = False,
        global_pool: str = "max",
    ) -> None:
        super().__init__()
        check_classes(num_classes)
        if len(widths) != 3 or min(widths) < 1:
            raise ModelError(
                f"the widths of a FastNet are {', '.join(map(str, widths))}, expected three whole numbers of at least 1"
            )
        if output_stride not in (4, 8) or global_pool not in _POOLS:
            raise ModelError(
                f"a FastNet has output_stride={output_stride!r} and global_pool={global_pool!r}, expected a stride of "
                f"4 or 8 and a pooling of {' or '.join(_POOLS)}"
            )
        pool = "first" if pool_first else "after"
        first, second, third = widths
        self.stem = WhiteningStem(in_chans)
        self.group1 = _group(self.stem.conv.out_channels, first, pool)
        self.group2 = _group(first, second, pool)
        self.group3 = _group(second, third, pool if output_stride == 8 else "none")
        self.pool = _POOLS[global_pool](1)
        self.fc = nn.Linear(third, num_classes, bias=False)
        # Maxima over many values are large; scaled as in the source, so that the first losses are near log K.
        self.scale = 1 / 9 if global_pool == "max" else 1.0

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return logits (B,K)."""
        x = self.group3(self.group2(self.group1(self.stem(images_B3HW))))
        return self.fc(self.pool(x).flatten(1)) * self.scale  # type: ignore[no-any-return]

    def lgkd_fit_images(self, images_B3HW: Tensor) -> None:
        """Set the stem's filters from training images, normalised as in training, before the first step."""
        self.stem.whiten(images_B3HW)


class WhiteningStem(nn.Module):
    """Whiten patches of 3x3 pixels by fixed filters, add learned biases, apply GELU: (B,3,H,W) -> (B,32,H,W).

    Images of one channel give (B,18,H,W).

    Until `whiten` is called or weights are loaded, the filters are those of images in which pixels resemble their
    neighbours, whose patches have the covariance 0.9^distance between places and 0.8 between colours.
    """

    def __init__(self, in_chans: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, 2 * min(_DIRECTIONS, 9 * in_chans), 3, padding=1)
        self.conv.weight.requires_grad_(False)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        self.activation = nn.GELU()
        places = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0))
        near = 0.9 ** torch.cdist(places, places, p=1)
        self._set(torch.kron(0.8 + 0.2 * torch.eye(in_chans), near))

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.conv(x))  # type: ignore[no-any-return]

    @torch.no_grad()
    def whiten(self, images_B3HW: Tensor) -> None:
        """Set the filters to the principal directions of the images' patches, each over the root of its variance.

        Second moments are taken about zero, as in the source: normalised images have a mean near it.

        Raises:
            ModelError: images without a patch of 3x3 pixels, or of other channels.
        """
        shape, channels = tuple(images_B3HW.shape), self.conv.in_channels
        if len(shape) != 4 or shape[1] != channels or min(shape[2:]) < 3 or not shape[0]:
            raise ModelError(f"images of shape {shape} hold no patch of 3 x 3 pixels; expected (B,{channels},H,W)")
        moments = torch.zeros(9 * channels, 9 * channels, dtype=torch.float64)
        count = 0
        for patches_PN in _patches(images_B3HW):
            moments += (patches_PN @ patches_PN.T).cpu()
            count += patches_PN.shape[1]
        self._set(moments / count)

    @torch.no_grad()
    def _set(self, moments: Tensor, eps: float = 5e-4) -> None:
        values, vectors = torch.linalg.eigh(moments.double())
        filters = (vectors / (values.clamp_min(0) + eps).sqrt()).T.flip(0)[: len(self.conv.weight) // 2]
        # The sign of a direction is arbitrary, and processors would choose different ones.
        largest = filters.gather(1, filters.abs().argmax(dim=1, keepdim=True))
        filters = (filters * largest.sign()).view(len(filters), -1, 3, 3)
        self.conv.weight.copy_(torch.cat([filters, -filters]))


def _patches(images_B3HW: Tensor, step: int = 500) -> Iterator[Tensor]:
    """Yield all patches of 3x3 pixels as columns (9 C,N), a few hundred images at a time."""
    for some in torch.split(images_B3HW.double(), step):
        yield nn.functional.unfold(some, 3).transpose(0, 1).flatten(1)


def _group(width_in: int, width_out: int, pool: str) -> nn.Sequential:
    first, halve = _convolution(width_in, width_out), nn.MaxPool2d(2, ceil_mode=True)
    return nn.Sequential(
        *{"after": (first, halve), "first": (halve, first), "none": (first,)}[pool],
        _norm(width_out),
        nn.GELU(),
        _convolution(width_out, width_out),
        _norm(width_out),
        nn.GELU(),
    )


def _convolution(width_in: int, width_out: int) -> nn.Conv2d:
    made = nn.Conv2d(width_in, width_out, 3, padding=1, bias=False)
    nn.init.dirac_(made.weight[: min(width_in, width_out)])
    return made


def _norm(width: int) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(width)
    made.weight.requires_grad_(False)
    return made
