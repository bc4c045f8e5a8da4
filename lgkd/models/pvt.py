"""Build PVT: a pyramid of transformers in which attention reads a coarser map.

Letters in shapes: B batch, K classes, H W image size, h w grid, N and M tokens, D width.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from lgkd.errors import ModelError
from lgkd.models.factory import ImageSize, pair

_norm = partial(nn.LayerNorm, eps=1e-6)


class PyramidVisionTransformer(nn.Module):
    """Classify images by PVT, the first version: (B,3,H,W) -> (B,K). Defaults are those of PVT-Tiny.

    Each of the `stages` cuts its map into patches without overlap, adds learned positions and runs its `blocks`. Only
    the last stage has a class token, which is classified after a LayerNorm. A block outputs (B,N,D), in the
    last stage (B,1+N,D); N is (H/4) (W/4) in the first stage and a quarter of it in each further one.

    With 100 classes at 224 px PVT-Tiny has 12,767,588 parameters.

    Source: Wang et al., Pyramid Vision Transformer, ICCV 2021 (arXiv 2102.12122), section 3; epsilon 1e-6 in every
    LayerNorm as in Locality Guidance, arXiv 2207.10026.

    Args:
        num_classes: K, at least 1.
        image_size: pixels, one number or (height, width); multiples of 8 `patch_size`. Also 32 px (a last grid of
            1 x 1; 2 x 2 with `patch_size=2`) and 64 px (2 x 2, or 4 x 4).
        patch_size: pixels of the side of a patch of the first stage. In each further stage a patch is 2 x 2 places.
        embed_dims: D of each stage, a multiple of its number of heads.
        depths: number of blocks of each stage.
        num_heads: of each stage's attention.
        mlp_ratios: the hidden width of a stage's MLPs is this times D.
        sr_ratios: factor by which the map that a stage's attention reads is coarser, per side; 1 in the last.
        drop_path_rate: fraction of the samples whose last block's branches are skipped in training, growing
            linearly from 0 over the blocks of all stages; in [0, 1).
        in_chans: channels of the images.

    Raises:
        ModelError: sizes that do not fit each other, or images of another size than the model is made for.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: ImageSize = 224,
        *,
        patch_size: int = 4,
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        drop_path_rate: float = 0.0,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        self.image_size = pair(image_size)
        check_stages(
            "PVT",
            num_classes,
            drop_path_rate,
            embed_dims=embed_dims,
            num_heads=num_heads,
            depths=depths,
            mlp_ratios=mlp_ratios,
            sr_ratios=sr_ratios,
        )
        grids = stage_grids("PVT", self.image_size, patch_size, len(depths))
        if sr_ratios[-1] != 1:
            raise ModelError(
                f"PVT: the last of sr_ratios is {sr_ratios[-1]}, expected 1: the class token has no position on a map "
                "that could be made coarser"
            )
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        stages: list[nn.Module] = []
        width_in = in_chans
        for number, (width, depth, grid) in enumerate(zip(embed_dims, depths, grids, strict=True)):
            first = sum(depths[:number])
            stages.append(
                PyramidStage(
                    width_in,
                    width,
                    patch=patch_size if number == 0 else 2,
                    grid=grid,
                    heads=num_heads[number],
                    mlp_ratio=mlp_ratios[number],
                    reduction=sr_ratios[number],
                    drop_paths=rates[first : first + depth],
                    class_token=number == len(depths) - 1,
                )
            )
            width_in = width
        self.stages = nn.ModuleList(stages)
        self.norm = _norm(width_in)
        self.head = nn.Linear(width_in, num_classes)
        init_linear(self)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return logits (B,K)."""
        check_size("PVT", images_B3HW, self.image_size)
        map_BDhw = images_B3HW
        for stage in self.stages[:-1]:
            map_BDhw = to_map(stage(map_BDhw), stage.grid)  # type: ignore[arg-type]
        tokens_BND = self.stages[-1](map_BDhw)
        return self.head(self.norm(tokens_BND[:, 0]))  # type: ignore[no-any-return]


class PyramidStage(nn.Module):
    """Embed patches, add positions and a class token if asked, run blocks: (B,C,H,W) -> (B,N,D) or (B,1+N,D)."""

    def __init__(
        self,
        width_in: int,
        width: int,
        *,
        patch: int,
        grid: tuple[int, int],
        heads: int,
        mlp_ratio: float,
        reduction: int,
        drop_paths: Sequence[float],
        class_token: bool,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.embed = nn.Conv2d(width_in, width, patch, stride=patch)
        self.norm = _norm(width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if class_token else None
        self.pos_embed = nn.Parameter(torch.empty(1, grid[0] * grid[1] + class_token, width))
        self.blocks = nn.ModuleList(
            PyramidBlock(width, heads, grid=grid, mlp_ratio=mlp_ratio, reduction=reduction, drop_path=rate)
            for rate in drop_paths
        )
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, map_BChw: Tensor) -> Tensor:
        tokens_BND = self.norm(to_tokens(self.embed(map_BChw)))
        if self.cls_token is not None:
            tokens_BND = torch.cat([self.cls_token.expand(tokens_BND.shape[0], -1, -1), tokens_BND], dim=1)
        tokens_BND = tokens_BND + self.pos_embed
        for block in self.blocks:
            tokens_BND = block(tokens_BND)
        return tokens_BND  # type: ignore[no-any-return]


class PyramidBlock(nn.Module):
    """Apply attention and MLP, each on normed tokens with a shortcut around it: (B,N,D) -> (B,N,D)."""

    def __init__(
        self, width: int, heads: int, *, grid: tuple[int, int], mlp_ratio: float, reduction: int, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = _norm(width)
        self.attn = PyramidAttention(width, heads, grid, reduction)
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = _norm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.drop_path2 = DropPath(drop_path)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        tokens_BND = tokens_BND + self.drop_path1(self.attn(self.norm1(tokens_BND)))
        return tokens_BND + self.drop_path2(self.mlp(self.norm2(tokens_BND)))  # type: ignore[no-any-return]


class PyramidAttention(nn.Module):
    """Attend to keys and values of a coarser map: (B,N,D) -> (B,N,D).

    The tokens are arranged on their grid, and a convolution with kernel and stride `reduction` and a LayerNorm reduce
    them to M = N / reduction^2 tokens, which give keys and values. With a reduction of 1 it is plain attention, and the
    tokens may include a class token.

    Source: arXiv 2102.12122, section 3.3.

    Raises:
        ModelError: the grid's sides are not multiples of `reduction`.
    """

    def __init__(self, width: int, heads: int, grid: tuple[int, int], reduction: int) -> None:
        super().__init__()
        if grid[0] % reduction or grid[1] % reduction:
            raise ModelError(
                f"PVT: attention cannot make a grid of {grid[0]} x {grid[1]} tokens {reduction} times coarser; choose "
                "an image_size that is a multiple of patch_size times the first of sr_ratios, or other sr_ratios"
            )
        self.heads, self.grid, self.reduction = heads, grid, reduction
        self.fused_attn = True
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, stride=reduction)
            self.norm = _norm(width)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        seen_BMD = tokens_BND
        if self.reduction > 1:
            seen_BMD = self.norm(to_tokens(self.sr(to_map(tokens_BND, self.grid))))
        keys_BMD, values_BMD = self.kv(seen_BMD).chunk(2, dim=-1)
        mixed_BND = attend(self.q(tokens_BND), keys_BMD, values_BMD, heads=self.heads, fused=self.fused_attn)
        return self.proj(mixed_BND)  # type: ignore[no-any-return]


def attend(
    queries_BND: Tensor, keys_BMD: Tensor, values_BMD: Tensor, *, heads: int, fused: bool, scale: float | None = None
) -> Tensor:
    """Compute softmax attention in which every head has its share of the width, (B,N,D).

    Args:
        heads: number of heads.
        fused: use torch's fused function, or two products with a softmax between them: the same numbers.
        scale: factor of the products of queries and keys; None: 1 / sqrt(D / heads).
    """
    queries, keys, values = (
        each.reshape(*each.shape[:2], heads, -1).transpose(1, 2) for each in (queries_BND, keys_BMD, values_BMD)
    )
    factor = queries.shape[-1] ** -0.5 if scale is None else scale
    if fused:
        mixed = F.scaled_dot_product_attention(queries, keys, values, scale=factor)
    else:
        mixed = (queries * factor @ keys.transpose(2, 3)).softmax(dim=-1) @ values
    return mixed.transpose(1, 2).flatten(2)


def to_map(tokens_BND: Tensor, grid: tuple[int, int]) -> Tensor:
    """Arrange tokens row by row, (B,N,D) -> (B,D,h,w)."""
    # Channels stay last in memory: after other layouts torch 2.14's BatchNorm has wrong gradients for a single image.
    return tokens_BND.reshape(tokens_BND.shape[0], *grid, tokens_BND.shape[2]).permute(0, 3, 1, 2)


def to_tokens(map_BDhw: Tensor) -> Tensor:
    """Flatten a map row by row, (B,D,h,w) -> (B,N,D)."""
    return map_BDhw.permute(0, 2, 3, 1).flatten(1, 2)


def init_linear(model: nn.Module) -> None:
    """Initialise all linear layers of a model as in these papers: normal of deviation 0.02, biases 0."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)


