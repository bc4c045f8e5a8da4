"""Add a distillation token to any plain ViT: a second token after the class token, with its own head.

Letters in shapes: B batch, N patches, D width, K classes.
"""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lgkd.errors import ModelError


class DistilledVisionTransformer(VisionTransformer):
    """Extend `VisionTransformer` by a distillation token after its class token.

    The logits are the mean of both heads' logits, in training as in evaluation, as in DeiT's evaluation. The
    heads' own logits are the outputs of the layers `head` and `head_dist`, which a guide reads. In addition to
    the weights of the plain model there are

        dist_token       (1,1,D)
        head_dist.weight (K,D), head_dist.bias (K,)

    and `pos_embed` is (1,2+N,D): the class token's position, the distillation token's, the patches'. Where the
    plain model has no position for its class token, the distillation token has none either.

    Source: Touvron et al., Training data-efficient image transformers, ICML 2021 (arXiv 2012.12877). Names and
    shapes are those of timm's `deit_*_distilled_*`, so that their weights fit.
    """

    cls_token: nn.Parameter
    dist_token: nn.Parameter
    pos_embed: nn.Parameter
    head_dist: nn.Linear

    def _pos_embed(self, tokens_BND: Tensor) -> Tensor:
        prefix = [token.expand(len(tokens_BND), -1, -1) for token in (self.cls_token, self.dist_token)]
        if self.no_embed_class:
            tokens = torch.cat([*prefix, tokens_BND + self.pos_embed], dim=1)
        else:
            tokens = torch.cat([*prefix, tokens_BND], dim=1) + self.pos_embed
        return self.pos_drop(tokens)  # type: ignore[no-any-return]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        classified, distilled = (self.head_drop(self.fc_norm(x[:, place])) for place in (0, 1))
        if pre_logits:
            return (classified + distilled) / 2  # type: ignore[no-any-return]
        logits: Tensor = (self.head(classified) + self.head_dist(distilled)) / 2
        return logits


def add_distillation_token(model: nn.Module, name: str) -> nn.Module:
    """Add a distillation token to a plain ViT in place; its weights are kept.

    Token, position and head are drawn from a normal distribution with deviation 0.02, as DeiT's; the bias is 0.

    Args:
        model: timm's `VisionTransformer` that classifies by a class token and has learned positions.
        name: the model's name in messages.

    Raises:
        ModelError: another kind of model; the message gives the obstacle.
    """
    obstacle = _obstacle(model)
    if obstacle is not None:
        raise ModelError(
            f"{name} cannot have a distillation token: {obstacle}; leave --student-option distillation_token out, or "
            "use a plain ViT such as deit_tiny or timm:vit_tiny_patch16_224"
        )
    assert isinstance(model, VisionTransformer) and isinstance(model.pos_embed, nn.Parameter)
    assert isinstance(model.head, nn.Linear)
    positions, width = model.pos_embed.detach(), model.embed_dim
    # A subclass instead of a wrapper: layers keep their names, and timm's own functions keep working.
    model.__class__ = DistilledVisionTransformer
    assert isinstance(model, DistilledVisionTransformer)
    model.dist_token = nn.Parameter(_drawn(positions[:, :1]))
    if not model.no_embed_class:
        positions = torch.cat([positions[:, :1], _drawn(positions[:, :1]), positions[:, 1:]], dim=1)
        model.pos_embed = nn.Parameter(positions)
    model.head_dist = nn.Linear(width, model.num_classes, device=positions.device, dtype=positions.dtype)
    nn.init.trunc_normal_(model.head_dist.weight, std=0.02)
    nn.init.zeros_(model.head_dist.bias)
    model.num_prefix_tokens = 2
    if hasattr(model.patch_drop, "num_prefix_tokens"):
        model.patch_drop.num_prefix_tokens = 2
    return model


def _obstacle(model: nn.Module) -> str | None:
    """Return the reason why a model cannot have a distillation token, as half a sentence."""
    if isinstance(getattr(model, "head_dist", None), nn.Module):
        return "it has one already"
    if type(model) is not VisionTransformer:
        return f"it is a {type(model).__name__}, not a plain VisionTransformer"
    if not model.has_class_token or model.global_pool != "token":
        return f"it pools by {model.global_pool!r}, and does not classify by a class token"
    if model.reg_token is not None:
        return f"it has {model.num_reg_tokens} register tokens"
    if model.pos_embed is None or model.dynamic_img_size:
        return "its positions are not learned for images of one size"
    return None


def _drawn(like: Tensor) -> Tensor:
    return nn.init.trunc_normal_(torch.empty_like(like), std=0.02)
