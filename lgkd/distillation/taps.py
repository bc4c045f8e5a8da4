"""Capture named layers of a model during its forward pass, and fold their outputs into maps.

Hooks are registered once, when the taps are created, and stay until `remove()`: a hook that is added
and removed inside a forward pass cannot be compiled, and one added after the first compiled call is
silently never called.

Letters in shapes: B batch, N tokens, D width, h w grid.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lgkd._internal.text import did_you_mean
from lgkd.errors import TapError

Layout = Literal["tokens", "NCHW", "NHWC"]
_LAYOUTS = ("tokens", "NCHW", "NHWC")
_MOST_PREFIX_TOKENS = 9


@dataclass(frozen=True)
class Tap:
    """Name a layer whose output is read.

    Only the name is required. The rest is inferred from the shape of the layer's output; give it
    where that is ambiguous.

    Args:
        name: the layer's path, as in `model.named_modules()`.
        prefix: how many leading tokens (class, distillation, register) are not patches. A property
            of the tap, not of the model: ConViT's class token joins only before its last two blocks.
        grid: rows and columns of the patch tokens, where they do not follow the image's shape.
        layout: "tokens" (B,N,D), "NCHW" or "NHWC".
    """

    name: str
    prefix: int | None = None
    grid: tuple[int, int] | None = None
    layout: Layout | None = None

    def __post_init__(self) -> None:
        if self.layout is not None and self.layout not in _LAYOUTS:
            raise TapError(
                f"tap {self.name!r}: layout is {self.layout!r}, expected one of {', '.join(_LAYOUTS)}; "
                "omit it to have it inferred"
            )
        if self.prefix is not None and self.prefix < 0:
            raise TapError(f"tap {self.name!r}: prefix is {self.prefix}, expected 0 or more leading tokens")

    @classmethod
    def of(cls, tap: "str | Tap") -> "Tap":
        """Create a tap from its layer's name, or return the tap itself."""
        return tap if isinstance(tap, Tap) else cls(tap)


def fold(tokens_BND: Tensor, prefix: int, grid: tuple[int, int]) -> Tensor:
    """Drop `prefix` leading tokens and arrange the others row by row: (B,N,D) -> (B,D,h,w)."""
    patches_BND = tokens_BND[:, prefix:]
    return patches_BND.transpose(1, 2).reshape(patches_BND.shape[0], patches_BND.shape[2], *grid)


@dataclass(frozen=True)
class Fold:
    """Fold the output of a tap into a map; resolved once, by a trial forward."""

    layout: Layout
    prefix: int = 0
    grid: tuple[int, int] | None = None

    def __call__(self, output: Tensor) -> Tensor:
        """Return the layer's output as a map (B,C,h,w)."""
        if self.layout == "NCHW":
            return output
        if self.layout == "NHWC":
            return output.permute(0, 3, 1, 2)
        assert self.grid is not None
        rows, columns = self.grid
        if output.shape[1] != self.prefix + rows * columns:
            raise TapError(
                f"a tapped layer returned {output.shape[1]} tokens, expected {self.prefix} and a grid of {rows} x "
                f"{columns}; pass images of the size that the guide was created for"
            )
        return fold(output, self.prefix, self.grid)


def find_fold(
    tap: Tap,
    shape: Sequence[int],
    *,
    image_size: tuple[int, int],
    images: int | None = None,
    prefix_hint: int | None = None,
    layout_hint: str | None = None,
) -> Fold:
    """Infer how an output of `shape` folds into a map.

    Args:
        tap: the requested tap; its explicit values take precedence.
        shape: the output's shape, (B,N,D) or four numbers.
        image_size: height and width of the images; patch grids have the same proportions.
        images: number of input images; None if unknown.
        prefix_hint: the number of prefix tokens that the model as a whole reports; tried first.
        layout_hint: "NHWC" for models that declare channels-last outputs (timm's `output_fmt`).

    Raises:
        TapError: the shape is not a map; the message states the shape.
    """
    if len(shape) not in (3, 4):
        raise TapError(
            f"tap {tap.name!r} has the output shape {tuple(shape)}, which is not a map; expected tokens (B,N,D) "
            "or a map (B,C,h,w): tap an earlier layer"
        )
    if images is not None and shape[0] != images:
        raise TapError(
            f"tap {tap.name!r} has the output shape {tuple(shape)} for {images} image(s): its first dimension is not "
            "the batch (windows, or tokens first); tap a layer outside it"
        )
    if tap.layout is not None and (tap.layout == "tokens") != (len(shape) == 3):
        raise TapError(
            f"tap {tap.name!r} has the output shape {tuple(shape)}, which cannot have the layout {tap.layout!r}: "
            "tokens have three dimensions, maps four; omit the layout to have it inferred"
        )
    if len(shape) == 4:
        return Fold(tap.layout or _layout_of_four(tap, shape, image_size, layout_hint))
    count = shape[1]
    if tap.grid is not None:
        rows, columns = tap.grid
        prefix = count - rows * columns if tap.prefix is None else tap.prefix
        if prefix < 0 or prefix + rows * columns != count:
            raise TapError(
                f"tap {tap.name!r} has the output shape {tuple(shape)}: {count} tokens are not "
                f"{max(prefix, 0)} prefix tokens and a grid of {rows} x {columns}"
            )
        return Fold("tokens", prefix, tap.grid)
    prefixes = [tap.prefix] if tap.prefix is not None else list(range(_MOST_PREFIX_TOKENS + 1))
    if tap.prefix is None and prefix_hint is not None:
        prefixes.insert(0, prefix_hint)
    fitting = [(prefix, grid) for prefix in prefixes if (grid := _grid_of(count - prefix, image_size)) is not None]
    # Of an image that is not square, three tokens may be a grid of 1 x 3 with a cropped patch, or one of 1 x 2 after a
    # class token: the model's own statement counts, then the exact proportions.
    stated = [one for one in fitting if one[0] == prefix_hint or tap.prefix is not None]
    exact = [one for one in fitting if one[1][0] * image_size[1] == one[1][1] * image_size[0]]
    best = next(iter((*stated, *exact, *fitting)), None)
    if best is not None:
        return Fold("tokens", *best)
    after = f" after {tap.prefix} prefix tokens" if tap.prefix is not None else ""
    raise TapError(
        f"tap {tap.name!r} has the output shape {tuple(shape)}: its {count} tokens{after} do not form a grid with the "
        f"proportions of a {image_size[0]} x {image_size[1]} image; give the tap its prefix and grid"
    )


