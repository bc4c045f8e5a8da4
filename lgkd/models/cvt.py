"""Build CvT: a pyramid of transformers whose tokens, queries, keys and values come from convolutions.

Letters in shapes: B batch, K classes, H W image size, h w grid, N tokens, D width.
"""

from collections.abc import Sequence

import torch
from timm.layers.drop import DropPath
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from lgkd.errors import ModelError
from lgkd.models.factory import ImageSize, pair
from lgkd.models.pvt import attend, check_size, check_stages, init_linear, stage_grids, to_map, to_tokens

_CVT_13 = (1, 2, 10)


class ConvolutionalVisionTransformer(nn.Module):
    """Classify images by CvT: (B,3,H,W) -> (B,K). Defaults are those of CvT-13.

    Each of the `stages` makes its tokens with an overlapping convolution and a LayerNorm and runs its `blocks`. There
    are no positions. Only the last stage has a class token, which is classified after a LayerNorm. A block outputs
    (B,N,D), in the last stage (B,1+N,D); N is (H/4) (W/4) in the first stage and a quarter of it in each further
    one.

    With 100 classes at 224 px CvT-13 has 19,650,980 parameters. It is guided at its blocks 0, 6 and 11 of 13, as in
    the code of Locality Guidance, though the last block is 12; other depths are guided as any pyramid.

    Source: Wu et al., CvT: Introducing Convolutions to Vision Transformers, ICCV 2021 (arXiv 2103.15808), section 3;
    what the paper leaves open (the scale of attention, the quick form of GELU, stochastic depth in the last stage
    only) follows its authors' code.

    Args:
        num_classes: K, at least 1.
        image_size: pixels, one number or (height, width); multiples of 4 `patch_size`. Also 32 px (a last grid of
            2 x 2; 4 x 4 with `patch_size=2`, 8 x 8 with 1) and 64 px (4 x 4, or 8 x 8).
        patch_size: stride of the first stage's convolution, at most 7, its kernel. In each further stage it is 2.
        embed_dims: D of each stage, a multiple of its number of heads.
        depths: number of blocks of each stage.
        num_heads: of each stage's attention.
        mlp_ratio: the hidden width of an MLP is this times D.
        drop_path_rate: fraction of the samples whose last block's branches are skipped in training, growing
            linearly from 0 over the blocks of the last stage, and 0 in the others; in [0, 1).
        in_chans: channels of the images.

    Raises:
        ModelError: sizes that do not fit each other, or images of another size than the model is made for.
    """

    lgkd_taps: list[str] | None = None

    def __init__(
        self,
        num_classes: int,
        image_size: ImageSize = 224,
        *,
        patch_size: int = 4,
        embed_dims: Sequence[int] = (64, 192, 384),
        depths: Sequence[int] = _CVT_13,
        num_heads: Sequence[int] = (1, 3, 6),
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        self.image_size = pair(image_size)
        check_stages(
            "CvT",
            num_classes,
            drop_path_rate,
            embed_dims=embed_dims,
            num_heads=num_heads,
            depths=depths,
            mlp_ratio=[mlp_ratio] * len(embed_dims),
        )
        if patch_size > 7:
            raise ModelError(f"CvT: patch_size is {patch_size}, expected at most 7, the kernel that tokens are made by")
        grids = stage_grids("CvT", self.image_size, patch_size, len(depths))
        stages: list[nn.Module] = []
        width_in = in_chans
        for number, (width, depth, grid) in enumerate(zip(embed_dims, depths, grids, strict=True)):
            last = number == len(depths) - 1
            stages.append(
                ConvolutionalStage(
                    width_in,
                    width,
                    kernel=7 if number == 0 else 3,
                    stride=patch_size if number == 0 else 2,
                    grid=grid,
                    heads=num_heads[number],
                    mlp_ratio=mlp_ratio,
                    drop_paths=torch.linspace(0, drop_path_rate if last else 0.0, depth, device="cpu").tolist(),
                    class_token=last,
                )
            )
            width_in = width
        self.stages = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(width_in)
        self.head = nn.Linear(width_in, num_classes)
        init_linear(self)
        # In the authors' code the head's biases stay as torch draws them.
        nn.init.uniform_(self.head.bias, -(width_in**-0.5), width_in**-0.5)
        if tuple(depths) == _CVT_13:
            self.lgkd_taps = ["stages.0.blocks.0", "stages.2.blocks.3", "stages.2.blocks.8"]

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return logits (B,K)."""
        check_size("CvT", images_B3HW, self.image_size)
        map_BDhw = images_B3HW
        for stage in self.stages[:-1]:
            map_BDhw = to_map(stage(map_BDhw), stage.grid)  # type: ignore[arg-type]
        tokens_BND = self.stages[-1](map_BDhw)
        return self.head(self.norm(tokens_BND[:, 0]))  # type: ignore[no-any-return]


class ConvolutionalStage(nn.Module):
    """Make tokens by a convolution, add a class token if asked, run blocks: (B,C,H,W) -> (B,N,D) or (B,1+N,D).

    N is (H / stride) (W / stride). The padding (2 for a kernel of 7 with stride 4, 1 for 3 with 2) is the smallest that
    keeps a grid whole that the stride divides.
    """

    def __init__(
        self,
        width_in: int,
        width: int,
        *,
        kernel: int,
        stride: int,
        grid: tuple[int, int],
        heads: int,
        mlp_ratio: float,
        drop_paths: Sequence[float],
        class_token: bool,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.embed = nn.Conv2d(width_in, width, kernel, stride=stride, padding=(kernel - stride + 1) // 2)
        self.norm = nn.LayerNorm(width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if class_token else None
        self.blocks = nn.ModuleList(
            ConvolutionalBlock(width, heads, grid=grid, prefix=int(class_token), mlp_ratio=mlp_ratio, drop_path=rate)
            for rate in drop_paths
        )
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, map_BChw: Tensor) -> Tensor:
        tokens_BND = self.norm(to_tokens(self.embed(map_BChw)))
        if self.cls_token is not None:
            tokens_BND = torch.cat([self.cls_token.expand(tokens_BND.shape[0], -1, -1), tokens_BND], dim=1)
        for block in self.blocks:
            tokens_BND = block(tokens_BND)
        return tokens_BND  # type: ignore[no-any-return]


class ConvolutionalBlock(nn.Module):
    """Apply attention and MLP, each on normed tokens with a shortcut around it: (B,N,D) -> (B,N,D)."""

    def __init__(
        self, width: int, heads: int, *, grid: tuple[int, int], prefix: int, mlp_ratio: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = ConvolutionalAttention(width, heads, grid, prefix)
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio), act_layer=QuickGELU)
        self.drop_path2 = DropPath(drop_path)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        tokens_BND = tokens_BND + self.drop_path1(self.attn(self.norm1(tokens_BND)))
        return tokens_BND + self.drop_path2(self.mlp(self.norm2(tokens_BND)))  # type: ignore[no-any-return]


class ConvolutionalAttention(nn.Module):
    """Attend with queries, keys and values from depthwise convolutions: (B,prefix+N,D) -> (B,prefix+N,D).

    The patch tokens are arranged on their grid and pass a depthwise 3x3 convolution with BatchNorm, one each for
    queries (stride 1), keys and values (stride 2, so that there are a quarter of them). Leading tokens that are not
    patches bypass the convolutions. A linear layer with bias follows for all. Products of queries and keys are
    multiplied by 1 / sqrt(D), not by 1 / sqrt(D / heads), as in the authors' code.

    Source: arXiv 2103.15808, section 3.2.
    """

    def __init__(self, width: int, heads: int, grid: tuple[int, int], prefix: int) -> None:
        super().__init__()
        self.heads, self.grid, self.prefix = heads, grid, prefix
        self.scale = width**-0.5
        self.fused_attn = True
        self.conv_q = _depthwise(width, stride=1)
        self.conv_k = _depthwise(width, stride=2)
        self.conv_v = _depthwise(width, stride=2)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        prefix_BPD = tokens_BND[:, : self.prefix]
        map_BDhw = to_map(tokens_BND[:, self.prefix :], self.grid)
        queries, keys, values = (
            linear(torch.cat([prefix_BPD, to_tokens(conv(map_BDhw))], dim=1))
            for conv, linear in ((self.conv_q, self.q), (self.conv_k, self.k), (self.conv_v, self.v))
        )
        mixed_BND = attend(queries, keys, values, heads=self.heads, fused=self.fused_attn, scale=self.scale)
        return self.proj(mixed_BND)  # type: ignore[no-any-return]


class QuickGELU(nn.Module):
    """Compute x sigmoid(1.702 x), close to GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def _depthwise(width: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width))
