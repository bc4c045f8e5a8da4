"""Losses between logits: golden numbers, hand-written loops, finite differences and what must hold of them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.errors import InputError
from lgkd.losses import DIST, DKD, KD, TERMS, DeiTHard, DeiTSoft, LumiNet, StandardizedDKD, StandardizedKD
from lgkd.losses.standardized_kd import standardized
from tests.support.golden_inputs import golden_inputs

KINDS = [kind for kind, loss in TERMS.items() if loss.reads in ("logits", "distillation")]
SOFT = [kind for kind in KINDS if kind not in ("deit-hard", "target-enhanced-kd")]


def drawn(batch: int = 4, classes: int = 5, *, scale: float = 2.0, seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Student's and teacher's logits in double precision, and labels."""
    chance = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(2, batch, classes, generator=chance, dtype=torch.float64)
    return logits[0], logits[1], torch.randint(0, classes, (batch,), generator=chance)


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def kl(first: list[float], second: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(first, second, strict=True))


def dkd_by_hand(student: Tensor, teacher: Tensor, labels: Tensor, alpha: float, beta: float, heat: float) -> float:
    """Sample by sample and class by class, from probabilities."""
    total = 0.0
    for ours, theirs, label in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        q, p = softmax([value / heat for value in ours]), softmax([value / heat for value in theirs])
        target = kl([p[label], 1 - p[label]], [q[label], 1 - q[label]])
        others = [k for k in range(len(p)) if k != label]
        other = kl([p[k] / (1 - p[label]) for k in others], [q[k] / (1 - q[label]) for k in others])
        total += heat**2 * (alpha * target + beta * other)
    return total / len(student)


def test_the_losses_give_the_numbers_that_other_peoples_code_gives(golden: Callable[[str], Any]) -> None:
    values, given = golden("term_losses"), golden_inputs()
    logits = given.student_logits, given.teacher_logits, given.labels
    classification = F.cross_entropy(given.student_logits, given.labels)
    found = {
        "kd_4": KD(4)(*logits),
        "kd_4_elements": KD(4, "elements")(*logits),
        "classification_0.1_and_kd_4_0.9": 0.1 * classification + 0.9 * KD(4)(*logits),
        "deit_soft_3_elements_0.5_and_classification_0.5": (classification + DeiTSoft(3, "elements")(*logits)) / 2,
        "deit_hard_0.5_and_classification_0.5": (classification + DeiTHard()(*logits)) / 2,
        "dkd_1_8_4": DKD(1, 8, 4)(*logits),
        "dkd_1_2_1": DKD(1, 2, 1)(*logits),
        "standardized_kd_2_times_9": 9 * StandardizedKD(2)(*logits),
        "dist_1_1_1": DIST(1, 1, 1)(*logits),
    }
    for name, value in found.items():
        assert value.item() == pytest.approx(values[name], rel=1e-6), name


