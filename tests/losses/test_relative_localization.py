"""Dense relative localization: the authors' numbers, a loop, its draws, and a teacher that is not run."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Batch, Guided
from lgkd.errors import InputError
from lgkd.losses import DenseRelativeLocalization, MapLoss
from lgkd.models.teacher import Teacher


def wave(*shape: int, start: float = 0.0) -> Tensor:
    return (torch.arange(math.prod(shape), dtype=torch.float64) * 0.37 + start).sin().view(*shape)


def made(width: int = 5, side: tuple[int, int] = (4, 4), **options: int) -> DenseRelativeLocalization:
    loss = DenseRelativeLocalization(**options).double()
    loss.build([(3, 9, 9), (width, *side)])
    loss.double()
    with torch.no_grad():
        for number, weight in enumerate(loss.parameters()):
            weight.copy_(wave(*weight.shape, start=number) * 0.3)
    return loss


def test_value_and_gradient_are_those_of_the_authors_code() -> None:
    # VTs-Drloc 6ac2c44, DenseRelativeLoc and relative_constraint_l1, with these weights, draws and features.
    first, second = (((torch.arange(36) * (5 + 2 * k) + k) ** 2 // 3 % 4).view(3, 6, 2) for k in (0, 1))
    rows, columns = (torch.stack([first[..., axis], second[..., axis]]) for axis in (0, 1))
    features = wave(3, 5, 4, 4, start=9).requires_grad_()
    value = made(pairs=6).error(features, rows, columns)
    value.backward()
    assert value.item() == pytest.approx(5.032376850023267, rel=1e-12)
    assert features.grad is not None
    assert features.grad.abs().sum().item() == pytest.approx(0.12331677749032734, rel=1e-10)


def test_rows_and_columns_of_a_grid_that_is_not_square_are_those_of_a_loop() -> None:
    loss, features = made(2, (3, 5), pairs=4, hidden=7), wave(2, 2, 3, 5, start=2)
    rows = torch.tensor([[[0, 2, 1, 0], [2, 2, 0, 1]], [[2, 0, 1, 0], [0, 1, 2, 0]]])
    columns = torch.tensor([[[4, 0, 3, 2], [1, 0, 4, 4]], [[0, 4, 3, 1], [1, 3, 2, 0]]])
    errors = []
    for image in range(2):
        for pair in range(4):
            (py, qy), (px, qx) = rows[:, image, pair].tolist(), columns[:, image, pair].tolist()
            down, right = loss.layers(torch.cat([features[image, :, py, px], features[image, :, qy, qx]])).tolist()
            errors += [abs(down - (py - qy) - 2), abs(right - (px - qx) - 4)]
    assert loss.error(features, rows, columns).item() == pytest.approx(sum(errors) / len(errors), rel=1e-12)
    order = torch.tensor([1, 0])
    swapped = loss.error(features[order], rows[:, order], columns[:, order])
    torch.testing.assert_close(swapped, loss.error(features, rows, columns))


def test_positions_are_drawn_over_the_whole_grid_anew_each_time_and_by_the_generator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loss, maps = made(2, (3, 5), pairs=200, hidden=3), [wave(1, 9, 9, 9), wave(4, 2, 3, 5)]
    drawn: list[tuple[Tensor, Tensor]] = []
    real = loss.error
    monkeypatch.setattr(loss, "error", lambda last, *places: drawn.append(places) or real(last, *places))
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(loss(maps))
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])
    rows, columns = drawn[0]
    assert rows.shape == columns.shape == (2, 4, 200)
    for side in (0, 1):
        seen = torch.bincount(rows[side].flatten() * 5 + columns[side].flatten(), minlength=15)
        # 800 draws of 15 positions: 53 each, with a deviation of 7.
        assert seen.min() > 25 and seen.max() < 90
    assert not torch.equal(rows[0], rows[1]) and not torch.equal(rows[:, 0], rows[:, 1])


def test_the_teacher_is_not_run_for_it_alone_and_is_run_beside_other_terms(
    conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    teach = Guide.teach
    monkeypatch.setattr(Guide, "teach", lambda guide, images: calls.append(1) or teach(guide, images))
    own = Term(DenseRelativeLocalization(hidden=8))
    alone = Guided(conv_student, Guide(conv_student, teacher, image_size=32, terms=[own]))
    assert own.weight == 0.5 and alone.guide.pairs == [] and alone.guide.teaches == {}
    assert alone.guide.teacher_runner.pruned is None and not alone.guide.needs_teacher
    batch = make_batch(32)
    step = alone(batch)
    step.loss.backward()
    name = "denserelativelocalization"
    torch.testing.assert_close(step.loss, step.parts["classification"] + 0.5 * step.parts[name])
    assert not calls and all(p.grad is not None for p in alone.guide.losses[name].parameters())
    alone.guide.remove()
    terms = [Term(DenseRelativeLocalization(hidden=8)), Term(MapLoss())]
    both = Guided(conv_student, Guide(conv_student, teacher, image_size=32, terms=terms))
    assert len(both.guide.pairs) == 3 and set(both(batch).parts) == {"classification", name, "guidance_linear"}
    assert calls == [1]
    both.guide.remove()


def test_bad_use_is_told_in_one_line() -> None:
    with pytest.raises(InputError, match="the last map of the student is 1 x 1, expected at least two positions; tap"):
        DenseRelativeLocalization().build([(3, 4, 4), (5, 1, 1)])
    with pytest.raises(InputError, match="pairs is 0, expected a whole number >= 1"):
        DenseRelativeLocalization(pairs=0)
    with pytest.raises(InputError, match="this DenseRelativeLocalization already has projections"):
        made().build([(5, 4, 4)])
    with pytest.raises(InputError, match="DenseRelativeLocalization was built for 0 pairs and given 1 student maps"):
        DenseRelativeLocalization()([wave(2, 3, 4, 4)])
