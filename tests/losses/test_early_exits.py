"""Exits of a student: layers written out, golden shapes of the source, and what trains."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lgkd
from lgkd.errors import InputError
from lgkd.losses import EarlyExits, TargetEnhancedKD
from lgkd.losses.early_exits import Exit
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.factory import create_student
from tests.support.losses import normal


def attended(tokens: Tensor, block: nn.TransformerEncoderLayer, heads: int) -> Tensor:
    """A pre-norm block, by a loop over heads."""
    width = tokens.shape[2]
    size = width // heads
    attention = block.self_attn
    normed = F.layer_norm(tokens, (width,), block.norm1.weight, block.norm1.bias)
    query, key, value = (normed @ attention.in_proj_weight.T + attention.in_proj_bias).split(width, dim=2)
    mixed = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        weights = (query[..., part] @ key[..., part].mT / math.sqrt(size)).softmax(2)
        mixed.append(weights @ value[..., part])
    tokens = tokens + torch.cat(mixed, dim=2) @ attention.out_proj.weight.T + attention.out_proj.bias
    normed = F.layer_norm(tokens, (width,), block.norm2.weight, block.norm2.bias)
    hidden = F.gelu(normed @ block.linear1.weight.T + block.linear1.bias)
    return tokens + hidden @ block.linear2.weight.T + block.linear2.bias


def drawn(module: nn.Module) -> nn.Module:
    for number, weight in enumerate(module.parameters()):
        weight.data = 0.3 * normal(*weight.shape, seed=number).double()
    return module.double()


def test_an_exit_equals_its_layers_written_out() -> None:
    leave = drawn(Exit((6, 14, 15), 8, 5, blocks=2))
    assert isinstance(leave, Exit) and len(leave.merges) == 1
    image = normal(3, 6, 14, 15, seed=50).double()
    merge = leave.merges[0]
    cells = torch.empty(3, 7, 7, 24, dtype=torch.float64)
    for row in range(7):
        for column in range(7):
            # Rows vary first, as in the source; the last column of 15 is left out.
            corners = [image[:, :, 2 * row + r, 2 * column + c] for c in (0, 1) for r in (0, 1)]
            cells[:, row, column] = torch.cat(corners, dim=1)
    normed = F.layer_norm(cells, (24,), merge.norm.weight, merge.norm.bias)
    tokens = F.gelu(normed @ merge.reduce.weight.T).flatten(1, 2)
    for block in leave.blocks:
        tokens = attended(tokens, block, heads=4)
    expected = tokens.mean(1) @ leave.classify.weight.T + leave.classify.bias
    torch.testing.assert_close(leave(image), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("side", "merges"), [(8, 0), (13, 0), (14, 1), (27, 1), (28, 2), (56, 3)])
def test_maps_are_merged_while_they_have_fourteen_positions_a_side(side: int, merges: int) -> None:
    """As the source counts: the whole part of log2(grid / 7)."""
    assert len(Exit((4, side, side), 8, 5, blocks=1).merges) == merges


def test_earlier_taps_have_more_blocks_and_all_the_width_of_the_last() -> None:
    loss = EarlyExits()
    loss.build([(12, 16, 16), (24, 8, 8), (48, 4, 4), (48, 4, 4)], 5)
    assert [len(leave.blocks) for leave in loss.exits] == [3, 2, 1, 1]
    assert {leave.classify.in_features for leave in loss.exits} == {48}
    maps = [normal(2, 12, 16, 16), normal(2, 24, 8, 8), normal(2, 48, 4, 4), normal(2, 48, 4, 4)]
    logits, targets = normal(2, 5, seed=1), torch.tensor([3, 0])
    parts = [TargetEnhancedKD()(leave(one), logits, targets) for leave, one in zip(loss.exits, maps, strict=True)]
    assert loss(maps, logits, targets).item() == pytest.approx(sum(part.item() for part in parts), rel=1e-6)


def test_gamma_and_temperature_reach_every_exit() -> None:
    loss = EarlyExits(gamma=1.5, temperature=2.0)
    loss.build([(4, 2, 2)], 5)
    leave, image = loss.exits[0], normal(3, 4, 2, 2)
    targets = torch.tensor([3, 0, 1])
    expected = TargetEnhancedKD(1.5, 2.0)(leave(image), normal(3, 5), targets)
    assert loss([image], normal(3, 5), targets).item() == pytest.approx(expected.item(), rel=1e-6)


def test_other_numbers_of_maps_and_a_second_build_are_refused() -> None:
    loss = EarlyExits()
    with pytest.raises(InputError, match="was built for 0 pairs and given 1 student maps"):
        loss([normal(2, 4, 2, 2)], normal(2, 5), torch.tensor([1, 2]))
    loss.build([(4, 2, 2)], 5)
    with pytest.raises(InputError, match="EarlyExits"):
        loss.build([(4, 2, 2)], 5)


@pytest.mark.parametrize("name", ["vit_96", "resnet8"])
def test_a_guide_trains_exits_and_student_and_reads_the_teachers_logits_alone(name: str) -> None:
    torch.manual_seed(0)
    student = create_student(name, num_classes=5, **({"image_size": 32, "depth": 3} if name == "vit_96" else {}))
    network = CifarResNet(8, 5)
    # Sure of different classes for different images.
    network.fc.weight.data.mul_(1000)
    teacher = lgkd.Teacher(network, image_size=32)
    guide = lgkd.Guide(student, teacher, image_size=32, terms=[lgkd.Term(EarlyExits(), name="exits")])
    assert guide.teaches == {"logits": (5,)}
    task = lgkd.Guided(student, guide)
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    losses = []
    for number in range(16):
        batch = lgkd.Batch(normal(8, 3, 32, 32, seed=number % 2), torch.arange(8) % 5)
        step = task(batch)
        optimizer.zero_grad()
        step.loss.backward()
        if not number:
            assert all(weight.grad is not None for weight in task.parameters() if weight.requires_grad)
        optimizer.step()
        losses.append(float(step.parts["exits"]))
    assert sum(losses[-2:]) < 0.7 * sum(losses[:2])
    guide.remove()
