"""Removed heads and units: masking and removing them give equal logits, and options rebuild the shapes."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from lgkd.errors import ModelError
from lgkd.models.factory import create_model, create_student
from lgkd.models.pruned_student import prunable_parts, remove, shrink, widths_of
from lgkd.models.timm_interop import timm_call

SMALL = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
STUDENTS: dict[str, dict[str, object]] = {
    "deit_tiny": {},
    "timm:vit_tiny_patch16_224": {"global_pool": "avg", "class_token": False, "qkv_bias": False, "init_values": 0.1},
    "poorvit": {"q_rank": 5, "v_rank": 4, "patch_size": 8},
    "sl_vit": {"patch_size": 8},
    "cvt_7_4": {"patch_size": 8},
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = SMALL | STUDENTS[name]
    model = create_student(name, num_classes=5, image_size=32, **options).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@contextmanager
def masked(model: nn.Module, heads: list[list[int]], units: list[list[int]]) -> Iterator[None]:
    """Multiply the outputs of all other heads and units by 0."""
    hooks = []
    for part, kept_heads, kept_units in zip(prunable_parts(model), heads, units, strict=True):
        width = part.attention.head_dim
        for layer, count, kept, repeat in (
            (part.attention.proj, part.heads, kept_heads, width),
            (part.mlp.fc2, part.units, kept_units, 1),
        ):
            mask = torch.zeros(count, dtype=torch.float64)
            mask[kept] = 1
            columns = mask.repeat_interleave(repeat)
            hooks.append(layer.register_forward_pre_hook(lambda _, given, columns=columns: (given[0] * columns,)))
    yield
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("name", STUDENTS)
def test_removing_is_masking(name: str) -> None:
    model = build(name)
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    parts = prunable_parts(model)
    heads, units = [[0, 2], [1]], [[3, 1, 8], list(range(5, parts[1].units))]
    units = [sorted(block) for block in units]
    whole: Tensor = model(images)
    with masked(model, heads, units):
        expected = model(images)
    assert not torch.allclose(expected, whole, rtol=1e-3)
    for part, kept_heads, kept_units in zip(parts, heads, units, strict=True):
        remove(part, kept_heads, kept_units)
    assert torch.allclose(model(images), expected, rtol=1e-10, atol=1e-10)
    widths = widths_of(model)
    assert widths == {"kept_heads": "2,1", "kept_units": f"3,{len(units[1])}"}
    options = SMALL | STUDENTS[name] | widths
    again = create_model(name, num_classes=5, image_size=32, options=options).double().eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(images), model(images))


def test_the_fused_and_the_plain_attention_agree_after_pruning() -> None:
    model = build("sl_vit")
    remove(prunable_parts(model)[0], [0, 2], [4])
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    fused = model(images)
    for part in prunable_parts(model):
        part.attention.fused_attn = False
    assert torch.allclose(model(images), fused, rtol=1e-10)


def test_one_option_alone_keeps_the_other_whole() -> None:
    model = create_student("deit_tiny", num_classes=5, image_size=32, **SMALL, kept_heads="1,3")
    assert widths_of(model) == {"kept_heads": "1,3", "kept_units": "96,96"}
    single = create_student("vit_96", num_classes=5, image_size=32, patch_size=8, depth=1, kept_units=7)
    assert widths_of(single)["kept_units"] == "7"


@pytest.mark.parametrize("value", ["1", "1,2,3", "0,3", "4,1", "a,1", "-1,1", True, "1.0,2"])
def test_numbers_that_do_not_fit_are_refused(value: object) -> None:
    with pytest.raises(ModelError, match=r"kept_heads is .*, expected 2 whole numbers, one a block, from 1 to 3,3"):
        create_student("deit_tiny", num_classes=5, image_size=32, **SMALL, kept_heads=value)


def test_models_without_such_blocks_are_refused() -> None:
    with pytest.raises(ModelError, match="has no blocks whose heads and MLP units can be removed"):
        create_student("resnet8", num_classes=5, image_size=32, kept_heads="1")
    gated = create_student("deit_tiny", num_classes=5, image_size=32, **SMALL)
    for part in prunable_parts(gated):
        part.attention.norm = nn.LayerNorm(24)
    with pytest.raises(ModelError, match="has no blocks"):
        shrink(gated, "gated", {"kept_heads": "1,1"})


def test_timm_alone_does_not_build_a_pruned_student() -> None:
    assert timm_call("deit_tiny", SMALL, num_classes=5, image_size=(32, 32)) is not None
    assert timm_call("deit_tiny", SMALL | {"kept_units": "5,5"}, num_classes=5, image_size=(32, 32)) is None
