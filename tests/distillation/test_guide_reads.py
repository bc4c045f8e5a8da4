"""What a guide reads of student and teacher, for which term, and what it builds for it."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lgkd.distillation.features import Features
from lgkd.distillation.guide import Guide, PairShape, Term, _warn_of_small_maps
from lgkd.distillation.inputs import value_of
from lgkd.distillation.tasks import Batch
from lgkd.errors import InputError
from lgkd.losses import KD, RKD, CrossCorrelation, DeiTSoft, MapLoss
from lgkd.models.factory import create_student
from lgkd.models.teacher import Teacher


def a_guide(student: nn.Module, teacher: Teacher, *terms: Term) -> Guide:
    return Guide(student, teacher, image_size=32, terms=terms or [Term(MapLoss("linear"), weight=2.5, name="near")])


class Pools(nn.Module):
    """A teacher that has nothing to learn: averages, and classes from the average colour."""

    lgkd_taps = ("fine", "coarse")

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.AvgPool2d(2), nn.AvgPool2d(4)

    def forward(self, images: Tensor) -> Tensor:
        return self.coarse(self.fine(images)).mean(dim=(2, 3))


def test_a_teacher_without_anything_learned_guides_too(
    conv_student: nn.Module, make_batch: Callable[..., Batch]
) -> None:
    teacher, images = Teacher(Pools(), image_size=32), make_batch(32).images
    guide = Guide(conv_student, teacher, image_size=32, terms=[Term(MapLoss("attention"))], taps=["early", "late"])
    fine, coarse = guide.teacher_runner(images).maps
    torch.testing.assert_close(fine, nn.functional.avg_pool2d(images, 2))
    torch.testing.assert_close(coarse, nn.functional.avg_pool2d(images, 8))


def test_an_embedding_is_what_the_teachers_classifier_takes_in(
    conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    images, model = make_batch(32).images, copy.deepcopy(teacher.model)
    guide = a_guide(conv_student, teacher, Term(RKD()), Term(KD()))
    taught = guide.teacher_runner(images)
    taken: list[Tensor] = []
    classifier = next(module for module in model.modules() if isinstance(module, nn.Linear))
    classifier.register_forward_pre_hook(lambda _, given: taken.append(given[0]))
    with torch.no_grad():
        logits = model(images)
    torch.testing.assert_close(taught.embedding, taken[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(taught.logits, logits, rtol=1e-4, atol=1e-5)
    assert guide.teaches == {"logits": (5,), "embedding": (64,)}


@pytest.mark.parametrize(
    ("reads", "blocks", "ours", "theirs"),
    [
        ("maps", False, "maps", "maps"),
        ("maps", True, "blocks", "maps"),
        ("embeddings", False, "embedding", "embedding"),
        ("logits", False, "logits", "logits"),
        ("distillation", False, "distillation", "logits"),
        ("student-maps", False, "maps", None),
        ("exits", False, "maps", "logits"),
        ("images", False, "images", None),
    ],
)
def test_every_family_is_given_what_it_reads(reads: str, blocks: bool, ours: str, theirs: str | None) -> None:
    given: list[tuple[object, ...]] = []

    class Loss(nn.Module):
        def forward(self, *values: object) -> Tensor:
            given.append(values)
            return torch.tensor(7.0)

    Loss.reads = reads
    if blocks:
        Loss.all_blocks = True
    seen, taught = (
        Features(*(torch.tensor(float(place + start)) for place in range(len(Features._fields)))) for start in (0, 10)
    )
    targets = torch.tensor([1])
    assert float(value_of(Loss(), seen, taught, targets)) == 7.0
    of_the_teacher = [getattr(taught, theirs)] if theirs is not None else []
    expected = [getattr(seen, ours), *of_the_teacher] + [targets] * (reads in ("logits", "distillation", "exits"))
    assert len(given[0]) == len(expected)
    assert all(one is other for one, other in zip(given[0], expected, strict=True))


def test_what_learns_is_built_for_what_it_will_read(conv_student: nn.Module, teacher: Teacher) -> None:
    guide = a_guide(conv_student, teacher, Term(CrossCorrelation(expansion=1)), Term(MapLoss("linear"), name="near"))
    assert guide.losses["crosscorrelation"].projection[0].weight.shape == (10, 10)
    assert guide.losses["crosscorrelation"].projection[-1].weight.shape == (64, 10)
    assert [tuple(one.weight.shape) for one in guide.losses["near"].projections] == [
        (16, 6, 1, 1),
        (32, 8, 1, 1),
        (64, 10, 1, 1),
    ]


def test_the_head_of_a_distillation_token_is_read_where_a_term_asks_for_it(teacher: Teacher) -> None:
    small = {"patch_size": 8, "depth": 1, "embed_dim": 12, "num_heads": 1}
    student = create_student("deit_tiny", num_classes=5, image_size=32, distillation_token=True, **small)
    nn.init.normal_(student.head_dist.weight)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with_it = a_guide(student, teacher, Term(DeiTSoft())).read(student, images)
    assert with_it.distillation is not None and with_it.distillation.shape == (2, 5)
    assert with_it.classification is not None and not torch.equal(with_it.classification, with_it.distillation)
    without = a_guide(student, teacher, Term(KD())).read(student, images)
    assert without.distillation is None and without.classification is None
    torch.testing.assert_close(without.logits, (with_it.classification + with_it.distillation) / 2)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4), (4, 1), (2, 2)])
def test_only_a_single_position_is_warned_of(side: int, height: int, width: int) -> None:
    maps = [(3, 4, 4), (3, 4, 4)]
    maps[side] = (3, height, width)
    pairs = [PairShape("late", maps[0], "stage3", maps[1])]
    if (height, width) != (1, 1):
        _warn_of_small_maps(pairs)
        return
    with pytest.warns(UserWarning, match="is compared on a grid of 1 x 1") as caught:
        _warn_of_small_maps(pairs)
    assert str(caught[0].message) == (
        f"the pair late {maps[0]} - stage3 {maps[1]} is compared on a grid of 1 x 1: no local information is left; use "
        "larger images, smaller patches or earlier layers"
    )


def test_a_plain_module_is_no_teacher(conv_student: nn.Module) -> None:
    with pytest.raises(InputError) as caught:
        Guide(conv_student, nn.Linear(1, 1), image_size=32, terms=[Term(MapLoss())])
    assert str(caught.value) == (
        "the teacher is a Linear, expected an lgkd.Teacher, which knows its image size and normalisation; wrap it: "
        "lgkd.Teacher(model, image_size=32)"
    )


def test_the_teachers_view_is_smoothed_only_on_request(
    conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    images = make_batch(48).images
    for words, smooth in (({}, False), ({"antialias": False}, False), ({"antialias": True}, True)):
        guide = Guide(conv_student, teacher, image_size=48, terms=[Term(MapLoss("attention"))], **words)
        expected = guide.teacher_runner(teacher.view(images, guide.mean, guide.std, antialias=smooth)).maps
        other = guide.teacher_runner(teacher.view(images, guide.mean, guide.std, antialias=not smooth)).maps
        for found, one, two in zip(guide.teach(images).maps, expected, other, strict=True):
            assert torch.equal(found, one) and not torch.equal(found, two)


def test_a_student_without_anything_learned_can_be_listened_to(make_batch: Callable[..., Batch]) -> None:
    guide = Guide(Pools(), Teacher(Pools(), image_size=32), image_size=32, terms=[Term(KD())])
    student = Pools()
    assert torch.equal(guide.read(student, make_batch(32).images).logits, student(make_batch(32).images))


def test_layers_are_not_asked_for_where_no_term_compares_maps(conv_student: nn.Module, teacher: Teacher) -> None:
    elsewhere = Teacher(teacher.model, image_size=32, taps=["nowhere"])
    assert a_guide(conv_student, elsewhere, Term(KD())).pairs == []
