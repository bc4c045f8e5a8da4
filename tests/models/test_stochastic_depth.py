"""timm's blocks with fewer launches for dropped branches: the same draws and the same results."""

import copy

import pytest
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from lgkd.models.stochastic_depth import _forward, _Masks, quick_drop_path


def blocks() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(Block(12, 2, drop_path=rate, init_values=0.5) for rate in (0.0, 0.3, 0.6)))


@pytest.mark.parametrize("training", [True, False])
def test_blocks_compute_what_timms_do(training: bool) -> None:
    model = blocks().train(training)
    tokens = torch.randn(16, 5, 12)
    torch.manual_seed(7)
    expected = model(tokens)
    expected.square().sum().backward()
    gradients = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    masks = _Masks([drop for block in model[1:] for drop in (block.drop_path1, block.drop_path2)], "cpu")
    torch.manual_seed(7)
    found = tokens
    for block in model:
        found = _forward(block, masks, found)
    found.square().sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip((weight.grad for weight in model.parameters()), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    if training:
        assert len(torch.unique(masks._drawn)) > 2, "images must have been dropped, at different rates"


def test_a_branch_of_another_number_format_is_multiplied_in_its_own() -> None:
    model = blocks()
    masks = _Masks([model[1].drop_path1, model[1].drop_path2], "cpu")
    tokens, branch = torch.randn(9, 5, 12), torch.randn(9, 5, 12).bfloat16()
    torch.manual_seed(3)
    expected = tokens + model[1].drop_path1(branch)
    torch.manual_seed(3)
    assert torch.equal(masks.added(tokens, branch, model[1].drop_path1), expected)


def vit(**options: object) -> VisionTransformer:
    return VisionTransformer(img_size=8, patch_size=4, embed_dim=12, depth=2, num_heads=2, num_classes=3, **options)  # type: ignore[arg-type]


def test_blocks_are_changed_on_a_device_inside_the_context_only() -> None:
    model = vit(drop_path_rate=0.2)
    with quick_drop_path(model, "cpu"):
        assert all("forward" not in vars(block) for block in model.blocks)
    with quick_drop_path(model, "meta"):
        assert all("forward" in vars(block) for block in model.blocks)
        copied = copy.deepcopy(model)
    assert all("forward" not in vars(block) for block in model.blocks)
    images = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(copied.eval()(images), model.eval()(images))
    for left_alone in (vit(), vit(drop_path_rate=0.2)):
        left_alone.set_grad_checkpointing(left_alone.blocks[1].drop_path1.__class__ is not nn.Identity)
        with quick_drop_path(left_alone, "meta"):
            assert all("forward" not in vars(block) for block in left_alone.blocks)
