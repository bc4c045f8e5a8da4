"""Losses between embeddings: golden numbers, loops over pairs and triples, and what must hold of them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lgkd.errors import InputError
from lgkd.losses import RKD, CorrelationCongruence, CrossCorrelation
from tests.support.golden_inputs import golden_inputs

KINDS = ["rkd", "cc", "cross-correlation"]


def loss_of(kind: str, student_width: int = 3, teacher_width: int = 4) -> nn.Module:
    """A loss of a kind, built, in double precision."""
    if kind == "rkd":
        return RKD()
    if kind == "cc":
        return CorrelationCongruence()
    torch.manual_seed(5)
    loss = CrossCorrelation(kappa=0.1, expansion=2)
    loss.build(student_width, teacher_width)
    return loss.double()


def drawn(batch: int = 5) -> tuple[Tensor, Tensor]:
    """A student's embedding (B,3) and a teacher's (B,4), in double precision."""
    chance = torch.Generator().manual_seed(6)
    return tuple(torch.randn(batch, width, generator=chance, dtype=torch.float64) for width in (3, 4))


def huber(value: float) -> float:
    return value**2 / 2 if abs(value) < 1 else abs(value) - 0.5


def relations(rows: list[list[float]]) -> tuple[dict[tuple[int, int], float], dict[tuple[int, int, int], float]]:
    """Distances in units of their mean, and cosines of angles, pair by pair and triple by triple."""
    count = range(len(rows))
    distances = {(i, j): math.dist(rows[i], rows[j]) for i in count for j in count}
    mean = sum(distances.values()) / (len(rows) * (len(rows) - 1))
    angles = {}
    for i in count:
        for j in count:
            for k in count:
                one, two = ([x - y for x, y in zip(rows[other], rows[i], strict=True)] for other in (j, k))
                lengths = math.hypot(*one) * math.hypot(*two)
                angles[i, j, k] = sum(x * y for x, y in zip(one, two, strict=True)) / lengths if lengths else 0.0
    return {pair: distance / mean for pair, distance in distances.items()}, angles


@pytest.mark.parametrize(("distance_weight", "angle_weight"), [(25, 50), (1, 0), (0, 2)])
def test_distances_and_angles_are_those_of_a_triple_loop(distance_weight: float, angle_weight: float) -> None:
    student, teacher = drawn()
    (ours, our_angles), (theirs, their_angles) = relations(student.tolist()), relations(teacher.tolist())
    expected = distance_weight * sum(huber(ours[pair] - theirs[pair]) for pair in ours) / 5**2
    expected += angle_weight * sum(huber(our_angles[place] - their_angles[place]) for place in our_angles) / 5**3
    assert RKD(distance_weight, angle_weight)(student, teacher).item() == pytest.approx(expected, rel=1e-10)


def test_relations_give_the_number_that_other_peoples_code_gives(golden: Callable[[str], Any]) -> None:
    given = golden_inputs()
    found = RKD(25, 50)(given.student_embedding, given.teacher_embedding)
    assert found.item() == pytest.approx(golden("term_losses")["rkd_25_50"], rel=2e-6)


@pytest.mark.parametrize(("gamma", "order"), [(0.4, 1), (0.4, 2), (1.5, 3)])
def test_congruence_is_that_of_a_loop_over_pairs(gamma: float, order: int) -> None:
    student, teacher = drawn()

    def kernel(one: list[float], two: list[float]) -> float:
        cosine = sum(x * y for x, y in zip(one, two, strict=True)) / (math.hypot(*one) * math.hypot(*two))
        return sum((2 * gamma * cosine) ** p / math.factorial(p) for p in range(order + 1)) / math.exp(2 * gamma)

    ours, theirs = student.tolist(), teacher.tolist()
    squares = [(kernel(ours[i], ours[j]) - kernel(theirs[i], theirs[j])) ** 2 for i in range(5) for j in range(5)]
    found = CorrelationCongruence(gamma, order)(student, teacher)
    assert found.item() == pytest.approx(sum(squares) / 25, rel=1e-10)


def test_at_a_high_order_congruence_is_that_of_gaussian_kernels() -> None:
    student, teacher = drawn()
    kernels = []
    for one in (student, teacher):
        unit = one / one.norm(dim=1, keepdim=True)
        kernels.append(torch.exp(-0.1 * torch.cdist(unit, unit).square()))
    found = CorrelationCongruence(0.1, 10)(student, teacher)
    torch.testing.assert_close(found, (kernels[0] - kernels[1]).square().mean(), rtol=1e-9, atol=0)


def test_cross_correlation_is_that_of_numpy() -> None:
    student, teacher = (1000 * one for one in drawn(8))  # so large that the added 1e-5 does not count
    loss = loss_of("cross-correlation")
    projected = 1000 * loss.projection(student).detach()
    loss.projection = nn.Sequential(Fixed(projected))
    block = np.corrcoef(projected.T.numpy(), teacher.T.numpy())[:4, 4:]
    expected = sum((block[i, j] - 1) ** 2 if i == j else 0.1 * block[i, j] ** 2 for i in range(4) for j in range(4))
    assert loss(student, teacher).item() == pytest.approx(expected / 4, rel=1e-6)


class Fixed(nn.Module):
    """Gives a tensor, whatever it is given."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, given: Tensor) -> Tensor:
        return self.value


