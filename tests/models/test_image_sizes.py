"""Models at heights that are not their widths: grids by hand, and what does not fit is refused with sizes that do."""

import re

import pytest
import torch

import lgkd
from lgkd.config.values import read_image_size, size_text
from lgkd.distillation.layers import describe_layers
from lgkd.errors import ModelError
from lgkd.models.factory import create_model
from lgkd.models.fitting_sizes import dividing_patches, multiples_near, sizes_that_fit
from lgkd.models.initial_weights import start_from_weights
from lgkd.models.patch_size import coarse_patches, unseen_pixels
from lgkd.models.registry import MODELS


def test_a_size_is_read_and_written() -> None:
    for text, size in {"64": 64, "160x320": (160, 320), "64x64": 64, " 8x9 ": (8, 9), "-3": -3}.items():
        assert read_image_size(text) == size
        assert read_image_size(size_text(size)) == size
    for text in ("64x", "x64", "6.5", "64X32", "64x32x3", "-"):
        with pytest.raises(ValueError, match=re.escape(text)):
            read_image_size(text)


@pytest.mark.parametrize(
    ("name", "size", "grids"),
    [
        ("vit_96", (32, 64), [(8, 16)] * 3),
        ("deit_tiny", (32, 64), [(2, 4)] * 3),
        ("pvt_tiny", (32, 64), [(8, 16), (4, 8), (1, 2)]),
        ("pvt_v2_b0", (64, 32), [(16, 8), (8, 4), (2, 1)]),
        ("cvt_13", (32, 64), [(8, 16), (2, 4), (2, 4)]),
        ("t2t_vit_7", (32, 64), [(2, 4)] * 3),
        ("dhvt_tiny", (64, 32), [(16, 8)] * 3),
        ("cct_2_3x2", (32, 64), [(8, 16)] * 3),
        ("resnet8", (32, 64), [(32, 64), (16, 32), (8, 16)]),
        ("vgg8", (32, 64), [(32, 64), (16, 32), (8, 16)]),
        ("fastnet_small", (32, 64), [(16, 32), (8, 16), (4, 8)]),
        ("timm:swin_tiny_patch4_window7_224", (64, 128), [(16, 32), (4, 8), (2, 4)]),
    ],
)
def test_the_tapped_maps_have_the_proportions_of_the_images(
    name: str, size: tuple[int, int], grids: list[tuple[int, int]]
) -> None:
    tapped = [layer for layer in describe_layers(name, image_size=size) if layer.tapped]
    found = [layer.map[1:] for layer in tapped if layer.map is not None]
    assert found == grids


def test_refused_sizes_are_answered_by_sizes_that_fit() -> None:
    with pytest.raises(ModelError, match=r"convit_tiny cannot take images of 32 x 64 pixels .*takes: (.*)$") as found:
        create_model("convit_tiny", num_classes=3, image_size=(32, 64), options={"depth": 2})
    named = re.findall(r"(\d+) x (\d+)", str(found.value).rpartition("takes: ")[2])
    assert named == [("32", "32"), ("64", "64")]
    for height, width in named:
        create_model("convit_tiny", num_classes=3, image_size=(int(height), int(width)), options={"depth": 2})
    with pytest.raises(ModelError, match=r"into patches of 4 x 4; .*: 32 x 48 or 32 x 52, or patches of 2; sizes near"):
        create_model("vit_96", num_classes=3, image_size=(32, 50), options={"depth": 1})
    with pytest.raises(ModelError, match=r"of 4 x 4 px do not divide images of 32 x 50 px.*: 32 x 48 or 32 x 52"):
        create_model("dhvt_tiny", num_classes=3, image_size=(32, 50), options={"depth": 1})
    # An error of another kind has no sizes.
    with pytest.raises(ModelError, match=r"vit_96 cannot be made with .*unexpected keyword argument 'dept'") as found:
        create_model("vit_96", num_classes=3, image_size=(32, 64), options={"dept": 1})
    assert "takes:" not in str(found.value)


def test_sizes_near_one_by_hand() -> None:
    assert multiples_near((32, 50), 4) == "32 x 48 or 32 x 52" and multiples_near((3, 8), 8) == "8 x 8"
    assert dividing_patches((96, 64)) == "2, 4, 8" and dividing_patches((32, 45)) == ""

    def only(wanted: tuple[int, int]):
        def make(size: tuple[int, int]) -> None:
            if size != wanted:
                raise ModelError("not this one")

        return make

    assert sizes_that_fit(only((64, 96)), (60, 100)) == ["64 x 96"]
    assert sizes_that_fit(only((96, 96)), (60, 100)) == ["96 x 96"]
    assert sizes_that_fit(only((5, 5)), (60, 100)) == []


def test_learned_positions_of_a_square_are_resized_to_another_shape() -> None:
    options = {"depth": 1, "embed_dim": 32, "num_heads": 2, "patch_size": 8}
    square = create_model("deit_tiny", num_classes=3, image_size=32, options=options)
    wide = create_model("deit_tiny", num_classes=3, image_size=(32, 64), options=options)
    torch.nn.init.normal_(square.pos_embed)
    adapted = start_from_weights(wide, square.state_dict(), "square", image_size=(32, 32))
    assert adapted.resized == ("pos_embed",) and wide.pos_embed.shape == (1, 1 + 4 * 8, 32)
    grid = square.pos_embed[:, 1:].detach().reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, (4, 8), mode="bicubic", antialias=True)
    torch.testing.assert_close(wide.pos_embed[0, 1:].T.reshape(32, 4, 8), expected[0], atol=1e-5, rtol=1e-5)
    assert torch.equal(wide.pos_embed[:, 0], square.pos_embed[:, 0])
    again = create_model("deit_tiny", num_classes=3, image_size=(64, 32), options=options)
    start_from_weights(again, wide.state_dict(), "wide", image_size=(32, 64))
    assert again.pos_embed.shape == (1, 1 + 8 * 4, 32)


def test_remarks_on_patches_name_both_sides() -> None:
    model = lgkd.create_student("deit_tiny", num_classes=3, image_size=(64, 96), depth=1)
    assert "leave a grid of 4 x 6 at 64 x 96 px" in (coarse_patches(model, (64, 96)) or "")
    assert "patch_size=8," in (coarse_patches(model, (64, 96)) or "")
    assert "patch_size=4," in (coarse_patches(model, (64, 100)) or ""), "one that divides both sides"
    assert "4 columns of pixels are never seen" in (unseen_pixels(model, (64, 100)) or "")


@pytest.mark.parametrize("name", [name for name, info in MODELS.items() if info.role == "student"])
def test_a_student_takes_the_sizes_that_the_list_says(name: str) -> None:
    sizes = MODELS[name].suits.partition(";")[0]
    smallest = 64 if "smaller with patch_size" in sizes else int(sizes.split()[0])
    options = {"patch_size": 8} if "smaller with patch_size" in sizes and name != "cvt_13" else {}
    options |= {"patch_size": 2} if name == "cvt_13" else {}
    model = create_model(name, num_classes=3, image_size=smallest, options=options)
    assert coarse_patches(model, (smallest, smallest)) is None
