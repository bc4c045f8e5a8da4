"""The parts of T2T-ViT, PVT and CvT, against loops, libraries and hand-worked cases."""

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.models.cvt import ConvolutionalAttention, ConvolutionalVisionTransformer, QuickGELU
from lgkd.models.default_taps import block_names
from lgkd.models.pvt import PyramidAttention, attend, to_map, to_tokens
from lgkd.models.sdpa import quick_attention
from lgkd.models.t2t import (
    PerformerAttention,
    TokensToToken,
    random_feature_attention,
    sinusoids,
    soft_split,
)
from tests.support.pyramids import by_heads, drawn, each_family, randomised, small

# Attention


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("fused", [True, False])
def test_attention_over_heads_equals_the_loop_over_heads(heads: int, fused: bool) -> None:
    queries, keys, values = drawn(2, 4, 6), drawn(2, 5, 6, seed=4), drawn(2, 5, 6, seed=5)
    found = attend(queries, keys, values, heads=heads, fused=fused)
    torch.testing.assert_close(found, by_heads(queries, keys, values, heads, (6 / heads) ** -0.5))
    found = attend(queries, keys, values, heads=heads, fused=fused, scale=0.9)
    torch.testing.assert_close(found, by_heads(queries, keys, values, heads, 0.9))


@each_family
def test_fused_or_not_gives_the_same_logits_and_gradients(family: str) -> None:
    model = small(family).double().eval()
    images = drawn(2, 3, 32, 32)
    seen = []
    for precision in ("fp32", "bf16"):  # what makes `quick_attention` leave the fused function, or not
        with quick_attention(model, "cpu", precision):
            ways = [module.fused_attn for module in model.modules() if hasattr(module, "fused_attn")]
            assert ways == [precision == "fp32"] * len(block_names(model))
            logits = model(images)
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        seen.append((logits, torch.autograd.grad(logits.square().sum(), weights)))
    torch.testing.assert_close(seen[0], seen[1])


def own_attention(width: int, heads: int, layer: nn.Module) -> nn.MultiheadAttention:
    """Torch's own attention with the weights of PVT's."""
    reference = nn.MultiheadAttention(width, heads, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([layer.q.weight, layer.kv.weight]))
        reference.in_proj_bias.copy_(torch.cat([layer.q.bias, layer.kv.bias]))
        reference.out_proj.weight.copy_(layer.proj.weight)
        reference.out_proj.bias.copy_(layer.proj.bias)
    return reference


def test_spatial_reduction_by_one_is_plain_attention_with_or_without_a_class_token() -> None:
    layer = randomised(PyramidAttention(12, 3, (2, 3), 1))
    reference = own_attention(12, 3, layer)
    for count in (6, 7):
        tokens = drawn(2, count, 12)
        torch.testing.assert_close(layer(tokens), reference(tokens, tokens, tokens)[0])


def test_spatial_reduction_by_averages_looks_at_the_averaged_map() -> None:
    layer = randomised(PyramidAttention(12, 3, (4, 6), 2))
    with torch.no_grad():
        layer.sr.weight.copy_(torch.eye(12, dtype=torch.float64)[:, :, None, None].expand(12, 12, 2, 2) / 4)
        layer.sr.bias.zero_()
        layer.norm.weight.fill_(1)
        layer.norm.bias.zero_()
    tokens = drawn(2, 24, 12)
    # Row by row: token 6 r + c is the place (r, c).
    squares = [[6 * r + c + step for step in (0, 1, 6, 7)] for r in (0, 2) for c in (0, 2, 4)]
    pooled = torch.stack([tokens[:, four].mean(dim=1) for four in squares], dim=1)
    centred = pooled - pooled.mean(dim=-1, keepdim=True)
    seen = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(layer(tokens), own_attention(12, 3, layer)(tokens, seen, seen)[0])


def test_the_blocks_of_t2t_attend_without_biases_in_queries_keys_and_values() -> None:
    block = randomised(small("t2t").blocks[1])
    assert block.attn.qkv.bias is None and block.attn.proj.bias is not None
    tokens = drawn(2, 5, 16)
    queries, keys, values = (tokens @ weight.T for weight in block.attn.qkv.weight.detach().split(16))
    mixed = by_heads(queries, keys, values, 2, 8**-0.5)
    torch.testing.assert_close(block.attn(tokens), mixed @ block.attn.proj.weight.T + block.attn.proj.bias)


# Random features


