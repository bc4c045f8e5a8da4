"""A model's layers as something to choose taps from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lgkd.errors import TapError
from lgkd.models.factory import create_model, default_image_size, pair
from lgkd.models.layers import block_names, default_taps, stage_names
from lgkd.taps import Tap, find_fold


@dataclass(frozen=True)
class Layer:
    """One layer that puts out a tensor.

    Attributes:
        output: its shape without the batch.
        map: (C,h,w) if it folds into a map, with `problem` saying why not otherwise.
        stride: pixels of the image per step of the map, vertically.
        is_block: a transformer block or the end of a stage.
        tapped: one of the default taps.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    map: tuple[int, int, int] | None
    stride: float | None
    is_block: bool
    tapped: bool
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def describe_layers(
    name: str, *, image_size: int | None = None, options: Mapping[str, Any] | None = None
) -> list[Layer]:
    """Every layer of a model that puts out a tensor, in the order in which they run."""
    size = pair(image_size or default_image_size(name))
    with torch.random.fork_rng(devices=[]):
        model = create_model(name, num_classes=10, image_size=size, options=options).eval()
    seen: dict[str, Tensor] = {}

    def keeper(layer: str) -> Any:
        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and layer:
                # As with taps, the last output counts where a layer runs more than once.
                seen[layer] = output

        return keep

    handles = [module.register_forward_hook(keeper(layer)) for layer, module in model.named_modules()]
    with torch.no_grad():
        model(torch.zeros(1, 3, *size))
    for handle in handles:
        handle.remove()
    try:
        taps = default_taps(model)
    except TapError:
        taps = []
    blocks = {*block_names(model), *stage_names(model)}
    kinds = dict(model.named_modules())
    return [_layer(model, kinds[layer], layer, output, size, taps, blocks) for layer, output in seen.items()]


def _layer(
    model: nn.Module,
    module: nn.Module,
    name: str,
    output: Tensor,
    size: tuple[int, int],
    taps: list[str],
    blocks: set[str],
) -> Layer:
    found: tuple[int, int, int] | None = None
    problem = None
    hint, layout = getattr(model, "num_prefix_tokens", None), getattr(model, "output_fmt", None)
    try:
        fold = find_fold(
            Tap(name),
            output.shape,
            image_size=size,
            images=1,
            prefix_hint=hint if isinstance(hint, int) else None,
            layout_hint=str(layout) if layout is not None else None,
        )
        _, channels, height, width = fold(output).shape
        found = (channels, height, width)
    except TapError:
        problem = "no map"
    return Layer(
        name=name,
        kind=type(module).__name__,
        output=tuple(output.shape[1:]),
        map=found,
        stride=size[0] / found[1] if found else None,
        is_block=name in blocks,
        tapped=name in taps,
        problem=problem,
    )
