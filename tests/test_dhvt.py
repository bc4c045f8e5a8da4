"""DHVT: the paper's sizes, each new part against loops, and the plain ViT that is left without them."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import lgkd
from lgkd.errors import ModelError
from lgkd.losses import MapLoss
from lgkd.models.attention import quick_attention
from lgkd.models.catalogue import MODELS
from lgkd.models.dhvt import DHVT
from lgkd.models.dhvt_parts import (
    Affine,
    AggregatingFeedForward,
    Attention,
    HeadInteractedAttention,
    SequentialOverlappingPatches,
    linear_patches,
)
from lgkd.models.factory import create_student, default_image_size
from lgkd.models.frozen import Teacher
from lgkd.models.layers import block_names, classifier_name, default_taps
from lgkd.taps import see_shapes
from lgkd.tasks import Batch

PLAIN: dict[str, Any] = {
    "patch_embedding": "linear",
    "head_tokens": False,
    "feed_forward": "mlp",
    "position_embedding": True,
}


def small(**options: Any) -> DHVT:
    """Three blocks of width 12 for images of 16 px, no weight or statistic of which is where it starts."""
    torch.manual_seed(1)
    settings = {"image_size": 16, "depth": 3, "num_heads": 3, **options}
    return stirred(DHVT(5, settings.pop("width", 12), **settings))


def stirred(model: nn.Module) -> Any:
    """Biases, scales and statistics drawn afresh, so that none of them can be left out unseen."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 1.5)
    return model


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# The sizes of the paper

VARIANTS = [
    # name, image size, patch, heads, classes, exact count; of the paper: parameters in M, G multiply-adds
    ("dhvt_tiny", 32, 4, 4, 100, 6_008_650, "6.0", "0.4"),
    ("dhvt_tiny", 32, 2, 4, 100, 5_845_162, "5.8", "1.4"),
    ("dhvt_small", 32, 4, 8, 100, 23_425_450, "23.4", "1.5"),
    ("dhvt_small", 32, 2, 8, 100, 22_766_698, "22.8", "5.6"),
    ("dhvt_tiny", 224, 16, 4, 345, 6_105_975, "6.1", "1.2"),
    ("dhvt_small", 224, 16, 6, 345, 23_788_431, "23.8", "4.7"),
]


def made(name: str, **options: Any) -> DHVT:
    """A model of which only shapes exist."""
    with torch.device("meta"):
        return DHVT(**MODELS[name].preset, **options)