def _grid_of(count: int, image_size: tuple[int, int]) -> tuple[int, int] | None:
    """Return rows and columns of `count` patches in the image's proportions, or None."""
    height, width = image_size

    def misfit(grid: tuple[int, int]) -> int:
        return abs(grid[0] * width - grid[1] * height)

    short = [side for side in range(1, math.isqrt(max(count, 0)) + 1) if count % side == 0]
    grids = [grid for side in short for grid in ((side, count // side), (count // side, side))]
    best = min(grids, key=misfit, default=None)
    # Patches are square, so the ratios of the sides agree to within the last, cropped patch.
    return best if best is not None and misfit(best) < max(height, width) else None


def _layout_of_four(tap: Tap, shape: Sequence[int], image_size: tuple[int, int], hint: str | None) -> Layout:
    """Infer the channel dimension of a four-dimensional output.

    Raises:
        TapError: the image is square and the map is not, either way.
    """
    _, first, second, third = shape
    as_last = _grid_of(first * second, image_size) == (first, second)
    as_first = _grid_of(second * third, image_size) == (second, third)
    if as_last != as_first:
        # The shape takes precedence over the hint: a channels-last model may begin with a plain convolution.
        return "NHWC" if as_last else "NCHW"
    if not as_last and image_size[0] == image_size[1]:
        # Blocks of a map in a dimension of their own, (B, blocks, tokens, D), as in NesT.
        raise TapError(
            f"tap {tap.name!r} has the output shape {tuple(shape)}, of which neither the second and third nor the last "
            "two dimensions form a square map, expected for a square image; tap a layer outside it, or give the tap "
            "its layout"
        )
    return "NHWC" if hint == "NHWC" else "NCHW"


class Taps:
    """Capture named layers of a model; the hooks live until `remove()`.

    Args:
        model: any module.
        names: layer paths as in `model.named_modules()`, in the order of the outputs.
        inputs: layers whose first input is captured, after the outputs.

    Raises:
        TapError: the model has no layer of that name; the message suggests the closest names.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], inputs: Sequence[str] = ()) -> None:
        known = dict(model.named_modules())
        for name in (*names, *inputs):
            if name not in known or not name:
                raise TapError(
                    f"{type(model).__name__} has no layer {name!r}; {did_you_mean(name, (k for k in known if k))} "
                    "(`lgkd layers MODEL` lists them)"
                )
        self.names = tuple(names)
        self.inputs = tuple(inputs)
        self._seen: dict[tuple[str, str], Tensor] = {}
        # Outside `capture` the hooks are inactive, so that evaluation keeps no activations alive.
        self._capturing = False
        self._wanted = [*(("output", name) for name in names), *(("input", name) for name in inputs)]
        self._handles = [known[name].register_forward_hook(self._keeper(name)) for name in dict.fromkeys(names)]
        self._handles += [
            known[name].register_forward_pre_hook(self._input_keeper(name)) for name in dict.fromkeys(inputs)
        ]

    def _keeper(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            if self._capturing:
                self._seen["output", name] = output if isinstance(output, Tensor) else _first_tensor(output, name)

        return keep

    def _input_keeper(self, name: str) -> Callable[[nn.Module, Any], None]:
        def keep(_module: nn.Module, args: Any) -> None:
            if self._capturing:
                self._seen["input", name] = _first_tensor(args, name)

        return keep

    def capture(self, model: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run `model(images)`; return its output and the outputs (or inputs) of the tapped layers, in order.

        Raises:
            TapError: a tapped layer did not run in this forward pass.
        """
        self._capturing = True
        try:
            output = model(images)
        finally:
            # Also after an error: a caller that catches it must not evaluate with activations kept alive.
            self._capturing = False
            seen, self._seen = self._seen, {}
        silent = [name for side, name in self._wanted if (side, name) not in seen]
        if silent:
            raise TapError(
                f"the layers {silent} are in the model but did not run in its forward pass; tap layers that run for "
                "every image, and create the guide before the model is compiled"
            )
        return output, [seen[wanted] for wanted in self._wanted]

    def remove(self) -> None:
        """Remove the hooks; the model is as before."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._seen.clear()


def _first_tensor(output: Any, name: str) -> Tensor:
    """Return the hidden state, the first tensor of a tuple output as in other libraries."""
    if isinstance(output, tuple | list):
        for item in output:
            if isinstance(item, Tensor):
                return item
    raise TapError(
        f"tap {name!r} returned a {type(output).__name__}, expected a tensor or a tuple with one; tap a layer inside it"
    )


def trace_shapes(
    model: nn.Module, names: Sequence[str], images: Tensor, inputs: Sequence[str] = ()
) -> tuple[Tensor, list[Tensor]]:
    """Run one forward in eval mode; return the model's output, outputs of named layers, and inputs of others.

    Training flags are restored module by module, and running statistics are not changed.
    """
    taps = Taps(model, names, inputs)
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            return taps.capture(model, images)
    finally:
        for module, training in flags:
            module.training = training
        taps.remove()
