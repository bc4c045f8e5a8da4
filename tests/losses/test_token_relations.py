"""Relations between the positions of an image: golden numbers, a loop in numpy, what they do not depend on."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lgkd.losses import TokenRelations
from tests.support.losses import normal

# lightly-train's DistillationV3Loss (8f5a75c), the local part, of normalised tokens of normal(2,3,4,4) and
# normal(2,5,4,4, seed=1), without its projection.
PUBLISHED = {0.07: 1.8447523, 0.5: 0.6879163}


@pytest.mark.parametrize("temperature", PUBLISHED)
def test_lightly_trains_code_gives_the_same_number(temperature: float) -> None:
    found = TokenRelations(temperature)([normal(2, 3, 4, 4)], [normal(2, 5, 4, 4, seed=1)])
    assert found.item() == pytest.approx(PUBLISHED[temperature], rel=2e-6)


def relations(one: np.ndarray, temperature: float) -> np.ndarray:
    """Rows of probabilities of one image's positions, (N,N), by a loop."""
    tokens = [one[:, row, column] for row in range(one.shape[1]) for column in range(one.shape[2])]
    rows = []
    for token in tokens:
        cosines = [token @ other / np.linalg.norm(token) / np.linalg.norm(other) for other in tokens]
        powers = np.exp(np.array(cosines) / temperature)
        rows.append(powers / powers.sum())
    return np.array(rows)


def test_it_is_the_loss_of_a_loop_over_images_and_positions() -> None:
    pairs = [(normal(3, 4, 2, 3).double(), normal(3, 2, 4, 3, seed=1).double()),
             (normal(3, 4, 4, 4, seed=2).double(), normal(3, 5, 2, 2, seed=3).double())]  # fmt: skip
    total = 0.0
    for student, teacher in pairs:
        grid = [min(sides) for sides in zip(student.shape[2:], teacher.shape[2:], strict=True)]
        ours, theirs = (F.adaptive_avg_pool2d(one, grid).numpy() for one in (student, teacher))
        for one, other in zip(ours, theirs, strict=True):
            p, q = relations(other, 0.3), relations(one, 0.3)
            total += (p * np.log(p / q)).sum() / len(p) / len(ours)
    found = TokenRelations(0.3)([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    assert found.item() == pytest.approx(total, rel=1e-10)


def test_finer_maps_are_averaged_to_the_largest_grid() -> None:
    student, teacher = normal(2, 3, 8, 4).double(), normal(2, 5, 8, 8, seed=1).double()
    found = TokenRelations(grid=2)([student], [teacher])
    small = (F.adaptive_avg_pool2d(F.adaptive_avg_pool2d(one, (8, 4)), 2) for one in (student, teacher))
    torch.testing.assert_close(found, TokenRelations()(*([one] for one in small)))
    assert TokenRelations(grid=8)([student], [teacher]) != found


def rotation(width: int) -> Tensor:
    return torch.linalg.qr(normal(width, width, seed=7).double())[0]


def test_scales_and_rotations_of_channels_do_not_matter() -> None:
    student, teacher = normal(2, 3, 4, 4).double(), normal(2, 5, 4, 4, seed=1).double()
    expected = TokenRelations()([student], [teacher])
    turned = torch.einsum("cd,bdhw->bchw", rotation(3), student)
    sizes = 1 + normal(2, 1, 4, 4, seed=3).double().abs()
    torch.testing.assert_close(TokenRelations()([turned * sizes], [100 * teacher]), expected)
    assert TokenRelations()([student], [torch.cat([student, 0 * student], dim=1)]).abs() < 1e-12


def test_images_of_a_batch_do_not_see_each_other() -> None:
    student, teacher = normal(4, 3, 4, 4), normal(4, 5, 4, 4, seed=1)
    alone = [TokenRelations()([one[None]], [other[None]]) for one, other in zip(student, teacher, strict=True)]
    torch.testing.assert_close(TokenRelations()([student], [teacher]), torch.stack(alone).mean())


def test_its_gradient_is_that_of_finite_differences_and_of_the_student_alone() -> None:
    student, teacher = normal(2, 3, 2, 2).double().requires_grad_(), normal(2, 5, 4, 4, seed=1).double()
    assert torch.autograd.gradcheck(lambda one: TokenRelations(0.5)([one], [teacher]), student)
    TokenRelations()([student], [teacher.requires_grad_()]).backward()
    assert teacher.grad is None
    # Scaling a token changes nothing, so that no gradient is along it.
    assert (student.grad * student.detach()).sum(dim=1).abs().max() < 1e-12
