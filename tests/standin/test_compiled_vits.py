"""Compiled steps of DeiT and ConViT equal the eager ones, by torch's own compiler on the CPU; compiled blocks, too.

In fp32, with few blocks and small images: what is compiled for a block is that of the full model. It is slow: a C++
compiler is called for every model.
"""

from collections.abc import Callable

import pytest

from lgkd.distillation.tasks import Batch
from lgkd.models.teacher import Teacher
from lgkd.training.compile import compile_task
from lgkd.training.compile_blocks import CompiledBlocks
from tests.support.compiled import Student, compare, graphs, guided, stepped
from tests.support.compiled import fresh_compiler as fresh_compiler

pytestmark = [pytest.mark.standin, pytest.mark.timeout(450), pytest.mark.usefixtures("fresh_compiler")]


@pytest.mark.parametrize("name", ["deit_tiny", "convit_tiny"])
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


def test_a_guided_step_with_compiled_blocks_equals_the_eager_one(
    small_student: Student, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    student, size = small_student("deit_tiny")
    task = guided(student, size, teacher)
    eager, expected = stepped(task, make_batch(size))
    with CompiledBlocks(student).running():
        step, gradients = stepped(task, make_batch(size))
    assert graphs() == 1
    compare(step, gradients, eager, expected, 1e-4)