def test_attention_through_random_features_equals_the_sum_over_all_pairs() -> None:
    queries, keys, values, features = (
        drawn(2, 4, 6),
        drawn(2, 5, 6, seed=4),
        drawn(2, 5, 3, seed=5),
        drawn(3, 6, seed=6),
    )
    expected = torch.zeros(2, 4, 3, dtype=torch.float64)
    for sample in range(2):
        for place in range(4):
            above, below = torch.zeros(3, dtype=torch.float64), 0.0
            for key, value in zip(keys[sample], values[sample], strict=True):
                query = queries[sample, place]
                # phi(q) . phi(k) is the mean over features w of exp(w . (q + k) - (|q|^2 + |k|^2) / 2).
                lengths = float(query @ query + key @ key) / 2
                weight = sum(math.exp(float(w @ (query + key)) - lengths) for w in features) / 3
                above, below = above + weight * value, below + weight
            expected[sample, place] = above / (below + 1e-8)
    torch.testing.assert_close(random_feature_attention(queries, keys, values, features), expected)


def test_many_gaussian_features_come_to_softmax_attention() -> None:
    queries, keys, values = drawn(1, 4, 3) / 2, drawn(1, 5, 3, seed=4) / 2, drawn(1, 5, 3, seed=5)
    found = random_feature_attention(queries, keys, values, drawn(200_000, 3, seed=6))
    torch.testing.assert_close(found, by_heads(queries, keys, values, 1, 1.0), rtol=0, atol=0.02)


def test_a_performer_adds_its_values_and_never_learns_its_features() -> None:
    torch.manual_seed(0)
    layer = PerformerAttention(10, 8)
    torch.testing.assert_close(layer.features @ layer.features.T, 4 * torch.eye(4), rtol=0, atol=1e-5)
    assert not layer.features.requires_grad
    tokens = torch.randn(2, 5, 10)
    nn.init.zeros_(layer.proj.weight)
    values = tokens @ layer.qkv.weight[16:].T + layer.qkv.bias[16:]
    torch.testing.assert_close(layer(tokens), values + layer.proj.bias)


def test_long_queries_and_keys_neither_overflow_nor_divide_by_zero() -> None:
    queries, keys, values = 40 * drawn(1, 4, 8).float(), 40 * drawn(1, 5, 8).float(), drawn(1, 5, 8).float()
    features = nn.init.orthogonal_(torch.empty(4, 8)) * 2
    # Along a feature the exponent is at its largest: w . w - |w|^2 / 2.
    queries[0, 0] = keys[0, 0] = features[0]
    found = random_feature_attention(queries, keys, values, features)
    assert found.isfinite().all()
    torch.testing.assert_close(found[0, 0], values[0, 0])


def test_random_features_keep_their_digits_under_autocast() -> None:
    torch.manual_seed(0)
    layer, tokens = PerformerAttention(10, 8), torch.randn(2, 50, 24)
    layer.qkv = nn.Identity()  # queries, keys and values come in single precision
    mixed = []
    layer.proj.register_forward_pre_hook(lambda _module, inputs: mixed.append(inputs[0]))
    layer(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(tokens).dtype == torch.float32, "values keep their precision too"
    exact, found = mixed
    # Products in bf16 would be off by some thousandths.
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-6)


