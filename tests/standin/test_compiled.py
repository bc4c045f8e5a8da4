"""Compiled steps of the default students and of ResNet-56 equal the eager ones, by torch's own compiler on the CPU.

In fp32, with few blocks and small images where these are options: what is compiled per block is that of the full model.
A loss may differ by 1e-5 of itself, a gradient by 1e-4 of the largest number in it, and by 1e-3 in ResNet-56, whose 55
BatchNorms of four images amplify rounding. It is slow: compilers are called for every model.
"""

import copy
import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Batch, Guided, Step, Supervised, Task
from lgkd.losses import MapLoss
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.teacher import Teacher
from lgkd.training.compile import compile_task, hide_missing_runtime
from lgkd.training.compile_blocks import CompiledBlocks

pytestmark = [pytest.mark.standin, pytest.mark.timeout(450)]

STUDENTS = ["deit_tiny", "pvt_v2_b0", "pit_ti", "convit_tiny"]


@pytest.fixture(autouse=True)
def _compiler() -> Iterator[None]:
    assert shutil.which("g++") is not None, "torch's compiler needs g++ on a CPU"
    hide_missing_runtime()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def stepped(task: Task, batch: Batch) -> tuple[Step, dict[str, torch.Tensor]]:
    """A step, and the gradients of all weights that have one."""
    task.zero_grad(set_to_none=True)
    step = task(batch)
    step.loss.backward()
    return step, {name: weight.grad for name, weight in task.named_parameters() if weight.grad is not None}


def compare(
    step: Step, gradients: dict[str, torch.Tensor], eager: Step, expected: dict[str, torch.Tensor], share: float
) -> None:
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


def guided(student: nn.Module, size: int, teacher: Teacher) -> Guided:
    return Guided(student, Guide(student, teacher, image_size=size, terms=[Term(MapLoss("linear"), 2.5)])).train()


@pytest.mark.parametrize("name", STUDENTS)
def test_a_compiled_guided_step_equals_the_eager_one(
    name: str, small_student: Callable[..., tuple[nn.Module, int]], teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    student, size = small_student(name)
    task = guided(student, size, teacher)
    eager, expected = stepped(task, make_batch(size))
    compile_task(task, cuda_graphs=False)
    step, gradients = stepped(task, make_batch(size))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    compare(step, gradients, eager, expected, 1e-4)


def test_a_guided_step_with_compiled_blocks_equals_the_eager_one(
    small_student: Callable[..., tuple[nn.Module, int]], teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    student, size = small_student("deit_tiny")
    task = guided(student, size, teacher)
    eager, expected = stepped(task, make_batch(size))
    with CompiledBlocks(student).running():
        step, gradients = stepped(task, make_batch(size))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    compare(step, gradients, eager, expected, 1e-4)


def test_a_compiled_step_of_resnet_56_equals_the_eager_one() -> None:
    torch.manual_seed(0)
    task = Supervised(CifarResNet(56, 5)).train()
    other = copy.deepcopy(task)
    batch = Batch(torch.randn(4, 3, 8, 8), torch.arange(4))
    eager, expected = stepped(other, batch)
    compile_task(task, cuda_graphs=False)
    step, gradients = stepped(task, batch)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    compare(step, gradients, eager, expected, 1e-3)
    for (name, found), wanted in zip(task.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5, msg=name)