@pytest.mark.parametrize(("heat", "mean"), [(1.0, "batch"), (4.0, "batch"), (3.0, "elements")])
def test_distillation_is_the_mean_of_the_samples_divergences(heat: float, mean: Any) -> None:
    student, teacher, labels = drawn()
    expected = [
        heat**2 * kl(softmax([t / heat for t in theirs]), softmax([s / heat for s in ours]))
        for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    divisor = 4 if mean == "batch" else 4 * 5
    for loss in (KD(heat, mean), DeiTSoft(heat, mean)):
        assert loss(student, teacher, labels).item() == pytest.approx(sum(expected) / divisor, rel=1e-12)


def test_the_hard_loss_is_the_cross_entropy_with_the_teachers_decision() -> None:
    student, teacher, labels = drawn()
    decisions = [max(range(5), key=theirs.__getitem__) for theirs in teacher.tolist()]
    expected = [-math.log(softmax(ours)[k]) for ours, k in zip(student.tolist(), decisions, strict=True)]
    assert DeiTHard()(student, teacher, labels).item() == pytest.approx(sum(expected) / 4, rel=1e-12)


@pytest.mark.parametrize(("alpha", "beta", "heat"), [(1, 8, 4), (2, 0, 1), (0, 1, 0.5)])
def test_the_decoupled_loss_is_that_of_a_loop_over_classes(alpha: float, beta: float, heat: float) -> None:
    student, teacher, labels = drawn()
    expected = dkd_by_hand(student, teacher, labels, alpha, beta, heat)
    assert DKD(alpha, beta, heat)(student, teacher, labels).item() == pytest.approx(expected, rel=1e-10)


def test_with_the_factors_that_undo_it_decoupling_is_plain_distillation() -> None:
    student, teacher, labels = drawn(batch=1)
    rest = 1 - (teacher / 4).softmax(dim=1)[0, labels[0]].item()
    decoupled = DKD(1, rest, 4)(student, teacher, labels)
    torch.testing.assert_close(decoupled, KD(4)(student, teacher, labels), rtol=1e-12, atol=0)


def test_mixed_labels_count_as_their_heaviest_class() -> None:
    student, teacher, labels = drawn()
    mixed = 0.6 * F.one_hot(labels, 5).double() + 0.4 * F.one_hot((labels + 1) % 5, 5).double()
    for loss in (DKD(), StandardizedDKD()):
        assert torch.equal(loss(student, teacher, mixed), loss(student, teacher, labels))


@pytest.mark.parametrize(("beta", "gamma", "heat"), [(1, 1, 1), (2, 0, 4), (0, 3, 0.5)])
def test_correlations_are_those_of_numpy(beta: float, gamma: float, heat: float) -> None:
    student, teacher, labels = drawn()
    q, p = (logits.div(heat).softmax(dim=1).numpy() for logits in (student, teacher))
    within_samples = np.mean([np.corrcoef(q[b], p[b])[0, 1] for b in range(4)])
    within_classes = np.mean([np.corrcoef(q[:, k], p[:, k])[0, 1] for k in range(5)])
    expected = heat**2 * (beta * (1 - within_samples) + gamma * (1 - within_classes))
    assert DIST(beta, gamma, heat)(student, teacher, labels).item() == pytest.approx(expected, rel=1e-10)


def test_a_class_that_is_next_to_empty_counts_like_any_other() -> None:
    student, teacher, labels = drawn()
    # The last class holds some 1e-22 of the probability: its column still correlates perfectly.
    student[:, 4] -= 50
    teacher[:, :] = student
    assert DIST()(student.float(), teacher.float(), labels).item() == pytest.approx(0, abs=1e-6)


def test_standardised_logits_are_those_of_numpy() -> None:
    student, _, _ = drawn()
    values = student.numpy()
    expected = (values - values.mean(1, keepdims=True)) / (values.std(1, ddof=1, keepdims=True) + 1e-7)
    np.testing.assert_allclose(standardized(student).numpy(), expected, rtol=1e-12)


def test_a_head_that_starts_at_zero_gets_no_gradient_of_the_order_of_one_over_eps() -> None:
    _, teacher, labels = drawn()
    for loss in (StandardizedKD(), StandardizedDKD(), DIST()):
        student = torch.zeros(4, 5, dtype=torch.float64, requires_grad=True)
        loss(student, teacher, labels).backward()
        assert student.grad.abs().max() == 0, loss
    student = torch.full((4, 5), 1e-3, dtype=torch.float64).add_(1e-5 * teacher).requires_grad_()
    StandardizedKD(eps=0.1)(student, teacher, labels).backward()
    assert 0 < student.grad.abs().max() < 10


def test_the_standardised_losses_are_the_plain_ones_of_standardised_logits() -> None:
    student, teacher, labels = drawn()
    z_student, z_teacher = (
        (one - one.mean(1, keepdim=True)) / one.var(1, keepdim=True).sqrt() for one in (student, teacher)
    )
    for ours, plain in ((StandardizedKD(3), KD(3)), (StandardizedDKD(1, 5, 3), DKD(1, 5, 3))):
        expected = plain(z_student, z_teacher, labels)
        torch.testing.assert_close(ours(student, teacher, labels), expected, rtol=1e-6, atol=0)


def test_classes_standardised_over_the_batch_are_torchs_batch_norm() -> None:
    student, teacher, labels = drawn()
    ours, theirs = (F.batch_norm(one, None, None, training=True, eps=1e-5) / 4 for one in (student, teacher))
    expected = F.kl_div(ours.log_softmax(1), theirs.softmax(1), reduction="batchmean")
    torch.testing.assert_close(LumiNet(4)(student, teacher, labels), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_agrees_with_finite_differences(kind: str) -> None:
    student, teacher, labels = drawn()
    loss = TERMS[kind]()
    assert torch.autograd.gradcheck(lambda ours: loss(ours, teacher, labels), [student.requires_grad_()])


@pytest.mark.parametrize("kind", SOFT)
def test_a_perfect_imitation_costs_nothing_is_at_rest_and_anything_else_costs_something(kind: str) -> None:
    student, teacher, labels = drawn()
    loss = TERMS[kind]()
    same = teacher.clone().requires_grad_()
    perfect = loss(same, teacher, labels)
    perfect.backward()
    assert perfect.item() == pytest.approx(0, abs=1e-12)
    assert same.grad.abs().max() < 1e-9
    assert loss(student, teacher, labels) > 0.01
    assert loss(teacher + 0.01 * student, teacher, labels) > perfect


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "luminet"])
def test_no_sample_minds_a_shift_of_its_logits(kind: str) -> None:
    student, teacher, labels = drawn()
    loss = TERMS[kind]()
    shifted = loss(student + torch.arange(4.0)[:, None], teacher - 7, labels)
    torch.testing.assert_close(shifted, loss(student, teacher, labels), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["standardized-kd", "standardized-dkd"])
