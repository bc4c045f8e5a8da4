"""Find the linear classifier at the end of a model, and the map that the model pools for it.

Both are found by one trial forward: the classifier's output is replaced, which shows the factor of the logits, and
the layer is the last one whose map, pooled, is the classifier's input. So any model serves that pools the output of a
layer, whatever its layers are called.

Letters in shapes: B batch, K classes, C channels, N tokens, h w map size.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.distillation.taps import Fold, Tap, find_fold
from lgkd.errors import TapError
from lgkd.losses.base import without_autocast
from lgkd.models.default_taps import classifier_name, is_unordered

Pooling = Literal["mean", "max", "token"]
"""How a map becomes an embedding: mean or maximum over its positions, or a class token beside them."""

# Largest difference from the classifier's input, as a share of its largest value: more is not rounding.
_ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-4}


def probe_images(model: nn.Module, channels: int, image_size: tuple[int, int], *, count: int = 2) -> Tensor:
    """Return images (count,channels,*image_size) that cover a range of values, on the model's device.

    Drawing random ones would advance the user's generator.
    """
    like = next(model.parameters(), torch.zeros(()))
    shape = (count, channels, *image_size)
    return torch.linspace(0, 40, math.prod(shape)).sin().mul(2).view(shape).to(like.device, like.dtype)


@dataclass(frozen=True, eq=False)
class PooledMap:
    """Hold the layer whose map a model pools for its classifier.

    Attributes:
        layer: its name.
        pooling: how the map becomes the classifier's input.
        norm: the LayerNorm between pooling and classifier; None if there is none.
    """

    layer: str
    pooling: Pooling
    norm: nn.LayerNorm | None


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Hold the linear classifier of a model: logits = scale * (weight @ embedding + bias).

    Attributes:
        name: the classifier's name in the model.
        classifier: the layer itself; its weights are those of the model at any time.
        scale: factor of its outputs in the logits.
        pooled: the map that its inputs come from; None if it was not found.
    """

    name: str
    classifier: nn.Linear
    scale: float
    pooled: PooledMap | None

    @property
    def matrix(self) -> Tensor:
        """Return a copy of the matrix from embeddings to logits, without the bias, (K,C)."""
        return self.classifier.weight.detach().clone() * self.scale

    def at_positions(self, map_BChw: Tensor) -> Tensor:
        """Compute dense logits (B,K,h,w): those of a map of this position alone, for every position.

        If the model averages its map and has no norm behind that, their mean over positions is its output. Computed
        in the precision of the weights, also under autocast.
        """
        assert self.pooled is not None
        weight, bias, norm = self.classifier.weight, self.classifier.bias, self.pooled.norm
        # Functions, not the layers: hooks on them belong to the model's own forward pass.
        with without_autocast(map_BChw):
            tokens_BNC = map_BChw.flatten(2).mT.to(weight.dtype)
            if norm is not None:
                tokens_BNC = F.layer_norm(tokens_BNC, tokens_BNC.shape[-1:], norm.weight, norm.bias, norm.eps)
            dense_BNK = F.linear(tokens_BNC, weight, bias)
            if self.scale != 1:
                dense_BNK = dense_BNK * self.scale
        return dense_BNK.mT.reshape(len(map_BChw), -1, *map_BChw.shape[2:])


def find_head(model: nn.Module, image_size: tuple[int, int], channels: int = 3) -> LinearHead:
    """Find the linear classifier of a model by one trial forward without side effects.

    Args:
        model: any module (B,3,H,W) -> (B,K).
        image_size: (height, width) in pixels.
        channels: of the images.

    Raises:
        TapError: it has none, or its logits are not those of its classifier times a factor.
    """
    name, kind = classifier_name(model), type(model).__name__
    modules = dict(model.named_modules())
    classifier = modules.get(name)
    if not isinstance(classifier, nn.Linear):
        raise TapError(
            f"the classifier {name!r} of {kind} is a {type(classifier).__name__}, expected a torch.nn.Linear, which a "
            "term applies to other features; use a term that reads maps, logits or embeddings, or a model with a "
            "linear classifier, which your own can name as its attribute lgkd_classifier"
        )
    images = probe_images(model, channels, image_size)
    probe = _Probe(classifier)
    logits = probe.run(model, modules, images)
    scale = _factor(logits, probe.replaced)
    if scale is None or probe.embedding is None or probe.embedding.ndim != 2:
        raise TapError(
            f"the outputs of {kind} are not those of its classifier {name!r} times a factor, expected one linear layer "
            "behind the pooled features, which a term applies to other features; use a term that reads maps, logits "
            "or embeddings, or name the layer as the model's attribute lgkd_classifier"
        )
    pooled = None if is_unordered(model) else _pooled(model, probe, image_size)
    return LinearHead(name, classifier, scale, pooled)


