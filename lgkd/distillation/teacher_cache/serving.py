"""A training's caches from the first look at them to the lookup that its loop asks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lgkd.config import Recipe
from lgkd.data.loader import Feed
from lgkd.data.prepare import Data, make_augment, make_mixing
from lgkd.distillation.guide import Guide
from lgkd.distillation.teacher_cache.identity import check_cacheable, choose_caches, identity_of, not_honoured
from lgkd.distillation.teacher_cache.lookup import CachedFeatures, measure
from lgkd.distillation.teacher_cache.storage import Cache, key_of
from lgkd.errors import InputError

# fp16 differs by 0.03 %, a GPU's short products by 0.1 %; a wrong view by most of the norm.
_LARGEST_ERROR = 0.02


@dataclass(frozen=True)
class Served:
    """Caches that were found to fit a training.

    Attributes:
        caches: one for each guide.
        guides, data, image_size, seed: of the training.
        recipe: of the training, with the number of views that is shown in turn.
        approximate: whether the cache may follow the recipe only approximately.
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
        """Where the caches lie."""
        return [str(cache.folder.resolve()) for cache in self.caches]

    def about(self) -> list[dict[str, Any]]:
        """The caches for run.json; where they lie does not matter."""
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
        self, feed: Feed, device: str, *, say: Callable[[str], None]
    ) -> tuple[CachedFeatures, list[dict[str, float]]]:
        """The lookup, and how far it is from the teachers themselves; see `measure`.

        Raises:
            InputError: a cache that should hold exactly what its teacher says does not.
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
        errors = measure(lookup, self.guides, feed)
        for cache, found in zip(self.caches, errors, strict=True):
            exact = cache.identity["mode"] == "views" and not not_honoured("views", self.recipe, self.guides)
            worst = max(found.values())
            if exact and not worst <= _LARGEST_ERROR:
                raise InputError(
                    f"{cache.folder} differs by {worst:.1%} from what the teacher says of the same views; it is "
                    "damaged or another lgkd's, remove it and make it again by `lgkd cache-teacher`"
                )
            words = ", ".join(f"{name} {error:.2%}" for name, error in found.items())
            say(f"cached guidance ({_described(cache)}): error against the teacher itself {words}")
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
