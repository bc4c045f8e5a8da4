"""Forward passes on fake tensors that say they are on `cuda`, under CUDA's own autocast rules; nothing is computed.

The stand-in has no autocast, and its operations take all types; here torch checks devices and types of every
operation as for CUDA. Fake tensors have no backward pass without a GPU, and a guide compares values while it is made,
so that it is made on the CPU and then moved.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from lgkd.config.schema import Guidance
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Batch, Guided
from lgkd.distillation.terms import make_loss
from lgkd.losses import TERMS
from lgkd.models.factory import create_model
from lgkd.models.registry import MODELS, names
from lgkd.models.teacher import Teacher
from tests.support import standin
from tests.support.losses import OF_ATTENTION, attention_guide

pytestmark = pytest.mark.standin

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""As `lgkd distill --precision`; fp32 is what the stand-in trains in."""
CLASSES = 10


@pytest.fixture(autouse=True)
def _cuda_said_to_be_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without a device autocast switches itself off, with a warning."""
    if torch._C._get_privateuse1_backend_name() == standin.NAME:
        pytest.fail(
            "the stand-in is registered in this process, where fake tensors do not work; run tests/fake_cuda alone"
        )
    standin.fake_cuda_was_here = True
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_, **__: True)
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.__future__.set_overwrite_module_params_on_conversion(before)


def guided(student: nn.Module, size: int, kinds: list[str], lowered: torch.dtype) -> Guided:
    torch.manual_seed(0)
    teacher = Teacher(create_model("resnet8", num_classes=CLASSES, image_size=32, options={}), image_size=32)
    section = Guidance.model_validate({"terms": [{"kind": kind} for kind in kinds]})
    if kinds[0] in OF_ATTENTION:
        guide = attention_guide(student, kinds[0], size=size, classes=CLASSES, patch_size=8)
    else:
        terms = [Term(make_loss(term), term.weight, name=term.title) for term in section.terms]
        guide = Guide(student, teacher, image_size=size, terms=terms, labels=torch.arange(9) % CLASSES)
    task = Guided(student, guide)
    task.train()
    task.on_train_start(3, warmup=0)
    task.cast_frozen(lowered)
    return task


def forward(task: Guided, size: int, dtype: torch.dtype, *, mixed: bool) -> Any:
    """A forward pass on `cuda`, of class numbers or of mixed labels."""
    mode = FakeTensorMode(allow_non_fake_inputs=False)
    with mode:
        task._apply(lambda one: one if isinstance(one, FakeTensor) else mode.from_tensor(one).to("cuda"))
        images = torch.empty(4, 3, size, size, device="cuda")
        labels = torch.zeros(4, dtype=torch.int64, device="cuda")
        targets = torch.empty(4, CLASSES, device="cuda") if mixed else labels
        with torch.autocast("cuda", dtype=dtype):
            assert torch.is_autocast_enabled("cuda")
            product = images.flatten(1) @ images.flatten(1).T
            assert product.dtype == dtype, "autocast must work, or the test shows nothing"
            return task(Batch(images, targets, index=labels))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", sorted(TERMS))
def test_every_kind_of_term_is_computed_on_cuda(kind: str, precision: str) -> None:
    dtype = PRECISIONS[precision]
    options = {"patch_size": 8, "depth": 3, "distillation_token": kind.startswith("deit")}
    for mixed in (False, True):
        student = create_model("deit_tiny", num_classes=CLASSES, image_size=32, options=options)
        step = forward(guided(student, 32, [kind], dtype), 32, dtype, mixed=mixed)
        assert step.loss.device.type == "cuda" and step.loss.dtype == torch.float32
        assert all(part.device.type == "cuda" for part in step.parts.values())


@pytest.mark.parametrize("name", names("student"))
def test_every_student_is_computed_on_cuda(name: str) -> None:
    size, options = min(64, MODELS[name].image_size), {"patch_size": 8} if name.startswith("deit") else {}
    student = create_model(name, num_classes=CLASSES, image_size=size, options=options)
    task = guided(student, size, ["locality", "standardized-kd"], torch.bfloat16)
    step = forward(task, size, torch.bfloat16, mixed=True)
    assert step.loss.device.type == step.logits.device.type == "cuda"
