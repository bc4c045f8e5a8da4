"""Parts of the plain ViT that add locality or registers: against loops, and against the numbers of the authors' code.

`tests/golden/vit_parts.json` has what NeurAI-Lab/LIFE (166b0ce) and CatworldLee/Gaussian-Mixture-Mask-Attention
(models/gmm.py) give for the weights and inputs that `waves` makes.
"""

import json
import math
from itertools import product

import pytest
import timm
import torch
from torch import Tensor, nn

from lgkd.benchmark.flops import count_flops
from lgkd.errors import ModelError
from lgkd.models.factory import create_student
from lgkd.models.initial_weights import start_from_weights
from lgkd.models.vit.gaussian_mask import GaussianMaskAttention
from lgkd.models.vit.multiscale import MultiScaleQKV
from lgkd.models.vit.plain import PlainViT
from lgkd.training.optim import hidden_matrices, parameter_groups
from tests import CHECKOUT

GOLDEN = json.loads((CHECKOUT / "tests/golden/vit_parts.json").read_text())
PARTS = {"qkv": "multiscale", "attention": "gaussian-mask", "register_tokens": 2}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def waves(*shape: int, step: float) -> Tensor:
    return torch.sin(step * torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)).reshape(shape)


def small(size: int = 16, **options: object) -> PlainViT:
    return PlainViT(5, size, embed_dim=12, depth=3, num_heads=3, mlp_ratio=2, **options)  # type: ignore[arg-type]


# Queries, keys and values of three scales


def by_positions(qkv: MultiScaleQKV, tokens: Tensor) -> Tensor:
    """The definition, one patch and one channel at a time."""
    (rows, columns), prefix, width = qkv.grid, qkv.prefix, tokens.shape[-1]
    outputs = []
    for image in tokens:
        scale = [[float(one) for one in qkv.linear.weight @ token + qkv.linear.bias] for token in image]
        scales = [scale]
        for convolution, reach in zip((qkv.second, qkv.third), (1, 2), strict=True):
            deep, point = convolution.depthwise.weight, convolution.pointwise.weight[:, :, 0, 0]
            before, after = scales[-1], []
            for place in range(len(image)):
                if place < prefix:
                    mixed = before[place]
                else:
                    row, column = divmod(place - prefix, columns)
                    mixed = [
                        sum(
                            float(deep[c, 0, i + reach, j + reach])
                            * before[prefix + (row + i) * columns + column + j][c]
                            for i, j in product(range(-reach, reach + 1), repeat=2)
                            if 0 <= row + i < rows and 0 <= column + j < columns
                        )
                        for c in range(width)
                    ]
                after.append([sum(float(point[o, c]) * mixed[c] for c in range(width)) for o in range(width)])
            scales.append(after)
        third = width // 3
        outputs.append(
            [
                [x for part in range(3) for one in scales for x in one[place][part * third : (part + 1) * third]]
                for place in range(len(image))
            ]
        )
    return torch.tensor(outputs, dtype=torch.float64)


