"""Build the plain ViT: tokens, positions, blocks of one width, a pool and a linear head, each exchangeable.

Letters in shapes: B batch, K classes, H W image size, T class tokens, N = h w patch tokens, D width.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lgkd.errors import ModelError
from lgkd.models.vit.attention import Attention, LocalAttention
from lgkd.models.vit.blocks import CompactBlock, PreNormBlock
from lgkd.models.vit.checks import one_of, share, whole
from lgkd.models.vit.initialise import impulse, mimetic
from lgkd.models.vit.pooling import ClassPool, MeanPool, SequencePool
from lgkd.models.vit.positions import learned_positions, sinusoidal_positions
from lgkd.models.vit.tokens import ConvTokens, PatchTokens, ShiftedPatchTokens

_ATTENTIONS: dict[str, Callable[..., Attention]] = {"plain": Attention, "local": LocalAttention}
_BLOCKS: dict[str, Callable[..., nn.Module]] = {"pre": PreNormBlock, "compact": CompactBlock}


class PlainViT(nn.Module):
    """Classify images by a Vision Transformer of one width and one grid in all blocks: (B,3,H,W) -> (B,K).

    Images become tokens, class tokens go before them, positions are added; then come `depth` blocks, a LayerNorm over
    each token, the pool, the head. With the defaults it is timm's `VisionTransformer` with a class token, and takes its
    weights. `blocks.0` ... output tokens (B,T+N,D) after both residual additions; `num_prefix_tokens` is T. Of two
    blocks, the default taps are the tokeniser and both.

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
        attention: "plain" or "local" (LSA).
        q_rank, k_rank, v_rank: ranks of the maps to queries, keys and values; None or 0 for full matrices.
        qkv_bias: add biases to these.
        block: "pre" for norms before attention and MLP, "compact" for the order of the compact transformers.
        norm_eps: of all LayerNorms but SPT's.
        class_tokens: T; None for 1 where they are pooled, 0 elsewhere.
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
        q_rank: int | None = None,
        k_rank: int | None = None,
        v_rank: int | None = None,
        qkv_bias: bool = True,
        block: str = "pre",
        norm_eps: float = 1e-6,
        class_tokens: int | None = None,
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
        one_of("block", block, tuple(_BLOCKS))
        one_of("pooling", pooling, ("class", "mean", "sequence"))
        one_of("positions", positions, ("learned", "sinusoidal", "none"))
        one_of("patch_init", patch_init, ("default", "he"))
        one_of("init", init, ("default", "xavier", "mimetic", "impulse"))
        many = _class_tokens(class_tokens, pooling)

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
        if attention == "local" and many + grid[0] * grid[1] < 2:
            raise ModelError("local attention excludes the token itself, and there is no other; use smaller patches")

        self.num_prefix_tokens = many
        self.cls_token = nn.Parameter(torch.randn(1, many, embed_dim) * class_token_std) if many else None
        self.pos_embed: Tensor | None
        if positions == "learned":
            self.pos_embed = learned_positions(many, grid, embed_dim, position_std)
        elif positions == "sinusoidal":
            self.register_buffer("pos_embed", sinusoidal_positions(many, grid, embed_dim), persistent=False)
        else:
            self.pos_embed = None

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
            self.pool = SequencePool(embed_dim)
        else:
            self.pool = ClassPool(many) if pooling == "class" else MeanPool()
        self.head = nn.Linear(embed_dim * max(1, many), num_classes)
        self.start_from(init)

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
        tokens = self.norm(self.blocks(tokens))
        return self.head(self.pool(tokens))  # type: ignore[no-any-return]


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
