"""T2T-ViT, PVT and CvT: the paper's counts, costs and maps, and their parts against loops and torch's own attention."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lgkd.errors import ModelError
from lgkd.guide import Guide, Term
from lgkd.losses import MapLoss
from lgkd.models.attention import quick_attention
from lgkd.models.catalogue import MODELS, canonical
from lgkd.models.cvt import ConvolutionalAttention, ConvolutionalVisionTransformer, QuickGELU
from lgkd.models.factory import create_student
from lgkd.models.frozen import Teacher
from lgkd.models.known.pyramids import PYRAMIDS
from lgkd.models.layers import block_names, classifier_name, default_taps
from lgkd.models.pvt import PyramidAttention, PyramidVisionTransformer, attend, to_map, to_tokens
from lgkd.models.t2t import (
    Performer,
    PerformerAttention,
    T2TViT,
    TokensToToken,
    random_feature_attention,
    sinusoids,
    soft_split,
)
from lgkd.taps import Tap, find_fold, see_shapes
from lgkd.tasks import Batch, Guided
from lgkd.trainer.optim import make_optimizer
from lgkd.trainer.plan import OptimizerPlan

# Measured on the authors' code of Locality Guidance (arXiv 2207.10026) at 224 px with 100 classes: parameters, GFLOPs
# (two for a multiply and an add), maps (channels, height, width) of all blocks, and which blocks are guided.
PUBLISHED: dict[str, tuple[int, float, list[tuple[int, int, int]], list[int]]] = {
    "t2t_vit_7": (4_078_922, 2.293, [(256, 14, 14)] * 7, [0, 3, 6]),
    "t2t_vit_14": (21_199_050, 9.566, [(384, 14, 14)] * 14, [0, 7, 13]),
    "pvt_tiny": (
        12_767_588,
        3.865,
        [(64, 56, 56)] * 2 + [(128, 28, 28)] * 2 + [(320, 14, 14)] * 2 + [(512, 7, 7)] * 2,
        [0, 3, 7],
    ),
    "cvt_13": (19_650_980, 9.131, [(64, 56, 56)] + [(192, 28, 28)] * 2 + [(384, 14, 14)] * 10, [0, 6, 11]),
}
T2T: dict[str, Any] = {"patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
PVT: dict[str, Any] = {
    "patch_size": 2,
    "embed_dims": (4, 8, 12, 16),
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 2, 3, 4),
    "mlp_ratios": (2, 2, 2, 2),
}
CVT: dict[str, Any] = {"embed_dims": (4, 8, 12), "depths": (1, 1, 2), "num_heads": (1, 2, 3)}
FAMILIES: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
    "t2t": (T2TViT, T2T),
    "pvt": (PyramidVisionTransformer, PVT),
    "cvt": (ConvolutionalVisionTransformer, CVT),
}
each_family = pytest.mark.parametrize("family", FAMILIES)


def small(family: str, image_size: int | tuple[int, int] = 32, **options: Any) -> nn.Module:
    """A model of the family with five classes, for images of 32 px."""
    factory, settings = FAMILIES[family]
    torch.manual_seed(1)
    return factory(5, image_size, **{**settings, **options})


def randomised(module: nn.Module, seed: int = 2) -> nn.Module:
    """The module in double precision with every weight drawn anew, so that none is zero or one."""
    chance = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=chance, dtype=torch.float64) * 0.3)
    return module


def drawn(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_heads(queries: Tensor, keys: Tensor, values: Tensor, heads: int, scale: float) -> Tensor:
    """Attention written down with loops over samples, heads and queries."""
    queries, keys, values = queries.detach(), keys.detach(), values.detach()
    out, width = torch.zeros_like(queries), queries.shape[-1] // heads
    for sample in range(len(queries)):
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            for place, query in enumerate(queries[sample, :, part]):
                weights = [math.exp(scale * float(query @ key)) for key in keys[sample, :, part]]
                mixed = sum(w * value for w, value in zip(weights, values[sample, :, part], strict=True))
                out[sample, place, part] = mixed / sum(weights)
    return out


# The paper's figures


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_cost_and_maps_are_those_of_the_papers_code(name: str) -> None:
    parameters, gflops, maps, guided = PUBLISHED[name]
    model = create_student(name, num_classes=100)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters == MODELS[name].parameters
    names = block_names(model)
    assert default_taps(model) == [names[place] for place in guided]
    with quick_attention(model, "cpu", "bf16"), FlopCounterMode(display=False) as counted:
        _, outputs = see_shapes(model, names, torch.zeros(1, 3, 224, 224))
    assert round(counted.get_total_flops() / 1e9, 3) == gflops
    hint = getattr(model, "num_prefix_tokens", None)
    folds = [
        find_fold(Tap(tap), output.shape, image_size=(224, 224), prefix_hint=hint)
        for tap, output in zip(names, outputs, strict=True)
    ]
    assert [tuple(fold(output).shape[1:]) for fold, output in zip(folds, outputs, strict=True)] == maps


def test_the_four_are_students_of_224_pixels() -> None:
    assert [info.name for info in PYRAMIDS] == list(PUBLISHED)
    assert all(MODELS[canonical(info.name)] is info for info in PYRAMIDS)
    assert {(info.role, info.image_size) for info in PYRAMIDS} == {("student", 224)}


def test_the_constants_of_t2t_are_the_positions_and_the_projections_of_two_performers() -> None:
    with torch.device("meta"):
        model = T2TViT(100)
    constants = {name: p.numel() for name, p in model.named_parameters() if not p.requires_grad}
    assert constants == {
        "pos_embed": 197 * 256,
        "tokens.performer1.attn.features": 32 * 64,
        "tokens.performer2.attn.features": 32 * 64,
    }
    assert sum(constants.values()) == 54_528


def test_a_class_token_is_only_where_the_papers_have_it() -> None:
    def tokens(model: nn.Module) -> list[str]:
        return [name for name, _ in model.named_parameters() if "cls_token" in name]

    assert tokens(small("t2t")) == ["cls_token"]
    assert tokens(small("pvt")) == ["stages.3.cls_token"]
    assert tokens(small("cvt")) == ["stages.2.cls_token"]


@pytest.mark.parametrize(
    ("family", "eps", "gelu"), [("t2t", 1e-6, nn.GELU), ("pvt", 1e-6, nn.GELU), ("cvt", 1e-5, QuickGELU)]
)
def test_what_no_count_shows_is_as_in_the_papers_code(family: str, eps: float, gelu: type[nn.Module]) -> None:
    model = small(family)
    assert {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)} == {eps}
    assert {type(model.get_submodule(name).mlp.act) for name in block_names(model)} == {gelu}
    spreads = [m.weight.detach().std().item() for m in model.modules() if isinstance(m, nn.Linear)]
    assert spreads == pytest.approx([0.02] * len(spreads), rel=0.5)


def test_the_class_token_comes_first_and_every_token_has_its_position() -> None:
    t2t, pvt = small("t2t").eval(), small("pvt").eval()
    images = torch.randn(2, 3, 32, 32)
    for model, patches, block, owner in (
        (t2t, "tokens", "blocks.0", t2t),
        (pvt, "stages.3.norm", "stages.3.blocks.0", pvt.stages[3]),
    ):
        _, (made, joined) = see_shapes(model, [patches], images, [block])
        count = made.shape[1]
        assert joined.shape[1] == 1 + count == owner.pos_embed.shape[1]
        torch.testing.assert_close(joined[:, 0], (owner.cls_token + owner.pos_embed[:, :1])[0].expand(2, -1))
        torch.testing.assert_close(joined[:, 1:] - made, owner.pos_embed[:, 1:].expand(2, -1, -1), rtol=0, atol=1e-6)
    cvt = small("cvt").eval()
    _, (made, joined) = see_shapes(cvt, ["stages.2.norm"], images, ["stages.2.blocks.0"])
    assert torch.equal(joined, torch.cat([cvt.stages[2].cls_token.expand(2, -1, -1), made], dim=1))


# Sizes


@pytest.mark.parametrize(
    ("name", "size", "options", "grids"),
    [
        ("t2t_vit_7", 32, {"patch_size": 4, "depth": 3}, [(8, 8)] * 3),
        ("t2t_vit_7", 64, {"patch_size": 8, "depth": 3}, [(8, 8)] * 3),
        ("t2t_vit_7", (48, 32), {"patch_size": 16, "depth": 3}, [(3, 2)] * 3),
        ("pvt_tiny", 32, {}, [(8, 8), (4, 4), (1, 1)]),
        ("pvt_tiny", 64, {"patch_size": 2, "depths": [1, 1, 1, 1]}, [(32, 32), (16, 16), (4, 4)]),
        ("pvt_tiny", (64, 96), {}, [(16, 24), (8, 12), (2, 3)]),
        ("cvt_13", 32, {"patch_size": 2}, [(16, 16), (4, 4), (4, 4)]),
        ("cvt_13", 64, {}, [(16, 16), (4, 4), (4, 4)]),
        ("cvt_13", (64, 32), {"depths": [1, 1, 1]}, [(16, 8), (8, 4), (4, 2)]),
    ],
)
def test_small_and_oblong_images_have_the_grids_that_the_docstrings_promise(
    name: str, size: int | tuple[int, int], options: dict[str, Any], grids: list[tuple[int, int]]
) -> None:
    model = create_student(name, num_classes=3, image_size=size, **options)
    height, width = (size, size) if isinstance(size, int) else size
    taps = default_taps(model)
    logits, outputs = see_shapes(model, taps, torch.zeros(1, 3, height, width))
    assert logits.shape == (1, 3)
    folds = [
        find_fold(Tap(tap), output.shape, image_size=(height, width)) for tap, output in zip(taps, outputs, strict=True)
    ]
    assert [fold.grid for fold in folds] == grids


@each_family
def test_images_of_another_size_are_refused(family: str) -> None:
    with pytest.raises(ModelError, match=r"images are 32 x 64 pixels, expected 32 x 32; make the model with that"):
        small(family)(torch.zeros(1, 3, 32, 64))


def test_the_message_names_the_model() -> None:
    with pytest.raises(ModelError, match="T2T-ViT: images are 64 x 32 pixels, expected 32 x 32; make the model with"):
        small("t2t")(torch.zeros(1, 3, 64, 32))


@pytest.mark.parametrize(
    ("family", "size", "options", "message"),
    [
        ("t2t", 36, {}, r"36 x 36 pixels are no whole grid of tokens, one for every 8 .*multiples of 8, or another"),
        ("t2t", 32, {"patch_size": 5}, r"patch_size is 5, expected one of 16, 8, 4"),
        ("t2t", 32, {"num_heads": 3}, r"embed_dim 16 cannot be shared out to 3 heads"),
        ("t2t", 32, {"depth": 0}, r"depth 0, .*expected all above 0"),
        ("t2t", 32, {"embed_dim": 0}, r"embed_dim 0, .*expected all above 0"),
        ("t2t", 32, {"num_heads": 0}, r"num_heads 0, .*expected all above 0"),
        ("t2t", 32, {"mlp_ratio": 0.0}, r"mlp_ratio 0.0; expected all above 0"),
        ("t2t", 32, {"drop_path_rate": 1.0}, r"T2T-ViT: drop_path_rate is 1.0, expected a share from 0 to below 1"),
        ("t2t", 32, {"num_classes": 0}, r"T2T-ViT: a classifier of 0 classes does not exist; expected at least 1"),
        ("pvt", 40, {}, r"40 x 40 pixels are no whole grids in 4 stages after patches of 2 pixels; .*multiples of 16"),
        ("pvt", 32, {"patch_size": 0}, r"no whole grids in 4 stages after patches of 0 pixels"),
        ("pvt", (64, 48), {"sr_ratios": (3, 2, 1, 1)}, r"cannot make a grid of 32 x 24 tokens 3 times coarser"),
        ("pvt", 32, {"sr_ratios": (8, 4, 2, 2)}, r"the last of sr_ratios is 2, but the class token has no place"),
        ("pvt", 32, {"depths": (1, 1)}, r"depths has 2 entries and embed_dims 4; give each one entry a stage"),
        ("pvt", 32, {"depths": (1, 1, 0, 1)}, r"depths is \[1, 1, 0, 1\], expected numbers above 0"),
        ("pvt", 32, {"num_heads": (1, 3, 3, 4)}, r"embed_dims has 8, which cannot be shared out to 3 heads"),
        ("pvt", 32, {"embed_dims": ()}, r"embed_dims has 0 entries"),
        ("pvt", 32, {"drop_path_rate": -0.1}, r"drop_path_rate is -0.1, expected a share"),
        ("pvt", 32, {"num_classes": 0}, r"a classifier of 0 classes does not exist"),
        ("cvt", 24, {}, r"24 x 24 pixels are no whole grids in 3 stages after patches of 4 pixels; .*multiples of 16"),
        ("cvt", 32, {"patch_size": 8}, r"patch_size is 8, expected at most 7"),
        ("cvt", 32, {"mlp_ratio": 0}, r"mlp_ratio is \[0, 0, 0\], expected numbers above 0"),
        ("cvt", 32, {"num_classes": 0}, r"a classifier of 0 classes does not exist"),
    ],
)
def test_settings_that_do_not_fit_are_named(
    family: str, size: int | tuple[int, int], options: dict[str, Any], message: str
) -> None:
    factory, settings = FAMILIES[family]
    with pytest.raises(ModelError, match=message) as error:
        factory(**{"num_classes": 5, "image_size": size, **settings, **options})
    assert "\n" not in str(error.value)


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


# Training


@each_family
def test_a_block_adds_its_attention_and_then_its_mlp_to_its_tokens(family: str) -> None:
    """An attention that says c for every token, and then the MLP, is the MLP alone for tokens that are c larger."""
    model = small(family)
    name = block_names(model)[1]
    block = randomised(model.get_submodule(name)).eval()
    _, (inputs,) = see_shapes(model.float(), [], torch.zeros(2, 3, 32, 32), [name])
    block.double()
    tokens, said = drawn(*inputs.shape), drawn(inputs.shape[-1], seed=4)
    nn.init.zeros_(block.attn.proj.weight)
    nn.init.zeros_(block.attn.proj.bias)
    silent = block(tokens + said)
    assert not torch.allclose(silent, tokens + said, atol=0.1)
    with torch.no_grad():
        block.attn.proj.bias.copy_(said)
    torch.testing.assert_close(block(tokens), silent)
    nn.init.zeros_(block.attn.proj.bias)
    nn.init.zeros_(block.mlp.fc2.weight)
    nn.init.zeros_(block.mlp.fc2.bias)
    assert torch.equal(block(tokens), tokens)


def test_a_performer_adds_its_mlp_to_what_its_attention_says() -> None:
    layer = randomised(Performer(10, 8))
    tokens = drawn(2, 5, 10)
    nn.init.zeros_(layer.mlp.fc2.weight)
    torch.testing.assert_close(layer(tokens), layer.attn(layer.norm1(tokens)) + layer.mlp.fc2.bias)


@each_family
def test_a_guided_step_reaches_every_weight_that_learns(
    family: str, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    student = small(family)
    guide = Guide(student, teacher, image_size=32, terms=[Term(MapLoss("linear"), weight=2.5)])
    expected = {
        "t2t": [(16, 4, 4)] * 3,
        "pvt": [(4, 16, 16), (8, 8, 8), (16, 2, 2)],
        "cvt": [(4, 8, 8), (12, 2, 2), (12, 2, 2)],
    }
    assert [pair.student_map for pair in guide.pairs] == expected[family]
    task = Guided(student, guide).train()
    step = task(make_batch(32))
    step.loss.backward()
    assert step.loss.isfinite() and set(step.parts) == {"classification", "guidance_linear"}
    for name, parameter in task.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, name
        elif not name.endswith("attn.k.bias"):
            # A constant added to all keys changes no softmax, so a key's bias learns nothing.
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_positions_and_random_features_stay_what_they_are(make_batch: Callable[..., Batch]) -> None:
    student = small("t2t").train()
    before = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
    optimizer = make_optimizer(student, OptimizerPlan("adamw", 1e-2, 0.5, (0.9, 0.999), 1e-8, 0.0, False))
    batch = make_batch(32)
    F.cross_entropy(student(batch.images), batch.targets).backward()
    optimizer.step()
    same = {name for name, parameter in student.named_parameters() if torch.equal(parameter, before[name])}
    assert same == {"pos_embed", "tokens.performer1.attn.features", "tokens.performer2.attn.features"}
    assert same <= set(student.state_dict()), "they are needed to rebuild the student"


@each_family
def test_compiling_makes_one_graph_with_the_same_logits(family: str) -> None:
    torch._dynamo.reset()
    model = small(family).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = model(images)
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(images), expected)
    torch._dynamo.reset()


@each_family
def test_the_classifier_reads_the_class_token_that_has_been_normed(family: str) -> None:
    model = small(family).eval()
    assert classifier_name(model) == "head"
    last = block_names(model)[-1]
    logits, outputs = see_shapes(model, [last, "norm"], torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(logits, model.head(model.norm(outputs[0][:, 0])))
    assert outputs[1].shape == (2, outputs[0].shape[-1])


def rates(model: nn.Module) -> list[float]:
    """Of the first branch of every block, 0 where there is nothing to leave out."""
    found = []
    for name in block_names(model):
        block = model.get_submodule(name)
        pair = {each.drop_prob if isinstance(each, DropPath) else 0.0 for each in (block.drop_path1, block.drop_path2)}
        assert len(pair) == 1, "both branches of a block have the same rate"
        found.append(pair.pop())
    return found


def test_stochastic_depth_grows_linearly_with_depth_and_in_cvt_in_the_last_stage_only() -> None:
    t2t = create_student("t2t_vit_7", num_classes=2, image_size=32, patch_size=16, drop_path_rate=0.3)
    assert rates(t2t) == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3])
    pvt = create_student("pvt_tiny", num_classes=2, image_size=32, drop_path_rate=0.14)
    assert rates(pvt) == pytest.approx([0.02 * block for block in range(8)])
    cvt = create_student("cvt_13", num_classes=2, image_size=32, drop_path_rate=0.09)
    assert rates(cvt) == pytest.approx([0.0] * 3 + [0.01 * block for block in range(10)])


@each_family
def test_stochastic_depth_leaves_out_branches_in_training_only(family: str) -> None:
    images = torch.randn(8, 3, 32, 32)
    model, quiet = small(family, drop_path_rate=0.9), small(family)
    assert not torch.allclose(model(images), model(images), atol=1e-4)
    assert torch.equal(quiet(images), quiet(images))
    quiet.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(images), quiet.eval()(images))


def test_options_that_a_name_stands_for_stay_with_it() -> None:
    with pytest.raises(ModelError, match="t2t_vit_14 has no option 'depth'"):
        create_student("t2t_vit_14", num_classes=2, depth=3)
    assert len(create_student("t2t_vit_14", num_classes=2, image_size=32).blocks) == 14
    with pytest.raises(ModelError, match="pvt_tiny has no option 'patchsize'; did you mean 'patch_size'"):
        create_student("pvt_tiny", num_classes=2, patchsize=2)
    with pytest.raises(ModelError, match=r"cvt_13: CvT: images of 40 x 40 pixels are no whole grids"):
        create_student("cvt_13", num_classes=2, image_size=40)


def test_other_depths_of_cvt_are_guided_from_first_to_last() -> None:
    model = small("cvt", depths=(1, 2, 1))
    assert default_taps(model) == ["stages.0.blocks.0", "stages.1.blocks.1", "stages.2.blocks.0"]
