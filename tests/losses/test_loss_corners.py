"""Corners of the losses' formulas: scales, spreads of nothing, grids that are not square, maps without a partner."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.errors import InputError
from lgkd.losses import (
    DIST,
    DKD,
    KD,
    RKD,
    AttentionTransfer,
    BlockGuidance,
    CrossCorrelation,
    Hint,
    MapLoss,
    ReviewKD,
    SimilarityPreserving,
    StandardizedDKD,
    StandardizedKD,
    TokenRelations,
)
from lgkd.losses.map_loss import Normalize, normalized
from lgkd.losses.standardized_kd import standardized
from tests.support.losses import PAIRS, built, normal


def test_distances_and_angles_do_not_depend_on_the_scale_of_embeddings() -> None:
    # Also where all distances are far below 1, and far above.
    student, teacher = normal(5, 3).double(), normal(5, 4, seed=1).double()
    expected = RKD()(student, teacher)
    for scale in (1e-4, 0.03, 700.0):
        torch.testing.assert_close(RKD()(scale * student, teacher), expected)
        torch.testing.assert_close(RKD()(student, scale * teacher), expected)


@pytest.mark.parametrize("eps", [1e-7, 0.5])
def test_the_eps_of_standardised_logits_holds_for_both(eps: float) -> None:
    student, teacher, labels = normal(4, 5).double(), 3 * normal(4, 5, seed=1).double(), torch.tensor([0, 4, 2, 2])

    def by_hand(logits: Tensor) -> Tensor:
        rows = []
        for row in logits.tolist():
            mean = sum(row) / len(row)
            spread = math.sqrt(sum((value - mean) ** 2 for value in row) / (len(row) - 1))
            rows.append([(value - mean) / (spread + eps) for value in row])
        return torch.tensor(rows, dtype=torch.float64)

    ours, theirs = by_hand(student), by_hand(teacher)
    torch.testing.assert_close(StandardizedKD(eps=eps)(student, teacher, labels), KD(2.0)(ours, theirs, labels))
    torch.testing.assert_close(
        StandardizedDKD(eps=eps)(student, teacher, labels), DKD(1.0, 9.0, 4.0)(ours, theirs, labels)
    )


def test_a_samples_logits_are_standardised_without_a_look_at_the_others() -> None:
    rows = torch.tensor([[3.0, 1.0], [1e9, -1e9], [5.0, 5.0], [0.0, 0.5]])
    half = 0.5**0.5
    # Two values lie sqrt(1/2) of their spread, with K - 1, around their mean; equal ones become zeros.
    expected = torch.tensor([[half, -half], [half, -half], [0.0, 0.0], [-half, half]])
    torch.testing.assert_close(standardized(rows), expected, rtol=1e-5, atol=0)
    assert standardized(torch.tensor([[7.0], [-2.0]])).tolist() == [[0.0], [0.0]], "one class has no spread"


def test_predictions_without_a_direction_correlate_with_nothing() -> None:
    teacher, labels = normal(4, 5), torch.zeros(4, dtype=torch.int64)
    # One prediction for all, and equal for all classes: 1 - 0 within samples, and 1 - 0 within classes.
    assert DIST(beta=2.0, gamma=3.0)(torch.zeros(4, 5), teacher, labels).item() == 5.0
    assert DIST(beta=2.0, gamma=3.0)(teacher, torch.ones(4, 5), labels).item() == 5.0


def test_attention_is_compared_on_the_coarser_of_each_side() -> None:
    for ours, theirs, grid in (((4, 6), (3, 9), (3, 6)), ((3, 9), (4, 6), (3, 6)), ((2, 8), (8, 2), (2, 2))):
        student, teacher = normal(2, 3, *ours), normal(2, 5, *theirs, seed=1)
        rows = []
        for one in (student, teacher):
            power = F.adaptive_avg_pool2d(one, grid).square().mean(dim=1).flatten(1)
            rows.append(power / power.norm(dim=1, keepdim=True))
        expected = (rows[0] - rows[1]).square().mean()
        torch.testing.assert_close(AttentionTransfer()([student], [teacher]), expected)


@pytest.mark.parametrize(
    "kind", [MapLoss, Hint, ReviewKD, AttentionTransfer, SimilarityPreserving, BlockGuidance, TokenRelations]
)
def test_a_map_without_its_partner_is_no_pair(kind: type[nn.Module]) -> None:
    loss = built(kind())
    students = [normal(2, *shape) for shape, _ in PAIRS]
    teachers = [normal(2, *shape, seed=1) for _, shape in PAIRS]
    assert loss(students, teachers).isfinite()
    for ours, theirs in ((students, teachers[:1]), (students, [*teachers, teachers[0]])):
        with pytest.raises((ValueError, InputError)):
            loss(ours, theirs)
    if hasattr(loss, "build") and kind is not BlockGuidance:
        with pytest.raises(ValueError, match="zip"):
            kind().build([shape for shape, _ in PAIRS], [PAIRS[0][1]])


def layers(module: nn.Module) -> list[tuple[str, dict[str, tuple[int, ...]]]]:
    """The leaves of a module in order, each with its class and the shapes of what it learns."""
    return [
        (type(leaf).__name__, {name: tuple(value.shape) for name, value in leaf.named_parameters()})
        for leaf in module.modules()
        if not list(leaf.children())
    ]


def test_what_a_loss_learns_are_these_layers() -> None:
    assert [layers(one) for one in built(Hint("linear")).regressions] == [
        [("Conv2d", {"weight": (5, 3, 1, 1), "bias": (5,)})],
        [("Conv2d", {"weight": (7, 2, 1, 1), "bias": (7,)})],
    ]
    assert layers(built(Hint("norm")).regressions[0]) == [
        ("Conv2d", {"weight": (5, 3, 1, 1)}),
        ("BatchNorm2d", {"weight": (5,), "bias": (5,)}),
        ("ReLU", {}),
    ]
    assert layers(built(CrossCorrelation()).projection) == [
        ("Linear", {"weight": (12, 3)}),
        ("BatchNorm1d", {"weight": (12,), "bias": (12,)}),
        ("GELU", {}),
        ("Linear", {"weight": (5, 12)}),
    ]
    assert layers(built(CrossCorrelation(expansion=1)).projection)[0] == ("Linear", {"weight": (3, 3)})


def test_a_review_learns_fusions_of_the_deepest_width_and_no_gates_for_the_deepest() -> None:
    loss = ReviewKD()
    loss.build([(6, 8, 8), (5, 4, 4), (4, 2, 2)], [(7, 8, 8), (8, 4, 4), (9, 2, 2)])

    def fusion(ours: int, theirs: int, *, deepest: bool) -> list[tuple[str, dict[str, tuple[int, ...]]]]:
        gates = [] if deepest else [("Conv2d", {"weight": (2, 8, 1, 1), "bias": (2,)})]
        return [
            ("Conv2d", {"weight": (4, ours, 1, 1)}),
            ("BatchNorm2d", {"weight": (4,), "bias": (4,)}),
            *gates,
            ("Conv2d", {"weight": (theirs, 4, 3, 3)}),
            ("BatchNorm2d", {"weight": (theirs,), "bias": (theirs,)}),
        ]

    found = [sorted(layers(one), key=str) for one in loss.fusions]
    wanted = [fusion(6, 7, deepest=False), fusion(5, 8, deepest=False), fusion(4, 9, deepest=True)]
    assert found == [sorted(one, key=str) for one in wanted]
    wide = ReviewKD()
    wide.build([(600, 2, 2)], [(3, 2, 2)])
    assert wide.fusions[0].enter[0].weight.shape == (512, 600, 1, 1), "512 at most"
    # Kaiming's uniform draw with a = 1: up to the root of 6 / ((1 + 1) fan_in).
    for weight, fan_in in ((wide.fusions[0].enter[0].weight, 600), (wide.fusions[0].leave[0].weight, 512 * 9)):
        largest = math.sqrt(3 / fan_in)
        assert 0.99 * largest < weight.abs().max().item() <= largest


@pytest.mark.parametrize(("grid", "wanted"), [((4, 8), (4, 3)), ((8, 4), (3, 4)), ((4, 4), (2, 2)), ((4, 4), (4, 4))])
def test_a_hint_is_averaged_down_where_no_side_grows(grid: tuple[int, int], wanted: tuple[int, int]) -> None:
    loss, student, teacher = Hint(), normal(2, 3, *grid), normal(2, 5, *wanted, seed=1)
    loss.build([(3, *grid)], [(5, *wanted)])
    ours = F.adaptive_avg_pool2d(loss.regressions[0](student), wanted)
    torch.testing.assert_close(loss([student], [teacher]), (ours - teacher).square().mean())


@pytest.mark.parametrize(("grid", "wanted"), [((4, 4), (5, 3)), ((4, 4), (3, 5)), ((2, 2), (4, 4))])
def test_a_hint_is_resized_where_a_side_grows(grid: tuple[int, int], wanted: tuple[int, int]) -> None:
    loss, student, teacher = Hint(), normal(2, 3, *grid), normal(2, 5, *wanted, seed=1)
    loss.build([(3, *grid)], [(5, *wanted)])
    ours = F.interpolate(loss.regressions[0](student), size=wanted, mode="bilinear", align_corners=False)
    torch.testing.assert_close(loss([student], [teacher]), (ours - teacher).square().mean())


def test_two_samples_are_enough_to_correlate() -> None:
    assert built(CrossCorrelation())(normal(2, 3), normal(2, 5, seed=1)).isfinite()


@pytest.mark.parametrize("how", ["none", "channel", "unit"])
def test_a_map_of_zeros_stays_one_however_it_is_normalised(how: Normalize) -> None:
    assert normalized(torch.zeros(2, 3, 4, 4), how).abs().max().item() == 0.0
