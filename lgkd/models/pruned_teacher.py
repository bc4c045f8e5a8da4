"""What has to be run of a frozen model: the layers that lead to what is read, BatchNorm folded into convolutions.

A teacher is run once a step and never changes, so everything that can be settled beforehand is: layers behind the last
one that is read are left out, and the scale and shift of a BatchNorm with fixed statistics become those of the
convolution before it. The trimmed model is a copy; the teacher itself stays as it was.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

# How far a trimmed model may be from the whole one, as a share of the largest value: beyond rounding, it is another.
_ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-4}


class Trimmed(nn.Module):
    """A frozen model reduced to what is read of it.

    Args:
        graph: puts out one tensor for each thing that is read.
        with_logits: whether the first of them is the model's own output.
        folded: how many BatchNorms were folded.
    """

    def __init__(self, graph: fx.GraphModule, *, with_logits: bool, folded: int) -> None:
        super().__init__()
        self.graph = graph
        self.with_logits = with_logits
        self.folded = folded

    @torch.no_grad()
    def forward(self, images_B3HW: Tensor) -> tuple[Tensor | None, list[Tensor]]:
        """The logits (B,K), where they are wanted, and the outputs (or inputs) of the layers that are read."""
        seen = list(self.graph(images_B3HW))
        return (seen.pop(0) if self.with_logits else None), seen


def trim(
    model: nn.Module, outputs: Sequence[str], inputs: Sequence[str] = (), *, logits: bool, images: Tensor
) -> Trimmed | None:
    """Reduce a frozen model to what is read of it.

    Args:
        model: in the state in which it will be run; it is not changed.
        outputs: names of layers whose outputs are read.
        inputs: names of layers whose inputs are read, after the outputs.
        logits: whether the model's own output is read.
        images: a few, on which the trimmed model is compared with the whole one.

    Returns:
        None for a model that cannot be followed (its forward pass depends on the values that it sees, it has hooks),
        or whose reduction does not compute the same.
    """
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return None  # somebody listens, who would hear nothing of a copy
    for fold in (True, False):
        try:
            made = _trimmed(model, outputs, inputs, logits=logits, fold=fold)
            if _agree(model, made, outputs, inputs, images):
                return made
        except Exception:  # whatever a stranger's forward pass trips over: it is run whole instead
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
        raise TypeError("a layer puts out more than one tensor")
    end.args = (tuple(wanted),)
    for node in list(graph.nodes):
        if node.target is torch._assert:  # of shapes that do not change any more; it would keep what it looks at alive
            graph.erase_node(node)
    reduced = fx.GraphModule(copied, graph)
    reduced.graph.eliminate_dead_code()
    folded = _fold_batch_norms(reduced) if fold else 0
    reduced.delete_all_unused_submodules()
    reduced.recompile()
    return Trimmed(reduced, with_logits=logits, folded=folded)


class _Tracer(fx.Tracer):
    """Follows a forward pass and remembers what goes into and comes out of named layers, containers included."""

    def __init__(self, outputs: Sequence[str], inputs: Sequence[str]) -> None:
        super().__init__()
        self._wanted = {*outputs}, {*inputs}
        self.outputs: dict[str, Any] = {}
        self.inputs: dict[str, Any] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # Other libraries' BatchNorms are followed as one, so that they can be folded.
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
    """What is left of a BatchNorm without scale and shift: timm's have an activation in them. None: that is unknown."""
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    from timm.layers.norm_act import BatchNormAct2d  # takes seconds, and only models of timm have it

    if isinstance(norm, BatchNormAct2d):
        return nn.Sequential(norm.drop, norm.act)
    return None


@torch.no_grad()
def _agree(model: nn.Module, made: Trimmed, outputs: Sequence[str], inputs: Sequence[str], images: Tensor) -> bool:
    """Whether the reduction computes what the whole model does."""
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
