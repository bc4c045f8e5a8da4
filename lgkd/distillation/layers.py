"""List the layers of a model that can be tapped, and the teacher layers that they are paired with.

Letters in shapes: C channels, h w map size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lgkd.distillation.taps import Tap, find_fold
from lgkd.errors import TapError
from lgkd.models.default_taps import block_names, default_taps, is_unordered, stage_names
from lgkd.models.factory import ImageSize, create_model, default_image_size, pair

MapShape = tuple[int, int, int]


@dataclass(frozen=True)
class Meeting:
    """Hold the counterpart of a tapped layer.

    Attributes:
        teacher: the teacher's name.
        layer: the name of its layer.
        map: the output shape of that layer, (C,h,w).
        grid: rows and columns of the grid on which the two maps are compared, the finer of the two.
    """

    teacher: str
    layer: str
    map: MapShape
    grid: tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """Describe a layer with a tensor output, or a tuple whose first tensor is read.

    Attributes:
        output: its shape without the batch.
        map: (C,h,w) if it folds into a map; otherwise None, with the reason in `problem`.
        stride: pixels of the image per step of the map, vertically.
        depth: fraction of the model's layers with matrices or kernels that have run after it, 0 to 1.
        is_block: a transformer block or the end of a stage.
        tapped: one of the default taps.
        meets: its default counterpart in the teacher; None for unpaired layers, and if no teacher was requested.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    map: MapShape | None
    stride: float | None
    depth: float
    is_block: bool
    tapped: bool
    problem: str | None = None
    meets: Meeting | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def describe_layers(
    name: str, *, image_size: ImageSize | None = None, options: Mapping[str, Any] | None = None
) -> list[Layer]:
    """List every layer of a model with a tensor output, in execution order.

    Args:
        name: a student or teacher.
        image_size: pixels of its images, one number or (height, width); None for the model's own.
        options: passed to the constructor.

    Raises:
        ModelError: the model cannot be created.
    """
    size = pair(image_size or default_image_size(name))
    with torch.random.fork_rng(devices=[]):
        model = create_model(name, num_classes=10, image_size=size, options=options).eval()
    seen: dict[str, tuple[Tensor, int]] = {}
    weighty = 0

    def keeper(layer: str, module: nn.Module) -> Any:
        weighs = any(key.endswith("weight") and each.ndim > 1 for key, each in module.named_parameters(recurse=False))

        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            nonlocal weighty
            weighty += weighs
            found = _first_tensor(output)
            if found is not None:
                # As with taps, the last output counts if a layer runs more than once.
                seen[layer] = found, weighty

        return keep

    handles = [module.register_forward_hook(keeper(layer, module)) for layer, module in model.named_modules() if layer]
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
    found = []
    for layer, (output, done) in seen.items():
        shape, problem = _map_of(model, layer, output, size)
        found.append(
            Layer(
                name=layer,
                kind=type(kinds[layer]).__name__,
                output=tuple(output.shape[1:]),
                map=shape,
                stride=size[0] / shape[1] if shape else None,
                depth=done / max(weighty, 1),
                is_block=layer in blocks,
                tapped=layer in taps,
                problem=problem,
            )
        )
    return found


def meet(layers: Sequence[Layer], teacher: str) -> list[Layer]:
    """Pair the tapped layers with those of a teacher at its own image size; return all layers.

    The first default tap is paired with the teacher's first, and so on, on a grid of the larger height and the larger
    width of the two maps; as in a guide.

    Args:
        layers: of a student, from `describe_layers`.
        teacher: the teacher's name.

    Raises:
        ModelError: the teacher cannot be created.
        TapError: it has a different number of default taps, or taps that are not maps.
    """
    theirs = [layer for layer in describe_layers(teacher) if layer.tapped]
    ours = [layer for layer in layers if layer.tapped]
    if not ours or not theirs:
        lacking = "the model" if theirs else teacher
        raise TapError(f"{lacking} has no default taps to pair; name layers with --taps")
    if len(ours) != len(theirs) or not all(layer.map for layer in (*ours, *theirs)):
        raise TapError(
            f"{_listed(ours)} cannot be paired with {_listed(theirs)} of {teacher}; name as many layers with map "
            "outputs with --taps"
        )
    found = {
        our.name: Meeting(
            teacher, their.name, their.map, (max(our.map[1], their.map[1]), max(our.map[2], their.map[2]))
        )
        for our, their in zip(ours, theirs, strict=True)
        if our.map and their.map
    }
    return [replace(layer, meets=found.get(layer.name)) for layer in layers]


def _listed(layers: Sequence[Layer]) -> str:
    return ", ".join(f"{layer.name}{'' if layer.map else ' (no map)'}" for layer in layers)


def _first_tensor(output: Any) -> Tensor | None:
    """Return the tensor that a tap would read."""
    if isinstance(output, Tensor):
        return output
    items = output if isinstance(output, tuple | list) else ()
    return next((item for item in items if isinstance(item, Tensor)), None)


def _map_of(model: nn.Module, name: str, output: Tensor, size: tuple[int, int]) -> tuple[MapShape | None, str | None]:
    if is_unordered(model):
        return None, "not in rows"
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
    except TapError:
        return None, "no map"
    _, channels, height, width = fold(output).shape
    return (channels, height, width), None
