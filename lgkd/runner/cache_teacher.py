"""Cache the outputs of teachers on the training images."""

from collections.abc import Callable
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
from lgkd.models.fake_quantize import restore
from lgkd.runner.runner import Runner
from lgkd.runs.folder import now

DEFAULT_VIEWS = 10
_PIXELS_AT_ONCE = 128 * 224 * 224


@dataclass(frozen=True)
class Cached:
    """Describe a complete cache.

    Attributes:
        folder: of the cache.
        mode: "views" or "replay".
        views: of each image.
        images: number of cached images.
        bytes: size of all its files.
        made: whether it was created now; False where it existed.
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
class CacheSpec:
    """Describe a requested cache.

    Attributes:
        views: of each image; None: `view.fixed` of the recipe, or 10.
        replay: each whole image once, instead of augmented views.
        storage: number format.
        out: the cache's folder; None: one in the store, where `cached="auto"` finds it.
        max_gb: size in 10^9 bytes above which nothing is written; None: only free disk space limits it.
        progress: called with (done, total) views of images.

    Raises:
        InputError: `replay` and `views` were both given.
    """

    views: int | None = None
    replay: bool = False
    storage: Storage = "fp16"
    out: Path | None = None
    max_gb: float | None = None
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        if self.replay and self.views is not None:
            raise InputError("--replay caches each image once; leave out --views")

    def check_teachers(self, number: int) -> None:
        """Refuse one folder for the caches of several teachers."""
        if self.out is not None and number > 1:
            raise InputError(f"--out names one folder, but there are {number} teachers; leave it out")


def cache_features(runner: Runner, wanted: CacheSpec) -> list[Cached]:
    """Write a cache for each teacher, or reuse an existing one.

    Args:
        runner: of the training that will use it.
        wanted: how it is cached.

    Raises:
        InputError: the recipe cannot be served from a cache, or the cache would be too large.
        TakenError: something else is at `wanted.out`.
    """
    if runner.session.process.count > 1:
        raise InputError("a cache is written by one process; leave out --nproc and torchrun")
    wanted.check_teachers(len(runner.config.teachers))
    data = runner.load_data()
    check_cacheable(runner.config.recipe, data)
    student, size, guides = runner.build_models(data)
    try:
        return [_cache(runner, guide, data, size, wanted) for guide in guides]
    finally:
        for guide in guides:
            guide.remove()
        restore(student)


def _cache(runner: Runner, guide: Guide, data: Data, size: tuple[int, int], wanted: CacheSpec) -> Cached:
    recipe, seed, session = runner.config.recipe, runner.config.seed, runner.session
    mode: Mode = "replay" if wanted.replay else "views"
    views = 1 if wanted.replay else wanted.views or recipe.view.fixed or DEFAULT_VIEWS
    layout = Layout(guide.teaches, views, len(data.train), wanted.storage)
    identity = identity_of(guide, recipe, data, mode, views, image_size=size, seed=seed)
    folder = wanted.out if wanted.out is not None else features_folder() / key_of(identity, layout)
    approximate = tuple(not_honoured(mode, recipe, [guide]))
    made = not folder.exists()
    if made:
        check_size(layout, folder.parent, wanted.max_gb)
        each = sum(layout.row_bytes(name) for name in layout.shapes)
        session.say(f"{layout.bytes / 1e9:,.3g} GB ({each / 1e3:,.3g} kB per image and view) go to {folder}")
        write_cache(
            folder,
            guide.to(session.device),
            data.train,
            _drawing(mode, recipe, data, size, seed, views),
            identity=identity,
            layout=layout,
            about=_about(guide),
            device=session.device,
            batch_size=max(1, min(recipe.batch_size, _PIXELS_AT_ONCE // (size[0] * size[1]))),
            progress=wanted.progress,
        )
    else:
        there = open_cache(folder)
        if key_of(there.identity, there.layout) != key_of(identity, layout):
            raise TakenError(f"{folder} holds another cache; nothing was touched. Choose another --out, or remove it")
    return Cached(folder, mode, views, len(data.train), layout.bytes, made, approximate)


def _drawing(mode: Mode, recipe: Recipe, data: Data, size: tuple[int, int], seed: int, views: int) -> Draw:
    """Return the function that draws the student's images of a view."""
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
