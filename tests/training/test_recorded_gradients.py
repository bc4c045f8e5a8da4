"""Gradients of recorded micro-batches, whose memory is that of a CUDA graph, shown with a layer that does the same."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lgkd.distillation.tasks import Batch, Supervised
from lgkd.training.metrics import RunningMean
from lgkd.training.train_step import Engine
from tests.support.training import make_images, make_loader, make_plan


class Recorded(torch.autograd.Function):
    """A linear layer whose gradient is always in the same memory, as that of a CUDA graph: it is overwritten."""

    memory = torch.empty(12, 3)

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        return tokens @ weight

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[None, Tensor]:
        (tokens,) = ctx.saved_tensors
        memory = Recorded.memory
        memory.copy_(tokens.T @ slope)
        # A new tensor in the old memory, which torch takes over as the weight's gradient.
        return None, torch.empty(0).set_(memory.untyped_storage(), 0, memory.shape, memory.stride())


class Replayed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 36).view(12, 3))

    def forward(self, images: Tensor) -> Tensor:
        return Recorded.apply(images.flatten(1)[:, :12], self.weight)


@pytest.mark.parametrize("halved", [False, True])
def test_a_recordings_gradients_are_added_up_in_memory_of_their_own(
    monkeypatch: pytest.MonkeyPatch, halved: bool
) -> None:
    """In three micro-batches, or in two after memory ran out."""
    settings: dict[str, Any] = {"ema": None, "clip_norm": None}
    learned = []
    for accumulate, graphs in ((1, False), (1 if halved else 3, True)):
        engine = Engine(
            Supervised(Replayed()),
            make_plan(accumulate=accumulate, cuda_graphs=graphs, **settings),
            names=lambda index: [],
        )
        if graphs and halved:
            real, tried = engine._gradients, []

            def cramped(batch: Batch, real: Any = real, tried: list[Any] = tried) -> Any:
                tried.append(None)
                if len(tried) == 1:
                    raise torch.OutOfMemoryError("made up")
                return real(batch)

            monkeypatch.setattr(engine, "_gradients", cramped)
        gradients: list[Tensor] = []
        engine.raw_optimizer.register_step_pre_hook(
            lambda optimizer, *_, gradients=gradients: gradients.append(
                optimizer.param_groups[0]["params"][0].grad.clone()
            )
        )
        engine.step(next(iter(make_loader(make_images()).epoch(0))), 0, 0, RunningMean())
        learned.append(gradients[0])
    torch.testing.assert_close(learned[1], learned[0])
