"""A whole guided step is one graph, and compiling it changes nothing."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Batch, Guided
from lgkd.errors import TapError
from lgkd.losses import MapLoss
from lgkd.models.teacher import Teacher


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def all_terms() -> list[Term]:
    return [
        Term(MapLoss("linear"), 2.5),
        Term(MapLoss("attention"), 100.0),
        Term(MapLoss("similarity"), 10.0),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deit_tiny", "pvt_v2_b0", "pit_ti", "convit_tiny"])
def test_a_guided_step_of_every_family_is_one_graph_and_equals_the_eager_one(
    name: str, small_student: Callable[..., tuple[nn.Module, int]], teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    student, size = small_student(name)
    task = Guided(student, Guide(student, teacher, image_size=size, terms=all_terms())).train()
    batch = make_batch(size)
    eager = task(batch)
    expected = torch.autograd.grad(eager.loss, list(task.parameters()), allow_unused=True)

    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(task, fullgraph=True, backend=counter)
    for _ in range(2):
        task.zero_grad(set_to_none=True)
        step = compiled(batch)
        step.loss.backward()
        assert task.guide._taps._seen == {} and not task.guide._taps._capturing
    assert counter.frame_count == 1, "the second step must not compile again"
    torch.testing.assert_close(step.loss, eager.loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(step.logits, eager.logits, rtol=1e-5, atol=1e-6)
    assert step.parts.keys() == eager.parts.keys()
    for part in eager.parts:  # each is there only if its taps fired
        torch.testing.assert_close(step.parts[part], eager.parts[part], rtol=1e-5, atol=1e-7)
    for parameter, gradient in zip(task.parameters(), expected, strict=True):
        if gradient is None:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)

    student.eval()(batch.images)
    assert task.guide._taps._seen == {}, "evaluation must keep no activations alive"


def test_a_compiled_step_follows_new_weights_of_student_and_projections(
    conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    conv_student.eval()
    task = Guided(conv_student, Guide(conv_student, teacher, image_size=32, terms=all_terms()))
    compiled = torch.compile(task, fullgraph=True, backend="eager")
    before = compiled(make_batch(32)).loss.item()
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.mul_(0.5)
    after = compiled(make_batch(32)).loss
    torch.testing.assert_close(after, task(make_batch(32)).loss)
    assert after.item() != before


def test_a_guide_made_too_late_is_refused_and_not_silently_deaf(
    conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    """Torch never calls a hook that comes after the first compiled call."""
    conv_student.eval()
    compiled = torch.compile(conv_student, fullgraph=True, backend="eager")
    batch = make_batch(32)
    with torch.no_grad():
        compiled(batch.images)
    guide = Guide(conv_student, teacher, image_size=32, terms=all_terms())
    with pytest.raises(TapError, match="create the guide before the model is compiled"), torch.no_grad():
        guide.read(compiled, batch.images)
