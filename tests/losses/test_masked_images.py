"""Masked images: the authors' numbers, a loop, what is hidden, which students can, and a teacher that is not run."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lgkd._internal.tokens import sinusoidal
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Batch, Guided
from lgkd.errors import InputError, ModelError
from lgkd.losses import MapLoss, MaskedImages
from lgkd.losses.masked_images import cut_into_patches
from lgkd.models.factory import create_student
from lgkd.models.teacher import Teacher
from lgkd.models.visible_patches import visible_patches
from lgkd.models.vit.plain import PlainViT
from lgkd.training.optim import parameter_groups

ORDERS = ((7, 3), (5, 1), (11, 6))
VALUE = 3.1272030968134166
GRADIENTS = {
    "blocks.0.attn.qkv.weight": 0.9554294005941186,
    "cls_token": 0.18946573957133075,
    "decoder_embed.weight": 7.1280767235876175,
    "decoder_pred.weight": 20.830470205928155,
    "mask_token": 1.2843399564798057,
    "patch_embed.proj.weight": 2.6429740682199756,
}
"""Value, and sums of the absolute gradients, of the authors' code."""


def wave(*shape: int, start: float = 0.0, step: float = 0.37) -> Tensor:
    return (torch.arange(math.prod(shape), dtype=torch.float64) * step + start).sin().view(*shape)


def a_student(**options: object) -> PlainViT:
    torch.manual_seed(0)
    chosen = {"image_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3, **options}
    return PlainViT(5, **chosen).double().eval()  # type: ignore[arg-type]


def built(student: nn.Module, **options: float) -> MaskedImages:
    torch.manual_seed(1)
    chosen = {"width": 8, "heads": 2, **options}
    loss = MaskedImages(**chosen)  # type: ignore[arg-type]
    patches = visible_patches(student)
    loss.build(patches)
    loss.positions = sinusoidal(patches.grid, loss.width)[None]
    return loss.double()


# Parts of the authors' modules and of ours.
NAMES = {
    "decoder_embed": "enter",
    "decoder_norm": "norm",
    "decoder_pred": "leave",
    "decoder_blocks.": "blocks.",
    "attn.qkv.weight": "self_attn.in_proj_weight",
    "attn.qkv.bias": "self_attn.in_proj_bias",
    "attn.proj": "self_attn.out_proj",
    "mlp.fc1": "linear1",
    "mlp.fc2": "linear2",
}


def authors_names(student: nn.Module, loss: MaskedImages) -> dict[str, nn.Parameter]:
    """The weights of both, by the names that they have in the authors' code."""
    found = dict(student.named_parameters())
    for name, weight in loss.layers.named_parameters():
        for theirs, ours in NAMES.items():
            name = name.replace(ours, theirs) if ours != "norm" or name.startswith("norm.") else name
        found[name] = weight
    return {**found, "mask_token": loss.mask_token}  # type: ignore[dict-item]


def test_value_and_gradients_are_those_of_the_authors_code() -> None:
    # Limited-data-vits 3a5f952, model_mae_image_loss.py, with these weights and orders, and our decoder's positions.
    student = a_student()
    loss = built(student)
    weights = authors_names(student, loss)
    places = {name: place for place, name in enumerate(sorted([*weights, "decoder_pos_embed"]))}
    with torch.no_grad():
        for name, weight in weights.items():
            values = wave(*weight.shape, start=places[name], step=1.7 + 0.01 * places[name]) * 0.5
            weight.copy_(values + ("norm" in name and name.endswith("weight")))
    order = torch.tensor([[(factor * place + first) % 16 for place in range(16)] for factor, first in ORDERS])
    value = loss.error(wave(3, 3, 16, 16, start=5), order)
    value.backward()
    assert value.item() == pytest.approx(VALUE, rel=1e-12)
    for name, total in GRADIENTS.items():
        gradient = weights[name].grad
        assert gradient is not None
        assert gradient.abs().sum().item() == pytest.approx(total, rel=1e-9), name


def test_images_that_are_not_square_are_those_of_a_loop() -> None:
    student = a_student(image_size=(8, 12), register_tokens=2)
    loss, images = built(student, hidden=0.5), wave(2, 3, 8, 12, start=3)
    order = torch.tensor([[5, 0, 3, 1, 4, 2], [1, 4, 2, 0, 3, 5]])
    with torch.no_grad():
        errors = []
        for image, places in zip(images, order.tolist(), strict=True):
            seen, missed = places[:3], places[3:]
            tokens = loss.layers["enter"](student.encode_visible(image[None], torch.tensor([seen])))[0]
            whole = torch.empty(3 + 6, 8, dtype=torch.float64)
            whole[:3] = tokens[:3]
            for place, token in zip(seen, tokens[3:], strict=True):
                whole[3 + place] = token + loss.positions[0, place]
            for place in missed:
                whole[3 + place] = loss.mask_token[0, 0] + loss.positions[0, place]  # type: ignore[index]
            found = loss.layers["leave"](loss.layers["norm"](loss.layers["blocks"](whole[None])))[0, 3:]
            for place in missed:
                row, column = divmod(place, 3)
                patch = image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].permute(1, 2, 0).reshape(-1)
                errors.append((found[place] - patch).square().mean().item())
        assert loss.error(images, order).item() == pytest.approx(sum(errors) / 6, rel=1e-12)


