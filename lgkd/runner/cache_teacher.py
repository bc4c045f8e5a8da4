"""Caching what teachers say of the training images: from choices to finished folders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lgkd import __version__
from lgkd.config import Recipe
from lgkd.data.prepare import Data, make_augment
from lgkd.data.transforms.augment import Plain
from lgkd.distillation.guide import Guide
from lgkd.distillation.teacher_cache.identity import Mode, check_cacheable, identity_of, not_honoured
from lgkd.distillation.teacher_cache.storage import Layout, Storage, features_folder, key_of, open_cache
from lgkd.distillation.teacher_cache.writer import Draw, check_size, write_cache
from lgkd.errors import InputError, TakenError
from lgkd.models.teacher import Teacher
from lgkd.runner.build import make_guides
from lgkd.runner.runner import Job
from lgkd.runs.folder import now

DEFAULT_VIEWS = 10
_PIXELS_AT_ONCE = 128 * 224 * 224


@dataclass(frozen=True)
class Cached:
    """A cache that lies ready.

    Attributes:
        folder: where it lies.
        mode: "views" or "replay".
        views: of each image.
        images: how many there are.
        bytes: of all its files.
        made: whether it was made now; False where it lay there.
        approximate: keys of the recipe that a training from it follows only approximately.
    """

    folder: Path
    mode: Mode
    views: int
    images: int
    bytes: int
    made: bool
    approximate: tuple[str, ...]


@dataclass(frozen=True)
class Wanted:
    """What to cache.

    Attributes:
        views: of each image; None: `view.fixed` of the recipe, or 10.
        replay: the whole images once, instead of augmented views.
        storage: number format.
        out: the cache's folder; None: one in the store, where `cached="auto"` finds it.
        max_gb: size in 10^9 bytes above which nothing is written; None: the disk alone decides.
        progress: called with (done, total) views of images.
    """

    views: int | None = None
    replay: bool = False
    storage: Storage = "fp16"
    out: Path | None = None
    max_gb: float | None = None
    progress: Callable[[int, int], None] | None = None


def cache_features(
    job: Job, teachers: Sequence[str | Teacher], wanted: Wanted, *, taps: Sequence[str] | None = None
) -> list[Cached]:
    """Write a cache for each teacher, or find that it lies there already.

    Args:
        job: the training that it is for.
        teachers: those that guide it.
        wanted: how it is cached.
        taps: layers of the student.

    Raises:
        InputError: the recipe cannot be served from a cache, or the cache would be too large.
        TakenError: another thing lies at `wanted.out`.
    """
    if job.process.count > 1:
        raise InputError("a cache is written by one process; leave out --nproc and torchrun")
    if wanted.replay and wanted.views is not None:
        raise InputError("--replay caches each image once; leave out --views")
    if wanted.out is not None and len(teachers) > 1:
        raise InputError(f"--out names one folder, and there are {len(teachers)} teachers; leave it out")
    settled, found = job.choose(teachers)
    recipe = settled.recipe
    data = job.read(recipe, found)
    check_cacheable(recipe, data)
    student, size = job.make_model(recipe, data)
    guides = make_guides(student, found, recipe, data, image_size=size, taps=taps, seed=job.seed)
    try:
        return [_cache(job, guide, recipe, data, size, wanted) for guide in guides]
    finally:
        for guide in guides:
            guide.remove()


def _cache(job: Job, guide: Guide, recipe: Recipe, data: Data, size: tuple[int, int], wanted: Wanted) -> Cached:
    mode: Mode = "replay" if wanted.replay else "views"
    views = 1 if wanted.replay else wanted.views or recipe.view.fixed or DEFAULT_VIEWS
    layout = Layout(guide.teaches, views, len(data.train), wanted.storage)
    identity = identity_of(guide, recipe, data, mode, views, image_size=size, seed=job.seed)
    folder = wanted.out if wanted.out is not None else features_folder() / key_of(identity, layout)
    approximate = tuple(not_honoured(mode, recipe, [guide]))
    made = not folder.exists()
    if made:
        check_size(layout, folder.parent, wanted.max_gb)
        each = sum(layout.row_bytes(name) for name in layout.shapes)
        job.say(f"{layout.bytes / 1e9:,.3g} GB ({each / 1e3:,.3g} kB an image and view) go to {folder}")
        write_cache(
            folder,
            guide.to(job.device),
            data.train,
            _drawing(mode, recipe, data, size, job.seed, views),
            identity=identity,
            layout=layout,
            about=_about(guide),
            device=job.device,
            batch_size=max(1, min(recipe.batch_size, _PIXELS_AT_ONCE // (size[0] * size[1]))),
            progress=wanted.progress,
        )
    else:
        there = open_cache(folder)
        if key_of(there.identity, there.layout) != key_of(identity, layout):
            raise TakenError(f"{folder} holds another cache; nothing was touched. Choose another --out, or remove it")
    return Cached(folder, mode, views, len(data.train), layout.bytes, made, approximate)


def _drawing(mode: Mode, recipe: Recipe, data: Data, size: tuple[int, int], seed: int, views: int) -> Draw:
    """What makes the student's images of a view."""
    if mode == "views":
        fixed = recipe.model_copy(update={"view": recipe.view.model_copy(update={"fixed": views})})
        return make_augment(fixed, data, image_size=size, seed=seed)
    plain = Plain(size, mean=data.mean, std=data.std, interpolation=recipe.view.interpolation)

    def whole(pixels: Tensor, sizes: Tensor, index: Tensor, view: int) -> Tensor:  # noqa: ARG001
        return plain(pixels, sizes)

    return whole


def _about(guide: Guide) -> dict[str, Any]:
    card = guide.teacher.card
    named = {"name": card.name, "dataset": card.dataset, "sha256": card.weights_sha256} if card is not None else None
    return {
        "lgkd": __version__,
        "torch": torch.__version__,
        "made": now(),
        "teacher": named,
    }
