"""Distillation with an enhanced target: the authors' numbers, a loop, and what it is with a power of 1."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lgkd.errors import InputError
from lgkd.losses import TargetEnhancedKD

LABELS = torch.tensor([0, 6, 3, 3])


def wave(scale: float, start: float) -> Tensor:
    return scale * (torch.arange(28, dtype=torch.float64) * 0.37 + start).sin().view(4, 7)


@pytest.mark.parametrize(
    ("gamma", "temperature", "value", "slope"),
    [
        # OFAKD f7bb896, ofa_loss, with these logits: its value, and the sum of the sizes of its gradient.
        (1.0, 1.0, 2.0378743333895746, 0.946849640449857),
        (1.5, 1.0, 1.6816023027356022, 1.1933872099108536),
        (0.7, 4.0, 3.0887747992999683, 0.1308491176008909),
        (2.0, 2.0, 1.4662311445193907, 0.5694244225284134),
    ],
)
def test_value_and_gradient_are_those_of_the_authors_code(
    gamma: float, temperature: float, value: float, slope: float
) -> None:
    student = wave(3, 1).requires_grad_()
    found = TargetEnhancedKD(gamma, temperature)(student, wave(4, 2), LABELS)
    found.backward()
    assert found.item() == pytest.approx(value, rel=1e-12) and student.grad is not None
    assert student.grad.abs().sum().item() == pytest.approx(slope, rel=1e-12)


def test_it_is_the_formula_class_by_class_and_mixed_labels_count_as_their_largest_part() -> None:
    student, teacher = wave(3, 1), wave(4, 2)
    total = 0.0
    for ours, theirs, label in zip(student.tolist(), teacher.tolist(), LABELS.tolist(), strict=True):
        q, p = ([math.exp(v / 2) / sum(math.exp(w / 2) for w in row) for v in row] for row in (ours, theirs))
        total -= sum(((p[k] + (k == label)) ** 1.3 - (k == label)) * math.log(q[k]) for k in range(7))
    loss = TargetEnhancedKD(1.3, 2.0)
    assert loss(student, teacher, LABELS).item() == pytest.approx(total / 4, rel=1e-12)
    mixed = 0.6 * F.one_hot(LABELS, 7).double() + 0.4 * F.one_hot(LABELS.roll(1), 7)
    assert torch.equal(loss(student, teacher, mixed), loss(student, teacher, LABELS))


def test_with_a_power_of_one_it_is_the_cross_entropy_with_the_teacher() -> None:
    student, teacher = wave(3, 1), wave(4, 2)
    expected = F.cross_entropy(student, teacher.softmax(dim=1))
    torch.testing.assert_close(TargetEnhancedKD()(student, teacher, LABELS), expected, rtol=1e-12, atol=0)
    same = teacher.clone().requires_grad_()
    TargetEnhancedKD()(same, teacher, LABELS).backward()
    assert same.grad is not None and same.grad.abs().max() < 1e-12
    same.grad = None
    TargetEnhancedKD(1.5)(same, teacher, LABELS).backward()
    # The target's logit is drawn up further than the teacher's.
    assert (same.grad.gather(1, LABELS[:, None]) < 0).all()


def test_bad_options_are_refused() -> None:
    with pytest.raises(InputError, match="TargetEnhancedKD: gamma is 0, expected a number > 0"):
        TargetEnhancedKD(0)
