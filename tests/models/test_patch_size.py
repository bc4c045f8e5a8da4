"""Patches that are large for an image are said, with a size that fits."""

from typing import Any

import pytest

import lgkd
from lgkd.models.patch_size import coarse_patches
from lgkd.runner.resolve import resolve
from lgkd.runner.runner import coarse_of


@pytest.mark.parametrize(
    ("student", "side", "options", "grid"),
    [
        ("deit_tiny", 64, {}, "4 x 4"),
        ("deit_tiny", 96, {}, "6 x 6"),
        ("deit_tiny", 112, {}, None),
        ("deit_tiny", 64, {"patch_size": 8}, None),
        ("vit_96", 32, {}, None),
        ("pvt_v2_b0", 32, {}, None),
        ("t2t_vit_7", 64, {}, "4 x 4"),
        ("t2t_vit_7", 64, {"patch_size": 8}, None),
    ],
)
def test_a_grid_below_seven_is_coarse(student: str, side: int, options: dict[str, Any], grid: str | None) -> None:
    model = lgkd.create_student(student, num_classes=3, image_size=side, **options)
    found = coarse_patches(model, (side, side))
    if grid is None:
        assert found is None
    else:
        assert found is not None
        assert f"leave a grid of {grid} at {side} px" in found and f"patch_size={side // 8}," in found


def test_a_patch_size_that_the_user_has_chosen_is_not_questioned() -> None:
    model = lgkd.create_student("deit_tiny", num_classes=10, image_size=64)
    for options, said in (({}, True), ({"patch_size": 16}, False)):
        config = resolve("student", "deit_tiny", "digits", {"recipe": "supervised"}, model_options=options)
        assert (coarse_of(config, model, (64, 64)) is not None) == said
