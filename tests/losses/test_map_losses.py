"""The guidance loss against a transcription of the paper with loops, golden numbers, and what must hold of it."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lgkd.errors import InputError
from lgkd.losses import MapLoss
from lgkd.losses.map_loss import at_finer_grid

TRANSFORMS = ("linear", "attention", "similarity")

PAIRS = {
    # Student (D,h,w) and teacher (C,h,w).
    "coarser student": [((3, 2, 2), (4, 5, 5))],
    "finer student": [((3, 6, 6), (4, 3, 3))],
    "equal grids": [((2, 3, 3), (2, 3, 3))],
    "each finer on one side": [((2, 2, 5), (3, 4, 3))],
    "a single row": [((3, 1, 4), (2, 3, 2))],
    "three pairs": [((2, 3, 3), (3, 6, 6)), ((4, 3, 3), (2, 4, 4)), ((2, 3, 3), (3, 2, 2))],
}


def resized(pixels: list[list[Tensor]], height: int, width: int) -> list[list[Tensor]]:
    """Bilinear, pixel centres at halves, written out: what `align_corners=False` means."""

    def sources(out: int, inside: int) -> list[tuple[int, int, float]]:
        places = []
        for index in range(out):
            centre = max((index + 0.5) * inside / out - 0.5, 0.0)
            low = min(math.floor(centre), inside - 1)
            places.append((low, min(low + 1, inside - 1), centre - low))
        return places

    return [
        [
            (pixels[y0][x0] * (1 - fx) + pixels[y0][x1] * fx) * (1 - fy)
            + (pixels[y1][x0] * (1 - fx) + pixels[y1][x1] * fx) * fy
            for x0, x1, fx in sources(width, len(pixels[0]))
        ]
        for y0, y1, fy in sources(height, len(pixels))
    ]


def pixels_of(one_map: Tensor) -> list[list[Tensor]]:
    """A map (C,h,w) as rows of columns of channel vectors (C,)."""
    return [[one_map[:, y, x] for x in range(one_map.shape[2])] for y in range(one_map.shape[1])]


def transcription(
    transform: str, students: Sequence[Tensor], teachers: Sequence[Tensor], projections: Sequence[nn.Module]
) -> Tensor:
    """The formula of the paper, image by image and pixel by pixel."""
    total = torch.zeros((), dtype=torch.float64)
    for place, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
        height, width = (max(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True))
        ours, theirs = [], []
        for image in range(len(student)):
            pixels = pixels_of(student[image])
            if transform == "linear":
                weight, bias = projections[place].weight[:, :, 0, 0], projections[place].bias
                pixels = [[weight @ pixel + bias for pixel in row] for row in pixels]
            ours.append([pixel for row in resized(pixels, height, width) for pixel in row])
            theirs.append([pixel for row in resized(pixels_of(teacher[image]), height, width) for pixel in row])
        if transform == "linear":
            squares = [
                ((a - b) ** 2).sum()
                for one, two in zip(ours, theirs, strict=True)
                for a, b in zip(one, two, strict=True)
            ]
            total = total + sum(squares) / (len(student) * teacher.shape[1] * height * width)
        elif transform == "attention":
            squares = []
            for one, two in zip(ours, theirs, strict=True):
                vectors = []
                for pixels in (one, two):
                    energies = [(pixel**2).sum() / len(pixel) for pixel in pixels]
                    norm = sum(energy**2 for energy in energies) ** 0.5
                    vectors.append([energy / norm for energy in energies])
                squares += [(a - b) ** 2 for a, b in zip(*vectors, strict=True)]
            total = total + sum(squares) / len(squares)
        else:
            squares = []
            for i in range(len(student)):
                rows = []
                for images in (ours, theirs):
                    row = [
                        sum((a * b).sum() for a, b in zip(images[i], images[j], strict=True))
                        for j in range(len(student))
                    ]
                    norm = sum(value**2 for value in row) ** 0.5
                    rows.append([value / norm for value in row])
                squares += [(a - b) ** 2 for a, b in zip(*rows, strict=True)]
            total = total + sum(squares) / len(squares)
    return total


def built(transform: str, pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> MapLoss:
    loss = MapLoss(transform)
    loss.build([student for student, _ in pairs], [teacher for _, teacher in pairs])
    return loss


def maps(
    pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], *, batch: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[list[Tensor], list[Tensor]]:
    chance = torch.Generator().manual_seed(7)
    return tuple(
        [torch.randn(batch, *pair[side], generator=chance, dtype=torch.float64).to(dtype) for pair in pairs]
        for side in (0, 1)
    )


@pytest.mark.parametrize("case", PAIRS)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_loss_is_the_formula_of_the_paper_in_single_precision(transform: str, case: str) -> None:
    loss = built(transform, PAIRS[case])
    students, teachers = maps(PAIRS[case], dtype=torch.float32)
    found = loss(students, teachers)
    assert found.dtype == torch.float32
    expected = transcription(
        transform, [s.double() for s in students], [t.double() for t in teachers], built_double(loss)
    )
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def built_double(loss: MapLoss) -> list[nn.Module]:
    """The projections in double precision, leaving the loss as it is."""
    twins = []
    for projection in loss.projections:
        twin = nn.Conv2d(projection.in_channels, projection.out_channels, 1).double()
        twin.load_state_dict({key: value.double() for key, value in projection.state_dict().items()})
        twins.append(twin)
    return twins


@pytest.mark.parametrize("case", PAIRS)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_loss_and_gradients_are_those_of_the_formula_in_double_precision(transform: str, case: str) -> None:
    loss = built(transform, PAIRS[case]).double()
    students, teachers = maps(PAIRS[case])
    inputs = [student.requires_grad_() for student in students]
    learned = [*inputs, *loss.parameters()]
    found = loss(students, teachers)
    expected = transcription(transform, students, teachers, list(loss.projections))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
    for ours, theirs in zip(torch.autograd.grad(found, learned), torch.autograd.grad(expected, learned), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("case", ["finer student", "each finer on one side"])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_gradient_agrees_with_finite_differences(transform: str, case: str) -> None:
    loss = built(transform, PAIRS[case]).double()
    students, teachers = maps(PAIRS[case], batch=2)
    count = len(students)
    inputs = [tensor.requires_grad_() for tensor in [*students, *teachers]]
    assert torch.autograd.gradcheck(lambda *given: loss(given[:count], given[count:]), inputs)


def golden_maps() -> tuple[list[Tensor], list[Tensor]]:
    """The inputs for which other people's losses were run; the order of the draws is part of it."""
    torch.manual_seed(0)
    torch.randn(8, 100), torch.randn(8, 100), torch.randint(0, 100, (8,))
    shapes = [(8, 16, 32, 32), (8, 32, 16, 16), (8, 64, 8, 8)]
    return [torch.randn(shape).abs() for shape in shapes], [torch.randn(shape).abs() for shape in shapes]


