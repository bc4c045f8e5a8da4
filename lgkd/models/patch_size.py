"""Determine a model's patch size, and the pixels of an image that fill no patch."""

from collections.abc import Iterable
from math import gcd

from torch import nn

_FINE = 7
"""Rows and columns of patches that are enough: those of a pyramid's last stage at 224 px."""


def patch_size(model: nn.Module) -> tuple[int, int] | None:
    """Return (height, width) of a model's patches; None for one without patches, or that pads them.

    A model whose patches are not cut by a convolution states their side as its attribute `lgkd_patch_size`.
    """
    if isinstance(stated := getattr(model, "lgkd_patch_size", None), int):
        return stated, stated
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if not isinstance(module, nn.Conv2d) or module.in_channels not in (1, 3) or module.groups != 1:
            continue
        # Patches are adjacent where the stride equals the kernel; otherwise they overlap.
        kernel, step = tuple(module.kernel_size), tuple(module.stride)
        padded = getattr(modules[name.rpartition(".")[0]], "dynamic_img_pad", False)
        apart = kernel == step and max(kernel) > 1 and module.padding in ((0, 0), "valid")
        return (kernel[0], kernel[1]) if apart and not padded else None
    return None


def unseen_pixels(model: nn.Module, image_size: tuple[int, int]) -> str | None:
    """Describe the rows and columns at an image's edge that fill no patch; return None where all pixels are used.

    Args:
        model: as built.
        image_size: (height, width) of its images, in pixels.
    """
    patch = patch_size(model)
    if patch is None:
        return None
    left = [side % step for side, step in zip(image_size, patch, strict=True)]
    if not any(left):
        return None
    words = [f"{n} {word}{'' if n == 1 else 's'}" for n, word in zip(left, ("row", "column"), strict=True) if n]
    verb = "is" if sum(left) == 1 else "are"
    return (
        f"{_side(image_size)} is not a multiple of patch_size {_side(patch)}; {' and '.join(words)} of pixels {verb} "
        "never seen: use a patch_size that divides it, or another --image-size"
    )


def coarse_patches(model: nn.Module, image_size: tuple[int, int]) -> str | None:
    """Describe patches that are large for an image, with a size that fits; None where the grid is 7 x 7 or finer.

    Args:
        model: as built.
        image_size: (height, width) of its images, in pixels.
    """
    patch = patch_size(model)
    if patch is None:
        return None
    height, width = (side // step for side, step in zip(image_size, patch, strict=True))
    if min(height, width) >= _FINE:
        return None
    finer = _fine_patch(model, image_size)
    return (
        f"patches of {_side(patch)} px leave a grid of {height} x {width} at {_side(image_size)} px, with little to "
        f"attend to or to guide; use --student-option patch_size={finer}, vit_128, or a larger --image-size"
    )


def _fine_patch(model: nn.Module, image_size: tuple[int, int]) -> int:
    """Return the patch size that cuts the shorter side into eight, or one that is half as large at least and divides.

    Of a model that states its possible sizes as `lgkd_patch_sizes`, it is the largest of them that is no larger.
    """
    eighth = max(1, min(image_size) // 8)
    known: Iterable[int] = getattr(model, "lgkd_patch_sizes", None) or range(-(-eighth // 2), eighth + 1)
    return max((side for side in known if side <= eighth and gcd(*image_size) % side == 0), default=eighth)


def _side(size: tuple[int, int]) -> str:
    return f"{size[0]}" if size[0] == size[1] else f"{size[0]} x {size[1]}"
