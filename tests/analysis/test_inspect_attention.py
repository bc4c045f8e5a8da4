"""Attention distance: by hand, against a loop, and over every way in which students compute attention."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.analysis.inspect.attention_capture import attention_weights, looked_at, read
from lgkd.analysis.inspect.attention_distance import (
    PatchAttention,
    between_patches,
    distances,
    even_distance,
    mean_distance,
)
from lgkd.errors import TapError
from lgkd.models.factory import create_student


def test_distances_between_patches_are_those_drawn_on_paper() -> None:
    # Two by two patches of a 8 x 12 image: their centres are 4 pixels apart downwards and 6 across.
    apart = distances((2, 2), (2, 2), (8, 12))
    diagonal = math.hypot(4, 6)
    expected = [[0, 6, 4, diagonal], [6, 0, diagonal, 4], [4, diagonal, 0, 6], [diagonal, 4, 6, 0]]
    assert apart.tolist() == [pytest.approx(row) for row in expected]


def test_the_mean_attention_distance_is_worked_out_by_hand() -> None:
    # Head 0 looks at itself; head 1 of the first patch half to the right, half below; of the others at the first.
    itself = torch.eye(4)
    other = torch.tensor([[0, 0.5, 0.5, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]], dtype=torch.float32)
    seen = PatchAttention(torch.stack([itself, other])[None], (2, 2), (2, 2))
    found = mean_distance(seen, (8, 12))
    assert found.tolist() == pytest.approx([0, (5 + 6 + 4 + math.hypot(4, 6)) / 4])


def test_even_attention_is_as_far_as_all_distances_are_on_average() -> None:
    even = PatchAttention(torch.full((3, 1, 6, 6), 1 / 6), (2, 3), (2, 3))
    assert even_distance((2, 3), (2, 3), (16, 24)) == pytest.approx(float(mean_distance(even, (16, 24))[0]))


def test_reduced_keys_lie_in_the_middle_of_their_cells() -> None:
    # One key for the whole image of 8 x 8 pixels: every one of the four patches is sqrt(8) pixels from its centre.
    assert distances((2, 2), (1, 1), (8, 8)).flatten().tolist() == pytest.approx([math.sqrt(8)] * 4)


def test_prefix_tokens_are_left_out_and_rows_sum_to_one_again() -> None:
    chance = torch.Generator().manual_seed(0)
    weights = torch.rand(2, 3, 5, 5, generator=chance).softmax(dim=-1)
    among = between_patches(weights, torch.zeros(2, 5, 8), (8, 8), 1)
    assert among.grid == (2, 2)
    for head in range(3):
        for row in range(4):
            kept = weights[1, head, row + 1, 1:]
            assert among.weights[1, head, row].tolist() == pytest.approx((kept / kept.sum()).tolist())


def test_tokens_that_join_behind_the_patches_are_left_out() -> None:
    # DHVT: a class token, four patches, and three heads' tokens; the block puts out the first five.
    weights = torch.full((1, 3, 8, 8), 1 / 8)
    among = between_patches(weights, torch.zeros(1, 5, 6), (8, 8), 1)
    assert among.weights.shape == (1, 3, 4, 4)


def test_what_is_no_grid_of_patches_is_refused_in_words() -> None:
    with pytest.raises(TapError, match="attends within windows"):
        between_patches(torch.ones(8, 1, 4, 4), torch.zeros(2, 16, 8), (8, 8), None)
    with pytest.raises(TapError, match="2 tokens ask, expected the 4 patches"):
        between_patches(torch.ones(2, 1, 2, 4), torch.zeros(2, 4, 8), (8, 8), None)
    with pytest.raises(TapError, match="looks at 13 keys, which form no grid"):
        between_patches(torch.ones(2, 1, 16, 13), torch.zeros(2, 16, 8), (8, 8), 0)


@pytest.mark.parametrize("kind", ["plain", "scaled", "truths", "added", "causal"])
def test_weights_are_those_that_the_fused_function_mixes_by(kind: str) -> None:
    chance = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(2, 3, 5, 4, generator=chance) for _ in range(3))
    mask = torch.rand(5, 5, generator=chance)
    options = {
        "plain": {},
        "scaled": {"scale": 0.3},
        "truths": {"attn_mask": (mask > 0.4) | torch.eye(5, dtype=torch.bool)},
        "added": {"attn_mask": mask},
        "causal": {"is_causal": True},
    }[kind]
    expected = F.scaled_dot_product_attention(query, key, value, **options)
    assert torch.allclose(attention_weights(query, key, **options) @ value, expected, atol=1e-6)


STUDENTS = {
    # Name, image size, options; each computes attention in another way.
    "deit_tiny": (32, {"patch_size": 8, "depth": 2}),
    "vit_lite": (32, {"depth": 2}),
    "sl_vit": (32, {"depth": 2}),
    "convit_tiny": (32, {"patch_size": 8, "depth": 3, "local_up_to_layer": 2}),
    "dhvt_tiny": (32, {"depth": 2}),
    "pvt_v2_b0": (64, {"depths": (1, 1, 1, 1)}),
    "pvt_tiny": (64, {}),
    "cvt_13": (64, {}),
    "pit_ti": (64, {"depth": (1, 1, 1)}),
}


@pytest.mark.parametrize("name", STUDENTS)
def test_every_way_of_attending_is_seen_and_its_rows_sum_to_one(name: str) -> None:
    size, options = STUDENTS[name]
    torch.manual_seed(0)
    student = create_student(name, num_classes=5, image_size=size, **options).train()
    images = torch.randn(2, 3, size, size)
    layers = looked_at(student)
    seen = read(student, layers, images)
    assert list(seen.outputs) == layers
    assert set(seen.weights) == set(layers)
    hint = getattr(student, "num_prefix_tokens", None)
    for layer in layers:
        among = between_patches(seen.weights[layer], seen.outputs[layer], (size, size), hint)
        sums = among.weights.sum(dim=-1)
        assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5)
        assert torch.all(mean_distance(among, (size, size)) < size * math.sqrt(2))
    assert student.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in student.modules())


def test_the_weights_of_timm_are_those_of_its_unfused_way() -> None:
    torch.manual_seed(0)
    student = create_student("deit_tiny", num_classes=5, image_size=32, patch_size=8, depth=2)
    images = torch.randn(2, 3, 32, 32)
    fused = read(student, looked_at(student), images)
    for module in student.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    slow = read(student, looked_at(student), images)
    for layer, weights in fused.weights.items():
        assert torch.allclose(weights, slow.weights[layer], atol=1e-6)


class Plain(nn.Module):
    """torch's own encoder layers, which in evaluation take a way of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2))
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patch(images).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens.mean(dim=1))


def test_the_encoder_layers_of_torch_are_seen_too() -> None:
    torch.manual_seed(0)
    student = Plain().eval()
    before = torch.backends.mha.get_fastpath_enabled()
    images = torch.randn(2, 3, 16, 16)
    seen = read(student, looked_at(student), images)
    tokens = student.patch(images).flatten(2).transpose(1, 2)
    _, expected = student.blocks[0].self_attn(tokens, tokens, tokens, average_attn_weights=False)
    assert torch.allclose(seen.weights["blocks.0"], expected, atol=1e-6)
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_a_cnn_attends_to_nothing_but_its_stages_are_read() -> None:
    from lgkd.models.cnn.resnet import CifarResNet

    model = CifarResNet(8, 3)
    seen = read(model, looked_at(model), torch.randn(2, 3, 16, 16))
    assert list(seen.outputs) == ["stage1", "stage2", "stage3"]
    assert not seen.weights
