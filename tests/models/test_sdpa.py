"""Attention is computed in the way that the device is quick at, and comes to the same."""

import pytest
import torch

from lgkd.distillation.tasks import Supervised
from lgkd.models.factory import create_student
from lgkd.models.sdpa import quick_attention
from lgkd.training.train_step import Engine
from tests.support.training import make_plan


def fused(model: torch.nn.Module) -> list[bool]:
    return [module.fused_attn for module in model.modules() if hasattr(module, "fused_attn")]


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [("cpu", "bf16", False), ("cpu", "fp32", True), ("cuda", "bf16", True), ("cuda:1", "fp16", True)],
)
def test_only_bf16_on_a_cpu_does_without_the_fused_function(device: str, precision: str, expected: bool) -> None:
    model = create_student("deit_tiny", num_classes=5, image_size=32, patch_size=8, depth=2)
    with quick_attention(model, device, precision):
        assert fused(model) == [expected] * 2
    assert fused(model) == [True] * 2


def test_both_ways_come_to_the_same_up_to_the_rounding_of_bf16() -> None:
    torch.manual_seed(0)
    model = create_student("timm:vit_tiny_patch16_224", num_classes=5, image_size=32, patch_size=4, depth=3)
    images = torch.randn(4, 3, 32, 32)
    exact = model(images)
    expected = torch.autograd.grad(exact.square().sum(), model.blocks[0].attn.qkv.weight)[0]
    for precision in ("bf16", "fp32"):
        with quick_attention(model, "cpu", precision), torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(images)
        found = torch.autograd.grad(logits.float().square().sum(), model.blocks[0].attn.qkv.weight)[0]
        assert (logits.float() - exact).norm() < 0.05 * exact.norm()
        assert (found - expected).norm() < 0.1 * expected.norm()


def test_a_student_has_its_own_way_back_after_the_training() -> None:
    student = create_student("deit_tiny", num_classes=5, image_size=32, patch_size=8, depth=2)
    engine = Engine(Supervised(student), make_plan(precision="bf16"), names=lambda index: [])
    assert fused(engine.eval_model) == fused(student) == [False, False]
    engine.close()
    assert fused(student) == [True, True]
