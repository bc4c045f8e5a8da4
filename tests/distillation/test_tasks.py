"""Tasks: the loss is the sum of its parts, and a guide of weight zero is none."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.schedules import TermSchedule
from lgkd.distillation.tasks import Batch, Guided, Step, Supervised, Task, as_task
from lgkd.losses import MapLoss
from lgkd.models.teacher import Teacher


def guided(student: nn.Module, teacher: Teacher, *weights: float) -> Guided:
    terms = [
        Term(MapLoss(transform), weight=weight)
        for transform, weight in zip(("linear", "attention", "similarity"), weights, strict=False)
    ]
    return Guided(student, Guide(student, teacher, image_size=32, terms=terms))


@pytest.mark.parametrize("weights", [(2.5,), (2.5, 100.0, 3000.0), (0.0, 0.3)])
def test_parts_times_weights_are_the_loss_exactly(
    conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch], weights: tuple[float, ...]
) -> None:
    task = guided(conv_student, teacher, *weights)
    step = task(make_batch(32))
    assert list(step.parts) == ["classification", *task.guide.weights]
    total = step.parts["classification"]
    for name, weight in task.guide.weights.items():
        total = total + weight * step.parts[name]
    assert torch.equal(step.loss, total)
    assert not any(part.requires_grad for part in step.parts.values())


def test_the_parts_are_cross_entropy_and_the_loss_between_maps(
    conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    conv_student.eval()
    task, batch = guided(conv_student, teacher, 2.5), make_batch(32)
    step = task(batch)
    answers = zip(step.logits.log_softmax(1), batch.targets, strict=True)
    by_hand = [-row[label].item() for row, label in answers]
    assert step.parts["classification"].item() == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-6)
    x, maps = batch.images, []
    for layer in (conv_student.early, conv_student.middle, conv_student.late):
        x = layer(x)
        maps.append(x)
    x, theirs = batch.images, []
    model = teacher.model
    x = model.relu(model.bn(model.conv(x)))
    for stage in (model.stage1, model.stage2, model.stage3):
        x = stage(x)
        theirs.append(x)
    loss = task.guide.losses["guidance_linear"]
    expected = 0.0
    for project, ours, its in zip(loss.projections, maps, theirs, strict=True):
        upsampled = F.interpolate(project(ours), size=its.shape[2:], mode="bilinear", align_corners=False)
        expected += (upsampled - its).square().mean().item()
    assert step.parts["guidance_linear"].item() == pytest.approx(expected, rel=1e-5)


def test_guidance_of_weight_zero_trains_like_no_guidance(
    conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    twin = copy.deepcopy(conv_student)
    tasks = [guided(conv_student, teacher, 0.0, 0.0, 0.0), Supervised(twin)]
    for task in tasks:
        optimizer = torch.optim.AdamW(task.student.parameters(), lr=1e-2)
        for seed in range(3):
            torch.manual_seed(seed)  # both drop the same units
            optimizer.zero_grad()
            task.train()
            task(make_batch(32, seed=seed)).loss.backward()
            if seed == 0:
                task.first = [p.grad.clone() for p in task.student.parameters()]
            optimizer.step()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(tasks[0].first, tasks[1].first, strict=True))
    mine, other = tasks[0].student.state_dict(), tasks[1].student.state_dict()
    assert all(torch.equal(mine[key], other[key]) for key in other)


def test_guidance_reaches_the_student_below_its_taps_and_not_above(
    conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    task = guided(conv_student, teacher, 2.5)
    images, targets = (batch := make_batch(32)).images, batch.targets
    seen = task.guide.read(conv_student, images)
    task.guide(seen, task.guide.teach(images), targets)["guidance_linear"].backward()
    assert all(p.grad.abs().sum() > 0 for p in task.guide.parameters())
    assert conv_student.early[0].weight.grad.abs().sum() > 0
    assert conv_student.head.weight.grad is None


def test_targets_may_be_class_numbers_or_distributions(
    conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    batch = make_batch(32)
    spread = F.one_hot(batch.targets, 5).float()
    conv_student.eval()
    for task in (Supervised(conv_student), guided(conv_student, teacher, 2.5)):
        hard, soft = task(batch).loss, task(Batch(batch.images, spread)).loss
        torch.testing.assert_close(hard, soft)


def test_a_supervised_step_is_mean_cross_entropy(conv_student: nn.Module, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch(32)
    step = Supervised(conv_student.eval())(batch)
    probabilities = torch.softmax(step.logits, 1)
    expected = -torch.stack([probabilities[i, label].log() for i, label in enumerate(batch.targets)]).mean()
    torch.testing.assert_close(step.loss, expected)
    assert torch.equal(step.parts["classification"], step.loss.detach())


def test_a_guided_step_under_autocast_differs_only_by_rounding(
    conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    conv_student.eval()
    task, batch = guided(conv_student, teacher, 2.5, 10.0, 10.0), make_batch(32)
    plain = task(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = task(batch)
    rounded.loss.backward()
    assert rounded.loss.dtype == torch.float32
    assert rounded.loss.item() == pytest.approx(plain.loss.item(), rel=0.05)


def test_a_failed_forward_leaves_no_activations_behind(
    conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    task = guided(conv_student, teacher, 2.5)

    def broken(_: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    handle = conv_student.head.register_forward_pre_hook(lambda *_: broken(torch.zeros(1)))
    with pytest.raises(RuntimeError, match="out of memory"):
        task(make_batch(32))
    handle.remove()
    conv_student(make_batch(32).images)
    assert task.guide._taps._seen == {}
    assert task(make_batch(32)).loss.isfinite(), "and the next step works"


# The interface that a training knows


class Plain(nn.Module):
    """A task of somebody who has never heard of `Task`; its temperature is trained, too."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))
        self.student = student

    def forward(self, batch: Batch) -> Step:
        logits = self.student(batch.images) / self.temperature
        return Step(F.cross_entropy(logits, batch.targets), logits)


