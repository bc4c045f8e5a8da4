"""The guide in the course of a training: its teacher's copy, its weights, what has ended, and what is put back."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lgkd.config import AdaptiveStop, TermSchedule
from lgkd.distillation.guide import Guide, PairShape, Term
from lgkd.distillation.taps import Taps
from lgkd.distillation.tasks import Batch
from lgkd.errors import InputError, TapError
from lgkd.losses import KD, MapLoss
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.teacher import Teacher


def a_guide(student: nn.Module, teacher: Teacher, *terms: Term) -> Guide:
    return Guide(student, teacher, image_size=32, terms=terms or [Term(MapLoss("linear"), weight=2.5, name="near")])


def by_hand(teacher: Teacher, view: Tensor) -> list[Tensor]:
    """What the teacher's layers put out, read from a copy of the whole model as it is now."""
    model = copy.deepcopy(teacher.model)
    taps = Taps(model, teacher.taps)
    with torch.no_grad():
        return taps.capture(model, view)[1]


class Wayward(CifarResNet):
    """Its forward pass asks for values, so that it cannot be followed."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) if bool(images.isfinite().all()) else images.new_zeros(len(images), 5)


@pytest.fixture
def wayward() -> Teacher:
    torch.manual_seed(3)
    return Teacher(Wayward(8, 5), image_size=32)


def test_a_teacher_whose_mode_changes_is_read_in_its_new_mode(
    conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    guide, images = a_guide(conv_student, teacher), make_batch(32).images
    running = guide.teacher_runner(images).maps
    torch.testing.assert_close(running, by_hand(teacher, images), rtol=1e-4, atol=1e-5)
    teacher.use_batch_norm("batch")
    batch = guide.teacher_runner(images).maps
    torch.testing.assert_close(batch, by_hand(teacher, images), rtol=1e-4, atol=1e-5)
    assert not any(torch.allclose(one, other, atol=1e-2) for one, other in zip(running, batch, strict=True))


def test_a_lowered_teacher_reads_in_half_precision_whatever_is_around_it(
    conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    guide, images = a_guide(conv_student, teacher), make_batch(32).images
    whole = guide.teacher_runner(images).maps
    guide.teacher_runner.cast(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.float16):
        low = guide.teacher_runner(images).maps
    assert {one.dtype for one in low} == {torch.bfloat16}
    for one, other in zip(whole, low, strict=True):
        # Eight bits of mantissa, a handful of layers.
        assert (one - other.float()).norm() < 0.03 * one.norm()
    assert all(parameter.dtype == torch.float32 for parameter in teacher.parameters()), "the teacher itself stays"
    teacher.use_batch_norm("batch")
    assert {one.dtype for one in guide.teacher_runner(images).maps} == {torch.bfloat16}, "its new copy is lowered, too"


def test_a_teacher_that_cannot_be_followed_is_run_whole_with_hooks_that_go_with_the_guide(
    conv_student: nn.Module, wayward: Teacher, make_batch: Callable[..., Batch]
) -> None:
    guide, images = a_guide(conv_student, wayward), make_batch(32).images
    hooks = [len(module._forward_hooks) for module in wayward.model.modules()]
    assert sum(hooks) == len(wayward.taps)
    guide.teacher_runner.cast(torch.bfloat16)  # there is no copy that could be
    first = guide.teacher_runner(images).maps
    assert {one.dtype for one in first} == {torch.float32}
    wayward.use_batch_norm("batch")
    second = guide.teacher_runner(images).maps
    assert [len(module._forward_hooks) for module in wayward.model.modules()] == hooks, "the old hooks were taken off"
    guide.remove()
    assert not any(module._forward_hooks for module in wayward.model.modules())
    torch.testing.assert_close(second, by_hand(wayward, images))
    wayward.use_batch_norm("running")
    torch.testing.assert_close(first, by_hand(wayward, images))


def test_a_moving_weight_is_the_schedules_factor_times_the_weight(conv_student: nn.Module, teacher: Teacher) -> None:
    ramp = Term(MapLoss("linear"), weight=2.5, name="near", schedule=TermSchedule(warmup=4, shape="cosine", end=0.5))
    guide = a_guide(conv_student, teacher, ramp, Term(MapLoss("attention"), weight=3.0, name="still"))
    assert guide.weight("near") == 2.5, "before begin nothing is laid out"
    guide.on_train_start(8)
    assert float(guide.weight("near")) == 0.0
    # Half a cosine from 1 to 0.5 over 8 epochs: 0.75 in the middle; the warm-up is over.
    for epoch, factor in ((2.0, 0.5 * (0.5 + 0.5 * 0.5 * (1 + 2**-0.5))), (4.0, 0.75), (8.0, 0.5), (8.0, 0.5)):
        guide.set_epoch(epoch)
        assert float(guide.weight("near")) == pytest.approx(2.5 * factor, rel=1e-6)
        assert guide.current_weights() == {"near": pytest.approx(2.5 * factor)}
    assert guide.weight("still") == 3.0 and isinstance(guide.weight("still"), float)
    moving = guide.weight("near")
    assert isinstance(moving, Tensor) and moving.dtype == torch.float32 and moving.device == guide.mean.device


def test_a_weight_moves_whatever_stands_before_it(conv_student: nn.Module, teacher: Teacher) -> None:
    ramp = Term(KD(), weight=2.0, name="ramp", schedule=TermSchedule(warmup=2))
    guide = a_guide(conv_student, teacher, Term(MapLoss("linear"), weight=3.0, name="still"), ramp)
    guide.on_train_start(4)
    guide.set_epoch(1.0)
    assert guide.current_weights() == {"ramp": 1.0} and guide.weight("still") == 3.0


def test_terms_end_each_in_its_time_and_with_the_last_the_teachers_copy_goes(
    conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    falls = Term(MapLoss("similarity"), name="falls", schedule=TermSchedule(adaptive=AdaptiveStop(window=1)))
    guide = a_guide(conv_student, teacher, Term(KD(), name="one", schedule=TermSchedule(until=1)), falls)
    guide.on_train_start(6)
    assert guide.across_batch and guide.active == ("one", "falls")
    assert guide.on_epoch_end(1, {"one": 1.0, "falls": 1.0}) == [
        "one ended after epoch 1: it was scheduled for 1 epoch"
    ]
    assert guide.active == ("falls",)
    batch = make_batch(32)
    seen, taught = guide.read(conv_student, batch.images), guide.teach(batch.images)
    assert guide(seen, taught, batch.targets).keys() == {"falls"}
    assert float(guide.weight("one")) == 0.0 or guide.term_states["one"].ended == 1
    notes = guide.on_epoch_end(2, {"falls": 1.0})
    assert len(notes) == 1 and notes[0].startswith("falls ended after epoch 2: its loss changes by")
    assert guide.active == () and not guide.across_batch
    assert guide.teacher_runner.pruned is None
    guide.set_epoch(3.0)
    assert guide.current_weights() == {"one": 0.0, "falls": 0.0}
    assert guide.on_epoch_end(3, {}) == [], "what has ended ends once"


def test_across_batch_is_asked_of_the_terms_that_go_on(conv_student: nn.Module, teacher: Teacher) -> None:
    alike = Term(MapLoss("similarity"), name="alike", schedule=TermSchedule(until=1))
    guide = a_guide(conv_student, teacher, alike, Term(MapLoss("linear"), name="near"))
    guide.on_train_start(3)
    assert guide.across_batch
    guide.on_epoch_end(1, {})
    assert not guide.across_batch
    assert guide.teacher_runner.pruned is not None, "the teacher is still needed"


def test_what_was_put_back_goes_on_where_it_was(conv_student: nn.Module, teacher: Teacher) -> None:
    def fresh() -> Guide:
        schedule = TermSchedule(until=2)
        return a_guide(conv_student, teacher, Term(KD(), name="a", schedule=schedule), Term(MapLoss(), name="b"))

    first = fresh()
    first.on_train_start(4)
    first.on_epoch_end(1, {})
    first.on_epoch_end(2, {})
    state = first.extra_state()
    assert state == {"a": {"losses": [], "ended": 2}, "b": {"losses": [], "ended": None}}
    second = fresh()
    second.load_extra_state(state)
    assert second.active == ("b",) and second.teacher_runner.pruned is not None
    third = fresh()
    third.load_extra_state({"a": state["a"]})
    assert third.active == ("b",), "of a term that the state does not know nothing is taken"
    fourth = fresh()
    fourth.load_extra_state({name: {"losses": [], "ended": 1} for name in "ab"})
    assert fourth.active == () and fourth.teacher_runner.pruned is None


def test_the_names_of_a_pair_and_its_grid(conv_student: nn.Module, teacher: Teacher) -> None:
    guide = a_guide(conv_student, teacher)
    assert guide.pairs == [
        PairShape("early", (6, 16, 16), teacher.taps[0], (16, 32, 32)),
        PairShape("middle", (8, 8, 8), teacher.taps[1], (32, 16, 16)),
        PairShape("late", (10, 4, 4), teacher.taps[2], (64, 8, 8)),
    ]
    assert PairShape("a", (1, 2, 9), "b", (1, 5, 3)).grid == (5, 9)
    assert guide.teaches == {"map1": (16, 32, 32), "map2": (32, 16, 16), "map3": (64, 8, 8)}


def test_a_term_of_an_unknown_family_is_refused_with_the_families(conv_student: nn.Module, teacher: Teacher) -> None:
    class Reader(nn.Module):
        reads = "pixels"

    with pytest.raises(
        InputError,
        match=r"Reader reads 'pixels'; a loss declares its family as the class attribute reads, one of 'maps', "
        "'logits', 'distillation', 'embeddings', 'dense', 'student-maps', 'exits', 'images'$",
    ):
        a_guide(conv_student, teacher, Term(Reader()))


def test_students_of_other_classes_are_refused_only_where_logits_are_compared(
    conv_student: nn.Module, teacher: Teacher
) -> None:
    torch.manual_seed(0)
    other = Teacher(CifarResNet(8, 7), image_size=32)
    assert a_guide(conv_student, other).pairs
    with pytest.raises(InputError, match="the student has 5 classes, the teacher 7, and a term compares"):
        a_guide(conv_student, other, Term(KD()))


def test_fewer_teacher_taps_than_student_taps_are_refused(conv_student: nn.Module, teacher: Teacher) -> None:
    names = {"taps": ["early", "late"], "teacher_taps": ["stage1"]}
    said = r"2 student taps \(early, late\) cannot be paired with 1 teacher taps \(stage1\)"
    with pytest.raises(TapError, match=said):
        Guide(conv_student, teacher, image_size=32, terms=[Term(MapLoss())], **names)


def test_before_a_training_begins_weights_are_those_that_were_given(conv_student: nn.Module, teacher: Teacher) -> None:
    falls = Term(KD(), weight=2.0, name="falls", schedule=TermSchedule(shape="cosine"))
    guide = a_guide(conv_student, teacher, falls)
    assert guide.current_weights() == {"falls": 2.0}
    guide.set_epoch(0.5)  # of a single epoch, as long as nobody says how many there are
    assert guide.current_weights() == {"falls": pytest.approx(1.0)}


@pytest.mark.parametrize("name", ["weight_near", "loss", "accuracy", "a b", "-a", "keys"])
def test_a_term_takes_no_name_that_the_log_or_torch_uses(conv_student: nn.Module, teacher: Teacher, name: str) -> None:
    with pytest.raises(InputError) as caught:
        a_guide(conv_student, teacher, Term(MapLoss(), name=name))
    assert str(caught.value) == (
        f"a term cannot be named {name!r}; use letters, digits, _ and -, and not a name that the log or torch "
        "reserves, as in 'locality'"
    )


def test_a_guide_without_terms_is_refused_with_an_example(conv_student: nn.Module, teacher: Teacher) -> None:
    with pytest.raises(InputError) as caught:
        Guide(conv_student, teacher, image_size=32, terms=[])
    assert str(caught.value) == ("a guide has no terms; give at least one, as in [Term(MapLoss(), weight=2.5)]")