# Soft splits and positions


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(7, 4, 2), (3, 2, 1), (7, 2, 3), (3, 1, 1)])
def test_a_soft_split_gathers_the_neighbourhoods_that_a_loop_gathers(kernel: int, stride: int, padding: int) -> None:
    pixels = drawn(2, 3, 8, 12)

    def at(sample: int, channel: int, row: int, column: int) -> float:
        return float(pixels[sample, channel, row, column]) if 0 <= row < 8 and 0 <= column < 12 else 0.0

    expected = [
        [
            [
                at(sample, channel, stride * r - padding + i, stride * c - padding + j)
                for channel in range(3)
                for i in range(kernel)
                for j in range(kernel)
            ]
            for r in range(8 // stride)
            for c in range(12 // stride)
        ]
        for sample in range(2)
    ]
    assert torch.equal(soft_split(pixels, kernel, stride), torch.tensor(expected, dtype=torch.float64))


class Picked(nn.Module):
    """Of every token only the named numbers, up to 64 of them."""

    def __init__(self, places: Sequence[int]) -> None:
        super().__init__()
        self.places = list(places)

    def forward(self, tokens_BNP: Tensor) -> Tensor:
        return F.pad(tokens_BNP[..., self.places], (0, 64 - len(self.places)))


@pytest.mark.parametrize(("patch_size", "strides"), [(16, (4, 2, 2)), (8, (2, 2, 2)), (4, (2, 2, 1))])
def test_three_splits_keep_every_place_where_it_is(patch_size: int, strides: tuple[int, int, int]) -> None:
    """With every layer reduced to picking the centre of its neighbourhood, what is left is every n-th pixel."""
    split = TokensToToken(3, (32, 48), patch_size).double()
    # A neighbourhood begins `padding` places before its pixel; channels are kernel^2 numbers apart.
    centre = (7 - strides[0] + 1) // 2 * 8
    split.performer1 = Picked([49 * channel + centre for channel in range(3)])
    split.performer2 = Picked([9 * channel + 4 for channel in range(3)])
    nn.init.zeros_(split.project.weight)
    nn.init.zeros_(split.project.bias)
    with torch.no_grad():
        for channel in range(3):
            split.project.weight[channel, 9 * channel + 4] = 1
    images = drawn(2, 3, 32, 48)
    found = split(images)
    rows, columns = 32 // patch_size, 48 // patch_size
    assert found.shape == (2, rows * columns, 3)
    for r in range(rows):
        for c in range(columns):
            assert torch.equal(found[:, r * columns + c], images[:, :, patch_size * r, patch_size * c])


def test_positions_are_sines_and_cosines_of_places() -> None:
    table = sinusoids(9, 6).double()
    assert table.shape == (9, 6)
    assert table[0].tolist() == [0, 1, 0, 1, 0, 1]
    by_hand = [f(5 * rate) for rate in (1, 10000 ** (-1 / 3), 10000 ** (-2 / 3)) for f in (math.sin, math.cos)]
    torch.testing.assert_close(table[5], torch.tensor(by_hand, dtype=torch.float64), rtol=0, atol=1e-6)
    # The product of two positions depends on how far apart they are, and on nothing else.
    products = table @ table.T
    torch.testing.assert_close(products[1:, 1:], products[:-1, :-1], rtol=0, atol=1e-6)


# Convolutions of CvT


def test_tokens_and_maps_are_laid_out_row_by_row() -> None:
    tokens = torch.arange(12.0).view(1, 6, 2)
    laid = to_map(tokens, (2, 3))
    assert laid[0, 0].tolist() == [[0, 2, 4], [6, 8, 10]] and laid[0, 1].tolist() == [[1, 3, 5], [7, 9, 11]]
    assert torch.equal(to_tokens(laid), tokens)


def convolutions_that_pick(layer: ConvolutionalAttention, row: int, column: int) -> None:
    """Every depthwise kernel becomes a single one; BatchNorm changes nothing in evaluation."""
    with torch.no_grad():
        for conv, norm in (layer.conv_q, layer.conv_k, layer.conv_v):
            conv.weight.zero_()
            conv.weight[:, :, row, column] = 1
            norm.weight.fill_(math.sqrt(1 + norm.eps))
            norm.bias.zero_()


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize(("row", "column"), [(1, 1), (1, 2), (0, 1)])
def test_convolutional_attention_is_attention_between_the_places_that_its_kernels_pick(
    prefix: int, row: int, column: int
) -> None:
    """With kernels that pick one neighbour, queries come from every place, keys and values from every second one."""
    layer = randomised(ConvolutionalAttention(6, 3, (3, 4), prefix)).eval()
    convolutions_that_pick(layer, row, column)
    tokens = drawn(2, prefix + 12, 6)
    padded = torch.zeros(2, 5, 6, 6, dtype=torch.float64)
    for r in range(3):
        for c in range(4):
            padded[:, r + 1, c + 1] = tokens[:, prefix + 4 * r + c]

    def neighbours(step: int) -> Tensor:
        places = [(r, c) for r in range(0, 3, step) for c in range(0, 4, step)]
        picked = torch.stack([padded[:, r + row, c + column] for r, c in places], dim=1)
        return torch.cat([tokens[:, :prefix], picked], dim=1)

    assert neighbours(2).shape[1] == prefix + 4
    queries = neighbours(1) @ layer.q.weight.T + layer.q.bias
    keys = neighbours(2) @ layer.k.weight.T + layer.k.bias
    values = neighbours(2) @ layer.v.weight.T + layer.v.bias
    expected = by_heads(queries, keys, values, 3, 6**-0.5) @ layer.proj.weight.T + layer.proj.bias
    torch.testing.assert_close(layer(tokens), expected)


def test_quick_gelu_is_close_to_gelu_and_has_its_own_slope() -> None:
    x = drawn(200) * 3
    assert (QuickGELU()(x) - F.gelu(x)).abs().max() < 0.021
    assert float(QuickGELU()(torch.tensor(1.0))) == pytest.approx(1 / (1 + math.exp(-1.702)))


def test_the_tokens_of_cvt_13_are_made_by_the_convolutions_of_the_paper() -> None:
    with torch.device("meta"):
        stages = ConvolutionalVisionTransformer(100).stages
    made = [(each.embed.kernel_size[0], each.embed.stride[0], each.embed.padding[0]) for each in stages]
    assert made == [(7, 4, 2), (3, 2, 1), (3, 2, 1)]
