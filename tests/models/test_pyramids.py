"""T2T-ViT, PVT and CvT as wholes: the paper's figures, sizes, training."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lgkd.config import Optimizer
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.taps import Tap, find_fold, trace_shapes
from lgkd.distillation.tasks import Batch, Guided
from lgkd.errors import ModelError
from lgkd.losses import MapLoss
from lgkd.models.cvt import QuickGELU
from lgkd.models.default_taps import block_names, classifier_name, default_taps
from lgkd.models.factory import create_student
from lgkd.models.known_models import PYRAMIDS
from lgkd.models.registry import MODELS, canonical
from lgkd.models.sdpa import quick_attention
from lgkd.models.t2t import (
    Performer,
    T2TViT,
)
from lgkd.models.teacher import Teacher
from lgkd.training.optim import make_optimizer
from tests.support.pyramids import FAMILIES, PUBLISHED, drawn, each_family, randomised, small

# The paper's figures


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_cost_and_maps_are_those_of_the_papers_code(name: str) -> None:
    parameters, gflops, maps, guided = PUBLISHED[name]
    model = create_student(name, num_classes=100)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters == MODELS[name].parameters
    names = block_names(model)
    assert default_taps(model) == [names[place] for place in guided]
    with quick_attention(model, "cpu", "bf16"), FlopCounterMode(display=False) as counted:
        _, outputs = trace_shapes(model, names, torch.zeros(1, 3, 224, 224))
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
        _, (made, joined) = trace_shapes(model, [patches], images, [block])
        count = made.shape[1]
        assert joined.shape[1] == 1 + count == owner.pos_embed.shape[1]
        torch.testing.assert_close(joined[:, 0], (owner.cls_token + owner.pos_embed[:, :1])[0].expand(2, -1))
        torch.testing.assert_close(joined[:, 1:] - made, owner.pos_embed[:, 1:].expand(2, -1, -1), rtol=0, atol=1e-6)
    cvt = small("cvt").eval()
    _, (made, joined) = trace_shapes(cvt, ["stages.2.norm"], images, ["stages.2.blocks.0"])
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
    logits, outputs = trace_shapes(model, taps, torch.zeros(1, 3, height, width))
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
        (
            "t2t",
            36,
            {},
            r"36 x 36 pixels do not divide into a grid of tokens, one for every 8 .*multiples of 8, or another",
        ),
        ("t2t", 32, {"patch_size": 5}, r"patch_size is 5, expected one of 16, 8, 4"),
        ("t2t", 32, {"num_heads": 3}, r"embed_dim is 16, which 3 heads do not divide"),
        ("t2t", 32, {"depth": 0}, r"depth 0, .*expected all above 0"),
        ("t2t", 32, {"embed_dim": 0}, r"embed_dim 0, .*expected all above 0"),
        ("t2t", 32, {"num_heads": 0}, r"num_heads 0, .*expected all above 0"),
        ("t2t", 32, {"mlp_ratio": 0.0}, r"mlp_ratio 0.0; expected all above 0"),
        ("t2t", 32, {"drop_path_rate": 1.0}, r"T2T-ViT: drop_path_rate is 1.0, expected a number from 0 to below 1"),
        ("t2t", 32, {"num_classes": 0}, r"T2T-ViT: num_classes is 0, expected at least 1"),
        ("pvt", 40, {}, r"40 x 40 pixels do not divide into 4 stages after patches of 2 pixels; .*multiples of 16"),
        ("pvt", 32, {"patch_size": 0}, r"divide into 4 stages after patches of 0 pixels"),
        ("pvt", (64, 48), {"sr_ratios": (3, 2, 1, 1)}, r"cannot make a grid of 32 x 24 tokens 3 times coarser"),
        (
            "pvt",
            32,
            {"sr_ratios": (8, 4, 2, 2)},
            r"the last of sr_ratios is 2, expected 1: the class token has no position",
        ),
        ("pvt", 32, {"depths": (1, 1)}, r"depths has 2 entries and embed_dims 4; give one entry per stage"),
        ("pvt", 32, {"depths": (1, 1, 0, 1)}, r"depths is \[1, 1, 0, 1\], expected numbers above 0"),
        ("pvt", 32, {"num_heads": (1, 3, 3, 4)}, r"embed_dims has 8, which 3 heads do not divide"),
        ("pvt", 32, {"embed_dims": ()}, r"embed_dims has 0 entries"),
        ("pvt", 32, {"drop_path_rate": -0.1}, r"drop_path_rate is -0.1, expected a number"),
        ("pvt", 32, {"num_classes": 0}, r"num_classes is 0, expected at least 1"),
        ("cvt", 24, {}, r"24 x 24 pixels do not divide into 3 stages after patches of 4 pixels; .*multiples of 16"),
        ("cvt", 32, {"patch_size": 8}, r"patch_size is 8, expected at most 7"),
        ("cvt", 32, {"mlp_ratio": 0}, r"mlp_ratio is \[0, 0, 0\], expected numbers above 0"),
        ("cvt", 32, {"num_classes": 0}, r"num_classes is 0, expected at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_named(
    family: str, size: int | tuple[int, int], options: dict[str, Any], message: str
) -> None:
    factory, settings = FAMILIES[family]
    with pytest.raises(ModelError, match=message) as error:
        factory(**{"num_classes": 5, "image_size": size, **settings, **options})
    assert "\n" not in str(error.value)


# Training


@each_family
def test_a_block_adds_its_attention_and_then_its_mlp_to_its_tokens(family: str) -> None:
    """An attention that says c for every token, and then the MLP, is the MLP alone for tokens that are c larger."""
    model = small(family)
    name = block_names(model)[1]
    block = randomised(model.get_submodule(name)).eval()
    _, (inputs,) = trace_shapes(model.float(), [], torch.zeros(2, 3, 32, 32), [name])
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
    optimizer = make_optimizer(student, Optimizer("adamw", 1e-2, 0.5, (0.9, 0.999), 1e-8, 0.0, False))
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
    logits, outputs = trace_shapes(model, [last, "norm"], torch.randn(2, 3, 32, 32))
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
    with pytest.raises(ModelError, match=r"cvt_13: CvT: images of 40 x 40 pixels do not divide into"):
        create_student("cvt_13", num_classes=2, image_size=40)


def test_other_depths_of_cvt_are_guided_from_first_to_last() -> None:
    model = small("cvt", depths=(1, 2, 1))
    assert default_taps(model) == ["stages.0.blocks.0", "stages.1.blocks.1", "stages.2.blocks.0"]
