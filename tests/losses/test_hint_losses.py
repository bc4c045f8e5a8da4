"""Losses between maps other than `MapLoss`: golden numbers, transcriptions by hand, and what must hold of them."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.distillation.inputs import FAMILIES
from lgkd.errors import InputError
from lgkd.losses import TERMS, AttentionTransfer, BlockGuidance, Hint, MapLoss, ReviewKD, SimilarityPreserving
from lgkd.losses.review_kd import context_loss
from tests.support.golden_inputs import golden_inputs

STUDENT = [(3, 4, 4), (5, 4, 4), (5, 4, 4)]
TEACHER = [(2, 8, 8), (3, 4, 6), (4, 2, 2)]
PYRAMID = [(3, 6, 6), (3, 6, 6), (5, 3, 4), (4, 2, 2)]
PAIRED = {
    "hint": lambda: Hint(),
    "hint, norm": lambda: Hint("norm"),
    "attention-transfer": lambda: AttentionTransfer(),
    "similarity-preserving": lambda: SimilarityPreserving(),
    "review": lambda: ReviewKD(),
    "blocks": lambda: BlockGuidance(),
    "blocks, channel": lambda: BlockGuidance("channel"),
}


def maps(shapes: Sequence[tuple[int, int, int]], *, batch: int = 3, seed: int = 7) -> list[Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, *shape, generator=chance, dtype=torch.float64) for shape in shapes]


def built(
    loss: nn.Module,
    student: Sequence[tuple[int, int, int]] = STUDENT,
    teacher: Sequence[tuple[int, int, int]] = TEACHER,
) -> nn.Module:
    torch.manual_seed(8)
    if hasattr(loss, "build"):
        loss.build(student, teacher)
    return loss.double()


def with_identity(loss: Any, width: int) -> Any:
    built(loss, [(width, 1, 1)], [(width, 1, 1)]).float()
    (convolution,) = (module for module in loss.modules() if isinstance(module, nn.Conv2d))
    nn.init.dirac_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    return loss


def test_the_losses_give_the_numbers_that_other_peoples_code_gives(golden: Callable[[str], Any]) -> None:
    values, given = golden("term_losses"), golden_inputs()
    last = given.student_maps[-1:], given.teacher_maps[-1:]
    attention = AttentionTransfer(2)(given.student_maps, given.teacher_maps)
    assert attention.item() == pytest.approx(values["attention_transfer_2"], rel=4e-6)
    assert SimilarityPreserving()(*last).item() == pytest.approx(values["similarity_preserving_last_map"], rel=2e-5)
    assert with_identity(Hint(), 64)(*last).item() == pytest.approx(values["hint_last_map"], rel=2e-6)
    assert context_loss(last[0][0], last[1][0]).item() == pytest.approx(values["context_loss_last_map"], rel=2e-6)


def test_a_hint_is_regressed_first_and_then_brought_to_the_teachers_grid() -> None:
    loss = built(Hint())
    students, teachers = maps(STUDENT), maps(TEACHER, seed=9)
    total = 0.0
    for regress, student, teacher in zip(loss.regressions, students, teachers, strict=True):
        ours = torch.einsum("cd,bdhw->bchw", regress.weight[:, :, 0, 0], student) + regress.bias[:, None, None]
        if teacher.shape[-2:] == (2, 2):
            ours = ours.view(3, 4, 2, 2, 2, 2).mean(dim=(3, 5))
        else:
            ours = F.interpolate(ours, size=teacher.shape[-2:], mode="bilinear", align_corners=False)
        total += (ours - teacher).square().mean()
    torch.testing.assert_close(loss(students, teachers), total, rtol=1e-12, atol=0)


def test_a_hint_without_a_regressor_compares_the_maps_themselves_and_later_pairs_weigh_more() -> None:
    shapes = [(3, 4, 4), (5, 2, 2), (2, 4, 2)]
    students, teachers = maps(shapes), maps([(3, 2, 2), (5, 2, 2), (2, 4, 2)], seed=9)
    plain, grown = built(Hint("none"), shapes, shapes), built(Hint("none", growth=1.5), shapes, shapes)
    assert not list(plain.parameters()) and not plain.state_dict()
    students_there = [students[0].view(3, 3, 2, 2, 2, 2).mean(dim=(3, 5)), *students[1:]]
    errors = [((a - b) ** 2).flatten().tolist() for a, b in zip(students_there, teachers, strict=True)]
    means = [sum(one) / len(one) for one in errors]
    assert plain(students, teachers).item() == pytest.approx(sum(means), rel=1e-12)
    expected = sum(number**1.5 * mean for number, mean in enumerate(means, 1))
    assert grown(students, teachers).item() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(built(Hint("none", 0.0), shapes, shapes)(students, teachers), plain(students, teachers))


def test_attention_of_any_power_is_that_of_a_loop() -> None:
    students, teachers = maps([(3, 4, 4)]), maps([(2, 2, 2)], seed=9)
    squares = []
    for image in range(3):
        vectors = []
        pooled = students[0][image].view(3, 2, 2, 2, 2).mean(dim=(2, 4))
        for one in (pooled, teachers[0][image]):
            energies = [sum(abs(value) ** 3 for value in one[:, y, x].tolist()) for y in (0, 1) for x in (0, 1)]
            length = sum(energy**2 for energy in energies) ** 0.5
            vectors.append([energy / length for energy in energies])
        squares += [(a - b) ** 2 for a, b in zip(*vectors, strict=True)]
    assert AttentionTransfer(3)(students, teachers).item() == pytest.approx(sum(squares) / len(squares), rel=1e-10)


def nearest(one: Tensor, height: int, width: int) -> Tensor:
    rows = torch.arange(height) * one.shape[2] // height
    columns = torch.arange(width) * one.shape[3] // width
    return one[:, :, rows][:, :, :, columns]


def normed(one: Tensor) -> Tensor:
    """BatchNorm as it starts, in training: factor 1, offset 0."""
    mean = one.mean(dim=(0, 2, 3), keepdim=True)
    return (one - mean) / (one.var(dim=(0, 2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()


def test_knowledge_review_is_its_transcription_from_the_deepest_pair_up() -> None:
    loss = built(ReviewKD())
    students, teachers = maps(STUDENT), maps(TEACHER, seed=9)
    total, deeper = 0.0, None
    for place in (2, 1, 0):
        fusion, student, teacher = loss.fusions[place], students[place], teachers[place]
        height, width = teacher.shape[2:]
        fused = normed(torch.einsum("md,bdhw->bmhw", fusion.enter[0].weight[:, :, 0, 0], student))
        assert fused.shape[1] == 5  # the deepest student width, below 512
        if deeper is not None:
            below = nearest(deeper, *student.shape[2:])
            gates = torch.einsum("gm,bmhw->bghw", fusion.gates.weight[:, :, 0, 0], torch.cat([fused, below], 1))
            gates = 1 / (1 + torch.exp(-gates - fusion.gates.bias[:, None, None]))
            fused = gates[:, 0:1] * fused + gates[:, 1:2] * below
        deeper = nearest(fused, height, width)
        patches = F.unfold(deeper, 3, padding=1)
        output = normed((fusion.leave[0].weight.flatten(1) @ patches).view(3, -1, height, width))
        levels = [((output - teacher).square().mean(), 1.0)]
        for size, weight in ((4, 0.5), (2, 0.25), (1, 0.125)):
            if size < min(height, width):
                weight = 0.5 ** len(levels)
                pools = [F.adaptive_avg_pool2d(one, size) for one in (output, teacher)]
                levels.append(((pools[0] - pools[1]).square().mean(), weight))
        total = total + sum(value * weight for value, weight in levels) / sum(weight for _, weight in levels)
    torch.testing.assert_close(loss(students, teachers), total, rtol=1e-10, atol=0)


def test_the_context_loss_of_a_constant_difference_is_its_square_on_every_level() -> None:
    teacher = maps([(2, 8, 8)])[0]
    assert context_loss(teacher + 3, teacher).item() == pytest.approx(9, rel=1e-12)


def as_map_loss(loss: BlockGuidance, stages: int) -> MapLoss:
    """The loss of single pairs with the projections of the mixture."""
    twin = MapLoss()
    twin.projections = nn.ModuleList(loss.projections[stage][0] for stage in range(stages))
    return twin


def test_equal_blocks_start_as_guidance_of_their_mean() -> None:
    blocks, teachers = maps([(5, 4, 4)] * 4), maps(TEACHER, seed=9)
    loss = built(BlockGuidance(), [(5, 4, 4)] * 4)
    expected = as_map_loss(loss, 3)([sum(blocks) / 4] * 3, teachers)
    torch.testing.assert_close(loss(blocks, teachers), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(loss.mixture, torch.full((3, 4), 0.25))


def test_a_mixture_of_one_block_is_guidance_of_that_block() -> None:
    blocks, teachers = maps([(5, 4, 4)] * 4), maps(TEACHER, seed=9)
    loss = built(BlockGuidance("unit"), [(5, 4, 4)] * 4)
    chosen = [0, 3, 2]
    for scores, block in zip(loss.mixing, chosen, strict=True):
        with torch.no_grad():
            scores[block] = 100
    normal = [one / one.square().mean(dim=(1, 2, 3), keepdim=True).sqrt() for one in teachers]
    expected = as_map_loss(loss, 3)([blocks[block] for block in chosen], normal)
    torch.testing.assert_close(loss(blocks, teachers), expected, rtol=1e-9, atol=0)


def test_blocks_of_a_pyramid_are_each_projected_resized_and_weighed() -> None:
    blocks, teachers = maps(PYRAMID), maps(TEACHER, seed=9)
    loss = built(BlockGuidance(), PYRAMID)
    which = [0, 0, 1, 2]  # two blocks share a shape, and so a projection
    total = 0.0
    for stage, teacher in enumerate(teachers):
        with torch.no_grad():
            loss.mixing[stage].copy_(torch.tensor([0.3, -1.0, 2.0, 0.5]))
        shares = torch.tensor([0.3, -1.0, 2.0, 0.5]).double().exp()
        shares = shares / shares.sum()
        size = max(6, teacher.shape[2]), max(6, teacher.shape[3])
        parts = [
            F.interpolate(loss.projections[stage][place](block), size=size, mode="bilinear") * share
            for block, place, share in zip(blocks, which, shares, strict=True)
        ]
        total += (sum(parts) - F.interpolate(teacher, size=size, mode="bilinear")).square().mean()
    torch.testing.assert_close(loss(blocks, teachers), total, rtol=1e-6, atol=0)


def test_the_mixture_finds_the_block_that_fits() -> None:
    blocks = maps([(4, 4, 4)] * 3, batch=8)
    loss = with_identity(BlockGuidance(), 4).double()
    loss.projections.requires_grad_(False)
    twin = BlockGuidance()
    twin.build([(4, 4, 4)] * 3, [(4, 4, 4)])
    twin.projections = loss.projections
    optimizer = torch.optim.Adam(twin.mixing.parameters(), lr=0.3)
    for _ in range(40):
        optimizer.zero_grad()
        twin.double()(blocks, [blocks[1]]).backward()
        optimizer.step()
    assert twin.mixture[0].argmax() == 1 and twin.mixture[0, 1] > 0.95


def test_the_mixture_takes_no_weight_decay_because_it_is_of_one_dimension() -> None:
    loss = built(BlockGuidance())
    assert BlockGuidance.all_blocks and {scores.ndim for scores in loss.mixing} == {1}
    counted = sum(parameter.numel() for parameter in loss.parameters())
    # Three mixtures of three blocks; 1x1 projections with bias from the widths 3 and 5 to 2, 3 and 4.
    assert counted == 9 + (3 + 1 + 5 + 1) * (2 + 3 + 4)


@pytest.mark.parametrize("name", PAIRED)
def test_the_gradient_agrees_with_finite_differences(name: str) -> None:
    shapes, theirs = [(2, 2, 3), (3, 2, 2)], [(2, 3, 3), (2, 2, 2)]
    loss = built(PAIRED[name](), shapes, theirs)
    students, teachers = maps(shapes, batch=2), maps(theirs, batch=2, seed=9)
    inputs = [*(one.requires_grad_() for one in students), *loss.parameters()]
    assert torch.autograd.gradcheck(lambda *given: loss(given[:2], teachers), inputs)


@pytest.mark.parametrize("name", ["attention-transfer", "similarity-preserving"])
def test_a_perfect_imitation_costs_nothing_at_any_scale_and_anything_else_something(name: str) -> None:
    teachers, others, loss = maps(STUDENT), maps(STUDENT, seed=9), PAIRED[name]()
    assert loss([7 * one for one in teachers], teachers).item() == pytest.approx(0, abs=1e-25)
    assert loss(others, teachers) > 1e-3


def test_what_learns_costs_nothing_where_it_hits_the_teacher() -> None:
    students = maps(STUDENT)
    hint = built(Hint(), STUDENT, [(4, 4, 4)] * 3)
    with torch.no_grad():
        hit = [regress(one) for regress, one in zip(hint.regressions, students, strict=True)]
    assert hint(students, hit).item() == 0 and hint(students, [one + 2 for one in hit]).item() == pytest.approx(12)


@pytest.mark.parametrize("name", PAIRED)
def test_the_order_of_the_batch_does_not_matter(name: str) -> None:
    students, teachers = maps(STUDENT), maps(TEACHER, seed=9)
    order, loss = torch.tensor([2, 0, 1]), built(PAIRED[name]())
    mixed = loss([one[order] for one in students], [one[order] for one in teachers])
    torch.testing.assert_close(mixed, loss(students, teachers), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", [name for name in PAIRED if name not in ("hint, norm", "review")])
def test_a_loss_says_whether_it_looks_across_the_batch(name: str) -> None:
    students, teachers = maps(STUDENT, batch=4), maps(TEACHER, batch=4, seed=9)
    loss = built(PAIRED[name]())
    halves = [
        loss([one[part] for one in students], [one[part] for one in teachers]) for part in (slice(0, 2), slice(2, 4))
    ]
    alone = torch.isclose(loss(students, teachers), (halves[0] + halves[1]) / 2, rtol=1e-9)
    assert bool(alone) is not loss.across_batch


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [0.0, 1.0, 300.0])
@pytest.mark.parametrize("name", PAIRED)
def test_loss_and_gradient_are_finite_in_every_precision(name: str, size: float, dtype: torch.dtype) -> None:
    students, teachers = ([one.to(dtype) for one in maps(shapes)] for shapes in (STUDENT, TEACHER))
    students = [(size * one).requires_grad_() for one in students]
    loss = built(PAIRED[name]()).to(dtype)(students, [size * one for one in teachers])
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, students))


@pytest.mark.parametrize("name", PAIRED)
def test_autocast_changes_the_loss_only_by_rounding(name: str) -> None:
    students, teachers = ([one.float() for one in maps(shapes)] for shapes in (STUDENT, TEACHER))
    loss = built(PAIRED[name]()).float()
    plain = loss(students, teachers)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = loss(students, teachers)
    assert rounded.dtype == torch.float32 and rounded.item() == pytest.approx(plain.item(), rel=2e-2)


@pytest.mark.parametrize("name", PAIRED)
def test_no_gradient_reaches_the_teacher(name: str) -> None:
    students, teachers = ([one.requires_grad_() for one in maps(shapes)] for shapes in (STUDENT, TEACHER))
    built(PAIRED[name]())(students, teachers).backward()
    assert all(one.grad is None for one in teachers)
    assert all(one.grad.abs().sum() > 0 for one in students)


def test_channel_normalises_each_position_like_a_layer_norm_and_unit_each_map() -> None:
    students, teachers = maps(STUDENT), maps(TEACHER, seed=9)
    plain = built(MapLoss())
    by_position = [F.layer_norm(one.movedim(1, 3), one.shape[1:2], eps=1e-6).movedim(3, 1) for one in teachers]
    by_map = [one / one.square().mean(dim=(1, 2, 3), keepdim=True).sqrt() for one in teachers]
    for how, targets in (("channel", by_position), ("unit", by_map)):
        loss = built(MapLoss(normalize=how))
        torch.testing.assert_close(loss(students, teachers), plain(students, targets), rtol=1e-9, atol=0)
        alone = [loss([one[:1] for one in students], [one[:1] for one in teachers])]
        alone.append(loss([one[1:] for one in students], [one[1:] for one in teachers]))
        torch.testing.assert_close(loss(students, teachers), (alone[0] + 2 * alone[1]) / 3, rtol=1e-9, atol=0)
        tenfold = loss(students, [10 * one for one in teachers])
        torch.testing.assert_close(tenfold, loss(students, teachers), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Hint("nrom"), r"Hint: unknown regressor 'nrom'; did you mean 'norm' or 'none'\?"),
        (lambda: Hint(growth=-1), "Hint: growth is -1, expected a number >= 0"),
        (
            lambda: built(Hint("none"), [(3, 4, 4)], [(4, 4, 4)]),
            "the regressor is 'none', and a pair of maps has 3 channels in the student and 4 in the teacher, expected",
        ),
        (lambda: AttentionTransfer(0), "AttentionTransfer: p is 0, expected a number > 0"),
        (lambda: BlockGuidance("units"), r"BlockGuidance: unknown normalize 'units'; did you mean 'unit'\?"),
        (
            lambda: MapLoss("attention", "unit"),
            "normalize is 'unit' and transform 'attention'; leave normalize at 'none', or",
        ),
        (lambda: Hint()(maps(STUDENT), maps(TEACHER)), r"Hint was built for 0 pairs and given 3 .*; call build\("),
        (lambda: ReviewKD()(maps(STUDENT), maps(TEACHER)), "ReviewKD was built for 0 pairs and given 3 student maps"),
        (lambda: BlockGuidance()(maps(STUDENT), maps(TEACHER)), "BlockGuidance was built for 0 student and 0 teacher"),
        (lambda: built(BlockGuidance())(maps(PYRAMID[:3]), maps(TEACHER)), "or maps of other shapes; call build with"),
        (lambda: built(built(Hint())), "this Hint already has projections: a loss serves one guide"),
    ],
)
def test_bad_use_is_told_in_one_line(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_every_loss_states_what_it_reads_and_whether_it_looks_across_the_batch() -> None:
    for kind, loss in TERMS.items():
        assert loss.reads in FAMILIES, kind
        assert isinstance(loss().across_batch, bool), kind
        assert getattr(loss, "all_blocks", False) is (kind == "blocks")
