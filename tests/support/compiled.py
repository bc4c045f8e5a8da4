"""Compare compiled steps with eager ones: tolerances, and a fresh compiler for each test."""

import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Batch, Guided, Step, Task
from lgkd.losses import MapLoss
from lgkd.models.teacher import Teacher
from lgkd.training.compile import hide_missing_runtime

Student = Callable[..., tuple[nn.Module, int]]


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    assert shutil.which("g++") is not None, "torch's compiler needs g++ on a CPU"
    hide_missing_runtime()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def graphs() -> int:
    """Graphs that were compiled in this test."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def guided(student: nn.Module, size: int, teacher: Teacher) -> Guided:
    return Guided(student, Guide(student, teacher, image_size=size, terms=[Term(MapLoss("linear"), 2.5)])).train()


def stepped(task: Task, batch: Batch) -> tuple[Step, dict[str, Tensor]]:
    """A step, and the gradients of all weights that have one."""
    task.zero_grad(set_to_none=True)
    step = task(batch)
    step.loss.backward()
    return step, {name: weight.grad for name, weight in task.named_parameters() if weight.grad is not None}


def compare(step: Step, gradients: dict[str, Tensor], eager: Step, expected: dict[str, Tensor], share: float) -> None:
    """A loss may differ by 1e-5 of itself, a gradient by `share` of its largest number."""
    torch.testing.assert_close(step.loss, eager.loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(step.logits, eager.logits, rtol=1e-4, atol=share)
    assert step.parts.keys() == eager.parts.keys() and gradients.keys() == expected.keys()
    for name, value in eager.parts.items():
        torch.testing.assert_close(step.parts[name], value, rtol=1e-5, atol=1e-6)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 1e-3, "gradients of zero would equal anything"
    for name, gradient in expected.items():
        # A gradient that is zero but for rounding (a bias before BatchNorm) is measured by the others.
        scale = max(float(gradient.abs().max()), 1e-3 * largest)
        assert float((gradients[name] - gradient).abs().max()) <= share * scale, name
