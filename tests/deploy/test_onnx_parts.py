"""Parts of the plain ViT as ONNX; needs the extra `onnx`."""

from typing import Any

import pytest
import torch

from lgkd.deploy import formats
from lgkd.deploy.export import LIMIT
from lgkd.models.factory import create_model
from tests.support.onnx import lively, subject_of

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"qkv": "multiscale", "register_tokens": 2}, {"attention": "gaussian-mask", "register_tokens": 1}],
    ids=["multiscale", "gaussian-mask"],
)
def test_a_student_of_these_parts_gives_the_same_logits(options: dict[str, Any]) -> None:
    torch.manual_seed(3)
    model = lively(create_model("poorvit", num_classes=7, image_size=32, options={"depth": 2, **options}))
    subject = subject_of(model, "poorvit", 32, classes=7)
    student = formats.as_onnx(subject, formats.follow(subject)).logits
    for batch in (1, 5):
        images = torch.randn(batch, 3, 32, 32)
        with torch.no_grad():
            expected = model(images)
        assert abs(student(images) - expected).max() < LIMIT * max(1.0, float(expected.abs().max()))