@pytest.mark.parametrize("prefix", [0, 2])
def test_multiscale_queries_keys_and_values_are_their_definition(prefix: int) -> None:
    qkv = MultiScaleQKV(6, (2, 3), prefix, bias=True).double()
    tokens = torch.randn(2, prefix + 6, 6, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(qkv(tokens), by_positions(qkv, tokens))


@pytest.mark.parametrize("prefix", [0, 1])
def test_multiscale_is_the_authors_but_for_a_class_tokens_keys(prefix: int) -> None:
    qkv = MultiScaleQKV(6, (3, 3), prefix, bias=True).double()
    with torch.no_grad():
        for number, parameter in enumerate(qkv.parameters()):
            parameter.copy_(waves(*parameter.shape, step=0.7 + 0.1 * number))
        found = qkv(waves(2, 9 + prefix, 6, step=0.3)).chunk(3, dim=-1)
    theirs = GOLDEN["multiscale_class_token" if prefix else "multiscale"]
    for name, mine, expected in zip("qkv", found, theirs, strict=True):
        numbers = torch.tensor(expected, dtype=torch.float64).view(2, 9 + prefix, 6)
        first = prefix if name == "k" else 0
        torch.testing.assert_close(mine[:, first:], numbers[:, first:], rtol=0, atol=1e-8)
        if first:
            assert not torch.allclose(mine[:, :first], numbers[:, :first])
            torch.testing.assert_close(mine[:, :first, :2], numbers[:, :first, :2], rtol=0, atol=1e-8)


def test_multiscale_adds_few_weights_and_the_operations_of_its_convolutions() -> None:
    models = [small(pooling="mean", qkv=kind).eval() for kind in ("linear", "multiscale")]
    plain, scaled = (sum(one.numel() for one in model.parameters()) for model in models)
    assert scaled - plain == 3 * (34 * 12 - 2 * 12)
    with torch.no_grad():
        counts = [count_flops(lambda model=model: model(torch.zeros(1, 3, 16, 16))) for model in models]  # type: ignore[misc]
    assert counts[1] - counts[0] == 3 * 2 * 16 * 12 * (9 + 25)


def test_a_width_that_three_scales_do_not_divide_is_refused() -> None:
    with pytest.raises(ModelError, match="embed_dim is 16, and qkv=multiscale needs a multiple of 3, like 192"):
        PlainViT(5, 16, embed_dim=16, depth=1, num_heads=2, qkv="multiscale")
    with pytest.raises(ModelError, match=r"qkv=multiscale has no ranks, and .* is given; use only one of them"):
        small(qkv="multiscale", k_rank=2)
    with pytest.raises(ModelError, match=r"mimetic weights need blocks with one full matrix .*qkv=multiscale"):
        small(qkv="multiscale", init="mimetic")


# Gaussian mask


@pytest.mark.parametrize("prefix", [0, 2])
@torch.no_grad()
def test_attention_under_a_gaussian_mask_is_its_definition(prefix: int) -> None:
    attention = GaussianMaskAttention(8, 2, grid=(2, 3), prefix=prefix, gaussians=3).double().eval()
    attention.sigma.data = torch.rand(3, 2, dtype=torch.float64) + 0.3
    tokens = torch.randn(2, prefix + 6, 8, dtype=torch.float64)
    places = [None] * prefix + [divmod(number, 3) for number in range(6)]
    outputs = []
    for image in tokens:
        q, k, v = attention.qkv(image).split(8, dim=-1)
        heads = []
        for head in range(2):
            own, rows = slice(4 * head, 4 * head + 4), []
            for i, here in enumerate(places):
                powers = []
                for j, there in enumerate(places):
                    factor = 1.0
                    if here is not None and there is not None:
                        square = (here[0] - there[0]) ** 2 + (here[1] - there[1]) ** 2
                        factor = sum(
                            float(attention.alpha[g, head])
                            * math.exp(-square / 2 / (float(attention.sigma[g, head]) ** 2 + 1e-5))
                            for g in range(3)
                        )
                    powers.append(math.exp(factor * float(q[i, own] @ k[j, own]) / 2))
                rows.append(sum(power * v[j, own] for j, power in enumerate(powers)) / sum(powers))
            heads.append(torch.stack(rows))
        outputs.append(attention.proj(torch.cat(heads, dim=1)))
    torch.testing.assert_close(attention(tokens), torch.stack(outputs))


def test_the_mask_is_the_authors() -> None:
    attention = GaussianMaskAttention(4, 2, grid=(3, 3), prefix=0, gaussians=3).double()
    attention.sigma.data = 1 + waves(3, 2, step=0.7)
    attention.alpha.data = 2 * waves(3, 2, step=0.4)
    found = attention.mask() * waves(1, 2, 9, 9, step=0.9)
    expected = torch.tensor(GOLDEN["gaussian_mask"], dtype=torch.float64).view(1, 2, 9, 9)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_far_patches_keep_their_weight_where_a_root_would_underflow() -> None:
    attention = GaussianMaskAttention(4, 1, grid=(1, 15), prefix=0, gaussians=1)
    attention.sigma.data.fill_(10.0)
    attention.alpha.data.fill_(1.0)
    assert float(attention.mask().detach()[0, 0, 14]) == pytest.approx(math.exp(-(14**2) / 2 / 100), rel=1e-5)


def test_gaussian_mask_maps_dropout_and_bfloat16() -> None:
    attention = GaussianMaskAttention(12, 3, grid=(2, 2), prefix=1, dropout=0.5).eval()
    tokens = torch.randn(2, 5, 12)
    maps = attention.maps(tokens)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 3, 5))
    values = attention.qkv(tokens)[..., 24:].view(2, 5, 3, 4)
    mixed = torch.einsum("bhij,bjhd->bihd", maps, values).reshape(2, 5, 12)
    exact = attention(tokens)
    torch.testing.assert_close(exact, attention.proj(mixed))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (attention(tokens).float() - exact).norm() < 0.05 * exact.norm()
    assert not torch.equal(attention.train()(tokens), attention(tokens))


