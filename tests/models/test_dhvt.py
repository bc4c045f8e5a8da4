"""DHVT as a whole: the paper's figures, the ViT that is left without its parts, sizes, training."""

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
from lgkd.distillation.taps import trace_shapes
from lgkd.distillation.tasks import Batch
from lgkd.errors import ModelError
from lgkd.losses import MapLoss
from lgkd.models.default_taps import block_names, classifier_name, default_taps
from lgkd.models.dhvt import DHVT
from lgkd.models.dhvt_layers import Attention
from lgkd.models.factory import create_student, default_image_size
from lgkd.models.registry import MODELS
from lgkd.models.teacher import Teacher
from tests.support.dhvt import PLAIN, count, small

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
    logits, seen = trace_shapes(model, ["patch_embed", "blocks.1", "blocks.1.mlp"], torch.randn(2, 3, *size))
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
        ({"width": 100}, "a width of 100 is not a multiple of the paper's heads of 48 channels; give num_heads"),
        ({"image_size": 0}, "do not divide images of 0 x 0 px"),
    ],
)
def test_widths_of_ones_own_are_checked_too(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        DHVT(**{"num_classes": 4, **options})
