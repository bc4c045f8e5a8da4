"""Build the plain ViT: tokens, positions, blocks of one width, a pool and a linear head, each exchangeable.

Letters in shapes: B batch, K classes, H W image size, T class tokens, R register tokens, N = h w patch tokens, D width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lgkd._internal.tokens import gather_tokens
from lgkd.errors import ModelError
from lgkd.models.visible_patches import VisiblePatches, of_projection
from lgkd.models.vit.attention import Attention, LocalAttention
from lgkd.models.vit.blocks import CompactBlock, PreNormBlock
from lgkd.models.vit.checks import one_of, share, whole
from lgkd.models.vit.gaussian_mask import GaussianMaskAttention
from lgkd.models.vit.initialise import impulse, mimetic
from lgkd.models.vit.multiscale import MultiScaleQKV
from lgkd.models.vit.pooling import ClassPool, MeanPool, SequencePool
from lgkd.models.vit.positions import learned_positions, sinusoidal_positions
from lgkd.models.vit.tokens import ConvTokens, PatchTokens, ShiftedPatchTokens

_ATTENTIONS: dict[str, Callable[..., Attention]] = {
    "plain": Attention,
    "local": LocalAttention,
    "gaussian-mask": GaussianMaskAttention,
}
_BLOCKS: dict[str, Callable[..., nn.Module]] = {"pre": PreNormBlock, "compact": CompactBlock}


class PlainViT(nn.Module):
    """Classify images by a Vision Transformer of one width and one grid in all blocks: (B,3,H,W) -> (B,K).

    Images become tokens, class tokens go before them, positions are added, register tokens go between; then come
    `depth` blocks, a LayerNorm over each token, the pool, the head. With the defaults it is timm's `VisionTransformer`
    with a class token, and takes its weights. `blocks.0` ... output tokens (B,T+R+N,D) after both residual additions;
    `num_prefix_tokens` is T+R. Of two blocks, the default taps are the tokeniser and both.

    `lgkd.models.vit.named` has the named configurations. Patch projections are whitened with images:
    `lgkd.models.vit.initialise.whiten_patches`, from Python.

    Source: Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021 (arXiv 2010.11929). Chosen here: the norm is
    before the pool for every kind of pool.

    Args:
        num_classes: K.
        image_size: H = W, or (H, W).
        patch_size: side of a patch in pixels; ignored with tokenizer=conv.
        embed_dim: D.
        depth: number of blocks.
        num_heads: heads of every block, a divisor of D.
        mlp_ratio: width inside an MLP, in multiples of D.
        drop_path_rate: stochastic depth of the last block. It rises in equal steps from 0 in the first.
        drop_path_rises: False for the same rate in all blocks.
        attn_drop_rate: fraction of attention weights that are dropped in training.
        tokenizer: "patch", "shifted" (SPT) or "conv" (CCT's).
        conv_kernel, conv_layers, conv_width: of tokenizer=conv: kernel, number of convolutions, channels between them.
        attention: "plain", "local" (LSA) or "gaussian-mask" (logits multiplied by Gaussians of the distance).
        gaussians: of attention=gaussian-mask, for each head.
        qkv: "linear", or "multiscale" (LIFE) for queries, keys and values of three receptive fields.
        q_rank, k_rank, v_rank: ranks of the maps to queries, keys and values; None or 0 for full matrices.
        qkv_bias: add biases to these.
        block: "pre" for norms before attention and MLP, "compact" for the order of the compact transformers.
        norm_eps: of all LayerNorms but SPT's.
        class_tokens: T; None for 1 where they are pooled, 0 elsewhere.
        register_tokens: R, tokens that neither pool nor guide reads (Darcet et al., arXiv 2309.16588); without
            positions, as in DINOv2.
        pooling: "class", "mean" or "sequence".
        positions: "learned" (class tokens have them, too), "sinusoidal" (fixed) or "none".
        position_std, class_token_std: of the normal distributions that learned positions and class tokens start from.
        patch_init: of the projection with tokenizer=patch. "default" is torch's, "he" He's fan-in distribution.
        init: of the linear layers. "default" is normal with deviation 0.02, "xavier" Glorot's normal, "mimetic" and
            "impulse" the default and then `lgkd.models.vit.initialise`. Biases start at 0.
        in_chans: channels of the images.

    Raises:
        ModelError: invalid choices, or choices that do not fit each other or the images.
    """

    lgkd_classifier = "head"

    def __init__(
        self,
        num_classes: int,
        image_size: int | tuple[int, int] = 32,
        *,
        patch_size: int = 4,
        embed_dim: int = 192,
        depth: int = 12,
        num_heads: int = 3,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        drop_path_rises: bool = True,
        attn_drop_rate: float = 0.0,
        tokenizer: str = "patch",
        conv_kernel: int = 3,
        conv_layers: int = 1,
        conv_width: int = 64,
        attention: str = "plain",
        gaussians: int = 5,
        qkv: str = "linear",
        q_rank: int | None = None,
        k_rank: int | None = None,
        v_rank: int | None = None,
        qkv_bias: bool = True,
        block: str = "pre",
        norm_eps: float = 1e-6,
        class_tokens: int | None = None,
        register_tokens: int = 0,
        pooling: str = "class",
        positions: str = "learned",
        position_std: float = 0.02,
        class_token_std: float = 0.02,
        patch_init: str = "default",
        init: str = "default",
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        whole("num_classes", num_classes)
        whole("depth", depth)
        hidden = int(embed_dim * mlp_ratio)
        whole("embed_dim times mlp_ratio", hidden)
        one_of("tokenizer", tokenizer, ("patch", "shifted", "conv"))
        one_of("attention", attention, tuple(_ATTENTIONS))
        one_of("qkv", qkv, ("linear", "multiscale"))
        one_of("block", block, tuple(_BLOCKS))
        one_of("pooling", pooling, ("class", "mean", "sequence"))
        one_of("positions", positions, ("learned", "sinusoidal", "none"))
        one_of("patch_init", patch_init, ("default", "he"))
        one_of("init", init, ("default", "xavier", "mimetic", "impulse"))
        many = _class_tokens(class_tokens, pooling)
        prefix = many + whole("register_tokens", register_tokens, 0)
        if qkv == "multiscale" and any((q_rank, k_rank, v_rank)):
            raise ModelError("qkv=multiscale has no ranks, and q_rank, k_rank or v_rank is given; use only one of them")

        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.patch_embed: PatchTokens | ShiftedPatchTokens | ConvTokens
        if tokenizer == "conv":
            self.patch_embed = ConvTokens(
                size, embed_dim, kernel=conv_kernel, layers=conv_layers, hidden=conv_width, in_chans=in_chans
            )
        elif tokenizer == "shifted":
            self.patch_embed = ShiftedPatchTokens(size, patch_size, embed_dim, in_chans=in_chans)
        else:
            self.patch_embed = PatchTokens(size, patch_size, embed_dim, he=patch_init == "he", in_chans=in_chans)
        grid = self.patch_embed.grid_size
        if attention == "local" and prefix + grid[0] * grid[1] < 2:
            raise ModelError("local attention excludes the token itself, and there is no other; use smaller patches")

        self.num_prefix_tokens, self.class_tokens = prefix, many
        self.cls_token = nn.Parameter(torch.randn(1, many, embed_dim) * class_token_std) if many else None
        # As small as DINOv2's: what a register starts from is nearly the same for all.
        self.reg_token = nn.Parameter(torch.randn(1, register_tokens, embed_dim) * 1e-6) if register_tokens else None
        self.pos_embed: Tensor | None
        if positions == "learned":
            self.pos_embed = learned_positions(many, grid, embed_dim, position_std)
        elif positions == "sinusoidal":
            self.register_buffer("pos_embed", sinusoidal_positions(many, grid, embed_dim), persistent=False)
        else:
            self.pos_embed = None

        masked: dict[str, Any] = {"grid": grid, "prefix": prefix, "gaussians": gaussians}
        last = share("drop_path_rate", drop_path_rate)
        rates = [last * number / max(1, depth - 1) if drop_path_rises else last for number in range(depth)]
        self.blocks = nn.Sequential(
            *(
                _BLOCKS[block](
                    _ATTENTIONS[attention](
                        embed_dim,
                        num_heads,
                        qkv_bias=qkv_bias,
                        q_rank=q_rank,
                        k_rank=k_rank,
                        v_rank=v_rank,
                        dropout=attn_drop_rate,
                        qkv=MultiScaleQKV(embed_dim, grid, prefix, qkv_bias) if qkv == "multiscale" else None,
                        **(masked if attention == "gaussian-mask" else {}),
                    ),
                    embed_dim,
                    hidden,
                    drop_path=rate,
                    eps=norm_eps,
                )
                for rate in rates
            )
        )
        if depth == 2:
            # Two blocks are too few for a guide's three pairs, and the tokeniser's convolutions make a map, too.
            self.lgkd_taps = ("patch_embed", "blocks.0", "blocks.1")
        self.norm = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.pool: nn.Module
        if pooling == "sequence":
            self.pool = SequencePool(embed_dim, register_tokens)
        else:
            self.pool = ClassPool(many) if pooling == "class" else MeanPool(register_tokens)
        self.head = nn.Linear(embed_dim * max(1, many), num_classes)
        self.start_from(init)

    def no_weight_decay(self) -> set[str]:
        """Return the names of the weights that do not decay, beside class tokens and positions."""
        return {"reg_token"}

    def start_from(self, init: str) -> None:
        """Draw the linear layers' weights again, see `init` above."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                if init == "xavier":
                    nn.init.xavier_normal_(module.weight)
                else:
                    nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if init == "mimetic":
            mimetic(self)
        elif init == "impulse":
            impulse(self)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return logits (B,K)."""
        tokens = self.patch_embed(images_B3HW)
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        if self.pos_embed is not None:
            tokens = tokens + self.pos_embed
        if self.reg_token is not None:
            registers = self.reg_token.expand(tokens.shape[0], -1, -1)
            tokens = torch.cat([tokens[:, : self.class_tokens], registers, tokens[:, self.class_tokens :]], dim=1)
        tokens = self.norm(self.blocks(tokens))
        return self.head(self.pool(tokens))  # type: ignore[no-any-return]

    def lgkd_visible_patches(self) -> VisiblePatches:
        """Return the encoder of some patches alone.

        Raises:
            ModelError: tokens that contain pixels of other patches, or attention that needs the whole grid.
        """
        attention = self.blocks[0].attn
        part = None
        if not isinstance(self.patch_embed, PatchTokens):
            part = "tokens of overlapping patches (tokenizer)"
        elif isinstance(attention, GaussianMaskAttention):
            part = "attention=gaussian-mask"
        elif isinstance(attention, Attention) and isinstance(attention.qkv, MultiScaleQKV):
            part = "qkv=multiscale"
        if part is not None:
            raise ModelError(
                f"this {type(self).__name__} cannot encode some patches alone: it has {part}; expected "
                "tokenizer=patch, attention=plain or local, and qkv=linear"
            )
        patches = self.patch_embed
        assert isinstance(patches, PatchTokens)
        return of_projection(patches.proj, patches.grid_size, self.num_prefix_tokens, self.encode_visible)

    def encode_visible(self, images_B3HW: Tensor, visible_BM: Tensor) -> Tensor:
        """Encode some patches alone, as masked autoencoders do; see `lgkd.models.visible_patches`.

        Args:
            images_B3HW: of which only the pixels of these patches are used.
            visible_BM: numbers of the patches of each image, row by row, int64 (B,M).

        Returns:
            Tokens (B,T+R+M,D) after the norm.
        """
        tokens = self.patch_embed(images_B3HW)
        if self.pos_embed is not None:
            tokens = tokens + self.pos_embed[:, self.class_tokens :]
        tokens = gather_tokens(tokens, visible_BM)
        many = tokens.shape[0]
        first = []
        if self.cls_token is not None:
            placed = 0.0 if self.pos_embed is None else self.pos_embed[:, : self.class_tokens]
            first.append((self.cls_token + placed).expand(many, -1, -1))
        if self.reg_token is not None:
            first.append(self.reg_token.expand(many, -1, -1))
        tokens = torch.cat([*first, tokens], dim=1)
        attention = self.blocks[0].attn
        if tokens.shape[1] < 2 and isinstance(attention, Attention) and attention.only_others:
            raise ModelError("local attention excludes the token itself, and there is no other; show more patches")
        return self.norm(self.blocks(tokens))  # type: ignore[no-any-return]


def _class_tokens(asked: int | None, pooling: str) -> int:
    """Return the number of class tokens.

    Raises:
        ModelError: class tokens that are not read, or none to read.
    """
    if pooling == "class":
        return whole("class_tokens with pooling=class", 1 if asked is None else asked)
    if asked:
        raise ModelError(
            f"class_tokens is {asked!r}, and pooling={pooling} reads none of them; use pooling=class, or class_tokens=0"
        )
    return 0