def with_identity(width: int) -> MapLoss:
    loss = built("linear", [((width, 1, 1), (width, 1, 1))])
    nn.init.dirac_(loss.projections[0].weight)
    nn.init.zeros_(loss.projections[0].bias)
    return loss


def test_the_losses_give_the_numbers_that_other_peoples_code_gives(golden: Callable[[str], Any]) -> None:
    values = golden("map_losses")
    students, teachers = golden_maps()
    exact = {"rel": 2e-6, "abs": 0.0}  # six digits are known
    linear = with_identity(64)
    assert linear(students[-1:], teachers[-1:]).item() == pytest.approx(values["linear_last_map"], **exact)
    attention = MapLoss("attention")
    assert attention(students, teachers).item() == pytest.approx(values["attention_three_maps"], rel=4e-6)
    for student, teacher, value in zip(students, teachers, values["attention_each_map"], strict=True):
        assert attention([student], [teacher]).item() == pytest.approx(value, rel=3e-5)
    similarity = MapLoss("similarity")(students[-1:], teachers[-1:])
    # Rows of the two Gram matrices differ in the fifth digit, so single precision leaves four or five of theirs.
    assert similarity.item() == pytest.approx(values["similarity_last_map"], rel=2e-5)


def test_resizing_both_maps_to_fourteen_gives_the_authors_number(golden: Callable[[str], Any]) -> None:
    students, teachers = golden_maps()
    fourteen = torch.zeros(1, 1, 14, 14)
    student, teacher = (at_finer_grid(one, fourteen)[0] for one in (students[-1], teachers[-1]))
    found = with_identity(64)([student], [teacher]).item()
    assert found == pytest.approx(golden("map_losses")["linear_last_map_both_resized_to_14"], rel=2e-6)


def test_maps_are_resized_up_never_down() -> None:
    first, second = at_finer_grid(torch.zeros(1, 1, 56, 7), torch.zeros(1, 1, 32, 32))
    assert first.shape == second.shape == (1, 1, 56, 32)


