"""Every loss, every option, at the places where formulas meet roots, powers and logarithms of zero."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lgkd.losses import (
    CRD,
    DIST,
    DKD,
    KD,
    RKD,
    TERMS,
    AttentionRelations,
    AttentionTransfer,
    BlockGuidance,
    CorrelationCongruence,
    CrossCorrelation,
    DeiTSoft,
    DenseKD,
    Hint,
    LumiNet,
    MapLoss,
    StandardizedDKD,
    StandardizedKD,
    TargetEnhancedKD,
    TeacherHead,
    TokenRelations,
)
from lgkd.models.visible_patches import visible_patches
from lgkd.models.vit.plain import PlainViT
from tests.support.losses import normal

BATCH = 4
MAPS = [(3, 4, 4), (6, 2, 2)]

VARIANTS: dict[str, Callable[[], nn.Module]] = {
    **TERMS,
    "attention-relations": lambda: AttentionRelations(1),
    "locality attention": lambda: MapLoss("attention"),
    "locality similarity": lambda: MapLoss("similarity"),
    "locality channel": lambda: MapLoss(normalize="channel"),
    "locality unit": lambda: MapLoss(normalize="unit"),
    "blocks channel": lambda: BlockGuidance("channel"),
    "blocks unit": lambda: BlockGuidance("unit"),
    "hint norm": lambda: Hint("norm"),
    "hint without a regressor": lambda: Hint("none", 1.0),
    **{f"attention-transfer {p}": lambda p=p: AttentionTransfer(p) for p in (0.1, 0.5, 0.9, 1.0, 1.5, 3.0, 10.0)},  # type: ignore[misc]
    "kd elements": lambda: KD(0.1, "elements"),
    "deit-soft elements": lambda: DeiTSoft(0.1, "elements"),
    "dkd cold": lambda: DKD(temperature=0.1),
    "dist one part": lambda: DIST(beta=0.0, temperature=0.1),
    "standardized-kd cold": lambda: StandardizedKD(0.1, eps=10.0),
    "standardized-dkd cold": lambda: StandardizedDKD(temperature=0.1),
    "luminet cold": lambda: LumiNet(0.1),
    "target-enhanced-kd of a root": lambda: TargetEnhancedKD(0.5, 0.1),
    "rkd distances": lambda: RKD(angle_weight=0.0),
    "cc of order 10": lambda: CorrelationCongruence(5.0, 10),
    "crd cold": lambda: CRD(8, temperature=0.001, width=4),
    "cross-correlation narrow": lambda: CrossCorrelation(expansion=1),
    "dense-kd soft": lambda: DenseKD("soft", 0.1),
    "dense-kd global": lambda: DenseKD(course="global"),
    "token-relations cold": lambda: TokenRelations(0.001),
    "token-relations on 2 x 2": lambda: TokenRelations(grid=2),
    "teacher-head linear": lambda: TeacherHead(0.0, "linear"),
}

MAKERS: dict[str, Callable[[Tensor], Tensor]] = {
    "zero": torch.zeros_like,
    "constant": torch.ones_like,
    "very small": lambda drawn: drawn * 1e-30,
    "very large": lambda drawn: drawn * 1e3,
    "zero in places": lambda drawn: drawn.relu(),
    "zero in a sample": lambda drawn: torch.cat([torch.zeros_like(drawn[:1]), drawn[1:]]),
    "zero in a channel": lambda drawn: torch.cat([torch.zeros_like(drawn[:, :1]), drawn[:, 1:]], dim=1),
    "one sample for all": lambda drawn: drawn[:1].expand_as(drawn).clone(),
    "drawn": lambda drawn: drawn,
}


def made(loss: nn.Module, how: str, seed: int) -> list[Tensor]:
    """What a loss of this family reads, of one side."""
    shapes = [(BATCH, 5)]
    if loss.reads == "images":
        shapes = [(BATCH, 3, 8, 8)]
    elif loss.reads in ("maps", "dense", "student-maps", "exits"):
        shapes = [(BATCH, *shape) for shape in MAPS]
    return [MAKERS[how](normal(*shape, seed=seed)) for shape in shapes]


def gradients(loss: nn.Module, student: list[Tensor], teacher: list[Tensor]) -> tuple[Tensor, dict[str, Tensor | None]]:
    """The loss, and its gradients with respect to all that the student's side has."""
    leaves = [one.detach().clone().requires_grad_() for one in student]
    if loss.reads == "maps":
        value = loss(leaves, teacher)
    elif loss.reads == "student-maps":
        value = loss(leaves)
    elif loss.reads == "images":
        value = loss(leaves[0])
    elif loss.reads == "exits":
        value = loss(leaves, teacher[0].mean(dim=(2, 3)), torch.tensor([0, 2, 1, 2]))
    elif getattr(loss, "takes_index", False):
        value = loss(leaves[0], teacher[0], torch.tensor([2, 0, 3, 2]))
    elif loss.reads == "embeddings":
        value = loss(leaves[0], teacher[0])
    elif loss.reads == "dense":
        value = loss(leaves[0], teacher[0], teacher[0].mean(dim=(2, 3)))
    else:
        value = loss(leaves[0], teacher[0], torch.tensor([0, 4, 2, 2]))
    value.backward()
    found = {f"input {place}": leaf.grad for place, leaf in enumerate(leaves)}
    return value, {**found, **{name: parameter.grad for name, parameter in loss.named_parameters()}}