def test_cross_correlation_is_least_where_independent_features_are_met() -> None:
    # Rows of a Hadamard matrix: features with mean 0 that do not correlate.
    teacher = torch.tensor([[1, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]], dtype=torch.float64)
    loss = loss_of("cross-correlation", 3, 3)
    for imitation, value in ((teacher, 0.0), (5 * teacher + 2, 0.0), (-teacher, 4.0), (teacher.roll(1, 1), 1.1)):
        loss.projection = nn.Sequential(Fixed(imitation))
        assert loss(teacher, teacher).item() == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_agrees_with_finite_differences(kind: str) -> None:
    student, teacher = drawn()
    loss = loss_of(kind)
    inputs = [student.requires_grad_(), *loss.parameters()]
    assert torch.autograd.gradcheck(lambda ours, *_: loss(ours, teacher), inputs)


@pytest.mark.parametrize("kind", ["rkd", "cc"])
def test_a_perfect_imitation_up_to_rotation_and_scale_costs_nothing(kind: str) -> None:
    student, teacher = drawn()
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    loss = loss_of(kind)
    assert loss(3 * teacher @ rotation, teacher).item() == pytest.approx(0, abs=1e-20)
    assert loss(student, teacher) > 1e-3


def test_distances_and_angles_mind_no_shift_and_congruence_does() -> None:
    student, teacher = drawn()
    torch.testing.assert_close(RKD()(student + 5, teacher), RKD()(student, teacher), rtol=1e-9, atol=0)
    loss = CorrelationCongruence()
    assert not torch.isclose(loss(student + 5, teacher), loss(student, teacher), rtol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_batch_does_not_matter(kind: str) -> None:
    student, teacher = drawn()
    order, loss = torch.tensor([3, 1, 4, 0, 2]), loss_of(kind)
    torch.testing.assert_close(loss(student[order], teacher[order]), loss(student, teacher), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_all_look_across_the_batch_and_say_so(kind: str) -> None:
    student, teacher = drawn(6)
    loss = loss_of(kind)
    halves = [loss(student[part], teacher[part]) for part in (slice(0, 3), slice(3, 6))]
    assert loss.across_batch and not torch.isclose(loss(student, teacher), (halves[0] + halves[1]) / 2, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", ["large", "two alike", "all alike", "zeros"])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_are_finite_in_every_precision(kind: str, case: str, dtype: torch.dtype) -> None:
    student, teacher = (one.to(dtype) for one in drawn())
    if case == "large":
        student, teacher = 3000 * student, 3000 * teacher
    elif case == "two alike":
        student[1] = student[0]
        teacher[2] = teacher[0]
    else:
        student = torch.full_like(student, 2.0 if case == "all alike" else 0.0)
    loss = loss_of(kind).to(dtype)
    found = loss(student.requires_grad_(), teacher)
    (gradient,) = torch.autograd.grad(found, student)
    assert found.dtype == torch.float32 and found.isfinite()
    assert gradient.isfinite().all() and gradient.abs().max() < 1e4


@pytest.mark.parametrize("kind", ["rkd", "cc"])
def test_autocast_changes_nothing(kind: str) -> None:
    student, teacher = (one.float() for one in drawn())
    loss = loss_of(kind)
    plain = loss(student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(student, teacher), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_reaches_the_teacher(kind: str) -> None:
    student, teacher = drawn()
    loss_of(kind)(student.requires_grad_(), teacher.requires_grad_()).backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_of_other_batches_or_maps_are_refused(kind: str) -> None:
    loss = loss_of(kind)
    student, teacher = drawn()
    with pytest.raises(InputError, match=r"must be \(B,D\) and \(B,C\), pooled features of the same images"):
        loss(student, teacher[:3])
    with pytest.raises(InputError, match=r"the teacher's \(5, 4, 1, 1\)"):
        loss(student, teacher[:, :, None, None])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RKD(angle_weight=-1), "RKD: angle_weight is -1, expected a number >= 0"),
        (lambda: CorrelationCongruence(gamma=0), "CorrelationCongruence: gamma is 0, expected a number > 0"),
        (lambda: CorrelationCongruence(order=1.5), "order is 1.5, expected a whole number >= 1"),
        (lambda: CrossCorrelation(expansion=0), "expansion is 0, expected a whole number >= 1"),
        (lambda: CrossCorrelation()(*drawn()), r"has no projection; call build\(student_width, teacher_width\) first"),
        (lambda: loss_of("cross-correlation")(*drawn(1)), "a batch of one has no correlations; use batches of 2"),
        (lambda: loss_of("cross-correlation").build(3, 4), "this CrossCorrelation already has projections"),
    ],
)
def test_bad_use_is_told_in_one_line(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