def test_patches_are_cut_row_by_row() -> None:
    images = torch.arange(2 * 3 * 5 * 7).view(2, 3, 5, 7)  # of which a row and a column are in no patch
    patches = cut_into_patches(images, (2, 3), (2, 2))
    assert patches.shape == (2, 6, 12)
    assert torch.equal(patches[1, 4], images[1, :, 2:4, 2:4].permute(1, 2, 0).flatten())


TINY: dict[str, Any] = {
    "num_classes": 5, "image_size": 16, "patch_size": 4, "depth": 2, "embed_dim": 12, "num_heads": 3
}  # fmt: skip
STUDENTS: dict[str, Callable[[], nn.Module]] = {
    "plain": a_student,
    "registers and no positions": lambda: a_student(register_tokens=2, positions="none", pooling="mean"),
    "local": lambda: a_student(attention="local"),
    "timm": lambda: create_student("timm:vit_tiny_patch16_224", **TINY).double().eval(),
    "distillation token": lambda: create_student("deit_tiny", **TINY, distillation_token=True).double().eval(),
}


@pytest.mark.parametrize("name", STUDENTS)
def test_hidden_pixels_have_no_effect_and_all_patches_are_the_forward_pass(name: str) -> None:
    student = STUDENTS[name]()
    patches = visible_patches(student)
    images, seen = wave(2, 3, 16, 16, start=1), torch.tensor([[3, 7, 0], [9, 1, 15]])
    with torch.no_grad():
        tokens = patches.encode(images, seen)
        assert tokens.shape == (2, patches.prefix + 3, 12)
        changed = images.clone()
        changed[0, :, 4:8, 0:4] += 1  # patch 4 of the first image, which it does not see
        torch.testing.assert_close(patches.encode(changed, seen), tokens, rtol=0, atol=0)
        changed[0, :, 0:4, 12:16] += 1  # patch 3
        assert not torch.allclose(patches.encode(changed, seen)[0], tokens[0])
        normed: list[Tensor] = []
        handle = student.get_submodule("norm").register_forward_hook(lambda _m, _i, output: normed.append(output))
        student(images)
        handle.remove()
        shuffled = torch.tensor([[(5 * place + 2) % 16 for place in range(16)]] * 2)
        everything = patches.encode(images, shuffled)
        prefix = patches.prefix
        torch.testing.assert_close(everything[:, :prefix], normed[0][:, :prefix])
        torch.testing.assert_close(everything[:, prefix:], normed[0][:, prefix:][:, shuffled[0]])


def test_each_image_hides_three_quarters_of_its_own_by_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, images = built(a_student()), wave(40, 3, 16, 16)
    orders: list[Tensor] = []
    real = loss.error
    monkeypatch.setattr(loss, "error", lambda images, order: orders.append(order) or real(images, order))
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(loss(images))
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])
    assert loss.visible == 4
    assert torch.equal(orders[0].sort(dim=1).values, torch.arange(16).expand(40, -1))
    seen = torch.bincount(torch.cat(orders[1:])[:, :4].flatten(), minlength=16)
    # 320 draws of 16 patches: 20 each, with a deviation of 4.
    assert seen.min() > 6 and seen.max() < 38