def ready(name: str) -> nn.Module:
    torch.manual_seed(0)
    loss = VARIANTS[name]()
    if loss.reads == "dense":
        loss.build(MAPS[0], MAPS[0], classified=False)
    elif loss.reads == "images":
        loss.build(visible_patches(PlainViT(5, 8, embed_dim=12, depth=1)))
    elif hasattr(loss, "teacher_classifier"):
        loss.build(5, 5, normal(3, 5, seed=2))
    elif hasattr(loss, "build"):
        shapes = {"embeddings": (5, 5), "student-maps": (MAPS,), "exits": (MAPS, 3)}.get(loss.reads, (MAPS, MAPS))
        loss.build(*shapes, *([torch.tensor([0, 4, 2, 2])] if getattr(loss, "takes_index", False) else []))
    return loss


CASES = [
    *((student, teacher, 1) for student in MAKERS for teacher in ("zero", "drawn")),
    *(("drawn", teacher, 1) for teacher in MAKERS),
    *((same, same, 0) for same in MAKERS),
]
"""How either side is made, and the seed of the teacher's; the student's is 0, so that with 0 both are equal."""


@pytest.mark.parametrize("name", VARIANTS)
def test_value_and_gradients_are_finite(name: str) -> None:
    loss = ready(name)
    for student, teacher, seed in CASES:
        loss.zero_grad()
        value, found = gradients(loss, made(loss, student, 0), made(loss, teacher, seed))
        case = f"student {student}, teacher {teacher}, {'apart' if seed else 'equal'}"
        assert value.isfinite(), case
        for place, gradient in found.items():
            assert gradient is None or gradient.isfinite().all(), f"{case}: {place}"


@pytest.mark.parametrize("p", [0.3, 0.5, 0.99])
def test_a_root_of_an_attention_map_is_the_formula_where_nothing_is_zero(p: float) -> None:
    student, teacher = normal(2, 3, 2, 2).double(), normal(2, 5, 2, 2, seed=1).double()

    def attention(maps: Tensor) -> list[list[float]]:
        rows = []
        for sample in maps.tolist():
            row = [sum(abs(channel[y][x]) ** p for channel in sample) / len(sample) for y in range(2) for x in range(2)]
            length = sum(value**2 for value in row) ** 0.5
            rows.append([value / length for value in row])
        return rows

    ours, theirs = attention(student), attention(teacher)
    expected = sum((a - b) ** 2 for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True)) / 8
    assert AttentionTransfer(p)([student], [teacher]).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda maps: AttentionTransfer(p)([maps], [teacher]), student.requires_grad_())


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_high_powers_do_not_leave_the_range_of_the_number_format(scale: float) -> None:
    student, teacher = normal(2, 3, 2, 2), normal(2, 5, 2, 2, seed=1)
    expected = AttentionTransfer(10.0)([student.double()], [teacher.double()]).float()
    assert expected > 1e-3
    torch.testing.assert_close(AttentionTransfer(10.0)([scale * student], [scale * teacher]), expected)


def test_a_place_that_is_zero_takes_no_part_in_the_gradient_of_a_root() -> None:
    student, teacher = normal(2, 3, 2, 2), normal(2, 5, 2, 2, seed=1)
    student[0, 1] = 0
    _, found = gradients(AttentionTransfer(0.5), [student], [teacher])
    gradient = found["input 0"]
    assert gradient is not None
    assert gradient[0, 1].eq(0).all() and gradient[0, 0].ne(0).all() and gradient[1].ne(0).all()