@pytest.mark.parametrize(("name", "size", "patch", "heads", "classes", "exact", "parameters", "operations"), VARIANTS)
def test_parameters_and_operations_are_the_papers(
    name: str, size: int, patch: int, heads: int, classes: int, exact: int, parameters: str, operations: str
) -> None:
    model = made(name, num_classes=classes, image_size=size, patch_size=patch).eval()
    assert {block.attn.num_heads for block in model.blocks} == {heads}
    assert count(model) == exact and f"{exact / 1e6:.1f}" == parameters
    normed = 0

    def add(_module: nn.Module, _args: Any, output: Tensor) -> None:
        nonlocal normed
        normed += output.numel()

    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            module.register_forward_hook(add)
        if isinstance(module, Attention):
            module.fused_attn = False
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, size, size, device="meta"))
    # A multiply and an add are one; the paper's figures have norms in them, and no products inside attention.
    by_operation = {str(key): value / 2 for key, value in counter.get_flop_counts()["Global"].items()}
    attention = by_operation.pop("aten.bmm")
    tokens = (size // patch) ** 2 + 1 + heads
    assert attention == 12 * 2 * tokens**2 * MODELS[name].preset["width"]
    assert f"{(sum(by_operation.values()) + normed) / 1e9:.1f}" == operations


def test_the_names_stand_for_the_variants_for_small_images() -> None:
    for name, exact in (("dhvt_tiny", 6_008_650), ("dhvt_small", 23_425_450)):
        assert MODELS[name].parameters == exact == count(made(name, num_classes=100))
        assert (MODELS[name].role, default_image_size(name)) == ("student", 32)
    model = create_student("dhvt_tiny", num_classes=7)
    assert count(model) == 6_008_650 - 93 * 193
    assert default_taps(model) == ["blocks.0", "blocks.6", "blocks.11"] and len(block_names(model)) == 12
    assert classifier_name(model) == "head"


def test_norms_are_those_of_the_paper() -> None:
    model = made("dhvt_tiny", num_classes=2)
    batch_norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert {type(module) for module in batch_norms} == {nn.BatchNorm2d} and len(batch_norms) == 2 + 3 * 12
    epsilons = {name: module.eps for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    assert {value for name, value in epsilons.items() if not name.endswith("head_norm")} == {1e-6}


def test_weights_start_as_the_papers() -> None:
    torch.manual_seed(0)
    model = DHVT(50, 96, depth=2, position_embedding=True)
    assert model.cls_token.std().item() == pytest.approx(0.02, rel=0.3)
    for weight in (
        model.pos_embed,
        model.head.weight,
        model.blocks[0].attn.qkv.weight,
        model.blocks[1].attn.head_embed,
    ):
        assert weight.std().item() == pytest.approx(0.02, rel=0.15) and abs(weight.mean().item()) < 0.002
    assert not model.blocks[0].attn.qkv.bias.any() and not model.head.bias.any()
    # PyTorch's own: uniform up to 1 / sqrt(inputs).
    widen = model.blocks[0].mlp.widen[0].weight
    assert widen.abs().max().item() == pytest.approx(1 / math.sqrt(96), rel=0.01)


# Without its new parts it is a ViT


@pytest.mark.parametrize("size", [16, (8, 24)])
def test_without_its_parts_it_is_the_plain_vit(size: int | tuple[int, int]) -> None:
    model = small(image_size=size, patch_size=4, **PLAIN).eval()
    plain = VisionTransformer(img_size=size, patch_size=4, embed_dim=12, depth=3, num_heads=3, num_classes=5).eval()
    assert count(plain) == count(model)
    plain.load_state_dict(model.state_dict())
    height, width = (size, size) if isinstance(size, int) else size
    images = torch.randn(4, 3, height, width)
    torch.testing.assert_close(model(images), plain(images), rtol=0, atol=1e-5)
    assert model(images).std() > 0.05, "logits that are all alike would agree with anything"
    for part in ({"patch_embedding": "sope"}, {"head_tokens": True}, {"feed_forward": "daff"}):
        assert not model.state_dict().keys() >= small(patch_size=4, **{**PLAIN, **part}).state_dict().keys()


def test_without_its_parts_it_has_the_parameters_of_deit() -> None:
    model = made("dhvt_tiny", num_classes=100, **PLAIN)
    with torch.device("meta"):
        deit = VisionTransformer(img_size=32, patch_size=4, embed_dim=192, num_heads=4, num_classes=100)
    assert count(model) == count(deit) and f"{count(model) / 1e6:.1f}" == "5.4"
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in deit.state_dict().items()
    }
    assert f"{count(made('dhvt_small', num_classes=100, **PLAIN)) / 1e6:.1f}" == "21.4"


@pytest.mark.parametrize(
    ("patches", "heads", "feed_forward", "positions"),
    list(itertools.product(("sope", "linear"), (True, False), ("daff", "mlp"), (True, False))),
)
def test_each_part_can_be_left_out_alone(patches: str, heads: bool, feed_forward: str, positions: bool) -> None:
    model = small(
        depth=1,
        patch_embedding=patches,
        head_tokens=heads,
        feed_forward=feed_forward,
        position_embedding=positions,
    )
    names = {name for name, _ in model.named_modules()}
    assert ("patch_embed.affine_in" in names) is (patches == "sope")
    assert ("blocks.0.attn.head_proj" in names) is heads
    assert ("blocks.0.mlp.gate" in names) is (feed_forward == "daff")
    assert (model.pos_embed is not None) is positions
    logits = model(torch.randn(4, 3, 16, 16))
    assert logits.shape == (4, 5)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_positions_tell_places_apart_and_without_them_a_linear_vit_cannot() -> None:
    images = torch.randn(2, 3, 16, 16)
    moved = images.roll((4, 8), dims=(2, 3))  # whole patches
    without = small(**{**PLAIN, "position_embedding": False}).double().eval()
    torch.testing.assert_close(without(images.double()), without(moved.double()))
    placed = small(**PLAIN).double().eval()
    assert (placed(images.double()) - placed(moved.double())).abs().max() > 1e-3


# Patches


def test_an_affine_layer_starts_as_the_identity() -> None:
    x = torch.randn(2, 3, 4, 5)
    layer = Affine(3)
    assert torch.equal(layer(x), x)
    with torch.no_grad():
        layer.scale.copy_(torch.tensor([2.0, 0.0, -1.0]))
        layer.shift.copy_(torch.tensor([1.0, 5.0, 0.0]))
    expected = torch.stack([2 * x[:, 0] + 1, torch.full_like(x[:, 1], 5), -x[:, 2]], dim=1)
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize(
    ("patch", "widths"), [(2, [16]), (4, [8, 16]), (8, [4, 8, 16]), (16, [2, 4, 8, 16]), (32, [1, 2, 4, 8, 16])]
)
def test_patches_are_cut_in_steps_that_double_the_width(patch: int, widths: list[int]) -> None:
    layer = SequentialOverlappingPatches(patch, 16)
    convolutions = [module for module in layer.modules() if isinstance(module, nn.Conv2d)]
    assert [module.out_channels for module in convolutions] == widths
    assert all(module.bias is None for module in convolutions)
    assert layer(torch.randn(2, 3, 2 * patch, 3 * patch)).shape == (2, 16, 2, 3)
    # BatchNorm of a fresh layer is near the identity and affine layers are it, so only a GELU ends at -0.17.
    lowest = layer.eval()(10 * torch.randn(8, 3, 2 * patch, 2 * patch)).min().item()
    assert (lowest >= -0.171) is (patch == 2), "GELU follows the last convolution only where that is the first, too"


def convolved(image: Tensor, weight: Tensor, stride: int) -> Tensor:
    """A 3x3 convolution with padding 1, written out: (C,H,W) -> (D,H/stride,W/stride)."""
    channels, height, width = image.shape
    out = torch.zeros(len(weight), height // stride, width // stride, dtype=image.dtype)
    for d, row, column in itertools.product(*map(range, out.shape)):
        for c, up, right in itertools.product(range(channels), range(3), range(3)):
            y, x = row * stride + up - 1, column * stride + right - 1
            if 0 <= y < height and 0 <= x < width:
                out[d, row, column] += weight[d, c, up, right] * image[c, y, x]
    return out


def normed(image: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """BatchNorm with its kept statistics, channel by channel."""
    out = torch.empty_like(image)
    for c in range(len(image)):
        deviation = math.sqrt(norm.running_var[c].item() + 1e-5)
        out[c] = (image[c] - norm.running_mean[c]) / deviation * norm.weight[c] + norm.bias[c]
    return out


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def test_overlapping_patches_are_what_loops_give() -> None:
    torch.manual_seed(2)
    layer = stirred(SequentialOverlappingPatches(4, 6)).double().eval()
    image = torch.randn(3, 8, 12, dtype=torch.float64)
    first, second = (module for module in layer.modules() if isinstance(module, nn.Conv2d))
    first_norm, second_norm = (module for module in layer.modules() if isinstance(module, nn.BatchNorm2d))
    x = torch.stack([image[c] * layer.affine_in.scale[c] + layer.affine_in.shift[c] for c in range(3)])
    x = gelu(normed(convolved(x, first.weight, 2), first_norm))
    x = normed(convolved(x, second.weight, 2), second_norm)
    expected = torch.stack([x[c] * layer.affine_out.scale[c] + layer.affine_out.shift[c] for c in range(6)])
    torch.testing.assert_close(layer(image[None])[0], expected)


def test_patches_overlap_with_convolutions_and_do_not_without() -> None:
    for layer, least, most in ((SequentialOverlappingPatches(4, 8).eval(), 7, 7), (linear_patches(4, 8), 4, 4)):
        image = torch.randn(1, 3, 16, 16, requires_grad=True)
        layer(image)[0, :, 2, 1].sum().backward()
        seen = image.grad.abs().sum(dim=(0, 1)).nonzero()
        height, width = (seen.max(dim=0).values - seen.min(dim=0).values + 1).tolist()
        assert (least, most) == (height, width)


# Attention


def attended(tokens: Tensor, attention: Attention) -> Tensor:
    """Attention of one image, head by head and token by token: (N,D) -> (N,D)."""
    many, width = tokens.shape
    each = width // attention.num_heads
    query, key, value = (
        tokens @ attention.qkv.weight[part * width : (part + 1) * width].T
        + attention.qkv.bias[part * width : (part + 1) * width]
        for part in range(3)
    )
    joined = torch.zeros(many, width, dtype=tokens.dtype)
    for head in range(attention.num_heads):
        mine = slice(head * each, (head + 1) * each)
        for token in range(many):
            scores = [(query[token, mine] @ key[other, mine]).item() / math.sqrt(each) for other in range(many)]
            shares = [math.exp(score) for score in scores]
            for other in range(many):
                joined[token, mine] += shares[other] / sum(shares) * value[other, mine]
    return joined @ attention.proj.weight.T + attention.proj.bias


def spoken(tokens: Tensor, attention: HeadInteractedAttention) -> Tensor:
    """The head tokens of one image, number by number: (N,D) -> (A,D)."""
    many, width = tokens.shape
    heads = attention.num_heads
    each = width // heads
    out = torch.zeros(heads, width, dtype=tokens.dtype)
    for head in range(heads):
        mean = [sum(tokens[token, head * each + channel] for token in range(many)) / many for channel in range(each)]
        wide = [
            sum(attention.head_proj.weight[row, channel] * mean[channel] for channel in range(each))
            + attention.head_proj.bias[row]
            for row in range(width)
        ]
        for group in range(heads):
            part = torch.stack(wide[group * each : (group + 1) * each])
            centred = part - part.mean()
            part = centred / (centred.square().mean() + 1e-5).sqrt()
            part = part * attention.head_norm.weight + attention.head_norm.bias
            out[head, group * each : (group + 1) * each] = gelu(part)
        out[head] += attention.head_embed[0, head]
    return out


@pytest.mark.parametrize("fused", [True, False])
def test_attention_is_what_a_loop_over_heads_gives(fused: bool) -> None:
    torch.manual_seed(3)
    attention = stirred(Attention(6, 2)).double()
    attention.fused_attn = fused
    tokens = torch.randn(2, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(attention(tokens), torch.stack([attended(each, attention) for each in tokens]))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("heads", [1, 2, 3])
def test_head_tokens_are_what_loops_give(heads: int, fused: bool) -> None:
    torch.manual_seed(4)
    attention = stirred(HeadInteractedAttention(6, heads)).double()
    attention.fused_attn = fused
    tokens = torch.randn(2, 5, 6, dtype=torch.float64)
    ours = attention.head_tokens(tokens)
    assert ours.shape == (2, heads, 6)
    torch.testing.assert_close(ours, torch.stack([spoken(each, attention) for each in tokens]))
    for image, seen in zip(tokens, attention(tokens), strict=True):
        joined = attended(torch.cat([image, spoken(image, attention)]), attention)
        expected = joined[:5].clone()
        expected[0] += joined[5:].mean(dim=0)
        torch.testing.assert_close(seen, expected)


def test_a_head_token_worked_by_hand() -> None:
    """Two heads of two channels: means (1, 3) and (0, 0), and a layer that turns (a, b) into (a, b, b, a)."""
    attention = HeadInteractedAttention(4, 2)
    with torch.no_grad():
        attention.head_proj.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]))
        attention.head_proj.bias.zero_()
        attention.head_embed.copy_(torch.tensor([[[10.0, 20.0, 30.0, 40.0], [1.0, 2.0, 3.0, 4.0]]]))
    tokens = torch.tensor([[[0.0, 2.0, 5.0, -1.0], [2.0, 4.0, -5.0, 1.0]]])
    # (1, 3) has mean 2 and deviation 1, so it is normed to (-1, 1), whose GELUs are -0.1587 and 0.8413.
    expected = torch.tensor([[[9.8413, 20.8413, 30.8413, 39.8413], [1.0, 2.0, 3.0, 4.0]]])
    torch.testing.assert_close(attention.head_tokens(tokens), expected, rtol=0, atol=1e-4)


def test_fused_and_unfused_attention_give_the_same_logits_and_gradients() -> None:
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    found = []
    for precision in ("fp32", "bf16"):
        model = small().double()
        with quick_attention(model, "cpu", precision):
            assert {block.attn.fused_attn for block in model.blocks} == {precision == "fp32"}
            logits = model(images)
        logits.square().sum().backward()
        found.append([logits, *(parameter.grad for parameter in model.parameters())])
    torch.testing.assert_close(*found)


# The feed-forward


def test_the_feed_forward_is_what_loops_give() -> None:
    torch.manual_seed(5)
    layer = stirred(AggregatingFeedForward(8, 5)).double().eval()
    tokens = torch.randn(1 + 2 * 3, 8, dtype=torch.float64)
    widen, depthwise, narrow = (module for module in layer.modules() if isinstance(module, nn.Conv2d))
    norms = [module for module in layer.modules() if isinstance(module, nn.BatchNorm2d)]
    squeeze, excite = (module for module in layer.gate if isinstance(module, nn.Linear))
    wide = torch.zeros(5, 2, 3, dtype=torch.float64)
    for row, column in itertools.product(range(2), range(3)):
        wide[:, row, column] = widen.weight[:, :, 0, 0] @ tokens[1 + row * 3 + column] + widen.bias
    wide = gelu(normed(wide, norms[0]))
    beside = torch.cat([convolved(wide[c : c + 1], depthwise.weight[c : c + 1], 1) for c in range(5)])
    beside = wide + gelu(normed(beside + depthwise.bias[:, None, None], norms[1]))
    out = torch.zeros(8, 2, 3, dtype=torch.float64)
    for row, column in itertools.product(range(2), range(3)):
        out[:, row, column] = narrow.weight[:, :, 0, 0] @ beside[:, row, column] + narrow.bias
    out = normed(out, norms[2])
    mean = torch.stack([sum(out[c, row, column] for row in range(2) for column in range(3)) / 6 for c in range(8)])
    gate = excite.weight @ gelu(squeeze.weight @ mean + squeeze.bias) + excite.bias
    assert squeeze.out_features == 2, "a quarter of the width"
    assert gate.min() < 0 or gate.max() > 1, "no sigmoid"
    expected = [tokens[0] * gate, *(out[:, row, column] for row in range(2) for column in range(3))]
    torch.testing.assert_close(layer(tokens[None], (2, 3))[0], torch.stack(expected))


def test_the_class_token_passes_no_layer_of_the_feed_forward() -> None:
    torch.manual_seed(6)
    layer = stirred(AggregatingFeedForward(8, 16)).double().eval()
    tokens = torch.randn(3, 1 + 4, 8, dtype=torch.float64)
    other = tokens.clone()
    other[:, 0] = -3 * tokens[:, 0]
    first, second = layer(tokens, (2, 2)), layer(other, (2, 2))
    assert torch.equal(first[:, 1:], second[:, 1:]), "patches know nothing of it"
    torch.testing.assert_close(second[:, 0], -3 * first[:, 0])
    none = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, 1:]], dim=1)
    assert not layer(none, (2, 2))[:, 0].any(), "where there is nothing, a gate adds nothing"


