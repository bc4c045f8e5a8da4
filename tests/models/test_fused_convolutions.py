"""Convolution, addition and ReLU of a frozen model as one operation: which are joined, and what they compute."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lgkd.models import fused_convolutions
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.default_taps import default_taps
from lgkd.models.fused_convolutions import FusedConv2d, fused
from lgkd.models.pruned_teacher import trim

IMAGES = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def _on_a_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The CPU has no such operations: they are computed one after the other."""

    def forward(self: FusedConv2d, values: Tensor, other: Tensor | None = None) -> Tensor:
        made = self.convolution(values)
        return F.relu(made if other is None else made + other)

    monkeypatch.setattr(fused_convolutions.FusedConv2d, "forward", forward)
    yield


class Several(nn.Module):
    """A residual block; a sum in place whose first operand is read again; a convolution that is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third, self.fourth = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        before = self.relu(self.first(images))
        joined = self.relu(self.second(before) + before)
        kept = joined * 2
        kept = kept.add_(self.third(joined))
        twice = self.fourth(F.relu(kept))
        return torch.relu(twice), twice.sigmoid()


def joined(graph: fx.GraphModule) -> int:
    return sum(isinstance(graph.get_submodule(str(node.target)), FusedConv2d) for node in calls(graph))


def calls(graph: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if node.op == "call_module"]


@pytest.mark.usefixtures("_on_a_device")
def test_only_what_nothing_else_reads_is_joined() -> None:
    graph = fx.symbolic_trace(Several().eval())
    with torch.no_grad():
        made = fused(graph, IMAGES)
        assert joined(made) == 2, "the first, and the second with its addition"
        assert [len(node.args) for node in calls(made)][:2] == [1, 2]
        for ours, theirs in zip(made(IMAGES), graph(IMAGES), strict=True):
            torch.testing.assert_close(ours, theirs)
    assert joined(graph) == 0, "the graph itself must be as it was"


@pytest.mark.usefixtures("_on_a_device")
def test_a_resnet_has_one_operation_a_convolution() -> None:
    torch.manual_seed(0)
    model = CifarResNet(14, 5).eval().requires_grad_(False)
    images = torch.randn(2, 3, 8, 8)
    whole = trim(model, default_taps(model), logits=True, images=images)
    assert whole is not None
    made = fused(whole.graph, images)
    names = [type(made.get_submodule(str(node.target))).__name__ for node in calls(made)]
    # Thirteen in the stem and the blocks; two of the shortcuts are added by the second of their block.
    assert names.count("FusedConv2d") == 13 and names.count("Conv2d") == 2 and "ReLU" not in names
    for ours, theirs in zip(made(images), whole.graph(images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_device_without_the_operations_keeps_the_graph() -> None:
    graph = fx.symbolic_trace(Several().eval())
    with torch.no_grad():
        assert fused(graph, IMAGES) is graph


def test_other_results_keep_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FusedConv2d, "forward", lambda self, values, other=None: self.convolution(values))
    graph = fx.symbolic_trace(Several().eval())
    with torch.no_grad():
        assert fused(graph, IMAGES) is graph
