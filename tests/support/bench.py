"""The smallest benches: a guided student, an unguided one, a teacher, and the command."""

from dataclasses import replace

import pytest

from lgkd.benchmark.flops import measure_peak
from lgkd.benchmark.options import Choices

STUDENT = {"patch_size": 8, "depth": 3, "embed_dim": 32, "num_heads": 2}
GUIDED = Choices(
    student="deit_tiny",
    teacher="resnet8",
    student_options=STUDENT,
    image_size=32,
    batch_size=4,
    precision="fp32",
    device="cpu",
    images=20,
)
UNGUIDED = replace(GUIDED, teacher=None)
TEACHER = replace(GUIDED, student=None, student_options={})
TYPED = [
    "bench", "--student", "deit_tiny", "--teacher", "resnet8", "--image-size", "32", "--batch-size", "4",
    "--images", "20", "--device", "cpu", "--steps", "1", "--repeats", "2",
    *(word for key, value in STUDENT.items() for word in ("--student-option", f"{key}={value}")),
]  # fmt: skip


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast this machine multiplies is found out with small matrices."""
    monkeypatch.setattr(measure_peak, "__defaults__", ((64,),))
