"""Dense logits, relations of positions and the teacher's classifier in a training: resumed, cached, in parts."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lgkd.config import Optimizer
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Batch, Guided
from lgkd.distillation.terms import for_several_labels
from lgkd.errors import InputError, Paused
from lgkd.losses import DenseKD, TeacherHead, TokenRelations
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.teacher import Teacher
from lgkd.training.loop import fit
from tests.support.teacher_cache import MEAN, STD, augment, looked_up, make_loader, write
from tests.support.training import StopAfter, TinyViT, digest, make_images, make_plan, train, without_times

NAMES = ("dense", "relations", "head")


def task_of(projector: str = "norm") -> Guided:
    torch.manual_seed(1)
    student = TinyViT()
    torch.manual_seed(6)
    teacher = Teacher(CifarResNet(8, 3), image_size=8, mean=MEAN, std=STD)
    losses = (DenseKD("soft"), TokenRelations(), TeacherHead(projector=projector))
    terms = [Term(loss, name=name) for name, loss in zip(NAMES, losses, strict=True)]
    taps = ["blocks.0", "blocks.1", "blocks.2"]
    return Guided(student, Guide(student, teacher, image_size=8, terms=terms, taps=taps, mean=MEAN, std=STD))


def test_a_resumed_training_equals_the_undisturbed_one_to_the_bit(tmp_path: Path) -> None:
    whole, rows = train(tmp_path / "whole", every=1e9, task=task_of())
    with pytest.raises(Paused):
        train(tmp_path / "parts", stop=StopAfter(7), every=1e9, task=task_of())
    again = task_of()
    resumed, others = train(tmp_path / "parts", every=1e9, task=again)
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")
    assert without_times(others) == without_times(rows)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in resumed.state_dict().items())
    # 4 epochs of 5 steps, of which the last begins after 19.
    assert float(again.guide.losses["dense"].local) == pytest.approx(1 - 19 / 20)


def test_a_training_from_a_cache_is_the_training_with_the_teacher(tmp_path: Path) -> None:
    images, drawn = make_images(), augment()
    online, served = task_of(), task_of()
    cache = write(tmp_path / "cache", served.guide, images, drawn)
    assert list(cache.layout.shapes) == ["map1", "map2", "map3", "logits", "embedding", "dense"]
    assert tuple(cache.layout.shapes["dense"]) == (3, 2, 2)
    served.guide.teach = None  # type: ignore[assignment, method-assign]  # it would be missed
    plan = make_plan(ema=None, optimizer=Optimizer("sgd", lr=0.05, weight_decay=0.0))
    lookup = looked_up(cache, served.guide, images, drawn)
    ours, theirs = (
        fit(task, make_loader(images, drawn), plan, lookup=found) for task, found in ((served, lookup), (online, None))
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one.train == pytest.approx(other.train, abs=1e-5)
        assert set(NAMES) <= set(one.train)


def batch_of(count: int = 6) -> Batch:
    draw = torch.Generator().manual_seed(3)
    return Batch(torch.randn(count, 3, 8, 8, generator=draw), torch.arange(count) % 3)


def test_a_batch_in_halves_has_the_mean_of_their_losses() -> None:
    """So that micro-batches and processes compute what one whole batch does; nothing compares its images."""
    task, batch = task_of("linear").eval(), batch_of()
    assert not task.across_batch
    whole = task(batch).parts
    halves = [task(half).parts for half in batch.split(2)]
    for name in NAMES:
        torch.testing.assert_close(torch.stack([half[name] for half in halves]).mean(), whole[name])


def test_labels_change_nothing_but_the_classification() -> None:
    task, batch = task_of().eval(), batch_of()
    step, other = task(batch), task(Batch(batch.images, (batch.targets + 1) % 3))
    assert all(torch.equal(step.parts[name], other.parts[name]) for name in NAMES)
    assert not torch.equal(step.parts["classification"], other.parts["classification"])


def gradient(task: Guided, name: str, batch: Batch) -> Tensor:
    step = task(batch)
    task.zero_grad()
    task.guide(task.guide.read(task.student, batch.images), task.guide.teach(batch.images), batch.targets)[
        name
    ].backward()
    assert step.parts[name] > 0
    return task.student.patch.weight.grad.clone()


@pytest.mark.parametrize("name", NAMES)
def test_a_term_moves_the_student_and_never_the_teacher(name: str) -> None:
    task = task_of().train()
    assert gradient(task, name, batch_of()).any()
    assert all(parameter.grad is None for parameter in task.guide.teacher.parameters())


def test_with_several_labels_dense_logits_are_refused_and_the_others_stay() -> None:
    with pytest.raises(InputError, match="the term dense compares probabilities of classes that exclude each other"):
        for_several_labels(DenseKD(), "dense")
    for loss in (TeacherHead(), TokenRelations()):
        assert for_several_labels(loss, "x") is loss


@pytest.mark.parametrize("backend", ["aot_eager"])
def test_a_compiled_step_follows_the_course(backend: str) -> None:
    torch.compiler.reset()
    task, batch = task_of().eval(), batch_of()
    task.guide.on_train_start(4)
    compiled = torch.compile(task, backend=backend, fullgraph=True)
    for epoch in (0.0, 1.0, 3.0):
        task.guide.set_epoch(epoch)
        torch.testing.assert_close(compiled(batch).parts["dense"], task(batch).parts["dense"], rtol=1e-4, atol=1e-5)
    torch.compiler.reset()