def test_a_gaussian_mask_neither_decays_nor_is_a_matrix_of_muon() -> None:
    model = small(attention="gaussian-mask", register_tokens=2)
    spared = [one for group in parameter_groups(model, 0.1) if group["weight_decay"] == 0 for one in group["params"]]
    masks = [parameter for block in model.blocks for parameter in (block.attn.sigma, block.attn.alpha)]
    assert {id(one) for one in [*masks, model.reg_token]} <= {id(one) for one in spared}
    assert not {id(one) for one in masks} & hidden_matrices(model)


def test_gaussian_masks_that_cannot_be_made_are_refused() -> None:
    with pytest.raises(ModelError, match="gaussians is 0, expected a whole number of at least 1"):
        small(attention="gaussian-mask", gaussians=0)
    with pytest.raises(ModelError, match="impulse weights set the attention logits, which a Gaussian mask multiplies"):
        small(attention="gaussian-mask", init="impulse")


# Register tokens


def test_registers_are_timms() -> None:
    shape = {"embed_dim": 24, "depth": 2, "num_heads": 3, "patch_size": 4}
    theirs = timm.create_model(
        "vit_tiny_patch16_224", num_classes=7, img_size=16, class_token=False, reg_tokens=3, no_embed_class=True,
        global_pool="avg", fc_norm=False, **shape,
    ).eval()  # fmt: skip
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    ours = PlainViT(7, 16, pooling="mean", register_tokens=3, **shape).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)
    assert ours.num_prefix_tokens == theirs.num_prefix_tokens == 3


@pytest.mark.parametrize("pooling", ["class", "mean", "sequence"])
def test_the_pool_leaves_registers_out(pooling: str) -> None:
    model = small(pooling=pooling, register_tokens=4)
    tokens = torch.randn(2, model.num_prefix_tokens + 16, 12)
    changed = tokens.clone()
    changed[:, model.class_tokens : model.num_prefix_tokens] += 9.0
    assert model.num_prefix_tokens == model.class_tokens + 4
    assert torch.equal(model.pool(changed), model.pool(tokens))


def test_registers_stand_between_class_tokens_and_patches() -> None:
    model = small(register_tokens=2, class_tokens=2)
    model.reg_token.data.fill_(3.0)
    seen: list[Tensor] = []
    model.blocks.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    images = torch.randn(1, 3, 16, 16)
    model(images)
    expected = model.patch_embed(images) + model.pos_embed[:, 2:]
    assert torch.equal(seen[0][:, 4:], expected)
    assert torch.equal(seen[0][:, :2], model.cls_token + model.pos_embed[:, :2])
    assert torch.equal(seen[0][:, 2:4], torch.full((1, 2, 12), 3.0))


# The whole model


def test_weights_start_a_model_of_another_grid() -> None:
    trained = small(16, **PARTS)
    model = small(32, **PARTS)
    found = start_from_weights(model, trained.state_dict(), "trained")
    assert found.resized == ("pos_embed",) and found.classifier == "kept"
    assert torch.equal(model.reg_token, trained.reg_token)
    assert torch.equal(model.blocks[0].attn.sigma, trained.blocks[0].attn.sigma)
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 5)


def test_named_students_take_the_parts_as_options() -> None:
    model = create_student("vit_96", num_classes=4, depth=2, **PARTS, gaussians=2)
    assert isinstance(model.blocks[0].attn, GaussianMaskAttention) and model.blocks[0].attn.sigma.shape == (2, 3)
    assert isinstance(model.blocks[0].attn.qkv, MultiScaleQKV) and model.num_prefix_tokens == 2
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
