"""Start a model from trained weights: a classifier of other classes is drawn anew, positions and patches are resized.

Letters in shapes: T prefix tokens, N = h w patch tokens, D width, P patch size, K classes.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from lgkd._internal.safetensors_io import fill
from lgkd.errors import TapError
from lgkd.models.default_taps import classifier_name, head_names


@dataclass(frozen=True)
class Adapted:
    """Hold the changes that loaded weights needed.

    Attributes:
        classifier: "kept", or "new" where it was drawn anew.
        resized: names of the tensors that were resized.
    """

    classifier: str
    resized: tuple[str, ...]


def start_from_weights(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    origin: str,
    *,
    same_classes: bool | None = None,
    image_size: Sequence[int] | None = None,
) -> Adapted:
    """Load trained weights into an untrained model; all names and shapes must fit, except as listed.

    * The classifier keeps the model's untrained weights where the classes differ, or the weights have none.
    * Learned positions `pos_embed`, (1,T+N,D) or (1,D,h,w), of another grid are resized by an antialiased bicubic
      filter, prefix tokens apart, as timm does; fixed ones keep the model's.
    * The first convolution of a model of other channels, (D,3,P,P) or (D,1,P,P), is summed over them for one channel,
      as timm does; for three each has a third of the kernel of one, so that grey images give the same.
    * A patch embedding (D,3,P,P) of another patch size is resized by FlexiViT's pseudo-inverse (arXiv 2212.08013).

    Args:
        model: takes the weights; it is unchanged where they do not fit.
        tensors: of the trained model.
        origin: of the tensors, for messages.
        same_classes: whether the classes are the same, in the same order; None where the weights do not name them: then
            classes of equal number are taken to be the same.
        image_size: (height, width) of the trained model's images, in pixels; None: square.

    Raises:
        InputError: missing or unexpected names, other shapes, or numbers that are not finite.
    """
    have, found = model.state_dict(), dict(tensors)
    heads = tuple(f"{name}." for name in _classifiers(model))
    ours = {name for name in have if name.startswith(heads)} if heads else set()
    theirs = {name for name in found if name.startswith(heads)} if heads else set()
    fits = all(name in found and found[name].shape == have[name].shape for name in ours)
    new = bool(ours) and (same_classes is False or not theirs or (same_classes is None and not fits))
    if new:
        found = {name: value for name, value in found.items() if name not in theirs} | {
            name: have[name] for name in ours
        }
    resized = []
    for name in sorted(have.keys() & found.keys()):
        if found[name].shape == have[name].shape or (new and name in ours):
            continue
        changed = _resized(model, name, found[name], image_size)
        if changed is not None:
            found[name] = changed
            resized.append(name)
    fill(model, found, origin)
    return Adapted("new" if new else "kept", tuple(resized))


def _classifiers(model: nn.Module) -> list[str]:
    """Return the layers that give logits."""
    names = list[str]()
    with suppress(TapError):
        names.append(classifier_name(model))
    with suppress(TapError):
        names += head_names(model)
    asked = getattr(model, "get_classifier", None)
    given = asked() if callable(asked) else None
    modules = {module: name for name, module in model.named_modules()}
    names += [modules[one] for one in (given if isinstance(given, tuple | list) else ()) if one in modules]
    return list(dict.fromkeys(names))


def _resized(model: nn.Module, name: str, found: Tensor, image_size: Sequence[int] | None) -> Tensor | None:
    """Resize a tensor to the model's grid or patch size; None where it is not of that kind."""
    owner, _, last = name.rpartition(".")
    module = model.get_submodule(owner)
    wanted: Tensor = model.state_dict()[name]
    if not found.is_floating_point():
        return None
    if last == "pos_embed":
        if isinstance(parameter := getattr(module, last), nn.Parameter) and not parameter.requires_grad:
            return wanted.clone()
        return _resized_positions(module, found, wanted, image_size)
    if isinstance(module, nn.Conv2d) and last == "weight" and module.groups == 1 and found.ndim == 4:
        if (found.shape[1], wanted.shape[1]) in ((3, 1), (1, 3)):
            found = _with_channels(found, wanted.shape[1])
        if found.shape == wanted.shape:
            return found
    if _is_patch_embedding(module, last, found, wanted):
        from timm.layers.patch_embed import resample_patch_embed

        resized: Tensor = resample_patch_embed(found.float(), list(wanted.shape[2:]))
        return resized
    return None


def _with_channels(kernels_DCPP: Tensor, channels: int) -> Tensor:
    """Return the kernels of a first convolution for 1 channel of 3, or 3 of 1."""
    if channels == 1:
        return kernels_DCPP.float().sum(dim=1, keepdim=True)
    return kernels_DCPP.float().expand(-1, 3, -1, -1) / 3


def _is_patch_embedding(module: nn.Module, last: str, found: Tensor, wanted: Tensor) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and last == "weight"
        and module.in_channels in (1, 3)
        and tuple(module.kernel_size) == tuple(module.stride)
        and found.ndim == 4
        and found.shape[:2] == wanted.shape[:2]
    )


def _resized_positions(
    owner: nn.Module, found: Tensor, wanted: Tensor, image_size: Sequence[int] | None
) -> Tensor | None:
    if found.ndim == wanted.ndim == 4 and found.shape[:2] == wanted.shape[:2]:
        return F.interpolate(found.float(), size=wanted.shape[2:], mode="bicubic", align_corners=False, antialias=True)
    grid = _grid(owner)
    if grid is None or found.ndim != 3 or wanted.ndim != 3 or found.shape[::2] != wanted.shape[::2]:
        return None
    prefix = wanted.shape[1] - grid[0] * grid[1]
    before = _rows_and_columns(found.shape[1] - prefix, image_size) if prefix >= 0 else None
    if before is None:
        return None
    from timm.layers.pos_embed import resample_abs_pos_embed

    resized: Tensor = resample_abs_pos_embed(
        found.float(), list(grid), list(before), num_prefix_tokens=prefix, interpolation="bicubic", antialias=True
    )
    return resized


def _grid(owner: nn.Module) -> tuple[int, int] | None:
    """Return the (rows, columns) of the patches of the module that holds the positions."""
    size = getattr(getattr(owner, "patch_embed", None), "grid_size", None) or getattr(owner, "grid", None)
    return (int(size[0]), int(size[1])) if isinstance(size, tuple | list) and len(size) == 2 else None


def _rows_and_columns(count: int, image_size: Sequence[int] | None) -> tuple[int, int] | None:
    """Return the token grid (rows, columns) of an image from its token count and proportions; None where none fits."""
    height, width = image_size or (1, 1)
    rows = round((max(count, 0) * height / width) ** 0.5)
    return (rows, count // rows) if rows > 0 and count % rows == 0 and rows * width * rows == count * height else None
