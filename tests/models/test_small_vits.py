"""The plain ViT as a whole and the ones with a name: published sizes, timm's logits, taps, guidance, options."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import lgkd
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.taps import trace_shapes
from lgkd.distillation.tasks import Batch, Guided
from lgkd.errors import ModelError
from lgkd.losses import MapLoss
from lgkd.models.default_taps import block_names, classifier_name, default_taps
from lgkd.models.factory import create_student, default_image_size
from lgkd.models.known_models import SMALL_VITS
from lgkd.models.registry import MODELS
from lgkd.models.teacher import Teacher
from lgkd.models.vit.plain import PlainViT
from lgkd.training.optim import parameter_groups

NAMES = [info.name for info in SMALL_VITS]
VARIANTS: list[dict[str, Any]] = [
    {},
    {"class_tokens": 4, "positions": "sinusoidal"},
    {"pooling": "mean", "positions": "none", "q_rank": 4},
    {"pooling": "sequence", "tokenizer": "conv", "conv_layers": 2, "block": "compact"},
    {"tokenizer": "shifted", "attention": "local", "qkv_bias": False},
    {"k_rank": 3, "v_rank": 5, "attention": "local", "pooling": "mean"},
    {"qkv": "multiscale", "attention": "gaussian-mask", "register_tokens": 2, "pooling": "mean"},
]


def small(**options: Any) -> PlainViT:
    torch.manual_seed(1)
    return PlainViT(5, 32, **{"embed_dim": 24, "depth": 3, "num_heads": 3, "mlp_ratio": 2, **options})


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# Sizes


@pytest.mark.parametrize(
    ("size", "layers", "grid"),
    [(32, 2, (8, 8)), (48, 2, (12, 12)), (64, 3, (8, 8)), (96, 3, (12, 12)), ((32, 64), 2, (8, 16)), (8, 1, (4, 4))],
)
def test_convolutions_of_the_small_vits_give_a_grid_of_eight_or_a_little_more(
    size: Any, layers: int, grid: Any
) -> None:
    model = create_student("vit_96", num_classes=3, image_size=size, tokenizer="conv", conv_width=8)
    assert (len(model.patch_embed.convs), model.patch_embed.grid_size) == (layers, grid)
    both = create_student("vit_96", num_classes=3, image_size=32, tokenizer="conv", conv_layers=1)
    assert both.patch_embed.grid_size == (16, 16)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("vit_lite", 3.717), ("cvt_7_4", 3.717), ("cct_7_3x1", 3.760), ("cct_7_3x2", 3.853), ("cct_2_3x2", 0.284)],
)
def test_compact_transformers_have_their_published_sizes_for_ten_classes(name: str, millions: float) -> None:
    model = create_student(name, num_classes=10)
    assert round(count(model) / 1e6, 3) == millions
    assert MODELS[name].parameters == count(model) + 90 * (model.head.in_features + 1)


@pytest.mark.parametrize(("options", "millions"), [({}, 2.9), ({"tokenizer": "patch", "attention": "plain"}, 2.8)])
def test_sl_vit_and_the_vit_that_it_improves_have_their_published_sizes_on_tiny_imagenet(
    options: dict[str, Any], millions: float
) -> None:
    assert round(count(create_student("sl_vit", num_classes=200, image_size=64, patch_size=8, **options)) / 1e6, 1) == (
        millions
    )


def test_poorvits_baseline_has_2_70_million_weights_for_ten_classes() -> None:
    assert round(count(create_student("poorvit", num_classes=10)) / 1e6, 2) == 2.70


@pytest.mark.parametrize("name", NAMES)
def test_named_models_have_the_size_of_their_catalogue(name: str) -> None:
    assert count(create_student(name, num_classes=100)) == MODELS[name].parameters
    assert default_image_size(name) == 32 and MODELS[name].role == "student"


@pytest.mark.parametrize(
    ("name", "size", "options", "millions", "within"),
    [
        ("cct_7_3x1", 32, {}, 1190, 0.01),
        ("vit_lite", 32, {}, 260, 0.025),  # printed as 0.26 G
        ("sl_vit", 64, {"patch_size": 8}, 199.2, 0.002),
        ("sl_vit", 64, {"patch_size": 8, "tokenizer": "patch", "attention": "plain"}, 189.8, 0.002),
    ],
)
def test_a_forward_pass_takes_the_published_multiplications(
    name: str, size: int, options: dict[str, Any], millions: float, within: float
) -> None:
    model = create_student(name, num_classes=200, image_size=size, **options).eval()
    for block in model.blocks:
        block.attn.fused_attn = False  # torch does not count inside its fused function on a CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, size, size))
    # The published figures also count norms and the like.
    assert counter.get_total_flops() / 2e6 == pytest.approx(millions, rel=within)


# Against timm


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_with_timms_weights_it_has_timms_logits(qkv_bias: bool) -> None:
    torch.manual_seed(0)
    shape = {"embed_dim": 48, "depth": 3, "num_heads": 3, "patch_size": 4, "qkv_bias": qkv_bias}
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=(16, 24), **shape).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    ours = PlainViT(7, (16, 24), **shape).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(3, 3, 16, 24)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


def test_mean_pooling_is_that_of_timm_where_the_norm_comes_first() -> None:
    torch.manual_seed(0)
    shape = {"embed_dim": 48, "depth": 2, "num_heads": 3, "patch_size": 8}
    theirs = timm.create_model(
        "vit_tiny_patch16_224", num_classes=7, img_size=32, class_token=False, global_pool="avg", fc_norm=False, **shape
    ).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    ours = PlainViT(7, 32, pooling="mean", **shape).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


def test_stochastic_depth_rises_as_timms_or_stays_the_same() -> None:
    theirs = timm.create_model("vit_tiny_patch16_224", depth=4, embed_dim=12, drop_path_rate=0.3)
    expected = [getattr(block.drop_path1, "drop_prob", 0.0) for block in theirs.blocks]

    def rates(**options: Any) -> list[float]:
        return [getattr(block.drop_path, "drop_prob", 0.0) for block in small(depth=4, **options).blocks]

    assert rates(drop_path_rate=0.3) == pytest.approx(expected)
    assert expected == pytest.approx([0, 0.1, 0.2, 0.3])
    assert rates(drop_path_rate=0.3, drop_path_rises=False) == [0.3] * 4
    assert rates() == [0.0] * 4


# What goes in and comes out


@pytest.mark.parametrize("options", VARIANTS)
def test_every_variant_learns_from_a_backward_pass(options: dict[str, Any]) -> None:
    model = small(**options)
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    still = {name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    # A softmax does not see what is added to all its logits: the pool's bias, and the bias of keys.
    assert {name for name in still if not name.endswith(("pool.logit.bias", "qkv.k.bias", "qkv.k.up.bias"))} == set()


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("size", [32, (16, 48)])
def test_taps_are_tokens_that_fold_into_the_grid(options: dict[str, Any], size: int | tuple[int, int]) -> None:
    torch.manual_seed(1)
    model = PlainViT(5, size, embed_dim=24, depth=3, num_heads=3, **options)
    assert default_taps(model) == ["blocks.0", "blocks.1", "blocks.2"] == block_names(model)
    height, width = (size, size) if isinstance(size, int) else size
    prefix = {"class": options.get("class_tokens", 1)}.get(options.get("pooling", "class"), 0)
    prefix += options.get("register_tokens", 0)
    assert model.num_prefix_tokens == prefix
    logits, outputs = trace_shapes(model, default_taps(model), torch.randn(2, 3, height, width))
    assert logits.shape == (2, 5)
    assert {tuple(output.shape) for output in outputs} == {(2, prefix + height // 4 * (width // 4), 24)}
    assert classifier_name(model) == "head"


@pytest.mark.parametrize("options", VARIANTS)
def test_compiling_changes_nothing(options: dict[str, Any]) -> None:
    torch._dynamo.reset()
    model = small(**options).eval()
    images = torch.randn(2, 3, 32, 32)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), model(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", VARIANTS)
def test_fused_attention_changes_nothing(options: dict[str, Any]) -> None:
    model = small(**options).eval()
    images = torch.randn(2, 3, 32, 32)
    fused = model(images)
    for block in model.blocks:
        block.attn.fused_attn = False
    torch.testing.assert_close(model(images), fused, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [*VARIANTS, {"depth": 2, "pooling": "sequence", "tokenizer": "conv"}])
def test_a_guide_finds_its_maps_and_teaches(
    options: dict[str, Any], teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    student = small(**options)
    guide = Guide(student, teacher, image_size=32, terms=[Term(MapLoss("linear"), weight=2.5)])
    rows = student.patch_embed.grid_size[0]
    assert [pair.student_map for pair in guide.pairs] == [(24, rows, rows)] * 3
    step = Guided(student, guide)(make_batch(32))
    step.loss.backward()
    assert step.parts["guidance_linear"].isfinite() and step.parts["guidance_linear"] > 0
    assert all(parameter.grad is not None for parameter in student.patch_embed.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_named_models_can_be_guided(name: str, teacher: Teacher, make_batch: Callable[..., Batch]) -> None:
    # Fewer blocks and narrower ones, so that it is quick; the parts are those of the name.
    smaller = {"embed_dim": 24, "num_heads": 3, "depth": 2 if name == "cct_2_3x2" else 3}
    student = lgkd.create_student(name, num_classes=5, **smaller)
    step = Guided(student, Guide(student, teacher, image_size=32, terms=[Term(MapLoss("linear"), weight=2.5)]))(
        make_batch(32)
    )
    step.loss.backward()
    assert step.loss.isfinite() and student.head.weight.grad is not None


def test_a_map_holds_the_patches_and_no_class_token(teacher: Teacher) -> None:
    student = small(class_tokens=4)
    guide = Guide(student, teacher, image_size=32, terms=[Term(MapLoss("linear"))])
    images = torch.randn(1, 3, 32, 32)
    tokens: list[torch.Tensor] = []
    handle = student.blocks[0].register_forward_hook(lambda module, inputs, output: tokens.append(output))
    found = guide.read(student, images).maps[0]
    handle.remove()
    assert torch.equal(found[0, :, 2, 5], tokens[0][0, 4 + 2 * 8 + 5])


# Options


def test_what_a_name_stands_for_can_be_changed_by_options() -> None:
    changed = {"patch_size": 8, "depth": 2, "q_rank": 16, "class_tokens": 3, "positions": "sinusoidal"}
    model = create_student("poorvit", num_classes=4, **changed, drop_path_rate=0.1)
    assert model.patch_embed.grid_size == (4, 4) and len(model.blocks) == 2
    assert model.blocks[0].attn.qkv.q.down.weight.shape == (16, 192)
    assert model.head.weight.shape == (4, 3 * 192), "class tokens are read side by side"
    assert "pos_embed" not in dict(model.named_parameters()) and model.pos_embed.shape == (1, 19, 192)


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("vit_lite", ("PatchTokens", "Attention", "CompactBlock", "ClassPool", 1, 7, 256, 4, 512)),
        ("cvt_7_4", ("PatchTokens", "Attention", "CompactBlock", "SequencePool", 0, 7, 256, 4, 512)),
        ("cct_7_3x1", ("ConvTokens", "Attention", "CompactBlock", "SequencePool", 0, 7, 256, 4, 512)),
        ("cct_7_3x2", ("ConvTokens", "Attention", "CompactBlock", "SequencePool", 0, 7, 256, 4, 512)),
        ("cct_2_3x2", ("ConvTokens", "Attention", "CompactBlock", "SequencePool", 0, 2, 128, 2, 128)),
        ("sl_vit", ("ShiftedPatchTokens", "LocalAttention", "PreNormBlock", "ClassPool", 1, 9, 192, 12, 384)),
        ("poorvit", ("PatchTokens", "Attention", "PreNormBlock", "ClassPool", 1, 9, 192, 12, 384)),
    ],
)
def test_names_stand_for_their_parts(name: str, facts: tuple[Any, ...]) -> None:
    model = create_student(name, num_classes=3)
    block = model.blocks[0]
    found = [type(part).__name__ for part in (model.patch_embed, block.attn, block, model.pool)]
    found += [model.num_prefix_tokens, len(model.blocks), model.norm.weight.shape[0], block.attn.num_heads]
    assert (*found, block.mlp.fc1.out_features) == facts
    assert model.patch_embed.grid_size == ((16, 16) if name == "cct_7_3x1" else (8, 8))


def test_two_blocks_are_tapped_with_their_tokeniser() -> None:
    assert default_taps(create_student("cct_2_3x2", num_classes=3)) == ["patch_embed", "blocks.0", "blocks.1"]


def test_first_weights_of_the_named_models_are_those_of_their_authors() -> None:
    torch.manual_seed(0)
    lite, local = (create_student(name, num_classes=3) for name in ("vit_lite", "sl_vit"))
    assert lite.pos_embed.std().item() == pytest.approx(0.2, rel=0.05) and not lite.cls_token.any()
    assert lite.blocks[0].attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    # He's normal distribution over a fan-in of 3 x 4 x 4: the root of 2 / 48, 0.204.
    for model in (lite, create_student("cvt_7_4", num_classes=3)):
        assert model.patch_embed.proj.weight.std().item() == pytest.approx(0.2041, rel=0.03)
        assert model.patch_embed.proj.bias.abs().max().item() <= 48**-0.5
    plain = create_student("poorvit", num_classes=3)
    assert plain.patch_embed.proj.weight.std().item() == pytest.approx((1 / 144) ** 0.5, rel=0.03)
    assert local.pos_embed.std().item() == pytest.approx(1.0, rel=0.05)
    assert local.blocks[0].attn.qkv.weight.std().item() == pytest.approx((2 / (192 + 576)) ** 0.5, rel=0.05)
    assert [model.blocks[0].attn.dropout for model in (lite, local)] == [0.1, 0.0]
    assert lite.blocks[0].attn.qkv.bias is None and local.blocks[0].attn.qkv.bias is None
    convolutional = create_student("cct_7_3x1", num_classes=3)
    assert convolutional.patch_embed.convs[0].weight.std().item() == pytest.approx((2 / 27) ** 0.5, rel=0.05)


def test_positions_tokens_and_temperatures_do_not_decay() -> None:
    model = small(attention="local", class_tokens=2)
    kept = {id(parameter) for parameter in parameter_groups(model, 0.05)[1]["params"]}
    named = dict(model.named_parameters())
    assert {id(named[name]) for name in ("cls_token", "pos_embed", "norm.weight")} <= kept
    assert id(named["blocks.0.attn.qkv.weight"]) not in kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": "patches"}, r"tokenizer is 'patches', expected one of patch, shifted, conv"),
        ({"attention": "global"}, r"attention is 'global', expected one of plain, local"),
        ({"pooling": "max"}, r"pooling is 'max', expected one of class, mean, sequence"),
        ({"positions": "rotary"}, r"positions is 'rotary', expected one of learned, sinusoidal, none"),
        ({"patch_init": "zeros"}, r"patch_init is 'zeros', expected one of default, he"),
        ({"init": "zeros"}, r"init is 'zeros', expected one of default, xavier, mimetic, impulse"),
        ({"block": "post"}, r"block is 'post', expected one of pre, compact"),
        (
            {"class_tokens": 2, "pooling": "mean"},
            r"class_tokens is 2, and pooling=mean reads none of them; use pooling=",
        ),
        ({"class_tokens": 0}, r"class_tokens with pooling=class is 0, expected a whole number of at least 1"),
        ({"depth": 0}, r"depth is 0, expected a whole number of at least 1"),
        ({"mlp_ratio": 0}, r"embed_dim times mlp_ratio is 0, expected"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate is 1.0, expected a number from 0 to below 1"),
        ({"drop_path_rate": -0.1}, r"drop_path_rate is -0.1"),
        ({"num_heads": 7}, r"poorvit: embed_dim is 192, which 7 heads do not divide"),
        ({"patch_size": 5}, r"images of 32 x 32 pixels do not divide into patches of 5 x 5"),
        (
            {"patch_size": 32, "pooling": "mean", "attention": "local"},
            r"excludes the token itself, and there is no other",
        ),
        ({"patchsize": 8}, r"poorvit has no option 'patchsize'; did you mean 'patch_size'"),
    ],
)
def test_models_that_cannot_be_made_say_why(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        create_student("poorvit", num_classes=4, **options)
    assert "\n" not in str(error.value)


def test_no_classes_are_refused() -> None:
    with pytest.raises(ModelError, match=r"num_classes is 0, expected a whole number of at least 1"):
        PlainViT(0)
