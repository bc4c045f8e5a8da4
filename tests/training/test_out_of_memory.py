"""Memory that runs out in a training: pieces are halved where that helps, and the stage is told where it does not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lgkd.data.loader import TrainLoader
from lgkd.distillation.tasks import Batch, Supervised
from lgkd.errors import OutOfMemoryError
from lgkd.training import loop
from lgkd.training.loop import fit
from lgkd.training.metrics import RunningMean
from lgkd.training.train_step import Engine
from tests.support.training import make_images, make_loader, make_plan, make_task, train


def an_engine() -> Engine:
    return Engine(make_task(), make_plan(accumulate=1), names=lambda index: [])


def one_batch() -> Batch:
    return next(iter(make_loader(make_images()).epoch(0)))


def raising(error: Exception) -> Callable[..., Any]:
    def fails(*_: Any, **__: Any) -> Any:
        raise error

    return fails


SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    MemoryError("std::bad_alloc"),
]


@pytest.mark.parametrize("error", SHORTAGES, ids=[str(error)[-40:] for error in SHORTAGES])
def test_memory_that_runs_out_by_any_name_halves_the_pieces(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    engine = an_engine()
    real, tried = engine._gradients, []

    def cramped(batch: Batch) -> Any:
        tried.append(engine.accumulate)
        if engine.accumulate < 4:
            raise error
        return real(batch)

    monkeypatch.setattr(engine, "_gradients", cramped)
    engine.step(one_batch(), 0, 0, RunningMean())
    assert tried == [1, 2, 4]


class Normalised(nn.Module):
    """A student with running statistics."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(images).mean((2, 3)))


@pytest.mark.parametrize("lacking", [1, 3], ids=["first step", "later, with another number of images"])
def test_a_step_that_runs_out_of_memory_moves_statistics_once(monkeypatch: pytest.MonkeyPatch, lacking: int) -> None:
    found = []
    for accumulate in (1, 2):
        engine = Engine(Supervised(Normalised()), make_plan(accumulate=1), names=lambda index: [])
        real, calls = engine._gradients, []

        def passed(*given: Any, engine: Engine = engine, real: Any = real, calls: list[int] = calls) -> Any:
            calls.append(engine.accumulate)
            made = real(*given)
            if len(calls) == lacking and accumulate == 1:  # noqa: B023 (called in this turn of the loop alone)
                raise torch.OutOfMemoryError("made up")
            return made

        monkeypatch.setattr(engine, "_gradients", passed)
        whole = one_batch()
        for place, batch in enumerate([whole, whole, whole.split(2)[0], whole]):
            if place == lacking - 1 and accumulate == 2:
                engine.accumulate = 2
            engine.step(batch, 0, place, RunningMean())
        assert calls == [1] * lacking + [2] * (5 - lacking) if accumulate == 1 else len(calls) == 4
        norm = engine.task.student.norm
        found.append((norm.running_mean.clone(), norm.running_var.clone(), int(norm.num_batches_tracked)))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert found[0][2] == found[1][2]


OTHERS = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm(handle)`"),
]


@pytest.mark.parametrize("error", OTHERS, ids=["access", "sgemm"])
def test_other_errors_of_a_gpu_do_not(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    engine = an_engine()
    monkeypatch.setattr(engine, "_gradients", raising(error))
    with pytest.raises(RuntimeError, match="CUDA error"):
        engine.step(one_batch(), 0, 0, RunningMean())
    assert engine.accumulate == 1


@pytest.mark.parametrize("part", ["optimizer.step", "ema.update"])
def test_memory_that_runs_out_in_the_update_is_explained_and_nothing_is_repeated(
    monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """A part of the weights may have changed by then."""
    engine = an_engine()
    owner, _, name = part.partition(".")
    monkeypatch.setattr(getattr(engine, owner), name, raising(torch.OutOfMemoryError("CUDA out of memory (made up)")))
    wanted = (
        r"memory ran out while the weights were updated \(CUDA out of memory \(made up\)\); weights, .*; use a smaller"
    )
    with pytest.raises(OutOfMemoryError, match=wanted):
        engine.step(one_batch(), 0, 0, RunningMean())
    assert engine.accumulate == 1


def test_memory_that_runs_out_in_another_stage_is_told_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    short = raising(RuntimeError("CUDA error: out of memory"))
    with monkeypatch.context() as patch:
        patch.setattr(TrainLoader, "_drawn", short)
        with pytest.raises(OutOfMemoryError, match=r"ran out while a batch was read and augm.*; use a smaller --b"):
            train(None)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "Engine", short)
        with pytest.raises(OutOfMemoryError, match=r"ran out when the models were moved to cpu .*; use a smaller mod"):
            train(None)
    with pytest.raises(OutOfMemoryError, match=r"ran out in the evaluation .*; use smaller images"):
        fit(make_task(), make_loader(make_images()), make_plan(), evaluate=short)
    with pytest.raises(RuntimeError, match=r"^another$"):
        fit(make_task(), make_loader(make_images()), make_plan(), evaluate=raising(RuntimeError("another")))
