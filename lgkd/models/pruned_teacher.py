"""Prune a frozen model to the layers whose outputs are used, and fold BatchNorm into convolutions.

A teacher runs once a step and never changes, so its graph is simplified beforehand: layers after the last one that is
read are removed, and the scale and shift of a BatchNorm with fixed statistics become those of the convolution before
it. The pruned model is a copy; the teacher itself is unchanged.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from lgkd.models.fused_convolutions import fused

# Largest difference of a pruned model from the whole one, as a share of the largest value: more is not rounding.
_ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-4}


class Trimmed(nn.Module):
    """Run a frozen model reduced to the outputs that are read.

    Args:
        graph: outputs one tensor for each requested value.
        with_logits: the first of them is the model's own output.
        folded: number of folded BatchNorms.
    """

    def __init__(self, graph: fx.GraphModule, *, with_logits: bool, folded: int) -> None:
        super().__init__()
        self.graph = graph
        self.with_logits = with_logits
        self.folded = folded

        self._launched: fx.GraphModule | None = None

    @torch.no_grad()
    def forward(self, images_B3HW: Tensor) -> tuple[Tensor | None, list[Tensor]]:
        """Return the logits (B,K), if requested, and the outputs (or inputs) of the layers that are read."""
        seen = list(self._fastest(images_B3HW)(images_B3HW))
        return (seen.pop(0) if self.with_logits else None), seen

    def _fastest(self, images_B3HW: Tensor) -> fx.GraphModule:
        """Return the graph to run: on a device one of fewer launches, outside a compiled step and autocast."""
        device = images_B3HW.device.type
        if device == "cpu" or torch.compiler.is_compiling() or torch.is_autocast_enabled(device):
            return self.graph
        if self._launched is None:
            # It shares the weights and is no part of this module, so that they are moved and stored once.
            object.__setattr__(self, "_launched", fused(self.graph, images_B3HW[:2]))
        assert self._launched is not None
        return self._launched

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Another device or number format is tried again.
        object.__setattr__(self, "_launched", None)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call, unused-ignore]
        return self


def trim(
    model: nn.Module, outputs: Sequence[str], inputs: Sequence[str] = (), *, logits: bool, images: Tensor
) -> Trimmed | None:
    """Prune a frozen model to the outputs that are read.

    Args:
        model: in the state in which it will run; it is not changed.
        outputs: names of layers whose outputs are read.
        inputs: names of layers whose inputs are read, after the outputs.
        logits: read the model's own output as well.
        images: a few, on which the pruned model is compared with the whole one.

    Returns:
        None for a model that cannot be traced (its forward pass depends on the values of its inputs, it has hooks),
        or whose reduction does not compute the same.
    """
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return None  # its hooks would not run on a copy
    for fold in (True, False):
        try:
            made = _trimmed(model, outputs, inputs, logits=logits, fold=fold)
            if _agree(model, made, outputs, inputs, images):
                return made
        except Exception:  # any error of a custom forward pass: the model runs whole instead
            return None
    return None


def _trimmed(model: nn.Module, outputs: Sequence[str], inputs: Sequence[str], *, logits: bool, fold: bool) -> Trimmed:
    copied = copy.deepcopy(model)
    tracer = _Tracer(outputs, inputs)
    graph = tracer.trace(copied)
    end = next(node for node in graph.nodes if node.op == "output")
    wanted = [end.args[0]] if logits else []
    wanted += [tracer.outputs[name].node for name in outputs] + [tracer.inputs[name].node for name in inputs]
    if not all(isinstance(node, fx.Node) for node in wanted):
        raise TypeError("a layer outputs more than one tensor")
    end.args = (tuple(wanted),)
    for node in list(graph.nodes):
        if node.target is torch._assert:  # of shapes that no longer change; it would keep its input alive
            graph.erase_node(node)
    reduced = fx.GraphModule(copied, graph)
    reduced.graph.eliminate_dead_code()
    folded = _fold_batch_norms(reduced) if fold else 0
    reduced.delete_all_unused_submodules()
    reduced.recompile()
    return Trimmed(reduced, with_logits=logits, folded=folded)


class _Tracer(fx.Tracer):
    """Trace a forward pass and record inputs and outputs of named layers, containers included."""

    def __init__(self, outputs: Sequence[str], inputs: Sequence[str]) -> None:
        super().__init__()
        self._wanted = {*outputs}, {*inputs}
        self.outputs: dict[str, Any] = {}
        self.inputs: dict[str, Any] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # BatchNorms of other libraries are traced as one node, so that they can be folded.
        return isinstance(m, nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        name = self.path_of_module(m)
        if name in self._wanted[1]:
            self.inputs[name] = args[0]
        made = super().call_module(m, forward, args, kwargs)
        if name in self._wanted[0]:
            # As with taps, the last output counts where a layer runs more than once, and the first of several tensors.
            self.outputs[name] = made[0] if isinstance(made, tuple | list) else made
        return made


def _fold_batch_norms(reduced: fx.GraphModule) -> int:
    """Fold every BatchNorm of fixed statistics into the convolution that alone feeds it, in place."""
    modules = dict(reduced.named_modules())
    nodes = [node for node in reduced.graph.nodes if node.op == "call_module"]
    calls = [node.target for node in nodes]
    count = 0
    for node in nodes:
        before = node.args[0] if node.args else None
        norm = modules.get(node.target)
        if not isinstance(norm, nn.BatchNorm2d) or norm.training or norm.running_mean is None:
            continue
        behind = _behind(norm)
        if behind is None:
            continue
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        convolution = modules.get(before.target)
        # A layer that runs twice has one weight for two norms.
        if type(convolution) is not nn.Conv2d or calls.count(before.target) != 1 or calls.count(node.target) != 1:
            continue
        assert norm.running_var is not None
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        reduced.set_submodule(node.target, behind)
        if isinstance(behind, nn.Identity):
            node.replace_all_uses_with(before)
            reduced.graph.erase_node(node)
        count += 1
    reduced.requires_grad_(False)
    return count


def _behind(norm: nn.BatchNorm2d) -> nn.Module | None:
    """Return the rest of a BatchNorm without scale and shift, such as timm's activation; None: unknown."""
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    from timm.layers.norm_act import BatchNormAct2d  # takes seconds, and only models of timm have it

    if isinstance(norm, BatchNormAct2d):
        return nn.Sequential(norm.drop, norm.act)
    return None


