"""Read the features that terms compare from a model in one forward pass: logits, maps, all blocks, embeddings, and
dense logits, which are those of each position.

Letters in shapes: B batch, K classes, D width, C channels, h w map size.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lgkd.distillation.linear_head import LinearHead, find_head, fold_of
from lgkd.distillation.taps import Tap, Taps, trace_shapes
from lgkd.errors import TapError
from lgkd.models.default_taps import classifier_name, guided_blocks, head_names
from lgkd.models.forward_checks import no_logits
from lgkd.models.visible_patches import visible_patches

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
        dense: logits of each position, (B,K,h,w), by the model's own classifier; of a student whose classifier does not
            pool a map, the map of its last block, (B,D,h,w).
        images: the model's own, (B,3,H,W).
    """

    logits: Tensor | None
    maps: list[Tensor]
    blocks: list[Tensor]
    embedding: Tensor | None
    classification: Tensor | None
    distillation: Tensor | None
    dense: Tensor | None
    images: Tensor | None = None

    def stored(self) -> list[Tensor]:
        """Return what a cache stores, in the order of `FeatureReader.shapes`."""
        more = [value for value in (self.logits, self.embedding, self.dense) if value is not None]
        return [*self.maps, *more]

    def split(self, pieces: int) -> list["Features"]:
        """Split the batch into nearly equal parts, in order."""
        return [
            Features(*(_part(field, number, pieces) for field in self))  # type: ignore[arg-type]
            for number in range(pieces)
        ]


@dataclass(frozen=True)
class FeatureSpec:
    """Declare the features that the terms read from a model.

    `patches` reads the images, and needs a model that encodes some of their patches alone. `dense` reads logits of each
    position; `head` requires the linear classifier that they, or a term, need. Without
    `head` a model may lack one, and its dense feature is then the map of its last block.
    """

    logits: bool = False
    maps: bool = False
    blocks: bool = False
    embedding: bool = False
    distillation: bool = False
    dense: bool = False
    head: bool = False
    patches: bool = False


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
        ModelError: it cannot encode some patches alone, and that is wanted.
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
        self.head = _head_of(model, wants, image_size, channels)
        self.patches = visible_patches(model) if wants.patches else None
        self.dense_layer = _dense_layer(model, self.head) if wants.dense else None
        self.outputs = [*(tap.name for tap in [*taps, *blocks]), *heads]
        self.outputs += [self.dense_layer] if self.dense_layer is not None else []
        self.inputs = [classifier_name(model)] if wants.embedding else []
        self._maps, self._blocks = len(taps), len(blocks)
        like = next(model.parameters(), torch.zeros(()))
        images = torch.zeros(2, channels, *image_size, device=like.device, dtype=like.dtype)
        logits, seen = trace_shapes(model, self.outputs, images, self.inputs)
        if not isinstance(logits, Tensor):
            raise no_logits(type(model).__name__, logits)
        self.classes = int(logits.shape[-1])
        self.folds = [
            fold_of(model, tap, output, image_size, len(images))
            for tap, output in zip([*taps, *blocks], seen[: len(taps) + len(blocks)], strict=True)
        ]
        shapes = [_shape(fold(output)) for fold, output in zip(self.folds, seen, strict=False)]
        self.map_shapes, self.block_shapes = shapes[: len(taps)], shapes[len(taps) :]
        self._dense_fold, self.dense_shape = None, (0, 0, 0)
        if self.dense_layer is not None:
            output = seen[len(self.outputs) - 1]
            self._dense_fold = fold_of(model, Tap(self.dense_layer), output, image_size, len(images))
            self.dense_shape = _shape(self._dense(output))
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
        `map2`, ..., `logits`, `embedding`, `dense`; those of `Features.stored`."""
        found: dict[str, tuple[int, ...]] = {f"map{place}": shape for place, shape in enumerate(self.map_shapes, 1)}
        if self.wants.logits:
            found["logits"] = (self.classes,)
        if self.wants.embedding:
            found["embedding"] = (self.embedding_width,)
        if self.wants.dense:
            found["dense"] = self.dense_shape
        return found

    def attach(self, model: nn.Module) -> Taps:
        """Attach the hooks whose outputs `features` sorts; they stay until removed."""
        return Taps(model, self.outputs, self.inputs)

    def features(self, logits: Tensor | None, seen: Sequence[Tensor], images: Tensor | None = None) -> Features:
        """Sort captured tensors, which are in the order of `outputs` and `inputs`, and keep the images if read."""
        folded = [fold(output) for fold, output in zip(self.folds, seen, strict=False)]
        rest = list(seen[len(folded) :])
        classification, distillation = (rest.pop(0), rest.pop(0)) if self.wants.distillation else (None, None)
        dense = self._dense(rest.pop(0)) if self.wants.dense else None
        embedding = rest.pop(0) if self.wants.embedding else None
        maps, blocks = folded[: self._maps], folded[self._maps :]
        kept = images if self.wants.patches else None
        return Features(logits, maps, blocks, embedding, classification, distillation, dense, kept)

    def _dense(self, output: Tensor) -> Tensor:
        """Return the output of the dense layer as a map: of logits if the model's classifier reads it."""
        assert self._dense_fold is not None
        map_BChw = self._dense_fold(output)
        return map_BChw if self.head is None else self.head.at_positions(map_BChw)


def _part(field: Tensor | list[Tensor] | None, number: int, pieces: int) -> Tensor | list[Tensor] | None:
    if isinstance(field, Tensor):
        return field.tensor_split(pieces)[number]
    return field if field is None else [one.tensor_split(pieces)[number] for one in field]


def _shape(map_BChw: Tensor) -> MapShape:
    _, channels, height, width = map_BChw.shape
    return int(channels), int(height), int(width)


def _head_of(model: nn.Module, wants: FeatureSpec, image_size: tuple[int, int], channels: int) -> LinearHead | None:
    """Find the linear classifier: the required one, or one that pools a map, without which its last block is read."""
    if wants.head:
        head = find_head(model, image_size, channels)
        if wants.dense and head.pooled is None:
            raise TapError(
                f"no layer of {type(model).__name__} outputs a map whose mean, maximum or class token its classifier "
                f"{head.name!r} reads, and a term reads the logits of each position; use another teacher or kd, or let "
                "a layer of your own model output that map (torch.nn.Identity will do)"
            )
        return head
    if wants.dense:
        with suppress(TapError):
            head = find_head(model, image_size, channels)
            # A class token is not one of the positions, and what classifies it was not made for them.
            return head if head.pooled is not None and head.pooled.pooling != "token" else None
    return None


def _dense_layer(model: nn.Module, head: LinearHead | None) -> str:
    """Return the layer of the dense features: the pooled one, or the last block."""
    return head.pooled.layer if head is not None and head.pooled is not None else guided_blocks(model)[-1]