def test_the_teacher_is_not_run_for_it_alone_and_is_run_beside_other_terms(
    teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    student = create_student("vit_96", num_classes=5, image_size=32, depth=3, embed_dim=12, num_heads=2)
    runs: list[int] = []
    teacher.model.register_forward_hook(lambda *_: runs.append(1))
    guide = Guide(student, teacher, image_size=32, terms=[Term(MaskedImages(), name="masked")])
    assert not guide.needs_teacher
    runs.clear()  # of the trial forward
    step = Guided(student, guide)(make_batch(32))
    step.loss.backward()
    assert not runs and step.loss.item() == pytest.approx(
        (step.parts["classification"] + 9 * step.parts["masked"]).item(), rel=1e-6
    )
    # The student's own weights learn from it, and it holds none of them.
    assert student.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    assert not any(weight is own for weight in guide.parameters() for own in student.parameters())
    guide.remove()
    both = Guide(student, teacher, image_size=32, terms=[Term(MaskedImages()), Term(MapLoss())])
    assert both.needs_teacher
    assert Guided(student, both)(make_batch(32)).loss.isfinite()


def test_images_that_patches_do_not_divide_are_cropped_as_by_the_students_projection() -> None:
    student = create_student("timm:vit_tiny_patch16_224", **{**TINY, "image_size": 18}).double()
    loss = built(student)
    images = wave(2, 3, 18, 18, start=2)
    order = torch.arange(16).flip(0).expand(2, -1)
    value = loss.error(images, order)
    images[:, :, 16:] += 5
    torch.testing.assert_close(loss.error(images, order), value)


@pytest.mark.parametrize(("side", "hidden", "visible"), [(16, 0.75, 4), (40, 0.9, 10), (20, 0.8, 5), (8, 0.5, 2)])
def test_shares_of_a_whole_number_of_patches_hide_that_number(side: int, hidden: float, visible: int) -> None:
    assert built(a_student(image_size=side), hidden=hidden).visible == visible


def test_a_single_token_has_nothing_for_local_attention() -> None:
    student = a_student(image_size=8, attention="local", pooling="mean")
    with pytest.raises(ModelError, match="local attention excludes the token itself, and there is no other; show more"):
        built(student)(wave(1, 3, 8, 8))


def test_the_learned_token_of_hidden_patches_does_not_decay() -> None:
    loss = built(a_student())
    decayed, kept = parameter_groups(loss, weight_decay=0.1)
    assert any(weight is loss.mask_token for weight in kept["params"])
    assert any(weight is loss.layers["enter"].weight for weight in decayed["params"])


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"tokenizer": "conv"}, "overlapping patches"),
        ({"tokenizer": "shifted"}, "overlapping patches"),
        ({"attention": "gaussian-mask"}, "attention=gaussian-mask"),
        ({"qkv": "multiscale"}, "qkv=multiscale"),
    ],
)
def test_students_whose_tokens_show_other_patches_are_refused(options: dict[str, str], part: str) -> None:
    with pytest.raises(ModelError, match=rf"PlainViT cannot encode some patches alone: it has .*{part}.*; expected"):
        visible_patches(a_student(**options))


def test_other_students_shares_and_decoders_are_refused(conv_student: nn.Module) -> None:
    with pytest.raises(ModelError, match=r"cannot encode some patches alone, expected a plain ViT such as vit_96"):
        visible_patches(conv_student)
    with pytest.raises(InputError, match=r"hides 0.95 of 16 patches, which leaves 0 visible; expected at least one"):
        built(a_student(), hidden=0.95)
    with pytest.raises(InputError, match=r"a decoder of width 12 with 5 heads, expected a multiple of 4 and of heads"):
        built(a_student(), width=12, heads=5)
    with pytest.raises(InputError, match="MaskedImages"):
        MaskedImages()(wave(1, 3, 8, 8))