def test_standardised_losses_mind_no_scale_and_plain_ones_do(kind: str) -> None:
    student, teacher, labels = drawn()
    scales = torch.tensor([0.1, 1.0, 10.0, 100.0])[:, None]
    loss, plain = TERMS[kind](), TERMS[kind.removeprefix("standardized-")]()
    torch.testing.assert_close(
        loss(student * scales, teacher / scales, labels), loss(student, teacher, labels), rtol=1e-5, atol=0
    )
    assert not torch.isclose(plain(student * scales, teacher, labels), plain(student, teacher, labels), rtol=0.1)


def test_luminet_minds_neither_scale_nor_shift_of_a_class() -> None:
    student, teacher, labels = drawn(batch=8)
    changed = teacher * torch.tensor([3.0, 5.0, 2.0, 9.0, 4.0]) + torch.arange(5.0)
    torch.testing.assert_close(
        LumiNet()(student, changed, labels), LumiNet()(student, teacher, labels), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_batch_does_not_matter(kind: str) -> None:
    student, teacher, labels = drawn(batch=6)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    loss = TERMS[kind]()
    torch.testing.assert_close(
        loss(student[order], teacher[order], labels[order]), loss(student, teacher, labels), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("loss", [*(TERMS[kind]() for kind in KINDS), DIST(1, 0)], ids=lambda loss: type(loss).__name__)
def test_a_loss_says_whether_it_looks_across_the_batch(loss: nn.Module) -> None:
    student, teacher, labels = drawn()
    halves = [loss(student[part], teacher[part], labels[part]) for part in (slice(0, 2), slice(2, 4))]
    alone = torch.isclose(loss(student, teacher, labels), (halves[0] + halves[1]) / 2, rtol=1e-9)
    assert bool(alone) is not loss.across_batch


EXTREMES = {
    "sure and wrong": ([[500.0, -500.0, 0.0], [-500.0, 500.0, 0.0]], [[-500.0, 500.0, 0.0], [-500.0, 0.0, 500.0]]),
    "sure and right": ([[500.0, -500.0, -500.0], [500.0, -500.0, 0.0]], [[500.0, -500.0, -500.0], [500.0, 0.0, 0.0]]),
    "a student that starts at zero": ([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [[500.0, -500.0, 0.0], [1.0, 2.0, 3.0]]),
    "all alike": ([[500.0, 500.0, 500.0], [500.0, 500.0, 500.0]], [[-500.0, -500.0, -500.0], [0.0, 0.0, 0.0]]),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", EXTREMES)
@pytest.mark.parametrize("kind", KINDS)
def test_saturated_logits_have_finite_loss_and_gradient_in_every_precision(
    kind: str, case: str, dtype: torch.dtype
) -> None:
    ours, theirs = (torch.tensor(rows, dtype=dtype) for rows in EXTREMES[case])
    student = ours.requires_grad_()
    for labels in (torch.tensor([0, 1]), torch.tensor([2, 0])):
        loss = TERMS[kind]()(student, theirs, labels)
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.dtype == torch.float32 and loss.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", ["kd", "deit-soft", "dkd"])
def test_a_student_that_is_sure_and_wrong_is_told_so(kind: str) -> None:
    """Where probabilities are 0 in single precision, codes that take their logarithm return inf."""
    ours, theirs = (torch.tensor(rows) for rows in EXTREMES["sure and wrong"])
    found = TERMS[kind]()(ours, theirs, torch.tensor([1, 2]))
    expected = TERMS[kind]()(ours.double(), theirs.double(), torch.tensor([1, 2]))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5) and found > 100


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_and_half_precision_change_nothing_but_the_inputs_digits(kind: str) -> None:
    student, teacher, labels = drawn()
    half = student.bfloat16(), teacher.bfloat16()
    loss = TERMS[kind]()
    plain = loss(half[0].float(), half[1].float(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(*half, labels), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_reaches_the_teacher(kind: str) -> None:
    student, teacher, labels = drawn()
    TERMS[kind]()(student.requires_grad_(), teacher.requires_grad_(), labels).backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_other_classes_are_refused(kind: str) -> None:
    with pytest.raises(InputError, match=r"logits are \(2, 3\) and the teacher's \(2, 4\); both must be \(B,K\)"):
        TERMS[kind]()(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: KD(0), "KD: temperature is 0, expected a number > 0"),
        (lambda: KD(float("nan")), "KD: temperature is nan, expected a number > 0"),
        (lambda: KD(True), "KD: temperature is True, expected a number > 0"),
        (lambda: KD(4, "element"), r"KD: unknown mean 'element'; did you mean 'elements'\?"),
        (lambda: DeiTSoft(-1), "DeiTSoft: temperature is -1, expected a number > 0"),
        (lambda: DKD(alpha=-1), "DKD: alpha is -1, expected a number >= 0"),
        (lambda: DIST(gamma=float("inf")), "DIST: gamma is inf, expected a number >= 0"),
        (lambda: LumiNet("4"), "LumiNet: temperature is '4', expected a number > 0"),
        (lambda: StandardizedKD(eps=0), "StandardizedKD: eps is 0, expected a number > 0"),
        (lambda: DKD()(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2).long()), "got a single class; use KD"),
    ],
)
def test_bad_options_are_told_in_one_line(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