def test_a_patch_is_changed_by_its_neighbours_only() -> None:
    torch.manual_seed(7)
    layer = AggregatingFeedForward(8, 16).eval()
    tokens = torch.randn(1, 1 + 4 * 5, 8, requires_grad=True)
    layer(tokens, (4, 5))[0, 1 + 1 * 5 + 3].sum().backward()  # row 1, column 3
    seen = (tokens.grad[0].abs().sum(dim=1) > 1e-6).tolist()
    around = [row in (0, 1, 2) and column in (2, 3, 4) for row in range(4) for column in range(5)]
    assert seen == [False, *around]


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_right_for_one_image_too(images: int, training: bool) -> None:
    """torch's BatchNorm gives wrong ones on a CPU where a map is laid out in certain ways in a batch of one."""
    torch.manual_seed(10)
    layer = stirred(AggregatingFeedForward(4, 4)).double().train(training)
    tokens = torch.randn(images, 1 + 2 * 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(x, (2, 3)), (tokens,))
    model = small(width=8, image_size=(8, 4), num_heads=2, depth=2).double().train(training)
    pixels = torch.randn(images, 3, 8, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model, (pixels,), fast_mode=True)


# The whole


@pytest.mark.parametrize(
    ("size", "patch"),
    [(8, 4), (32, 4), (64, 4), ((32, 48), 4), ((16, 256), 4), (65, 8), (96, 8), (128, 8), (160, 16), (224, 16),
     ((128, 256), 16), (512, 16)],
)  # fmt: skip
def test_patches_grow_with_the_images(size: int | tuple[int, int], patch: int) -> None:
    if size == 65:
        with pytest.raises(ModelError, match="patches of 8 x 8 px do not divide images of 65 x 65 px; choose another"):
            made("dhvt_tiny", num_classes=2, image_size=size)
        return
    model = made("dhvt_tiny", num_classes=2, image_size=size, position_embedding=True, depth=1)
    height, width = (size, size) if isinstance(size, int) else size
    assert model.pos_embed.shape == (1, 1 + height // patch * (width // patch), 192)


def test_heads_are_the_papers_unless_told_otherwise() -> None:
    def heads(name: str, **options: Any) -> int:
        return made(name, num_classes=2, depth=1, **options).blocks[0].attn.num_heads

    assert [heads("dhvt_tiny", image_size=size) for size in (32, 96, 224)] == [4, 4, 4]
    assert [heads("dhvt_small", image_size=size) for size in (32, 96, 224)] == [8, 8, 6]
    assert heads("dhvt_tiny", num_heads=3) == 3


@pytest.mark.parametrize(("size", "patch"), [((16, 24), 4), ((8, 4), 2), ((16, 48), 16), ((24, 12), 3)])
def test_images_need_not_be_square(size: tuple[int, int], patch: int) -> None:
    how = "linear" if patch == 3 else "sope"
    model = small(width=24, image_size=size, patch_size=patch, patch_embedding=how)
    grid = size[0] // patch, size[1] // patch
    logits, seen = see_shapes(model, ["patch_embed", "blocks.1", "blocks.1.mlp"], torch.randn(2, 3, *size))
    assert logits.shape == (2, 5)
    assert [tuple(each.shape) for each in seen] == [(2, 24, *grid), *[(2, 1 + grid[0] * grid[1], 24)] * 2]
    model(torch.randn(2, 3, *size)).sum().backward()


def test_without_positions_images_of_other_sizes_are_taken() -> None:
    images = torch.randn(2, 3, 8, 24)
    torch.testing.assert_close(small(image_size=16).eval()(images), small(image_size=(8, 24)).eval()(images))


def test_blocks_are_skipped_more_and_more_often() -> None:
    model = small(depth=5, drop_path_rate=0.2)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in model.blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    single = small(depth=1, drop_path_rate=0.2, **PLAIN)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(single(images), single.eval()(images)), "the first block is never skipped"


def test_a_skipped_block_leaves_tokens_as_they_were() -> None:
    model = small(depth=2, drop_path_rate=0.5).train()
    tokens = torch.randn(64, 1 + 16, 12)
    torch.manual_seed(8)
    kept = (model.blocks[1](tokens, (4, 4)) == tokens).all(dim=(1, 2)).float().mean().item()
    assert kept == pytest.approx(0.25, abs=0.17), "both halves are skipped in a quarter of the samples"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{}, PLAIN, {"drop_path_rate": 0.3}])
