"""Contrastive representation distillation: the authors' numbers, its negatives, its memories, and resuming."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Batch, Guided
from lgkd.errors import InputError, Paused
from lgkd.losses import CRD
from lgkd.models.teacher import Teacher
from tests.support.training import EPOCHS, STEPS, StopAfter, TinyViT, digest, make_images, make_task, train


def wave(*shape: int, start: float = 0.0) -> Tensor:
    return (torch.arange(math.prod(shape), dtype=torch.float64) * 0.37 + start).sin().view(*shape)


def made(labels: Tensor, widths: tuple[int, int] = (5, 3), *, width: int = 4, negatives: int = 6) -> CRD:
    loss = CRD(negatives, width=width)
    loss.build(*widths, labels)
    loss.double()
    with torch.no_grad():
        for number, weight in enumerate(loss.parameters()):
            weight.copy_(wave(*weight.shape, start=number))
        loss.students.copy_(0.5 * wave(len(labels), width, start=20))
        loss.teachers.copy_(0.5 * wave(len(labels), width, start=30))
    return loss


def test_value_gradients_and_memories_are_those_of_the_authors_code() -> None:
    # RepDistiller b84f547, CRDLoss, with these weights, memories, embeddings and indices. In the first step the
    # negatives are all other images, so that its constants are those of all rows.
    loss = made(torch.arange(7))
    steps = [
        (
            [2, 5, 0],
            None,
            16.534083118823457,
            3.7109362661406786,
            6.666688626405627,
            9.67521439701097,
            10.717573497950632,
        ),
        (
            [6, 2, 1],
            [[0, 1, 1, 3, 4, 5], [0, 0, 0, 3, 6, 1], [2, 3, 4, 5, 6, 6]],
            15.709505307212686,
            6.938833214332787,
            8.349109599377472,
            10.900841274989737,
            11.209138124290762,
        ),
    ]
    for number, (places, drawn, value, slope, weight_slope, students, teachers) in enumerate(steps):
        index = torch.tensor(places)
        negatives = torch.tensor(drawn or [[k for k in range(7) if k != place] for place in places])
        ours, theirs = wave(3, 5, start=40 + number).requires_grad_(), wave(3, 3, start=50 + number)
        loss.zero_grad()
        found = loss.contrast(ours, theirs, index, negatives)
        found.backward()
        assert found.item() == pytest.approx(value, rel=1e-6) and ours.grad is not None
        assert ours.grad.abs().sum().item() == pytest.approx(slope, rel=1e-6)
        assert loss.projections[1].weight.grad.abs().sum().item() == pytest.approx(weight_slope, rel=1e-6)
        assert loss.students.abs().sum().item() == pytest.approx(students, rel=1e-6)
        assert loss.teachers.abs().sum().item() == pytest.approx(teachers, rel=1e-6)
        assert loss.log_z.exp().tolist() == pytest.approx([6399.2, 37273.9], rel=1e-5)


def test_negatives_are_the_images_of_other_classes_equally_often() -> None:
    labels = torch.tensor([1, 0, 2, 1, 0, 1, 2])
    loss, index = made(labels, negatives=3000), torch.tensor([0, 1, 6])
    torch.manual_seed(0)
    drawn = loss.draw(index)
    for place, row in zip(index.tolist(), drawn, strict=True):
        others = (labels != labels[place]).nonzero().flatten()
        assert row.unique().tolist() == others.tolist()
        counts = torch.bincount(row, minlength=7)[others]
        # A deviation of at most 25, of 3000 draws.
        assert (counts - 3000 / len(others)).abs().max() < 130
    torch.manual_seed(0)
    assert torch.equal(loss.draw(index), drawn)


def test_with_several_labels_an_image_the_negatives_are_all_others() -> None:
    loss = CRD(200)
    loss.build(5, 3, torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]))
    assert loss.draw(torch.tensor([1]))[0].unique().tolist() == [0, 2]


def test_an_image_that_is_twice_in_a_batch_counts_with_its_mean_and_evaluation_changes_nothing() -> None:
    loss = made(torch.arange(7) % 3)
    ours, theirs, index = wave(3, 5, start=1), wave(3, 3, start=2), torch.tensor([4, 1, 4])
    before = {name: value.clone() for name, value in loss.named_buffers()}
    value = loss.eval().contrast(ours, theirs, index, index[:, None] - 1)
    assert all(torch.equal(value, before[name]) for name, value in loss.named_buffers())
    embedded = [nn.functional.normalize(loss.projections[0](one), dim=0) for one in ours]
    assert torch.equal(loss.train().contrast(ours, theirs, index, index[:, None] - 1), value)
    row = 0.5 * before["students"][4] + 0.25 * (embedded[0] + embedded[2])
    torch.testing.assert_close(loss.students[4], row / row.norm())
    untouched = [0, 2, 3, 5, 6]
    assert torch.equal(loss.students[untouched], before["students"][untouched])


def test_a_step_that_is_not_finite_leaves_memories_and_constants() -> None:
    loss = made(torch.tensor([0, 0, 1, 1, 2]))
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    student, teacher = wave(2, 5), wave(2, 3, start=1)
    student[0, 0] = torch.inf
    assert not loss(student, teacher, torch.tensor([1, 3])).isfinite()
    changed = {name for name, value in loss.state_dict().items() if not value.equal(before[name])}
    # The teacher's rows and constant are finite; one bad image is in the means of all of the batch.
    assert changed == {"teachers", "log_z"} and loss.teachers.isfinite().all()
    assert loss.log_z[0].isinf() and loss.log_z[1].isfinite()
    assert loss(wave(2, 5), teacher, torch.tensor([1, 3])).isfinite() and loss.log_z.isfinite().all()


def test_low_temperatures_and_half_precision_stay_finite() -> None:
    loss = CRD(8, temperature=0.001, width=4)
    loss.build(5, 3, torch.arange(7) % 2)
    ours = wave(3, 5).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(ours, wave(3, 3).bfloat16(), torch.tensor([0, 1, 2]))
    found.backward()
    assert found.dtype == torch.float32 and found.isfinite() and ours.grad is not None and ours.grad.isfinite().all()
    assert loss.log_z.isfinite().all()


def remembering() -> Guided:
    task = make_task()
    guide, labels = task.guide, make_images().labels
    guide.remove()
    torch.manual_seed(1)
    student = TinyViT()
    terms = [Term(CRD(20, width=8))]
    return Guided(student, Guide(student, guide.teacher, image_size=8, terms=terms, labels=labels))


def test_a_training_that_is_stopped_and_resumed_equals_the_undisturbed_one_with_its_memories(tmp_path: Path) -> None:
    whole, _ = train(tmp_path / "whole", task=remembering(), accumulate=1)
    with pytest.raises(Paused):
        train(tmp_path / "two", stop=StopAfter(STEPS + 2), every=1e9, task=remembering(), accumulate=1)
    train(tmp_path / "two", every=1e9, task=remembering(), accumulate=1)
    assert digest(tmp_path / "two") == digest(tmp_path / "whole")
    loss = whole.guide.losses["crd"]
    lengths = loss.students.norm(dim=1)
    seen = (lengths - 1).abs() < 1e-5
    # Of 43 images each epoch shows 40 in batches of 8.
    assert EPOCHS > 1 and seen.sum() >= 40


def test_a_batch_cannot_be_split_and_a_guide_needs_labels_and_places(
    conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    with pytest.raises(
        InputError, match="CRD remembers every training image, and the guide has no labels of them; pas"
    ):
        Guide(conv_student, teacher, image_size=32, terms=[Term(CRD())])
    labels = torch.arange(9) % 5
    guide = Guide(conv_student, teacher, image_size=32, terms=[Term(CRD(12))], labels=labels)
    task, batch = Guided(conv_student, guide), make_batch(32)
    assert task.across_batch and guide.weights == {"crd": 0.8}
    with pytest.raises(
        InputError, match=r"CRD remembers every training image, and the batch has no places .*; pass th"
    ):
        task(batch)
    step = task(replace(batch, index=torch.tensor([8, 0, 3, 1])))
    step.loss.backward()
    assert all(p.grad is not None for p in guide.losses["crd"].parameters())
    assert {"losses.crd.students", "losses.crd.teachers", "losses.crd.log_z"} < set(guide.state_dict())
    guide.remove()
    with pytest.raises(InputError, match="accumulate is 2, and a term compares the images of a batch with each other"):
        train(None, task=remembering())


def test_bad_use_is_told_in_one_line() -> None:
    with pytest.raises(InputError, match="the 4 training images are of 1 class, expected images of at least two"):
        CRD().build(5, 3, torch.zeros(4, dtype=torch.int64))
    with pytest.raises(InputError, match=r"CRD has no projections; call build\(student_width, teacher_width, labels\)"):
        CRD()(wave(2, 5), wave(2, 3), torch.tensor([0, 1]))
    with pytest.raises(InputError, match="this CRD already has projections"):
        made(torch.arange(7)).build(5, 3, torch.arange(7))
    with pytest.raises(InputError, match="CRD: negatives is 0, expected a whole number >= 1"):
        CRD(0)
