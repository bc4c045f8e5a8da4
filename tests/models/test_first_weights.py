"""First weights of the paper's teacher and students, as its authors' code draws them."""

import pytest
import torch
from timm.layers.drop import DropPath
from torch import nn

from lgkd.models.cnn.resnet import CifarResNet, CifarResNetX4
from lgkd.models.factory import create_student


@pytest.mark.parametrize("depth", [8, 56])
def test_the_head_of_the_papers_teacher_is_narrow_and_without_biases(depth: int) -> None:
    torch.manual_seed(0)
    head = CifarResNet(depth, 100).fc
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.03) and abs(head.weight.mean().item()) < 5e-4
    assert not head.bias.any()


def test_the_head_of_the_wide_one_is_torchs_as_in_its_source() -> None:
    torch.manual_seed(0)
    head = CifarResNetX4(8, 100).fc
    # Uniform up to the root of 1 / 256.
    assert head.weight.std().item() == pytest.approx(1 / 16 / 3**0.5, rel=0.03)
    assert 0 < head.bias.abs().max().item() <= 1 / 16


@pytest.mark.parametrize("distilled", [False, True])
def test_deits_class_token_is_as_wide_as_its_positions(distilled: bool) -> None:
    torch.manual_seed(0)
    options = {"distillation_token": True} if distilled else {}
    student = create_student("deit_tiny", num_classes=5, image_size=32, depth=2, **options)
    tokens = [student.cls_token, student.dist_token] if distilled else [student.cls_token]
    for token in tokens:
        assert token.std().item() == pytest.approx(0.02, rel=0.2)
    assert student.pos_embed.std().item() == pytest.approx(0.02, rel=0.1)
    assert not student.head.weight.any() and not student.head.bias.any()


def test_cvts_head_has_the_biases_that_torch_draws_and_no_other_layer_has() -> None:
    torch.manual_seed(0)
    student = create_student("cvt_13", num_classes=200, image_size=32, depths=(1, 1, 1), embed_dims=(16, 32, 64),
                             num_heads=(1, 2, 4))  # fmt: skip
    assert student.head.bias.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.15)
    assert student.head.bias.abs().max().item() <= 1 / 8
    others = [module for module in student.modules() if isinstance(module, nn.Linear) and module is not student.head]
    assert len(others) > 10 and not any(layer.bias.any() for layer in others)
    assert student.head.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_what_timms_students_compute_otherwise_than_the_papers_code_is_as_it_is_described() -> None:
    pit = create_student("pit_ti", num_classes=2, image_size=64, drop_path_rate=0.11)
    rates = [module.drop_prob for module in pit.modules() if isinstance(module, DropPath)]
    # Two in each block but the first, which is never left out: i / 11 of the rate in block i.
    assert rates == pytest.approx([0.01 * block for block in range(1, 12) for _ in range(2)])
    pvt = create_student("pvt_v2_b0", num_classes=2, image_size=64)
    assert (
        sorted(module.eps for module in pvt.modules() if isinstance(module, nn.LayerNorm)) == [1e-6] * 20 + [1e-5] * 10
    )


def test_a_deit_without_a_class_token_is_made_all_the_same() -> None:
    options = {"class_token": False, "global_pool": "avg", "depth": 1}
    assert create_student("deit_tiny", num_classes=2, image_size=32, **options).cls_token is None
