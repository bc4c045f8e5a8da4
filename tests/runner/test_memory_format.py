"""The memory format of a training: channels last wherever a model has convolutions whose windows overlap."""

import pytest
import torch
from torch import Tensor, nn

from lgkd.models.factory import create_student, create_teacher
from lgkd.models.memory_format import lay_out, prefers_channels_last
from lgkd.runner.cost import measure
from lgkd.runner.options import Options
from lgkd.runner.resolve import resolve
from lgkd.runner.runner import Runner
from lgkd.training.peak_memory import PeakMemory


@pytest.mark.parametrize(
    ("student", "expected"), [("vit_96", False), ("vit_96_conv", True), ("cct_7_3x1", True), ("deit_tiny", False)]
)
def test_transformers_prefer_it_for_more_than_a_projection_of_patches(student: str, expected: bool) -> None:
    model = create_student(student, num_classes=3)
    assert prefers_channels_last(model, "cpu") is expected
    # Only CPUs have been measured.
    assert not prefers_channels_last(model, "cuda:0") and not prefers_channels_last(model)


def test_cnns_prefer_it() -> None:
    model = create_teacher("resnet8", num_classes=3, image_size=32)
    assert all(prefers_channels_last(model, device) for device in ("cpu", "cuda", None))


class Hybrid(nn.Module):
    """Convolution, then two blocks; with positions that are read as (1,N,D), and a table of five dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.positions = nn.Parameter(torch.randn(1, 4, 4, 8))
        self.register_buffer("table", torch.zeros(1, 2, 2, 2, 2))
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.stem(images).flatten(2).transpose(1, 2) + self.positions.view(1, 16, 8)
        for block in self.blocks:
            x = block(x)
        return x.mean(1)


def test_other_parameters_than_weights_of_convolutions_keep_their_format() -> None:
    model, images = Hybrid(), torch.randn(2, 3, 4, 4)
    before = model(images)
    assert lay_out(model, "cpu")
    assert model.stem.weight.is_contiguous(memory_format=torch.channels_last) and model.positions.is_contiguous()
    torch.testing.assert_close(model(images.contiguous(memory_format=torch.channels_last)), before)


def test_convolutions_and_pools_of_a_hybrid_student_read_channels_last() -> None:
    options: Options = {"device": "cpu", "recipe": "supervised", "batch_size": 8}
    model_options = {"depth": 3, "embed_dim": 24, "num_heads": 2, "conv_width": 8}
    memory, layouts = PeakMemory("cpu"), list[bool]()
    prepared = Runner(resolve("student", "vit_96_conv", "digits", options, model_options=model_options)).prepare()

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module.training:
            layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    try:
        for layer in prepared.student.modules():
            if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
                layer.register_forward_pre_hook(look)
        measure(
            prepared.student, prepared.guides, prepared.recipe, prepared.data, prepared.loader, prepared.plan,
            prepared.image_size, memory, longest=0.01,
        )  # fmt: skip
    finally:
        prepared.close()
    assert len(layouts) >= 4 and all(layouts), "two convolutions, each before a pool"