@torch.no_grad()
def _agree(model: nn.Module, made: Trimmed, outputs: Sequence[str], inputs: Sequence[str], images: Tensor) -> bool:
    """Return true if the reduction computes the same as the whole model."""
    seen: dict[tuple[str, str], Any] = {}
    modules = dict(model.named_modules())
    handles = [
        modules[name].register_forward_hook(lambda _m, _a, output, name=name: seen.update({("out", name): output}))
        for name in outputs
    ]
    handles += [
        modules[name].register_forward_pre_hook(lambda _m, args, name=name: seen.update({("in", name): args[0]}))
        for name in inputs
    ]
    try:
        whole = model(images)
    finally:
        for handle in handles:
            handle.remove()
    logits, parts = made(images)
    expected = [seen["out", name] for name in outputs] + [seen["in", name] for name in inputs]
    expected = [value[0] if isinstance(value, tuple | list) else value for value in expected]
    if logits is not None:
        expected, parts = [whole, *expected], [logits, *parts]
    tolerance = _ROUNDING.get(images.dtype, 3e-2)
    return all(
        ours.shape == theirs.shape
        and bool((ours - theirs).abs().max() <= tolerance * theirs.abs().max().clamp(min=1e-6))
        for ours, theirs in zip(parts, expected, strict=True)
    )
