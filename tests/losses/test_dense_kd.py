"""Dense logits: golden numbers of the authors' code, a loop over positions, the course by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lgkd.losses import DenseKD
from lgkd.losses.dense_kd import local_share
from tests.support.losses import normal

# CSKD's get_loss_cskd (fa0d8b8) at epoch 3 of 10, T = 2, on 3 normal(2,5,14,14) and 3 normal(2,5,7,7, seed=1). Its soft
# form sums over the 49 positions.
PUBLISHED = {
    ("hard", "linear"): 2.4834232,
    ("hard", "square"): 2.4714565,
    ("hard", "cosine"): 2.4765728,
    ("soft", "linear"): 117.4264374 / 49,
    ("soft", "square"): 88.0787430 / 49,
    ("soft", "cosine"): 144.0758362 / 49,
}


def drawn(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    student, teacher = 3 * normal(2, 5, 14, 14).to(dtype), 3 * normal(2, 5, 7, 7, seed=1).to(dtype)
    return student, teacher, teacher.mean(dim=(2, 3))


@pytest.mark.parametrize(("target", "course"), PUBLISHED)
def test_the_authors_code_gives_the_same_number(target: str, course: str) -> None:
    loss = DenseKD(target, 2.0 if target == "soft" else 1.0, course)
    loss.set_progress(0.3)
    assert loss(*drawn()).item() == pytest.approx(PUBLISHED[target, course], rel=2e-6)


@pytest.mark.parametrize("target", ["hard", "soft"])
@pytest.mark.parametrize("grids", [((4, 2), (4, 2)), ((4, 4), (2, 2)), ((2, 3), (6, 3)), ((2, 6), (4, 3))])
def test_it_is_the_loss_of_a_loop_over_positions(target: str, grids: tuple[tuple[int, int], tuple[int, int]]) -> None:
    (rows, columns), (their_rows, their_columns) = grids
    student, teacher = normal(3, 4, *grids[0]).double(), 2 * normal(3, 4, *grids[1], seed=1).double()
    logits, share = normal(3, 4, seed=2).double(), 0.6
    loss = DenseKD(target, 3.0 if target == "soft" else 1.0).double()
    loss.set_progress(1 - share)
    height, width = min(rows, their_rows), min(columns, their_columns)

    def cell(dense: list[list[list[float]]], row: int, column: int) -> list[float]:
        """The mean logits of the positions that one position of the coarser grid covers."""
        tall, wide = len(dense[0]) // height, len(dense[0][0]) // width
        inside = [(row * tall + i, column * wide + j) for i in range(tall) for j in range(wide)]
        return [sum(of_class[i][j] for i, j in inside) / len(inside) for of_class in dense]

    def log_softmax(values: list[float]) -> list[float]:
        whole = math.log(sum(math.exp(value) for value in values))
        return [value - whole for value in values]

    total = 0.0
    for ours, theirs, whole in zip(student.tolist(), teacher.tolist(), logits.tolist(), strict=True):
        for place in range(height * width):
            one, other = (cell(dense, *divmod(place, width)) for dense in (ours, theirs))
            mixed = [share * local + (1 - share) * overall for local, overall in zip(other, whole, strict=True)]
            if target == "hard":
                total -= log_softmax(one)[mixed.index(max(mixed))]
                continue
            p, q = (log_softmax([value / 3.0 for value in values]) for values in (mixed, one))
            total += 9 * sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))
    found = loss(student, teacher, logits)
    assert found.item() == pytest.approx(total / (3 * height * width), rel=1e-12)


def test_the_course_by_hand() -> None:
    root = math.sqrt(0.5)
    assert [local_share("linear", at) for at in (0, 0.25, 0.5, 1)] == [1, 0.75, 0.5, 0]
    assert [local_share("square", at) for at in (0, 0.25, 0.5, 1)] == [1, 0.5625, 0.25, 0]
    assert [local_share("cosine", at) for at in (0, 0.5, 1)] == pytest.approx([1, root, 0], abs=1e-12)
    assert {local_share("local", at) for at in (0, 0.5, 1)} == {1.0}
    assert {local_share("global", at) for at in (0, 0.5, 1)} == {0.0}
    # An own loop may count beyond the epochs that it gave.
    assert local_share("linear", 1.5) == 0 and local_share("cosine", -0.1) == 1


def test_it_begins_local_and_ends_global() -> None:
    student, teacher, logits = drawn(torch.float64)
    ours = F.avg_pool2d(student, 2)
    loss = DenseKD().double()
    torch.testing.assert_close(loss(student, teacher, logits), F.cross_entropy(ours, teacher.argmax(dim=1)))
    loss.set_progress(1.0)
    wanted = logits.argmax(dim=1)[:, None, None].expand(-1, 7, 7)
    torch.testing.assert_close(loss(student, teacher, logits), F.cross_entropy(ours, wanted))
    torch.testing.assert_close(loss(student, teacher, logits), DenseKD(course="global")(student, teacher, logits))


@pytest.mark.parametrize("target", ["hard", "soft"])
def test_its_gradient_is_that_of_finite_differences_and_of_the_student_alone(target: str) -> None:
    student, teacher = normal(2, 3, 4, 4).double().requires_grad_(), normal(2, 3, 2, 2, seed=1).double()
    loss = DenseKD(target).double()
    loss.set_progress(0.5)
    logits = teacher.mean(dim=(2, 3))
    assert torch.autograd.gradcheck(lambda one: loss(one, teacher, logits), student)
    for one in (teacher, logits):
        one.requires_grad_()
    loss(student, teacher, logits).backward()
    assert teacher.grad is None and logits.grad is None and student.grad.any()


def test_the_gradient_of_soft_targets_is_the_difference_of_probabilities() -> None:
    student, teacher = normal(2, 3, 2, 2).double().requires_grad_(), normal(2, 3, 2, 2, seed=1).double()
    DenseKD("soft", 2.0, "local").double()(student, teacher, teacher.mean(dim=(2, 3))).backward()
    apart = (student.detach() / 2).softmax(dim=1) - (teacher / 2).softmax(dim=1)
    torch.testing.assert_close(student.grad, 4 / 2 * apart / (2 * 4))


def test_a_map_without_logits_gets_a_linear_classifier() -> None:
    loss = DenseKD()
    loss.build((6, 4, 4), (5, 2, 2), classified=False)
    assert {name: tuple(value.shape) for name, value in loss.named_parameters()} == {
        "classifier.0.weight": (5, 6, 1, 1), "classifier.0.bias": (5,),
    }  # fmt: skip
    tokens, teacher = normal(2, 6, 4, 4), normal(2, 5, 2, 2, seed=1)
    logits = torch.einsum("kd,bdhw->bkhw", loss.classifier[0].weight[:, :, 0, 0], tokens)
    logits = logits + loss.classifier[0].bias[:, None, None]
    torch.testing.assert_close(
        loss(tokens, teacher, teacher.mean(dim=(2, 3))), DenseKD()(logits, teacher, teacher.mean(dim=(2, 3)))
    )
    own = DenseKD()
    own.build((5, 4, 4), (5, 2, 2), classified=True)
    assert not list(own.parameters()) and own.state_dict() == {}, "the course is not in a checkpoint"


def test_the_course_survives_half_precision_and_a_move() -> None:
    loss = DenseKD("soft").to(torch.bfloat16)
    loss.set_progress(0.25)
    student, teacher, logits = (one.bfloat16() for one in drawn())
    assert loss(student, teacher, logits).dtype == torch.float32
    wide = DenseKD("soft").double()
    wide.set_progress(0.25)
    expected = wide(student.double(), teacher.double(), logits.double())
    torch.testing.assert_close(loss(student, teacher, logits).double(), expected, rtol=1e-4, atol=0)
