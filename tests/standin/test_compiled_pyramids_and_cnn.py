"""Compiled steps of PVT, PiT and ResNet-56 equal the eager ones, by torch's own compiler on the CPU.

In fp32, with few blocks and small images where these are options: what is compiled for a block is that of the full
model. It is slow: a C++ compiler is called for every model. A file of its own, so that two processes share the work.
"""

import copy
from collections.abc import Callable

import pytest
import torch

from lgkd.distillation.tasks import Batch, Supervised
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.teacher import Teacher
from lgkd.training.compile import compile_task
from tests.support.compiled import Student, compare, graphs, guided, stepped
from tests.support.compiled import fresh_compiler as fresh_compiler

pytestmark = [pytest.mark.standin, pytest.mark.timeout(450), pytest.mark.usefixtures("fresh_compiler")]


@pytest.mark.parametrize("name", ["pvt_v2_b0", "pit_ti"])
def test_a_compiled_guided_step_equals_the_eager_one(
    name: str, small_student: Student, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    student, size = small_student(name)
    task = guided(student, size, teacher)
    eager, expected = stepped(task, make_batch(size))
    compile_task(task, cuda_graphs=False)
    step, gradients = stepped(task, make_batch(size))
    assert graphs() == 1
    compare(step, gradients, eager, expected, 1e-4)


def test_a_compiled_step_of_resnet_56_equals_the_eager_one() -> None:
    """Gradients to 0.1 %: 55 BatchNorms of four images amplify rounding."""
    torch.manual_seed(0)
    task = Supervised(CifarResNet(56, 5)).train()
    other = copy.deepcopy(task)
    batch = Batch(torch.randn(4, 3, 8, 8), torch.arange(4))
    eager, expected = stepped(other, batch)
    compile_task(task, cuda_graphs=False)
    step, gradients = stepped(task, batch)
    assert graphs() == 1
    compare(step, gradients, eager, expected, 1e-3)
    for (name, found), wanted in zip(task.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5, msg=name)
