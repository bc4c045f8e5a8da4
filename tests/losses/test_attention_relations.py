"""Relations of queries, keys and values: a loop in numpy, the attention weights of a model, invariances."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import lgkd
from lgkd.errors import InputError
from lgkd.losses import AttentionRelations
from lgkd.models.factory import create_student
from tests.support.losses import normal


def rows(one: np.ndarray, heads: int, left: int, right: int) -> np.ndarray:
    """Rows of probabilities of one image, (H,N,N), by a loop over heads and positions; 0, 1, 2 are q, k, v."""
    width = len(one) // 3
    size = width // heads
    tokens = one.reshape(len(one), -1)
    found = np.empty((heads, tokens.shape[1], tokens.shape[1]))
    for head in range(heads):
        first, second = (tokens[part * width + head * size :][:size] for part in (left, right))
        for place in range(tokens.shape[1]):
            powers = np.exp([first[:, place] @ second[:, other] / np.sqrt(size) for other in range(tokens.shape[1])])
            found[head, place] = powers / powers.sum()
    return found


def test_it_is_the_loss_of_a_loop_over_images_heads_and_positions() -> None:
    pairs = [(normal(3, 12, 2, 3).double(), normal(3, 24, 4, 3, seed=1).double()),
             (normal(3, 24, 4, 4, seed=2).double(), normal(3, 12, 2, 2, seed=3).double())]  # fmt: skip
    total = 0.0
    for student, teacher in pairs:
        grid = [min(sides) for sides in zip(student.shape[2:], teacher.shape[2:], strict=True)]
        ours, theirs = (F.adaptive_avg_pool2d(one, grid).numpy() for one in (student, teacher))
        for one, other in zip(ours, theirs, strict=True):
            for left, right in ((0, 1), (2, 2)):
                p, q = rows(other, 2, left, right), rows(one, 2, left, right)
                total += (p * np.log(p / q)).sum() / (p.shape[0] * p.shape[1]) / len(ours)
    found = AttentionRelations(heads=2)([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    assert found.item() == pytest.approx(total, rel=1e-10)


def attention_weights(model: torch.nn.Module, block: int, images: Tensor) -> Tensor:
    """Softmax of the scaled products of queries and keys of a block, class token left out: (B,H,N,N)."""
    seen: list[Tensor] = []
    attention = model.blocks[block].attn
    handle = attention.qkv.register_forward_hook(lambda *call: seen.append(call[2]))
    model(images)
    handle.remove()
    prefix = seen[0].shape[1] - 64
    query, key, _ = seen[0][:, prefix:].unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return (query @ key.mT * query.shape[-1] ** -0.5).softmax(3)


def test_a_guide_of_two_vits_compares_their_attention_weights() -> None:
    torch.manual_seed(0)
    student = create_student("vit_96", num_classes=10, image_size=32, num_heads=4, depth=3).eval()
    network = create_student("vit_128", num_classes=10, image_size=32).eval()
    for model in (student, network):
        for block in model.blocks:
            torch.nn.init.normal_(block.attn.qkv.weight, std=0.1)
    heads = student.blocks[0].attn.num_heads
    assert network.blocks[0].attn.num_heads == heads
    taps, deeper = ["blocks.0.attn.qkv", "blocks.2.attn.qkv"], ["blocks.0.attn.qkv", "blocks.5.attn.qkv"]
    loss = AttentionRelations(heads=heads)
    teacher = lgkd.Teacher(network, image_size=32, taps=deeper)
    guide = lgkd.Guide(student, teacher, image_size=32, terms=[lgkd.Term(loss)], taps=taps)
    assert [(pair.student_map, pair.teacher_map) for pair in guide.pairs] == [((288, 8, 8), (384, 8, 8))] * 2
    seen: list[tuple[list[Tensor], list[Tensor]]] = []
    loss.register_forward_pre_hook(lambda _, given: seen.append(given))
    images = normal(2, 3, 32, 32)
    step = lgkd.Guided(student, guide).eval()(lgkd.Batch(images, torch.tensor([1, 2])))
    guide.remove()
    expected = torch.zeros(())
    for block, depth, ours, theirs in zip((0, 2), (0, 5), *seen[0], strict=True):
        # Class tokens are not among the positions, so the rows are normalised again without them.
        p, q = attention_weights(network, depth, images), attention_weights(student, block, images)
        expected = expected + (p * (p / q).log()).sum(3).mean()
        values = (one.flatten(2).unflatten(1, (3, heads, -1))[:, 2] for one in (theirs, ours))
        p, q = ((one.mT @ one * one.shape[2] ** -0.5).softmax(3) for one in values)
        expected = expected + (p * (p / q).log()).sum(3).mean()
    assert expected > 0.01
    torch.testing.assert_close(loss(*seen[0]), expected.detach(), rtol=1e-4, atol=1e-6)
    assert step.loss.isfinite()


def test_equal_relations_cost_nothing_and_a_rotation_within_heads_changes_none() -> None:
    one = normal(2, 12, 3, 3).double()
    turn = torch.linalg.qr(normal(2, 2, seed=5).double())[0]
    turned = torch.einsum("bpheij,ef->bphfij", one.unflatten(1, (3, 2, 2)), turn).flatten(1, 3)
    assert AttentionRelations(heads=2)([turned], [one]).item() == pytest.approx(0, abs=1e-12)
    assert AttentionRelations(heads=2)([normal(2, 12, 3, 3, seed=1).double()], [one]) > 0.1


@pytest.mark.parametrize(("heads", "channels"), [(4, 18), (2, 4)])
def test_channels_of_other_layers_are_refused(heads: int, channels: int) -> None:
    maps = [normal(2, channels, 2, 2)]
    with pytest.raises(
        InputError, match=f"a tap has {channels} channels, expected queries, keys and values of {heads} "
    ):
        AttentionRelations(heads=heads)(maps, maps)


def test_large_products_give_finite_losses_and_gradients() -> None:
    student = (100 * normal(2, 12, 3, 3)).requires_grad_()
    loss = AttentionRelations(heads=2)([student], [100 * normal(2, 12, 3, 3, seed=1)])
    loss.backward()
    assert loss.isfinite() and student.grad is not None and student.grad.isfinite().all()


def test_a_student_learns_the_relations_of_a_teacher() -> None:
    torch.manual_seed(1)
    student, network = (create_student("vit_96", num_classes=10, image_size=32, depth=2) for _ in range(2))
    torch.nn.init.normal_(network.blocks[1].attn.qkv.weight, std=0.1)
    taps = ["blocks.1.attn.qkv"]
    teacher = lgkd.Teacher(network, image_size=32, taps=taps)
    term = lgkd.Term(AttentionRelations(3))
    task = lgkd.Guided(student, lgkd.Guide(student, teacher, image_size=32, terms=[term], taps=taps))
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    losses = []
    for number in range(20):
        batch = lgkd.Batch(normal(8, 3, 32, 32, seed=number % 4), torch.zeros(8, dtype=torch.int64))
        step = task(batch)
        optimizer.zero_grad()
        (step.loss - step.parts["classification"]).backward()
        optimizer.step()
        losses += [float(value) for name, value in step.parts.items() if name != "classification"]
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])