def test_a_module_with_a_student_and_a_step_is_a_task_under_its_own_names(
    conv_student: nn.Module, make_batch: Callable[..., Batch]
) -> None:
    module, batch = Plain(conv_student.eval()), make_batch(32)
    task = as_task(module)
    assert isinstance(task, Task) and as_task(task) is task
    assert [name for name, _ in task.named_parameters()] == [name for name, _ in module.named_parameters()]
    assert [*map(id, task.parameters())] == [*map(id, module.parameters())]
    assert torch.equal(task(batch).loss, Supervised(conv_student)(batch).loss)
    task.train()
    assert module.training and module.student.training


def test_a_task_without_state_of_its_own_has_nothing_but_its_student(conv_student: nn.Module) -> None:
    task = Supervised(conv_student)
    task.on_train_start(3, warmup=1.0)
    task.set_epoch(1.5)
    task.cast_frozen(torch.bfloat16)
    assert task.on_epoch_end(1, {"loss": 1.0}) == [] and task.extra_state() == []
    task.load_extra_state([])
    assert task.current_weights() == {} and task.terms == {} and task.active_terms == ()
    assert not task.across_batch and task.frozen_models == {}
    parts = task.checkpoint_tensors()
    assert parts.keys() == {"student", "guide"} and parts["guide"] == {}
    assert parts["student"].keys() == conv_student.state_dict().keys()
    assert {value.dtype for value in parts["student"].values()} <= {torch.float32, torch.int64}


class Guides(Plain):
    """One with guides, as `Guided` keeps them."""

    def __init__(self, student: nn.Module, *guides: Guide) -> None:
        super().__init__(student)
        self.guides = nn.ModuleList(guides)


@pytest.mark.parametrize("kind", [Guided, Guides])
def test_a_guided_task_passes_everything_on_to_each_of_its_guides(
    kind: type[nn.Module], conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    def make() -> tuple[Task, Guide, Guide]:
        ends = TermSchedule(until=1)
        near = Term(MapLoss("linear"), weight=2.0, name="near", schedule=ends)
        alike = Term(MapLoss("similarity"), weight=4.0, name="alike", schedule=TermSchedule(warmup=4))
        first = Guide(conv_student, teacher, image_size=32, terms=[near])
        second = Guide(conv_student, copy.deepcopy(teacher), image_size=32, terms=[alike])
        return as_task(kind(conv_student, first, second)), first, second

    task, first, second = make()
    task.on_train_start(8)
    task.set_epoch(1.0)
    assert task.current_weights() == {"near": 2.0, "alike": 1.0}
    assert task.terms == {"near": first.losses["near"], "alike": second.losses["alike"]}
    assert task.active_terms == ("near", "alike") and task.across_batch
    assert task.frozen_models == {"teacher 1": first.teacher.model, "teacher 2": second.teacher.model}
    task.cast_frozen(torch.bfloat16)
    assert {one.dtype for guide in (first, second) for one in guide.teach(make_batch(32).images).maps} == {
        torch.bfloat16
    }
    assert task.on_epoch_end(1, {}) == ["near ended after epoch 1: it was scheduled for 1 epoch"]
    assert task.active_terms == ("alike",) and task.across_batch
    state, parts = task.extra_state(), task.checkpoint_tensors()
    assert state == [{"near": {"losses": [], "ended": 1}}, {"alike": {"losses": [], "ended": None}}]
    assert parts["guide"].keys() == task.guides.state_dict().keys()  # type: ignore[attr-defined]
    again, *_ = make()
    with torch.no_grad():
        for weight in again.parameters():
            weight.add_(1.0)
    saved = {part: {name: value.clone() for name, value in tensors.items()} for part, tensors in parts.items()}
    again.load_checkpoint_tensors(saved)
    again.load_extra_state(state)
    assert again.active_terms == ("alike",)
    for name, value in saved["guide"].items():
        assert torch.equal(again.checkpoint_tensors()["guide"][name], value), name
    again.load_extra_state([])  # as a checkpoint of the first epoch had it
    assert again.active_terms == ("alike",)