class _Probe:
    """Record what may be a pooled map during a forward pass, and replace the classifier's output.

    Attributes:
        embedding: input of the classifier, (B,C).
        replaced: output given for it, (B,K).
        outputs: tensors of C channels by the layer that made them, in the order in which they were made.
        norms: LayerNorms of pooled features, (B,C) or (B,C,1,1), with input and output as (B,C).
    """

    def __init__(self, classifier: nn.Linear) -> None:
        self.classifier = classifier
        self.embedding: Tensor | None = None
        self.replaced: Tensor | None = None
        self.outputs: dict[str, Tensor] = {}
        self.norms: list[tuple[nn.LayerNorm, Tensor, Tensor]] = []

    @torch.no_grad()
    def run(self, model: nn.Module, modules: dict[str, nn.Module], images: Tensor) -> Any:
        """Run the model in evaluation mode, and leave it as it was."""
        flags = [(module, module.training) for module in model.modules()]
        handles = [module.register_forward_hook(self._keeper(name)) for name, module in modules.items() if name]
        try:
            return model.eval()(images)
        finally:
            for handle in handles:
                handle.remove()
            for module, training in flags:
                module.training = training

    def _keeper(self, name: str) -> Any:
        def keep(module: nn.Module, args: Any, output: Any) -> Tensor | None:
            value = next((one for one in _tensors(output)), None)
            given = next((one for one in _tensors(args)), None)
            if module is self.classifier and value is not None and given is not None:
                self.embedding = given
                self.replaced = torch.arange(value.numel(), device=value.device).sin().to(value.dtype).view_as(value)
                return self.replaced
            width = self.classifier.in_features
            if value is None or self.embedding is not None:
                return None
            if value.numel() == len(value) * width:
                if isinstance(module, nn.LayerNorm) and given is not None and given.numel() == value.numel():
                    self.norms.append((module, given.flatten(1), value.flatten(1)))
            elif (value.ndim == 4 and width in (value.shape[1], value.shape[3])) or (
                value.ndim == 3 and value.shape[2] == width
            ):
                self.outputs.pop(name, None)  # the last output counts, as with taps
                self.outputs[name] = value
            return None

        return keep


def _tensors(values: Any) -> Sequence[Tensor]:
    items = values if isinstance(values, tuple | list) else (values,)
    return [item for item in items if isinstance(item, Tensor)]


def _factor(logits: Any, replaced: Tensor | None) -> float | None:
    """Return the factor between a model's output and what replaced that of its classifier; None if there is none."""
    if replaced is None or not isinstance(logits, Tensor) or logits.shape != replaced.shape:
        return None
    factor = float((logits.double() * replaced.double()).sum() / replaced.double().square().sum())
    return factor if factor and _close(logits, replaced * factor) else None


def _close(one: Tensor, other: Tensor) -> bool:
    tolerance = _ROUNDING.get(other.dtype, 3e-2)
    return one.shape == other.shape and bool((one - other).abs().max() <= tolerance * other.abs().max())


def _pooled(model: nn.Module, probe: _Probe, image_size: tuple[int, int]) -> PooledMap | None:
    """Find the last layer whose map, pooled, is the classifier's input, or that of a LayerNorm before it."""
    assert probe.embedding is not None
    if not probe.embedding.abs().max() > 0:
        return None
    behind = [(norm, given) for norm, given, output in probe.norms if _close(output, probe.embedding)]
    wanted: list[tuple[nn.LayerNorm | None, Tensor]] = [(None, probe.embedding), *behind]
    for layer, output in reversed(probe.outputs.items()):
        with suppress(TapError):
            fold = fold_of(model, Tap(layer), output, image_size, len(probe.embedding))
            for norm, embedding in wanted:
                pooling = _pooling(fold, output, embedding)
                if pooling is not None:
                    return PooledMap(layer, pooling, norm)
    return None


def _pooling(fold: Fold, output: Tensor, embedding_BC: Tensor) -> Pooling | None:
    map_BChw = fold(output)
    if _close(map_BChw.mean(dim=(2, 3)), embedding_BC):
        return "mean"
    if _close(map_BChw.amax(dim=(2, 3)), embedding_BC):
        return "max"
    beside = (output[:, place] for place in range(fold.prefix))
    return "token" if any(_close(token, embedding_BC) for token in beside) else None


def fold_of(model: nn.Module, tap: Tap, output: Tensor, image_size: tuple[int, int], images: int) -> Fold:
    """Infer how the output of a layer for some images folds into a map, with what the model states of its tokens.

    Raises:
        TapError: it does not.
    """
    hint = getattr(model, "num_prefix_tokens", None)
    layout = getattr(model, "output_fmt", None)
    return find_fold(
        tap,
        output.shape,
        image_size=image_size,
        images=images,
        prefix_hint=hint if isinstance(hint, int) else None,
        layout_hint=str(layout) if layout is not None else None,
    )
