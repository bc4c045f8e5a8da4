"""Find the caches that fit a training.

A cache of the mode "views" stores the teacher's features of N augmented views of each image; the training shows the
same views, one per epoch, in turn. A cache of the mode "replay" stores the features of the whole, unchanged image, on
which crop and flip of the student's view are replayed (the offline mode of Li et al., ECCV 2022).
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Literal

from lgkd.config import Recipe
from lgkd.data.prepare import Data
from lgkd.distillation.guide import Guide
from lgkd.distillation.teacher_cache.storage import (
    Cache,
    Identity,
    difference,
    open_cache,
    read_index,
    stored_caches,
)
from lgkd.errors import InputError, LgkdError, MissingError
from lgkd.models.teacher import Teacher

Mode = Literal["views", "replay"]
IdentityOf = Callable[[Mode, int], Identity]
"""Maps a mode and a number of views to the identity that such a cache must have."""

_OF_THE_STUDENT = ("resized", "antialias")
_NOT_DRAWN = {"image_size", "normalize", "fixed"}
_ALWAYS_STORED = {
    "crop",
    "scale",
    "ratio",
    "padding",
    "interpolation",
    "flip",
    "rand_augment",
    "color_jitter",
    "erase",
    "repeats",
}
"""Keys of `view` that the first caches stored. A key added later is stored only if it differs from its default, so
that caches of earlier versions stay valid."""


def identity_of(
    guide: Guide, recipe: Recipe, data: Data, mode: Mode, views: int, *, image_size: tuple[int, int], seed: int
) -> Identity:
    """Return the settings that determine a teacher's features of the images of a training.

    Raises:
        InputError: no term reads the teacher.
    """
    assert recipe.guide is not None
    if not guide.teaches:
        raise InputError(
            f"the terms of the guide ({', '.join(guide.weights)}) read the student alone, so that there are no "
            "features of a teacher to cache; omit --cached, or add a term that reads the teacher"
        )
    teacher = guide.teacher
    identity: Identity = {
        "mode": mode,
        "views": views,
        "teacher": teacher_digest(teacher),
        "teacher's layers": guide.teacher_layers,
        "teacher's image size": list(teacher.image_size),
        "teacher's mean": teacher.mean.flatten().tolist(),
        "teacher's std": teacher.std.flatten().tolist(),
        "guide.view": recipe.guide.view,
        "data": data.fingerprint,
        "part of the training images": data.subset,
        "training images": len(data.train),
        "which images": sha256(json.dumps([data.train.names, data.train.labels.tolist()]).encode()).hexdigest(),
        "image size": list(image_size),
        "mean": list(data.mean),
        "std": list(data.std),
        **({"stored side": data.stored_side} if data.stored_side is not None else {}),
    }
    if mode == "replay":
        return {**identity, "view.interpolation": recipe.view.interpolation}
    view = recipe.view
    stored = _ALWAYS_STORED | view.model_dump(exclude=_NOT_DRAWN, exclude_defaults=True).keys()
    drawn = view.model_dump(mode="json", include=stored)
    return {**identity, "seed": seed, **{f"view.{key}": value for key, value in drawn.items()}}


def teacher_digest(teacher: Teacher) -> str:
    """Compute the SHA-256 of a teacher's weights and their names: 64 hex digits."""
    digest = sha256(type(teacher.model).__name__.encode())
    for name, value in sorted(teacher.model.state_dict().items()):
        plain = value.detach().cpu().contiguous()
        digest.update(f"\0{name}\0{plain.dtype}\0{list(plain.shape)}\0".encode())
        digest.update(plain.numpy().tobytes())
    return digest.hexdigest()


def check_cacheable(recipe: Recipe, data: Data) -> None:
    """Refuse recipes and data that no cache can serve.

    Raises:
        InputError: the message names the key or option, and the remedy.
    """
    assert recipe.guide is not None
    if recipe.guide.teacher_bn == "batch":
        raise InputError(
            "guide.teacher_bn is batch: features of such a teacher depend on the other images of the batch and "
            "cannot be cached; set it to running"
        )
    if recipe.guide.view not in _OF_THE_STUDENT:
        raise InputError(
            f"guide.view is {recipe.guide.view}, and a cache stores features of the student's view; set it to "
            f"{' or '.join(_OF_THE_STUDENT)}"
        )
    if recipe.view.repeats > 1:
        raise InputError(
            f"view.repeats is {recipe.view.repeats}, several views of an image per epoch; a cache has one "
            "per epoch, so set it to 1"
        )
    if recipe.sampler == "balanced":
        raise InputError(
            "sampler is balanced, which shows images of small classes several times an epoch; a cache has one view of "
            "each image per epoch, so set it to shuffled, or use class_weights or omit --cached"
        )
    if data.extra is not None:
        raise InputError("a cache has features of the data set's own images only; omit --extra or --cached")