def test_it_compiles_as_one_graph_and_gives_the_same(options: dict[str, Any], training: bool) -> None:
    model = small(**options).train(training)
    images = torch.randn(4, 3, 16, 16)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(9)
    expected = model(images)
    model.load_state_dict(state)
    torch.manual_seed(9)
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(images), expected)


def test_a_forward_keeps_nothing_but_batch_statistics() -> None:
    model = small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(torch.randn(4, 3, 16, 16))
    changed = {
        key.rsplit(".", 1)[1] for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}
    model.eval()
    images = torch.randn(6, 3, 16, 16)
    torch.testing.assert_close(model(images), torch.cat([model(images[:2]), model(images[2:])]))


@pytest.mark.parametrize("size", [16, (16, 24)])
def test_it_is_guided_at_its_first_middle_and_last_block(
    size: int | tuple[int, int], teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    student = small(image_size=size, depth=12)
    guide = lgkd.Guide(student, teacher, image_size=size, terms=[lgkd.Term(MapLoss("linear"), weight=2.5)])
    grid = (4, 4) if size == 16 else (4, 6)
    assert {pair.student: pair.student_map for pair in guide.pairs} == {
        f"blocks.{number}": (12, *grid) for number in (0, 6, 11)
    }
    assert [fold.prefix for fold in guide._reader.folds] == [1, 1, 1]
    task = lgkd.Guided(student, guide)
    batch = make_batch(size)
    optimizer = torch.optim.SGD(task.parameters(), lr=0.01)
    losses = []
    for _ in range(4):
        step = task(batch)
        optimizer.zero_grad()
        step.loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters())
        optimizer.step()
        losses.append(step.loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 5, "image_size": 40}, r"of stride 2 cannot cut patches of 5 px; expected a power of two"),
        ({"patch_size": 1}, r"cannot cut patches of 1 px"),
        ({"patch_size": 0}, r"patch_size is 0, expected a whole number of at least 1"),
        ({"patch_size": 2.5}, r"patch_size is 2.5, expected a whole number"),
        ({"patch_size": 16, "image_size": (32, 40)}, r"patches of 16 x 16 px do not divide images of 32 x 40 px"),
        ({"patch_size": 256, "image_size": 256}, r"a width of 192 cannot be halved .* expected a multiple of 128"),
        ({"num_heads": 5}, r"5 heads cannot share a width of 192 evenly; give a num_heads that divides 192"),
        ({"num_heads": 0}, r"0 heads cannot share a width of 192"),
        ({"depth": 0}, r"depth is 0, expected a whole number of at least 1"),
        ({"mlp_ratio": 0}, r"mlp_ratio is 0, which leaves no channel of a width of 192"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate is 1.0, expected at least 0 and less than 1"),
        ({"patch_embedding": "sop"}, r"patch_embedding is 'sop'; did you mean 'sope'\?"),
        ({"feed_forward": "conv"}, r"feed_forward is 'conv'; known: daff, mlp"),
        ({"head_tokens": "no"}, r"head_tokens is 'no', expected true or false"),
        ({"position_embedding": 1}, r"position_embedding is 1, expected true or false"),
        ({"width": 96}, r"dhvt_tiny has no option 'width'"),
        ({"image_size": 30}, r"patches of 4 x 4 px do not divide images of 30 x 30 px"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        create_student("dhvt_tiny", num_classes=4, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes is 0"),
        ({"width": 0, "num_heads": 1}, "width is 0"),
        ({"width": 2, "num_heads": 1}, "width is 2, expected at least 4"),
        ({"width": 100}, "a width of 100 is no multiple of the paper's heads of 48 channels; give num_heads"),
        ({"image_size": 0}, "do not divide images of 0 x 0 px"),
    ],
)
def test_widths_of_ones_own_are_checked_too(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        DHVT(**{"num_classes": 4, **options})
