"""Settings of `view` in the identity of a cache of views: old caches stay valid, later keys count where they differ."""

from types import SimpleNamespace
from typing import Any

import pytest

from lgkd.config import apply_overrides, load_recipe
from lgkd.distillation.teacher_cache.identity import identity_of
from lgkd.distillation.teacher_cache.storage import difference
from lgkd.errors import InputError
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.teacher import Teacher
from tests.support.training import make_images

FIRST = {
    "view.crop": "random-resized",
    "view.scale": [0.08, 1.0],
    "view.ratio": [0.75, 1.3333333333],
    "view.padding": 0.125,
    "view.interpolation": "bicubic",
    "view.flip": 0.5,
    "view.rand_augment": "rand-m9-mstd0.5-inc1",
    "view.color_jitter": 0.0,
    "view.erase": 0.25,
    "view.repeats": 1,
}
"""Entries of caches of the first version, for the recipe locality-guidance."""


def views(*overrides: str, **guided: Any) -> dict[str, Any]:
    recipe = apply_overrides(load_recipe("locality-guidance"), overrides)
    teacher = Teacher(CifarResNet(8, 3), image_size=8)
    known = {"teacher": teacher, "teacher_layers": teacher.taps, "teaches": {"map1": (1, 1, 1)}}
    guide: Any = SimpleNamespace(**{**known, **guided})
    channels = (0.5, 0.5, 0.5)
    data: Any = SimpleNamespace(
        fingerprint="f", subset=None, train=make_images(4), mean=channels, std=channels, stored_side=None
    )
    identity = identity_of(guide, recipe, data, "views", 2, image_size=(8, 8), seed=0)
    return {key: value for key, value in identity.items() if key.startswith("view.")}


def test_the_entries_are_those_of_the_first_version() -> None:
    assert list(views().items()) == list(FIRST.items())
    assert views("view.image_size=8", "view.normalize=dataset", "view.fixed=2") == FIRST
    assert views("view.alternate_flip=false", "view.padding_mode=constant") == FIRST


@pytest.mark.parametrize(
    ("override", "entry"),
    [
        ("view.alternate_flip=true", ("view.alternate_flip", True)),
        ("view.padding_mode=reflect", ("view.padding_mode", "reflect")),
    ],
)
def test_a_later_key_is_an_entry_where_it_differs_from_its_default(override: str, entry: tuple[str, Any]) -> None:
    assert list(views(override).items()) == [*FIRST.items(), entry]
    refused = difference(FIRST, views(override))
    assert refused is not None and refused.startswith(f"{entry[0]}: the cache has null, this training ")
    refused = difference(views(override), FIRST)
    assert refused is not None and refused.startswith(f"{entry[0]}: the cache has ")


def test_a_guide_that_reads_no_teacher_has_nothing_to_cache() -> None:
    with pytest.raises(InputError, match=r"the terms of the guide \(own\) read the student alone.*; omit --cached, or"):
        views(teaches={}, weights={"own": 0.5})
