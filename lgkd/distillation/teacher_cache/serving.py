"""Serve cached teacher features to a training: find the caches, check their error, and create the lookup."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lgkd.config import Recipe
from lgkd.data.loader import TrainLoader
from lgkd.data.prepare import Data, make_augment, make_mixing
from lgkd.distillation.guide import Guide
from lgkd.distillation.teacher_cache.identity import check_cacheable, choose_caches, identity_of, not_honoured
from lgkd.distillation.teacher_cache.lookup import CachedFeatures, measure
from lgkd.distillation.teacher_cache.storage import Cache, key_of
from lgkd.errors import InputError

# fp16 differs by 0.03 %, TF32 products of a GPU by 0.1 %; a wrong view by most of the norm.
_LARGEST_ERROR = 0.02


@dataclass(frozen=True)
class Served:
    """Hold the caches that fit a training.

    Attributes:
        caches: one for each guide.
        guides, data, image_size, seed: of the training.
        recipe: of the training, with the number of views that are shown in turn.
        approximate: True if the cache may follow the recipe only approximately.
    """

    caches: tuple[Cache, ...]
    guides: tuple[Guide, ...]
    recipe: Recipe
    data: Data
    image_size: tuple[int, int]
    seed: int
    approximate: bool

    @property
    def folders(self) -> list[str]:
        """Return the folders of the caches."""
        return [str(cache.folder.resolve()) for cache in self.caches]

    def about(self) -> list[dict[str, Any]]:
        """Describe the caches for run.json, independent of their location."""
        return [
            {
                "mode": cache.identity["mode"],
                "views": cache.layout.views,
                "storage": cache.layout.storage,
                "key": key_of(cache.identity, cache.layout),
            }
            for cache in self.caches
        ]

    def begin(
        self, loader: TrainLoader, device: str, *, say: Callable[[str], None]
    ) -> tuple[CachedFeatures, list[dict[str, float]]]:
        """Create the lookup and measure its error against the teachers; see `measure`.

        Raises:
            InputError: a cache that should be exact differs from its teacher.
        """
        lookup = CachedFeatures(
            self.caches,
            self.guides,
            make_augment(self.recipe, self.data, image_size=self.image_size, seed=self.seed),
            make_mixing(self.recipe, self.data, seed=self.seed),
            sizes=self.data.train.sizes,
            device=device,
        )
        for guide in self.guides:
            guide.to(device)
        errors = measure(lookup, self.guides, loader)
        for cache, found in zip(self.caches, errors, strict=True):
            exact = cache.identity["mode"] == "views" and not not_honoured("views", self.recipe, self.guides)
            worst = max(found.values())
            if exact and not worst <= _LARGEST_ERROR:
                raise InputError(
                    f"{cache.folder} differs by {worst:.1%} from the teacher's features of the same views; it is "
                    "corrupt or of another version, remove it and create it again by `lgkd cache-teacher`"
                )
            words = ", ".join(f"{name} {error:.2%}" for name, error in found.items())
            say(f"cached guidance ({_described(cache)}): error against the teacher {words}")
        return lookup, errors


def serve(
    where: str | Path | Sequence[str | Path],
    guides: Sequence[Guide],
    recipe: Recipe,
    data: Data,
    *,
    image_size: tuple[int, int],
    seed: int,
    processes: int,
    approximate: bool,
) -> Served:
    """Find the caches of a training; see `choose_caches`."""
    check_cacheable(recipe, data)
    identities = [partial(identity_of, guide, recipe, data, image_size=image_size, seed=seed) for guide in guides]
    caches, recipe = choose_caches(where, guides, identities, recipe, processes=processes, approximate=approximate)
    return Served(tuple(caches), tuple(guides), recipe, data, image_size, seed, approximate)


def _described(cache: Cache) -> str:
    if cache.identity["mode"] == "replay":
        return "replay"
    return f"{cache.layout.views} view{'' if cache.layout.views == 1 else 's'} of each image"
