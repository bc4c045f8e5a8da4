"""Remove attention heads and MLP units of a student's blocks: structured pruning, and the options that rebuild it.

A pruned student is built like the whole one, with two more options: `kept_heads` and `kept_units`, the numbers that
each block keeps, as in `kept_heads=3,2,3`. Its weights have smaller matrices under the same names.

Letters in shapes: H heads, d width of a head, U units of an MLP, D width of the tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.attention import Attention as TimmAttention
from timm.layers.mlp import Mlp as TimmMlp
from torch import Tensor, nn

from lgkd.errors import ModelError
from lgkd.models.vit.attention import Attention, LocalAttention, LowRank, LowRankQKV
from lgkd.models.vit.blocks import Mlp

KEPT_HEADS, KEPT_UNITS = "kept_heads", "kept_units"
"""Options of a pruned student: numbers of heads and of MLP units, one a block, separated by commas."""


@dataclass(frozen=True, eq=False)
class Part:
    """Hold the prunable layers of one block.

    Attributes:
        name: of the block, such as "blocks.0".
        attention: with the layers `qkv` and `proj`.
        mlp: with the layers `fc1` and `fc2`.
    """

    name: str
    attention: Any
    mlp: Any

    @property
    def heads(self) -> int:
        """Return H."""
        return int(self.attention.num_heads)

    @property
    def units(self) -> int:
        """Return U."""
        return int(self.mlp.fc1.out_features)


def prunable_parts(model: nn.Module) -> list[Part]:
    """List the blocks whose heads and units can be removed, in order: those with timm's or lgkd's attention and MLP.

    Raises:
        ModelError: there are none.
    """
    parts = [
        Part(name, module.attn, module.mlp)
        for name, module in model.named_modules()
        if _has_heads(getattr(module, "attn", None)) and _has_units(getattr(module, "mlp", None))
    ]
    if not parts:
        raise ModelError(
            f"{type(model).__name__} has no blocks whose heads and MLP units can be removed, expected those of timm's "
            "VisionTransformer or of a plain ViT; prune a student such as deit_tiny or vit_96"
        )
    return parts


def remove(part: Part, heads: Sequence[int], units: Sequence[int]) -> None:
    """Keep only some heads and units of a block, in place; all other weights are copied.

    Args:
        part: of `prunable_parts`.
        heads, units: indices of the kept ones, at least one of each.
    """
    attention, mlp = part.attention, part.mlp
    width = int(attention.head_dim)
    kept = torch.as_tensor(heads)
    columns = (kept[:, None] * width + torch.arange(width)).flatten()
    before = part.heads * width
    if isinstance(attention.qkv, LowRankQKV):
        for layer in (attention.qkv.q, attention.qkv.k, attention.qkv.v):
            _keep_rows(layer.up if isinstance(layer, LowRank) else layer, columns)
    else:
        _keep_rows(attention.qkv, torch.cat([columns, before + columns, 2 * before + columns]))
    _keep_columns(attention.proj, columns)
    if isinstance(attention, LocalAttention):
        attention.temperature = _taken(attention.temperature, kept, 0)
    attention.num_heads = len(kept)
    if isinstance(attention, TimmAttention):
        attention.attn_dim = len(columns)
    _keep_rows(mlp.fc1, torch.as_tensor(units))
    _keep_columns(mlp.fc2, torch.as_tensor(units))


def shrink(model: nn.Module, name: str, options: Mapping[str, Any]) -> nn.Module:
    """Give an untrained model the numbers of heads and units of a pruned one, in place.

    Args:
        model: of the whole size.
        name: the model's name in messages.
        options: `kept_heads` and `kept_units`, or one of them; texts of numbers separated by commas, one a block.

    Raises:
        ModelError: the model has no such blocks, or the numbers do not fit them.
    """
    parts = prunable_parts(model)
    whole = {KEPT_HEADS: [part.heads for part in parts], KEPT_UNITS: [part.units for part in parts]}
    kept = {key: _counts(name, key, options[key], most) if key in options else most for key, most in whole.items()}
    for part, heads, units in zip(parts, kept[KEPT_HEADS], kept[KEPT_UNITS], strict=True):
        remove(part, range(heads), range(units))
    return model


def widths_of(model: nn.Module) -> dict[str, str]:
    """Return the options with which `shrink` gives an untrained model of the whole size this one's numbers."""
    parts = prunable_parts(model)
    return {
        KEPT_HEADS: ",".join(str(part.heads) for part in parts),
        KEPT_UNITS: ",".join(str(part.units) for part in parts),
    }


def _counts(name: str, option: str, value: Any, most: Sequence[int]) -> list[int]:
    words = str(value).split(",") if isinstance(value, str | int) and not isinstance(value, bool) else []
    counts = [int(word) if word.strip().isdecimal() else 0 for word in words]
    if len(counts) != len(most) or not all(0 < count <= limit for count, limit in zip(counts, most, strict=True)):
        raise ModelError(
            f"{name}: {option} is {value!r}, expected {len(most)} whole numbers, one a block, from 1 to "
            f"{','.join(map(str, most))}; take it from the student.json of a pruned run"
        )
    return counts


def _has_heads(module: Any) -> bool:
    if type(module) is TimmAttention:
        # Layers between the heads and the projection mix them.
        mixes = (getattr(module, "norm", None), getattr(module, "gate", None))
        return hasattr(module, "attn_dim") and all(one is None or isinstance(one, nn.Identity) for one in mixes)
    return type(module) in (Attention, LocalAttention)


def _has_units(module: Any) -> bool:
    if type(module) is TimmMlp:
        return isinstance(module.fc1, nn.Linear) and isinstance(module.norm, nn.Identity)
    return type(module) is Mlp


def _keep_rows(layer: nn.Linear, rows: Tensor) -> None:
    layer.weight = _taken(layer.weight, rows, 0)
    if layer.bias is not None:
        layer.bias = _taken(layer.bias, rows, 0)
    layer.out_features = len(rows)


def _keep_columns(layer: nn.Linear, columns: Tensor) -> None:
    layer.weight = _taken(layer.weight, columns, 1)
    layer.in_features = len(columns)


def _taken(parameter: Tensor, index: Tensor, dim: int) -> nn.Parameter:
    return nn.Parameter(parameter.detach().index_select(dim, index.to(parameter.device)), parameter.requires_grad)
