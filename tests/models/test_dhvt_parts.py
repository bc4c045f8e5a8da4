"""The parts of DHVT, against loops and hand-worked cases."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from lgkd.models.dhvt_layers import (
    Affine,
    AggregatingFeedForward,
    Attention,
    HeadInteractedAttention,
    SequentialOverlappingPatches,
    linear_patches,
)
from lgkd.models.sdpa import quick_attention
from tests.support.dhvt import small, stirred

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
    torch.manual_seed(0)  # of few channels, all may be small by chance
    layer = SequentialOverlappingPatches(patch, 16)
    convolutions = [module for module in layer.modules() if isinstance(module, nn.Conv2d)]
    assert [module.out_channels for module in convolutions] == widths
    assert all(module.bias is None for module in convolutions)
    assert layer(torch.randn(2, 3, 2 * patch, 3 * patch)).shape == (2, 16, 2, 3)
    # BatchNorm of a fresh layer is near the identity and affine layers are it, so only a GELU ends at -0.17.
    lowest = layer.eval()(100 * torch.randn(8, 3, 2 * patch, 2 * patch)).min().item()
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