def stage_grids(name: str, image_size: tuple[int, int], patch_size: int, stages: int) -> list[tuple[int, int]]:
    """Compute the grid (h,w) of each stage: the image's sides over `patch_size`, halved for each further one.

    Raises:
        ModelError: one of them is not whole.
    """
    height, width = image_size
    step = patch_size * 2 ** (stages - 1)
    if patch_size < 1 or min(image_size) < 1 or height % step or width % step:
        raise ModelError(
            f"{name}: images of {height} x {width} pixels do not divide into {stages} stages after patches of "
            f"{patch_size} pixels; choose an image_size whose sides are multiples of {max(step, 1)}, or another "
            "patch_size"
        )
    return [(height // (patch_size * 2**stage), width // (patch_size * 2**stage)) for stage in range(stages)]


def check_stages(
    name: str,
    num_classes: int,
    drop_path_rate: float,
    *,
    embed_dims: Sequence[int],
    num_heads: Sequence[int],
    **others: Sequence[float],
) -> None:
    """Validate that the settings of a pyramid's stages fit each other.

    Raises:
        ModelError: they do not.
    """
    if num_classes < 1:
        raise ModelError(f"{name}: num_classes is {num_classes}, expected at least 1")
    if not 0 <= drop_path_rate < 1:
        raise ModelError(f"{name}: drop_path_rate is {drop_path_rate}, expected a number from 0 to below 1")
    settings: dict[str, Sequence[float]] = {"embed_dims": embed_dims, "num_heads": num_heads, **others}
    for key, values in settings.items():
        if not values or len(values) != len(embed_dims):
            raise ModelError(
                f"{name}: {key} has {len(values)} entries and embed_dims {len(embed_dims)}; give one entry per stage"
            )
        if min(values) <= 0:
            raise ModelError(f"{name}: {key} is {list(values)}, expected numbers above 0")
    for width, heads in zip(embed_dims, num_heads, strict=True):
        if width % heads:
            raise ModelError(f"{name}: embed_dims has {width}, which {heads} heads do not divide; choose a multiple")


def check_size(name: str, images_B3HW: Tensor, image_size: tuple[int, int]) -> None:
    """Raise ModelError where images have another size than the model was made for."""
    if images_B3HW.shape[-2:] != image_size:
        raise ModelError(
            f"{name}: images are {images_B3HW.shape[-2]} x {images_B3HW.shape[-1]} pixels, expected {image_size[0]} x "
            f"{image_size[1]}; make the model with that image_size"
        )