def not_honoured(mode: Mode, recipe: Recipe, guides: Sequence[Guide]) -> list[str]:
    """Return the recipe's keys that cached guidance follows only approximately, or not at all.

    With views: mixing. With replay: every change of colours, and every motion of pixels other than cropping and
    flipping; for a term that reads logits or embeddings, cropping and flipping too.
    """
    view, mix = recipe.view, recipe.mix
    keys = [f"mix.{name}" for name in ("mixup", "cutmix") if getattr(mix, name) > 0 and mix.probability > 0]
    if mode == "views":
        return keys
    flat = any(not name.startswith("map") for guide in guides for name in guide.teaches)
    moved = {
        "crop": view.crop == "pad" or (flat and view.crop != "none"),
        "flip": flat and view.flip > 0,
        "rand_augment": view.rand_augment is not None,
        "color_jitter": view.rand_augment is None and view.color_jitter > 0,
        "erase": view.erase > 0,
    }
    return [*(f"view.{key}" for key, is_so in moved.items() if is_so), *keys]


def choose_caches(
    where: str | Path | Sequence[str | Path],
    guides: Sequence[Guide],
    identities: Sequence[IdentityOf],
    recipe: Recipe,
    *,
    processes: int,
    approximate: bool,
) -> tuple[list[Cache], Recipe]:
    """Find and open a cache for each guide.

    Args:
        where: "auto" for caches in the store, or a folder for each guide.
        guides: guides of the training.
        identities: for each guide the required identity of its cache.
        recipe: recipe of the training.
        processes: number of training processes.
        approximate: accept keys that a cache can follow only approximately.

    Returns:
        The caches, and the recipe with the number of views that are shown in turn.

    Raises:
        MissingError: no cache was found.
        InputError: the cache has another identity, is corrupt, or cannot serve this recipe; the message says why.
    """
    if where == "auto":
        caches = [_fitting(guide, identity, recipe) for guide, identity in zip(guides, identities, strict=True)]
    else:
        folders = [where] if isinstance(where, str | Path) else list(where)
        if len(folders) != len(guides):
            raise InputError(f"{len(folders)} caches for {len(guides)} teachers; name one for each, in order")
        caches = [
            _checked(Path(folder).expanduser(), guide, identity)
            for folder, guide, identity in zip(folders, guides, identities, strict=True)
        ]
    modes = {(cache.identity["mode"], cache.layout.views) for cache in caches}
    if len(modes) > 1:
        raise InputError("the caches of several teachers differ in mode or number of views; make them alike")
    mode, views = modes.pop()
    keys = not_honoured(mode, recipe, guides)
    if keys and not approximate:
        raise InputError(
            f"a cache of the mode {mode} cannot follow {', '.join(keys)} exactly; switch "
            f"{'it' if len(keys) == 1 else 'them'} off, or use --approximate and check the printed error"
        )
    if processes > 1 and any(key.startswith("mix.") for key in keys):
        raise InputError(
            "mixing with cached guidance needs the whole batch, and several processes share it; train in one process, "
            "or set mix.mixup and mix.cutmix to 0"
        )
    if mode == "replay":
        return caches, recipe
    if recipe.view.fixed not in (None, views):
        raise InputError(
            f"view.fixed is {recipe.view.fixed}, the cache has {views} views of each image; set it to {views} or null"
        )
    return caches, recipe.model_copy(update={"view": recipe.view.model_copy(update={"fixed": views})})


def _checked(folder: Path, guide: Guide, identity: IdentityOf) -> Cache:
    cache = open_cache(folder)
    other = difference(cache.identity, identity(cache.identity["mode"], cache.layout.views))
    if other is not None:
        raise InputError(f"{folder} is the cache of another training: {other}; create one by `lgkd cache-teacher`")
    lacking = _lacking(guide, {name: tuple(shape) for name, shape in cache.layout.shapes.items()})
    if lacking:
        raise InputError(
            f"{folder} has {', '.join(cache.layout.shapes)}, and the recipe's terms also read {', '.join(lacking)}; "
            "create one with this recipe by `lgkd cache-teacher`"
        )
    return cache


def _fitting(guide: Guide, identity: IdentityOf, recipe: Recipe) -> Cache:
    """Find the cache in the store that fits this training: views before replay, then the most views."""
    found: list[tuple[bool, int, Path]] = []
    near = None
    for folder in stored_caches():
        with suppress(LgkdError):
            index = read_index(folder)
            mode, views = index["identity"]["mode"], index["views"]
            wanted = identity(mode, views)
            other = difference(index["identity"], wanted)
            if other is None and mode == "views" and recipe.view.fixed not in (None, views):
                other = f"view.fixed: the cache has {views}, this training {recipe.view.fixed}"
            lacking = _lacking(guide, {name: tuple(file["shape"]) for name, file in index["files"].items()})
            if other is None and lacking:
                other = f"it lacks {', '.join(lacking)}"
            if other is None:
                found.append((mode == "views", views, folder))
            elif index["identity"]["teacher"] == wanted["teacher"]:
                near = f" (the one in {folder} differs: {other})"
    if not found:
        raise MissingError(
            "no cache in the store fits this training; create one by `lgkd cache-teacher` with the options of this "
            f"`lgkd distill`{near or ''}"
        )
    return open_cache(max(found)[2])


def _lacking(guide: Guide, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    return [name for name, shape in guide.teaches.items() if shapes.get(name) != shape]
