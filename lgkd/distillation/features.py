"""Read the features that terms compare from a model in one forward pass: logits, maps, all blocks, embeddings.

Letters in shapes: B batch, K classes, D width, C channels, h w map size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lgkd.distillation.taps import Fold, Tap, Taps, find_fold, trace_shapes
from lgkd.errors import TapError
from lgkd.models.default_taps import classifier_name, guided_blocks, head_names
from lgkd.models.forward_checks import no_logits

MapShape = tuple[int, int, int]


class Features(NamedTuple):
    """Hold the features of one model for one batch; those that no term reads are None or empty.

    Attributes:
        logits: (B,K), the model's output.
        maps: of the tapped layers, (B,C,h,w) each.
        blocks: of every transformer block (or stage), (B,C,h,w) each.
        embedding: the classifier's input, (B,D).
        classification: logits (B,K) of the class token's head, in a model that has a distillation token.
        distillation: logits (B,K) of the distillation token's head.
    """

    logits: Tensor | None
    maps: list[Tensor]
    blocks: list[Tensor]
    embedding: Tensor | None
    classification: Tensor | None
    distillation: Tensor | None

    def split(self, pieces: int) -> list["Features"]:
        """Split the batch into nearly equal parts, in order."""
        return [
            Features(*(_part(field, number, pieces) for field in self))  # type: ignore[arg-type]
            for number in range(pieces)
        ]


@dataclass(frozen=True)
class FeatureSpec:
    """Declare the features that the terms read from a model."""

    logits: bool = False
    maps: bool = False
    blocks: bool = False
    embedding: bool = False
    distillation: bool = False


class FeatureReader:
    """Find the layers of the wanted features and how their outputs fold, by one trial forward without side effects.

    Args:
        model: any module (B,3,H,W) -> (B,K).
        taps: the layers of `Features.maps`.
        wants: the features to read.
        image_size: (height, width) in pixels.
        channels: of the images.

    Raises:
        TapError: the model lacks a wanted feature.
    """

    def __init__(
        self,
        model: nn.Module,
        taps: Sequence[Tap],
        wants: FeatureSpec,
        image_size: tuple[int, int],
        channels: int = 3,
    ) -> None:
        self.wants = wants
        taps = list(taps) if wants.maps else []
        blocks = [Tap(name) for name in guided_blocks(model)] if wants.blocks else []
        heads = list(head_names(model)) if wants.distillation else []
        self.outputs = [*(tap.name for tap in [*taps, *blocks]), *heads]
        self.inputs = [classifier_name(model)] if wants.embedding else []
        self._maps, self._blocks = len(taps), len(blocks)
        like = next(model.parameters(), torch.zeros(()))
        images = torch.zeros(2, channels, *image_size, device=like.device, dtype=like.dtype)
        logits, seen = trace_shapes(model, self.outputs, images, self.inputs)
        if not isinstance(logits, Tensor):
            raise no_logits(type(model).__name__, logits)
        self.classes = int(logits.shape[-1])
        self.folds = [
            _fold(model, tap, output, image_size, len(images))
            for tap, output in zip([*taps, *blocks], seen[: len(taps) + len(blocks)], strict=True)
        ]
        shapes = [_shape(fold(output)) for fold, output in zip(self.folds, seen, strict=False)]
        self.map_shapes, self.block_shapes = shapes[: len(taps)], shapes[len(taps) :]
        self.embedding_width = 0
        if wants.embedding:
            if seen[-1].ndim != 2:
                raise TapError(
                    f"the classifier {self.inputs[0]!r} of {type(model).__name__} has inputs of the shape "
                    f"{tuple(seen[-1].shape)}, expected an embedding (B,D); your own model can name another layer "
                    "as its attribute lgkd_classifier"
                )
            self.embedding_width = int(seen[-1].shape[1])

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes for one image of all features but blocks and a distillation token's, by name: `map1`,
        `map2`, ..., `logits`, `embedding`."""
        found: dict[str, tuple[int, ...]] = {f"map{place}": shape for place, shape in enumerate(self.map_shapes, 1)}
        if self.wants.logits:
            found["logits"] = (self.classes,)
        if self.wants.embedding:
            found["embedding"] = (self.embedding_width,)
        return found

    def attach(self, model: nn.Module) -> Taps:
        """Attach the hooks whose outputs `features` sorts; they stay until removed."""
        return Taps(model, self.outputs, self.inputs)

    def features(self, logits: Tensor | None, seen: Sequence[Tensor]) -> Features:
        """Sort captured tensors, which are in the order of `outputs` and `inputs`."""
        folded = [fold(output) for fold, output in zip(self.folds, seen, strict=False)]
        rest = list(seen[len(folded) :])
        classification, distillation = (rest.pop(0), rest.pop(0)) if self.wants.distillation else (None, None)
        embedding = rest.pop(0) if self.wants.embedding else None
        maps, blocks = folded[: self._maps], folded[self._maps :]
        return Features(logits, maps, blocks, embedding, classification, distillation)


def _part(field: Tensor | list[Tensor] | None, number: int, pieces: int) -> Tensor | list[Tensor] | None:
    if isinstance(field, Tensor):
        return field.tensor_split(pieces)[number]
    return field if field is None else [one.tensor_split(pieces)[number] for one in field]


def _shape(map_BChw: Tensor) -> MapShape:
    _, channels, height, width = map_BChw.shape
    return int(channels), int(height), int(width)


def _fold(model: nn.Module, tap: Tap, output: Tensor, image_size: tuple[int, int], images: int) -> Fold:
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
