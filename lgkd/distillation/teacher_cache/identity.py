"""Whether a training can be served from a cache, and from which.

A cache of the mode "views" holds what the teacher says of N augmented views of each image; the training shows the same
views, one an epoch, in turn. One of the mode "replay" holds what it says of the whole, unchanged image, on which crop
and mirror of the student's view are replayed (the offline mode of Li et al., ECCV 2022).
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
"""The identity that a cache of this mode and number of views must have."""

_OF_THE_STUDENT = ("resized", "antialias")
_NOT_DRAWN = {"image_size", "normalize", "fixed"}


def identity_of(
    guide: Guide, recipe: Recipe, data: Data, mode: Mode, views: int, *, image_size: tuple[int, int], seed: int
) -> Identity:
    """What decides what a teacher says of the images of a training."""
    assert recipe.guide is not None
    teacher = guide.teacher
    identity: Identity = {
        "mode": mode,
        "views": views,
        "teacher": teacher_digest(teacher),
        "teacher's layers": teacher.taps,
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
    }
    if mode == "replay":
        return {**identity, "view.interpolation": recipe.view.interpolation}
    drawn = recipe.view.model_dump(mode="json", exclude=_NOT_DRAWN)
    if not recipe.view.alternate_flip:
        del drawn["alternate_flip"]  # which caches of earlier versions do not know
    return {**identity, "seed": seed, **{f"view.{key}": value for key, value in drawn.items()}}


def teacher_digest(teacher: Teacher) -> str:
    """SHA-256 over the weights of a teacher and their names: 64 hex digits."""
    digest = sha256(type(teacher.model).__name__.encode())
    for name, value in sorted(teacher.model.state_dict().items()):
        plain = value.detach().cpu().contiguous()
        digest.update(f"\0{name}\0{plain.dtype}\0{list(plain.shape)}\0".encode())
        digest.update(plain.numpy().tobytes())
    return digest.hexdigest()


def check_cacheable(recipe: Recipe, data: Data) -> None:
    """Refuse what no cache can serve.

    Raises:
        InputError: names the key or option, and what to do.
    """
    assert recipe.guide is not None
    if recipe.guide.teacher_bn == "batch":
        raise InputError(
            "guide.teacher_bn is batch: what such a teacher says of an image depends on the others of its batch and "
            "cannot be cached; set it to running"
        )
    if recipe.guide.view not in _OF_THE_STUDENT:
        raise InputError(
            f"guide.view is {recipe.guide.view}, and a cache holds what is said of the student's view; set it to "
            f"{' or '.join(_OF_THE_STUDENT)}"
        )
    if recipe.view.repeats > 1:
        raise InputError(
            f"view.repeats is {recipe.view.repeats}, which shows an image in several views an epoch; a cache has one "
            "an epoch, so set it to 1"
        )
    if data.extra is not None:
        raise InputError("a cache holds the data set's own images and no extra ones; leave out --extra or --cached")


def not_honoured(mode: Mode, recipe: Recipe, guides: Sequence[Guide]) -> list[str]:
    """The recipe's keys that cached guidance follows only approximately, or not at all.

    With views that is mixing. With replay it is all that changes colours or moves pixels other than by cropping and
    mirroring; for a term that reads logits or embeddings, cropping and mirroring too.
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
        where: "auto" for those in the store, or a folder for each guide.
        guides: of the training.
        identities: for each guide what its cache must be of.
        recipe: of the training.
        processes: how many train together.
        approximate: serve what a cache can follow only approximately, too.

    Returns:
        The caches, and the recipe with the number of views that is shown in turn.

    Raises:
        MissingError: there is none.
        InputError: it is of something else, damaged, or cannot serve this recipe; one line names what.
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
            f"{'it' if len(keys) == 1 else 'them'} off, or use --approximate and heed the error that is printed"
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
        raise InputError(f"{folder} is the cache of another training: {other}; make one by `lgkd cache-teacher`")
    lacking = _lacking(guide, {name: tuple(shape) for name, shape in cache.layout.shapes.items()})
    if lacking:
        raise InputError(
            f"{folder} has {', '.join(cache.layout.shapes)}, and the recipe's terms read {', '.join(lacking)} too; "
            "make one with this recipe by `lgkd cache-teacher`"
        )
    return cache


def _fitting(guide: Guide, identity: IdentityOf, recipe: Recipe) -> Cache:
    """The cache in the store that is of this training; views before replay, and of several the one with most."""
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
            "no cache in the store is of this training; make one by `lgkd cache-teacher` with the options of this "
            f"`lgkd distill`{near or ''}"
        )
    return open_cache(max(found)[2])


def _lacking(guide: Guide, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    return [name for name, shape in guide.teaches.items() if shapes.get(name) != shape]
