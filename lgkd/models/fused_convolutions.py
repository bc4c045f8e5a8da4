"""Fuse convolution, addition and ReLU of a frozen model into one launch each, by cuDNN's operations for it."""

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

_IN_PLACE: tuple[Callable[..., Any] | str, ...] = (operator.iadd, "add_")
_ADDITIONS: tuple[Callable[..., Any] | str, ...] = (operator.add, torch.add, "add", *_IN_PLACE)
_RELUS: tuple[Callable[..., Any] | str, ...] = (F.relu, torch.relu, F.relu_, torch.relu_, "relu", "relu_")

# Largest difference from the model as it was, as a share of the largest value: more is not rounding.
_ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3}


class FusedConv2d(nn.Module):
    """Compute relu(convolution(x) + other) in one launch, without gradient; `other` may be left out.

    Args:
        convolution: weights and settings; padding with zeros.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, values: Tensor, other: Tensor | None = None) -> Tensor:
        """Return (B,C,h,w)."""
        layer = self.convolution
        settings = layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups
        if other is None:
            made: Tensor = torch.ops.aten.cudnn_convolution_relu(values, layer.weight, *settings)
        else:
            made = torch.ops.aten.cudnn_convolution_add_relu(values, layer.weight, other, 1.0, *settings)
        return made


def fused(graph: fx.GraphModule, images: Tensor) -> fx.GraphModule:
    """Fuse convolutions with the addition and the ReLU behind them, where nothing else reads what is between.

    Args:
        graph: in evaluation mode; it is not changed, and the result shares its weights.
        images: a few, on which the result is compared with it.

    Returns:
        The same graph where the device has no such operation, or there is nothing to fuse, or the results differ.
    """
    made = fx.GraphModule(graph, _copied(graph.graph))
    if not _fuse(made):
        return graph
    try:
        agree = all(map(_close, made(images), graph(images)))
    except (RuntimeError, NotImplementedError):  # of a device, a number format or a cuDNN without it
        return graph
    return made if agree else graph


def _copied(graph: fx.Graph) -> fx.Graph:
    copied = fx.Graph()
    copied.output(copied.graph_copy(graph, {}))
    return copied


def _fuse(reduced: fx.GraphModule) -> int:
    """Replace every convolution that ends in a ReLU, in place; return their number."""
    modules = dict(reduced.named_modules())
    calls = [node.target for node in reduced.graph.nodes if node.op == "call_module"]
    count = 0
    for relu in list(reduced.graph.nodes):
        if not _is_relu(relu, modules) or not isinstance(before := relu.args[0], fx.Node):
            continue
        addends: tuple[Any, ...] = ()
        if _is_addition(before):
            if len(before.users) != 1:
                continue
            addends = before.args
        # An addition in place changes its first operand, which others may read.
        ends = (addends[:1] if before.target in _IN_PLACE else addends) or (before,)
        end = next((node for node in ends if _is_plain(node, modules) and calls.count(node.target) == 1), None)
        if end is None or addends.count(end) > 1:
            continue
        others = tuple(node for node in addends if node is not end)
        name = f"fused_{count}"
        reduced.add_submodule(name, FusedConv2d(modules[end.target]))
        with reduced.graph.inserting_before(relu):
            joined = reduced.graph.call_module(name, (end.args[0], *others))
        relu.replace_all_uses_with(joined)
        for node in (relu, *([before] if addends else []), end):
            reduced.graph.erase_node(node)
        count += 1
    if count:
        reduced.recompile()
    return count


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return type(modules.get(str(node.target))) is nn.ReLU
    return node.op in ("call_function", "call_method") and node.target in _RELUS


def _is_addition(node: fx.Node) -> bool:
    return (
        node.op in ("call_function", "call_method")
        and node.target in _ADDITIONS
        and not node.kwargs
        and len(node.args) == 2
        and all(isinstance(one, fx.Node) for one in node.args)
    )


def _is_plain(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Return True for a convolution with a bias that is read once, and pads with zeros by numbers."""
    layer = modules.get(str(node.target)) if node.op == "call_module" else None
    return (
        type(layer) is nn.Conv2d
        and len(node.users) == 1
        and len(node.args) == 1
        and layer.bias is not None
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


def _close(ours: Tensor, theirs: Tensor) -> bool:
    tolerance = _ROUNDING.get(ours.dtype, 3e-2)
    return bool((ours - theirs).abs().max() <= tolerance * theirs.abs().max().clamp(min=1e-6))
