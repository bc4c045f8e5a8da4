"""The teacher's classifier on the student's features: golden numbers, a loop, gradients by hand."""

import pytest
import torch
from torch import Tensor

from lgkd.losses import TeacherHead
from tests.support.losses import normal

# SRD_ossl (d295cd8): transfer_conv with the weight normal(4,3, seed=2) in training, statm_loss, and the MSE of
# fc(features) with fc = (normal(5,4, seed=3), normal(5, seed=4)), on maps of one position normal(6,3, seed=5) and
# |normal(6,4, seed=6)|: both parts.
PUBLISHED_FEATURES, PUBLISHED_LOGITS = 0.6455876, 1.0448970


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    return normal(6, 3, seed=5), normal(6, 4, seed=6).abs(), normal(5, 4, seed=3)


def made(features: float = 1.0, projector: str = "norm") -> TeacherHead:
    loss = TeacherHead(features, projector)
    loss.build(3, 4, drawn()[2])
    with torch.no_grad():
        loss.projection[0].weight.copy_(normal(4, 3, seed=2))
    return loss


@pytest.mark.parametrize("features", [0.0, 1.0, 10.0])
def test_the_authors_code_gives_the_same_number(features: float) -> None:
    student, teacher, _ = drawn()
    found = made(features).train()(student, teacher)
    assert found.item() == pytest.approx(features * PUBLISHED_FEATURES + PUBLISHED_LOGITS, rel=2e-6)


def test_it_is_the_loss_of_a_loop_in_which_the_classifier_has_a_bias() -> None:
    student, teacher, matrix = (one.double() for one in drawn())
    loss = made(2.5, "linear").double()
    layer, bias = loss.projection[0], normal(5, seed=4).double().tolist()
    weight, shift = layer.weight.tolist(), layer.bias.tolist()

    def read(embedding: list[float]) -> list[float]:
        rows = zip(matrix.tolist(), bias, strict=True)
        return [sum(a * b for a, b in zip(row, embedding, strict=True)) + add for row, add in rows]

    logits, features = 0.0, 0.0
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        rows = zip(weight, shift, strict=True)
        projected = [sum(a * b for a, b in zip(row, ours, strict=True)) + add for row, add in rows]
        logits += sum((a - b) ** 2 for a, b in zip(read(projected), read(theirs), strict=True)) / 5
        features += sum((a - b) ** 2 for a, b in zip(projected, theirs, strict=True)) / 4
    assert loss(student, teacher).item() == pytest.approx((logits + 2.5 * features) / 6, rel=1e-10)


@pytest.mark.parametrize("projector", ["norm", "linear"])
def test_its_gradient_is_that_of_finite_differences(projector: str) -> None:
    student, teacher, _ = (one.double() for one in drawn())
    loss = made(projector=projector).double().train()
    assert torch.autograd.gradcheck(lambda one: loss(one, teacher), student.requires_grad_())
    loss(student, teacher.requires_grad_()).backward()
    assert teacher.grad is None and loss.matrix.grad is None and not loss.matrix.requires_grad


def test_the_gradient_of_a_linear_projector_by_hand() -> None:
    student, teacher, matrix = (one.double() for one in drawn())
    loss = made(3.0, "linear").double()
    loss(student, teacher).backward()
    with torch.no_grad():
        apart = loss.projection[0](student) - teacher
        by_embedding = 2 * apart @ matrix.T @ matrix / (6 * 5) + 3 * 2 * apart / (6 * 4)
    torch.testing.assert_close(loss.projection[0].weight.grad, by_embedding.T @ student)
    torch.testing.assert_close(loss.projection[0].bias.grad, by_embedding.sum(dim=0))


def test_the_teachers_matrix_moves_with_the_loss_and_is_in_no_checkpoint() -> None:
    loss = made()
    assert not any("matrix" in name for name in loss.state_dict())
    assert not any("matrix" in name for name, _ in loss.named_parameters())
    assert loss.double().matrix.dtype == torch.float64
    kinds = [type(layer).__name__ for layer in loss.projection]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU"] and loss.projection[0].bias is None
    assert [type(layer).__name__ for layer in made(projector="linear").projection] == ["Linear"]


def test_a_single_image_needs_no_batch_where_nothing_is_normalised_by_one() -> None:
    one, other = normal(1, 3), normal(1, 4, seed=1)
    assert made(projector="linear").train()(one, other).isfinite()
    assert made().eval()(one, other).isfinite()
