"""A request for a sweep over a small training."""

from typing import Any

from lgkd.tuning.request import SweepRequest
from lgkd.tuning.space import read_space
from tests.support.small import World


def request(world: World, *searches: str, **words: Any) -> SweepRequest:
    settings = {"options": {"val_fraction": 0.25}, **words}
    return SweepRequest("supervised", world.pictures, "deit_tiny", read_space(searches), **settings)
