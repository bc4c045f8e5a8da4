"""Every model that has a name makes a guided step at its own size: students are guided, teachers guide."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Batch, Guided
from lgkd.losses import MapLoss
from lgkd.models.factory import create_model
from lgkd.models.registry import MODELS, names
from lgkd.models.teacher import Teacher

CLASSES = 3


def guided_step(student: nn.Module, teacher: Teacher, size: int) -> None:
    """One step of two images: a finite loss, a part that is the guidance, and gradients at student and projections."""
    guide = Guide(student, teacher, image_size=size, terms=[Term(MapLoss("linear"), weight=2.5)])
    task = Guided(student, guide).train()
    step = task(Batch(torch.randn(2, 3, size, size), torch.tensor([0, 2])))
    step.loss.backward()
    assert torch.isfinite(step.loss) and step.parts["guidance_linear"] > 0
    assert torch.allclose(step.loss.detach(), step.parts["classification"] + 2.5 * step.parts["guidance_linear"])
    first = next(parameter for parameter in student.parameters() if parameter.requires_grad)
    assert first.grad is not None and bool(first.grad.abs().sum() > 0)
    assert all(parameter.grad is not None for parameter in guide.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    guide.remove()


@pytest.mark.slow
@pytest.mark.parametrize("name", names("student"))
def test_every_student_is_guided(name: str) -> None:
    torch.manual_seed(0)
    student, size = create_model(name, num_classes=CLASSES), MODELS[name].image_size
    guided_step(student, Teacher(create_model("resnet8", num_classes=CLASSES), image_size=32), size)


@pytest.mark.slow
@pytest.mark.parametrize("name", names("teacher"))
def test_every_teacher_guides(name: str, small_student: Callable[..., tuple[nn.Module, int]]) -> None:
    student, size = small_student(classes=CLASSES)
    teacher = Teacher(create_model(name, num_classes=CLASSES), image_size=MODELS[name].image_size)
    assert len(teacher.taps) == 3
    guided_step(student, teacher, size)