def test_a_map_on_the_finer_grid_is_not_touched() -> None:
    fine = torch.randn(1, 2, 8, 8)
    assert at_finer_grid(fine, torch.zeros(1, 2, 4, 4))[0] is fine


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_pairs_are_summed_not_averaged(transform: str) -> None:
    loss = built(transform, PAIRS["three pairs"]).double()
    students, teachers = maps(PAIRS["three pairs"])
    singles = []
    for place in range(3):
        single = MapLoss(transform)
        single.projections = nn.ModuleList(loss.projections[place : place + 1])
        singles.append(single([students[place]], [teachers[place]]))
    torch.testing.assert_close(loss(students, teachers), sum(singles), rtol=1e-12, atol=0)


@pytest.mark.parametrize("transform", ["attention", "similarity"])
def test_a_perfect_imitation_costs_nothing_and_anything_else_something(transform: str) -> None:
    teacher = torch.randn(4, 3, 5, 5).abs()
    loss = MapLoss(transform)
    assert loss([teacher], [teacher]).item() == 0
    assert loss([teacher.flip(0)], [teacher]).item() > 0


def test_linear_costs_nothing_where_the_projection_hits_the_teacher() -> None:
    student = torch.randn(4, 3, 5, 5)
    loss = built("linear", [((3, 5, 5), (6, 5, 5))])
    with torch.no_grad():
        teacher = loss.projections[0](student)
    assert loss([student], [teacher]).item() == 0


def test_attention_ignores_the_scale_of_a_map_and_linear_does_not() -> None:
    students, teachers = maps([((3, 4, 4), (3, 4, 4))])
    attention, linear = MapLoss("attention"), with_identity(3).double()
    tenfold = [10 * teacher for teacher in teachers]
    torch.testing.assert_close(attention(students, tenfold), attention(students, teachers), rtol=1e-12, atol=0)
    assert linear(students, tenfold) > 10 * linear(students, teachers)


def test_only_similarity_looks_across_the_batch() -> None:
    students, teachers = maps([((3, 4, 4), (3, 4, 4))], batch=4)
    for transform in TRANSFORMS:
        loss = built(transform, [((3, 4, 4), (3, 4, 4))]).double()
        whole = loss(students, teachers)
        halves = [loss([students[0][part]], [teachers[0][part]]) for part in (slice(0, 2), slice(2, 4))]
        alone = torch.allclose(whole, (halves[0] + halves[1]) / 2, rtol=1e-10)
        assert alone is not loss.across_batch, transform
    assert MapLoss("similarity").across_batch


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("transform", ["attention", "similarity"])
def test_half_precision_maps_neither_overflow_nor_lose_the_loss(transform: str, dtype: torch.dtype) -> None:
    # 300 squared does not fit into half precision, and the Gram matrix adds many of them.
    students, teachers = maps([((8, 6, 6), (8, 6, 6))])
    students, teachers = [300 * students[0].to(dtype)], [300 * teachers[0].to(dtype)]
    found = MapLoss(transform)(students, teachers)
    expected = transcription(transform, [students[0].double()], [teachers[0].double()], [])
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_autocast_changes_the_loss_only_by_rounding(transform: str) -> None:
    loss = built(transform, PAIRS["three pairs"])
    students, teachers = maps(PAIRS["three pairs"], dtype=torch.float32)
    plain = loss(students, teachers)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = loss(students, teachers)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(plain.item(), rel=2e-2)


def test_a_map_of_zeros_has_finite_loss_and_gradient() -> None:
    for transform in TRANSFORMS:
        student = torch.zeros(2, 3, 4, 4, requires_grad=True)
        loss = built(transform, [((3, 4, 4), (3, 4, 4))])([student], [torch.randn(2, 3, 4, 4)])
        loss.backward()
        assert loss.isfinite() and student.grad.isfinite().all(), transform


def test_only_linear_has_something_to_learn() -> None:
    pairs = [((192, 14, 14), (width, 8, 8)) for width in (16, 32, 64)]
    counts = {name: sum(p.numel() for p in built(name, pairs).parameters()) for name in TRANSFORMS}
    assert counts == {"linear": 21_616, "attention": 0, "similarity": 0}  # 192 * 112 weights and 112 biases


def test_a_mistyped_transform_names_the_closest_one() -> None:
    with pytest.raises(InputError, match=r"unknown transform 'atention'; did you mean 'attention'\?"):
        MapLoss("atention")


def test_linear_without_projections_says_what_to_call() -> None:
    with pytest.raises(InputError, match=r"has 0 projections for 1 student maps; call build"):
        MapLoss("linear")([torch.zeros(1, 2, 2, 2)], [torch.zeros(1, 2, 2, 2)])
