"""Taps: what they read, how tokens fold into maps, and what is said where they do not."""

from typing import Any

import pytest
import timm
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lgkd.distillation.taps import Fold, Tap, Taps, find_fold, fold, trace_shapes
from lgkd.errors import TapError


class Patches(nn.Module):
    """A patch convolution, prefix tokens in front, and blocks that change nothing."""

    def __init__(self, patch: int = 4, prefix: int = 1) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 7, patch, stride=patch)
        self.prefix = nn.Parameter(torch.randn(1, prefix, 7))
        self.blocks = nn.Sequential(nn.Identity(), nn.Identity())
        self.head = nn.Linear(7, 2)
        self.unused = nn.Linear(1, 1)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.proj(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix.expand(len(images), -1, -1), tokens], dim=1)
        return self.head(self.blocks(tokens).mean(dim=1))


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (40, 24), (33, 47)])
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_fold_matches_the_patch_convolution_before_flattening(size: tuple[int, int], prefix: int) -> None:
    model = Patches(prefix=prefix)
    images = torch.randn(2, 3, *size)
    _, (convolved, tokens) = Taps(model, ["proj", "blocks.1"]).capture(model, images)
    resolved = find_fold(Tap("blocks.1"), tokens.shape, image_size=size)
    assert resolved == Fold("tokens", prefix, (size[0] // 4, size[1] // 4))
    assert torch.equal(resolved(tokens), convolved)


def test_fold_lays_tokens_out_row_by_row() -> None:
    tokens = torch.arange(7.0).view(1, 7, 1)
    assert fold(tokens, 1, (2, 3)).tolist() == [[[[1, 2, 3], [4, 5, 6]]]]


def test_grids_of_every_shape_of_image_are_found() -> None:
    """Also of long images, whose last patches are cut off."""
    for height in range(32, 257, 24):
        for width in range(32, 257, 8):
            for patch in (4, 8, 16):
                grid = (height // patch, width // patch)
                count = grid[0] * grid[1]
                found = find_fold(Tap("x", prefix=0), (1, count, 8), image_size=(height, width))
                assert found.grid == grid, (height, width, patch)


@pytest.mark.parametrize("prefix", range(1, 6))
def test_prefix_tokens_of_square_images_are_counted_without_a_hint(prefix: int) -> None:
    for side in range(3, 33):
        found = find_fold(Tap("x"), (1, prefix + side * side, 8), image_size=(224, 224))
        assert (found.prefix, found.grid) == (prefix, (side, side))


def test_overlapping_patches_give_the_grid_of_pit() -> None:
    found = find_fold(Tap("x"), (2, 730, 64), image_size=(224, 224))
    assert found == Fold("tokens", 1, (27, 27))


def test_the_hint_of_the_model_gives_way_where_a_tap_has_another_prefix() -> None:
    """ConViT reports one class token, but it joins only before the last blocks."""
    assert find_fold(Tap("x"), (2, 196, 8), image_size=(224, 224), prefix_hint=1).prefix == 0
    assert find_fold(Tap("x"), (2, 197, 8), image_size=(224, 224), prefix_hint=1).prefix == 1


def test_convit_has_no_prefix_early_and_one_late() -> None:
    model = timm.create_model("convit_tiny", img_size=32, patch_size=8, depth=4, local_up_to_layer=2).eval()
    images = torch.randn(2, 3, 32, 32)
    names = [f"blocks.{block}" for block in range(4)]
    _, outputs = Taps(model, names).capture(model, images)
    folds = [
        find_fold(Tap(name), output.shape, image_size=(32, 32), prefix_hint=model.num_prefix_tokens)
        for name, output in zip(names, outputs, strict=True)
    ]
    assert [each.prefix for each in folds] == [0, 0, 1, 1]
    late = folds[3](outputs[3])
    assert torch.equal(late[1, :, 2, 3], outputs[3][1, 1 + 2 * 4 + 3])


def test_register_tokens_are_dropped_with_the_class_token() -> None:
    model = VisionTransformer(img_size=(32, 48), patch_size=8, embed_dim=12, depth=1, num_heads=2, reg_tokens=4).eval()
    images = torch.randn(2, 3, 32, 48)
    _, (before, tokens) = Taps(model, ["patch_embed.proj", "norm_pre"]).capture(model, images)
    resolved = find_fold(Tap("norm_pre"), tokens.shape, image_size=(32, 48), prefix_hint=model.num_prefix_tokens)
    assert resolved == Fold("tokens", 5, (4, 6))
    places = model.pos_embed  # what lies between the two: one position embedding for every token
    patch_places = places[:, -24:].transpose(1, 2).reshape(1, 12, 4, 6)
    torch.testing.assert_close(resolved(tokens), before + patch_places)


def test_channels_last_maps_of_swin_are_turned_and_its_convolutions_are_not() -> None:
    model = SwinTransformer(
        img_size=64, patch_size=4, window_size=4, embed_dim=12, depths=(1, 1), num_heads=(2, 2), num_classes=3
    ).eval()
    names = ["patch_embed.proj", "layers.0.blocks.0", "layers.1"]
    _, outputs = trace_shapes(model, names, torch.randn(2, 3, 64, 64))
    folds = [
        find_fold(Tap(name), output.shape, image_size=(64, 64), layout_hint=model.output_fmt)
        for name, output in zip(names, outputs, strict=True)
    ]
    assert [each.layout for each in folds] == ["NCHW", "NHWC", "NHWC"]
    assert [tuple(each(output).shape[1:]) for each, output in zip(folds, outputs, strict=True)] == [
        (12, 16, 16),
        (12, 16, 16),
        (24, 8, 8),
    ]
    turned = folds[1](outputs[1])
    assert torch.equal(turned[1, 5], outputs[1][1, :, :, 5])


@pytest.mark.parametrize(
    ("shape", "size", "hint", "layout"),
    [
        ((2, 64, 8, 8), (32, 32), None, "NCHW"),
        ((2, 8, 8, 64), (32, 32), None, "NHWC"),
        ((2, 8, 8, 8), (32, 32), None, "NCHW"),  # either would do: torch's own order
        ((2, 8, 8, 8), (32, 32), "NHWC", "NHWC"),
        ((2, 16, 4, 8), (32, 64), None, "NCHW"),
        ((2, 4, 8, 24), (32, 64), None, "NHWC"),
        ((2, 64, 8, 8), (32, 32), "NHWC", "NCHW"),  # the shape knows better than the model
    ],
)
def test_where_the_channels_are_is_told_from_the_shape(
    shape: tuple[int, ...], size: tuple[int, int], hint: str | None, layout: str
) -> None:
    assert find_fold(Tap("x"), shape, image_size=size, layout_hint=hint).layout == layout


def test_what_a_tap_states_wins() -> None:
    stated = Tap("x", prefix=4, grid=(2, 8), layout="tokens")
    assert find_fold(stated, (1, 20, 3), image_size=(32, 32), prefix_hint=1) == Fold("tokens", 4, (2, 8))
    assert find_fold(Tap("x", grid=(2, 9)), (1, 20, 3), image_size=(32, 32)).prefix == 2
    assert find_fold(Tap("x", layout="NCHW"), (1, 8, 8, 64), image_size=(32, 32)).layout == "NCHW"


@pytest.mark.parametrize(
    ("tap", "shape", "message"),
    [
        (Tap("head"), (2, 10), r"tap 'head' has the output shape \(2, 10\), which is not a map; expected tokens"),
        (Tap("b", prefix=1), (2, 196, 8), r"\(2, 196, 8\): its 196 tokens after 1 prefix tokens do not form a grid"),
        (Tap("b"), (2, 60, 8), r"60 tokens do not form a grid with the proportions of a 32 x 32 image; give the tap"),
        (Tap("b", grid=(4, 4)), (2, 15, 8), r"15 tokens are not 0 prefix tokens and a grid of 4 x 4"),
        (Tap("b", grid=(4, 4), prefix=2), (2, 17, 8), r"17 tokens are not 2 prefix tokens and a grid of 4 x 4"),
        (Tap("b", layout="tokens"), (2, 8, 4, 4), r"\(2, 8, 4, 4\), which cannot have the layout 'tokens'"),
        (Tap("b", layout="NHWC"), (2, 16, 8), r"\(2, 16, 8\), which cannot have the layout 'NHWC'"),
    ],
)
def test_a_shape_that_cannot_fold_is_named_with_what_to_do(tap: Tap, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(TapError, match=message):
        find_fold(tap, shape, image_size=(32, 32))


def test_an_output_whose_first_dimension_is_not_the_batch_is_refused() -> None:
    """Attention in windows sees more and smaller images; some models put tokens first."""
    with pytest.raises(TapError, match=r"\(32, 16, 12\) for 2 image\(s\): its first dimension is not the batch"):
        find_fold(Tap("attn"), (32, 16, 12), image_size=(64, 64), images=2)


def test_images_of_another_size_than_the_folds_are_refused_in_words() -> None:
    with pytest.raises(TapError, match=r"returned 65 tokens, expected 1 and a grid of 4 x 4; pass images of the size"):
        Fold("tokens", 1, (4, 4))(torch.zeros(1, 65, 3))


def test_a_tap_that_makes_no_sense_is_refused_at_once() -> None:
    with pytest.raises(TapError, match="layout is 'NCWH', expected one of tokens, NCHW, NHWC"):
        Tap("x", layout="NCWH")
    with pytest.raises(TapError, match="prefix is -1, expected 0 or more"):
        Tap("x", prefix=-1)


@pytest.mark.parametrize("name", ["blocks.7", ""])
def test_a_layer_that_is_not_there_names_the_close_ones(name: str) -> None:
    model = Patches()
    with pytest.raises(TapError, match=f"Patches has no layer '{name}'") as error:
        Taps(model, ["blocks.0", name])
    if name:
        assert "did you mean 'blocks." in str(error.value) and "`lgkd layers MODEL`" in str(error.value)
    assert not any(module._forward_hooks for module in model.modules()), "an error must leave no hook behind"


def test_a_layer_that_does_not_run_is_named() -> None:
    model = Patches()
    taps = Taps(model, ["blocks.0", "unused"])
    with pytest.raises(TapError, match=r"layers \['unused'\] are in the model but did not run"):
        taps.capture(model, torch.zeros(1, 3, 8, 8))


def test_a_layer_may_be_read_twice_and_in_any_order() -> None:
    model = Patches()
    taps = Taps(model, ["blocks.1", "proj", "blocks.1"])
    _, (late, early, again) = taps.capture(model, torch.zeros(1, 3, 8, 8))
    assert late is again and early.ndim == 4
    assert len(model.blocks[1]._forward_hooks) == 1


class Hidden(nn.Module):
    """A layer that puts out what it is told to."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, _images: Tensor) -> Any:
        return self.output


def test_the_first_tensor_of_a_tuple_is_read_and_anything_else_refused() -> None:
    hidden = torch.zeros(1, 4, 2)
    model = nn.Sequential(Hidden((None, hidden, torch.ones(1))))
    assert Taps(model, ["0"]).capture(model, torch.zeros(1))[1][0] is hidden
    model = nn.Sequential(Hidden({"hidden": hidden}))
    with pytest.raises(TapError, match="tap '0' returned a dict, expected a tensor or a tuple"):
        Taps(model, ["0"]).capture(model, torch.zeros(1))


def test_outside_a_read_nothing_is_kept() -> None:
    model = Patches()
    taps = Taps(model, ["blocks.0"])
    taps.capture(model, torch.zeros(1, 3, 8, 8))
    assert taps._seen == {}
    model(torch.zeros(1, 3, 8, 8))
    assert taps._seen == {}


def test_an_error_in_the_forward_pass_leaves_the_taps_shut() -> None:
    model = Patches()
    taps = Taps(model, ["proj"])
    with pytest.raises(RuntimeError):
        taps.capture(lambda images: model.head(model.proj(images)), torch.zeros(1, 3, 8, 8))
    assert taps._seen == {} and not taps._capturing
    model(torch.zeros(1, 3, 8, 8))
    assert taps._seen == {}, "a caught error must not let evaluation keep activations"


def test_gradients_flow_through_what_is_read() -> None:
    model = Patches()
    _, (tokens,) = Taps(model, ["blocks.0"]).capture(model, torch.randn(1, 3, 8, 8))
    tokens.sum().backward()
    assert model.proj.weight.grad.abs().sum() > 0


def test_removing_takes_only_the_own_hooks_and_may_be_done_twice() -> None:
    model = Patches()
    heard = []
    model.proj.register_forward_hook(lambda *_: heard.append(1))
    taps = Taps(model, ["proj", "blocks.0"])
    taps.remove()
    taps.remove()
    assert len(model.proj._forward_hooks) == 1 and not model.blocks[0]._forward_hooks
    model(torch.zeros(1, 3, 8, 8))
    assert heard == [1]


def test_looking_at_shapes_changes_nothing_even_if_it_fails(conv_student: nn.Module) -> None:
    conv_student.train()
    conv_student.middle.eval()  # flags are mixed, as with frozen parts
    flags = {name: module.training for name, module in conv_student.named_modules()}
    state = {key: value.clone() for key, value in conv_student.state_dict().items()}
    chance = torch.get_rng_state()
    trace_shapes(conv_student, ["early", "late"], torch.randn(2, 3, 16, 16, generator=torch.Generator()))
    with pytest.raises(RuntimeError):
        trace_shapes(conv_student, ["early"], torch.zeros(2, 4, 16, 16))
    assert {name: module.training for name, module in conv_student.named_modules()} == flags
    assert all(torch.equal(state[key], value) for key, value in conv_student.state_dict().items())
    assert torch.equal(torch.get_rng_state(), chance)
    assert not any(module._forward_hooks for module in conv_student.modules())


@pytest.mark.parametrize(
    ("count", "hint", "prefix", "grid"),
    [(3, None, 1, (1, 2)), (2, None, 0, (1, 2)), (3, 0, 0, (1, 3)), (32, None, 0, (4, 8)), (33, None, 1, (4, 8)),
     (34, 2, 2, (4, 8))],
)  # fmt: skip
def test_of_images_twice_as_wide_exact_proportions_count_before_cropped_ones(
    count: int, hint: int | None, prefix: int, grid: tuple[int, int]
) -> None:
    fold = find_fold(Tap("b"), (2, count, 8), image_size=(32, 64), prefix_hint=hint)
    assert (fold.prefix, fold.grid) == (prefix, grid)
    turned = find_fold(Tap("b"), (2, count, 8), image_size=(64, 32), prefix_hint=hint)
    assert (turned.prefix, turned.grid) == (prefix, grid[::-1])
