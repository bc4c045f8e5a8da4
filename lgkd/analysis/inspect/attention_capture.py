"""Capture block outputs and attention weights of any transformer in one forward pass.

Letters in shapes: B batch, H heads, N queries, M keys, d width of a head.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lgkd.models.default_taps import block_names, default_taps, stage_names

_DROPPED = "attn_drop"
"""timm's name of the dropout behind the softmax, which in evaluation outputs the weights unchanged."""


@dataclass
class Reading:
    """Hold the block outputs and attention weights of one batch.

    Attributes:
        outputs: of each block, unchanged.
        weights: of each block that computes attention, (B,H,N,M); the first where it does so several times.
    """

    outputs: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)


def looked_at(model: nn.Module) -> list[str]:
    """Return the layers to read: transformer blocks; stages of a CNN; or the default taps."""
    return block_names(model) or stage_names(model) or default_taps(model)


@torch.no_grad()
def read(model: nn.Module, layers: Sequence[str], images: Tensor) -> Reading:
    """Run a model in eval mode over images (B,3,H,W) and capture its layers' outputs and attention weights.

    Attention is captured where torch's fused function is called, from its queries and keys, and where a
    dropout called `attn_drop` is given the weights.
    """
    seen = Reading()
    inside: list[str] = []
    modules = dict(model.named_modules())
    handles = []
    flags = [(module, module.training) for module in model.modules()]
    for name in layers:
        handles.append(modules[name].register_forward_pre_hook(lambda *_, name=name: inside.append(name)))
        handles.append(modules[name].register_forward_hook(_leave(name, inside, seen)))
        handles += [
            module.register_forward_hook(lambda _module, _args, output: _keep(output, inside, seen))
            for inner, module in modules[name].named_modules()
            if inner.rpartition(".")[2] == _DROPPED
        ]
    try:
        model.eval()
        with _slow_path(), _Watching(inside, seen):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in flags:
            module.training = training
    return seen


def _leave(name: str, inside: list[str], seen: Reading) -> Any:
    def leave(_module: nn.Module, _args: Any, output: Any) -> None:
        inside.remove(name)
        items = (output,) if isinstance(output, Tensor) else output
        first = next((item for item in items if isinstance(item, Tensor)), None)
        if first is not None:
            seen.outputs[name] = first.float()

    return leave


def _keep(weights: Any, inside: list[str], seen: Reading) -> None:
    if inside and isinstance(weights, Tensor) and weights.ndim == 4:
        seen.weights.setdefault(inside[-1], weights.float())


class _Watching(TorchFunctionMode):
    """Compute the weights that torch's fused attention does not return."""

    def __init__(self, inside: list[str], seen: Reading) -> None:
        super().__init__()
        self._inside, self._seen = inside, seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention and self._inside:
            _keep(attention_weights(*args[:2], **_asked(args, kwargs or {})), self._inside, self._seen)
        if func is F.multi_head_attention_forward and self._inside:
            # torch's own layer, which can return its weights; the calls inside are not captured.
            asked = {**(kwargs or {}), "need_weights": True, "average_attn_weights": False}
            mixed, weights = func(*args, **asked)
            _keep(weights, self._inside, self._seen)
            return mixed, weights if (kwargs or {}).get("need_weights", True) else None
        return func(*args, **(kwargs or {}))


def _asked(args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return mask, causality and scale of a call, positional or by keyword."""
    given = dict(zip(("attn_mask", "dropout_p", "is_causal"), args[3:], strict=False)) | kwargs
    return {name: given[name] for name in ("attn_mask", "is_causal", "scale") if name in given}


def attention_weights(
    query_BHNd: Tensor,
    key_BHMd: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Compute softmax(q k^T scale + mask), (B,H,N,M): the weights of torch's `scaled_dot_product_attention`."""
    logits = query_BHNd.float() @ key_BHMd.float().transpose(-2, -1)
    logits = logits * (1 / math.sqrt(query_BHNd.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
    if attn_mask is not None:
        is_truth = attn_mask.dtype == torch.bool
        logits = logits.masked_fill(~attn_mask, float("-inf")) if is_truth else logits + attn_mask
    return logits.softmax(dim=-1)


@contextmanager
def _slow_path() -> Iterator[None]:
    """Disable the fast path of torch's encoder layers in evaluation, in which attention cannot be captured."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
