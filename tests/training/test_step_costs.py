"""What a step must not do: wait for the device, compile again, break the graph, or keep memory."""

import gc
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from lgkd.config import TermSchedule
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Guided, Step, Supervised
from lgkd.errors import InputError
from lgkd.losses import MapLoss
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.teacher import Teacher
from lgkd.training import train_step as engine_module
from lgkd.training.compile import choose_compile, compile_task
from lgkd.training.metrics import RunningMean
from lgkd.training.train_step import Engine
from tests.support.training import TinyViT, make_images, make_loader, make_plan

# Each of these has to know numbers on the host, so on a GPU it waits for everything that was queued before it.
WAITING = {"_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "unique_dim", "_unique2"}


class Counting(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func._schema.name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


def scheduled(**schedule: Any) -> Guided:
    torch.manual_seed(1)
    student = TinyViT()
    terms = [Term(MapLoss("linear"), 2.5, schedule=TermSchedule(**schedule)), Term(MapLoss("attention"), 10.0)]
    teacher = Teacher(CifarResNet(8, 3), image_size=8)
    taps = ["blocks.0", "blocks.1", "blocks.2"]
    return Guided(student, Guide(student, teacher, image_size=8, terms=terms, taps=taps))


def steps(engine: Engine, epochs: int = 1) -> Iterator[tuple[int, int]]:
    """Run an engine over the small world's images; gives (epoch, step) after every step."""
    loader, meters = make_loader(make_images()), RunningMean()
    drawn = [list(loader.epoch(epoch)) for epoch in range(epochs)]  # the loader has tests of its own
    engine.task.train()
    for epoch, batches in enumerate(drawn):
        for place, batch in enumerate(batches):
            engine.step(batch, epoch, place, meters)
            yield epoch, place


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_no_step_waits_for_the_device(optimizer: str) -> None:
    plan = make_plan()
    plan = make_plan(optimizer=type(plan.optimizer)(optimizer, lr=0.01, weight_decay=0.01))
    engine = Engine(scheduled(warmup=2), plan, names=lambda index: [])
    running = steps(engine)
    next(running)  # the first step makes the optimiser's state
    with Counting() as counting:
        for _ in running:
            pass
    assert counting.calls["mm"] + counting.calls["addmm"] > 0, "the mode must have seen the steps"
    assert {name: counting.calls[name] for name in WAITING if counting.calls[name]} == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_no_step_waits_for_a_gpu() -> None:
    engine = Engine(scheduled(warmup=2), make_plan(device="cuda", accumulate=1), names=lambda index: [])
    loader, meters = make_loader(make_images(), device="cuda"), RunningMean()
    engine.task.train()
    for epoch in range(2):
        torch.cuda.set_sync_debug_mode("error" if epoch else "default")
        try:
            for place, batch in enumerate(loader.epoch(epoch)):
                engine.step(batch, epoch, place, meters)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(task: Guided | Supervised, **changes: Any) -> tuple[Engine, CompileCounterWithBackend]:
    """An engine whose compiler counts graphs instead of making machine code."""
    counter = CompileCounterWithBackend("eager")
    engine = Engine(task, make_plan(accumulate=1, **changes), names=lambda index: [])
    task.compile(dynamic=False, fullgraph=True, backend=counter)
    return engine, counter


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_moving_weight_compiles_nothing_anew_and_a_term_that_ends_compiles_once_more(precision: str) -> None:
    engine, counter = compiled(scheduled(warmup=1, shape="cosine", until=2), precision=precision)
    counts = []
    for epoch, place in steps(engine, epochs=4):
        if place == 4:
            engine.task.guide.on_epoch_end(epoch + 1, {})
            counts.append(counter.frame_count)
    assert counts == [1, 1, 2, 2]


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize(
    ("accumulate", "expected"),
    [(1, [(8, 2)]), (2, [(4, 2)]), (3, [(2, 2), (3, 2)])],
    ids=["whole", "halves", "uneven"],
)
def test_a_short_last_batch_takes_no_graph_and_an_ended_term_one(
    monkeypatch: pytest.MonkeyPatch, accumulate: int, expected: list[tuple[int, int]]
) -> None:
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr(
        engine_module,
        "compile_task",
        lambda task, **_: task.compile(dynamic=False, fullgraph=True, backend=counter),
    )
    losses = []
    for compiles in (True, False):
        plan = make_plan(accumulate=accumulate, compile=compiles, steps_per_epoch=6)
        engine = Engine(without_dropout(scheduled(until=1)), plan, names=lambda index: [])
        loader, meters = make_loader(make_images(), drop_last=False), RunningMean()
        engine.task.train()
        for epoch in range(3):
            sizes = []
            for place, batch in enumerate(loader.epoch(epoch)):
                engine.step(batch, epoch, place, meters)
                sizes.append(len(batch.images))
            assert sizes == [8, 8, 8, 8, 8, 3]
            engine.task.guide.on_epoch_end(epoch + 1, {})
        losses.append(meters.read()["loss"])
        if compiles:
            assert engine.compiled is not None
            taken = Counter(images for images, _ in engine.compiled.graphs)
            assert sorted(taken.items()) == expected
            assert counter.frame_count == sum(many for _, many in expected)
        engine.close()
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_when_the_last_term_has_ended_the_teacher_is_neither_run_nor_kept() -> None:
    torch.manual_seed(1)
    student = TinyViT()
    teacher = Teacher(CifarResNet(8, 3), image_size=8)
    terms = [Term(MapLoss("linear"), 2.5, schedule=TermSchedule(until=1))]
    guide = Guide(student, teacher, image_size=8, terms=terms, taps=["blocks.0", "blocks.1", "blocks.2"])
    engine = Engine(Guided(student, guide), make_plan(accumulate=1), names=lambda index: [])
    with Counting() as counting:
        for epoch, place in steps(engine, epochs=3):
            if place == 4:
                guide.on_epoch_end(epoch + 1, {})
                convolutions, counting.calls["convolution"] = counting.calls["convolution"], 0
                if epoch == 0:
                    assert convolutions > 5 and guide.active == () and guide.teacher_runner.pruned is None
    assert convolutions == 5, "one a step: the student's patches"


@pytest.mark.usefixtures("_fresh_compiler")
def test_a_compiled_training_learns_what_an_eager_one_learns() -> None:
    results = []
    for way in ("eager", "compiled"):
        task = scheduled(warmup=1)
        engine = (
            compiled(task)[0] if way == "compiled" else Engine(task, make_plan(accumulate=1), names=lambda index: [])
        )
        for _ in steps(engine, epochs=2):
            pass
        assert not any(key.startswith("_orig_mod") for key in task.state_dict())
        results.append({name: value.clone() for name, value in task.state_dict().items()})
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("wanted", "device", "images", "graphs", "expected"),
    [
        (None, "cuda", 15_000_000, False, True),
        (None, "cuda", 100_000, False, False),
        (None, "cpu", 15_000_000, False, False),
        (True, "cpu", 1, False, True),
        (False, "cuda", 15_000_000, False, False),
        (None, "cuda:1", 1, True, True),
    ],
)
def test_a_step_is_compiled_where_that_pays_or_where_somebody_says(
    wanted: bool | None, device: str, images: int, graphs: bool, expected: bool
) -> None:
    assert choose_compile(wanted, device, images, cuda_graphs=graphs) is expected


@pytest.mark.parametrize(
    ("wanted", "device", "reason"),
    [(None, "cpu", "the device is cpu"), (False, "cuda", r"the step is not compiled \(--no-comp")],
)
def test_recordings_are_refused_where_there_can_be_none(wanted: bool | None, device: str, reason: str) -> None:
    with pytest.raises(InputError, match=rf"--cuda-graphs replays .* but {reason}.*; leave one of the two out"):
        choose_compile(wanted, device, 10, cuda_graphs=True)


def test_only_recordings_ask_the_compiler_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: asked.append(options))
    for graphs in (False, True):
        compile_task(scheduled(), cuda_graphs=graphs)
    assert asked == [{"dynamic": False}, {"dynamic": False, "mode": "reduce-overhead"}]


def test_what_a_recording_will_write_over_is_copied() -> None:
    plan = make_plan(accumulate=2, cuda_graphs=True)  # recorded or not, what is kept must be memory of its own
    learned = []
    for chosen in (plan, make_plan(accumulate=2)):
        engine = Engine(scheduled(), chosen, names=lambda index: [])
        for _ in steps(engine):
            pass
        learned.append(engine.task.state_dict())
    assert all(torch.equal(learned[0][name], value) for name, value in learned[1].items())
    step = Step(torch.ones(()), torch.ones(2, 3), {"one": torch.ones(())})
    copied = step.copy()
    for own, copy in ((step.loss, copied.loss), (step.logits, copied.logits), (step.parts["one"], copied.parts["one"])):
        assert torch.equal(own, copy) and own.data_ptr() != copy.data_ptr()


def without_dropout(task: Guided) -> Guided:
    """Inductor draws dropout's masks from another stream than eager torch: trainings with it are not comparable."""
    for module in task.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return task


def test_without_dropout_a_step_draws_nothing() -> None:
    batch = next(iter(make_loader(make_images()).epoch(0)))
    losses = []
    for task in (scheduled(), without_dropout(scheduled())):
        for seed in (1, 2):
            torch.manual_seed(seed)
            losses.append(task.train()(batch).loss.item())
    assert losses[0] != losses[1] and losses[2] == losses[3]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_recorded_training_learns_what_an_eager_one_learns(accumulate: int) -> None:
    results = []
    for graphs in (False, True):
        plan = make_plan(device="cuda", accumulate=accumulate, compile=graphs, cuda_graphs=graphs)
        engine = Engine(without_dropout(scheduled(warmup=1)), plan, names=lambda index: [])
        loader, meters = make_loader(make_images(), device="cuda"), RunningMean()
        engine.task.train()
        for epoch in range(4):
            for place, batch in enumerate(loader.epoch(epoch)):
                engine.step(batch, epoch, place, meters)
        engine.guard.settle()
        results.append(({name: value.cpu() for name, value in engine.task.state_dict().items()}, meters.read()))
        engine.close()
    for name, value in results[0][0].items():
        torch.testing.assert_close(results[1][0][name], value, rtol=1e-3, atol=1e-4)
    assert results[1][1] == pytest.approx(results[0][1], rel=1e-3)


@pytest.fixture
def _only_what_is_new() -> Iterator[None]:
    """What was there before is taken out of the collector's sight: it is no leak, and millions of things are slow."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


@pytest.mark.usefixtures("_only_what_is_new")
def test_steps_keep_no_tensors() -> None:
    engine = Engine(scheduled(warmup=1), make_plan(), names=lambda index: [])
    counts = []
    for epoch, place in steps(engine, epochs=6):
        if epoch >= 2 and place == 2:
            counts.append(live_tensors())
    assert len(set(counts)) == 1, counts


@pytest.mark.usefixtures("_only_what_is_new")
def test_evaluation_keeps_no_tensors_of_the_guide() -> None:
    task = scheduled()
    engine = Engine(task, make_plan(), names=lambda index: [])
    for _ in steps(engine):
        pass
    before = live_tensors()
    with torch.no_grad():
        for _ in range(3):
            task.student.eval()(torch.zeros(2, 3, 8, 8))
    assert live_tensors() == before


def test_a_module_of_the_compiled_task_is_plain_again_afterwards() -> None:
    task = scheduled()
    engine = Engine(task, make_plan(accumulate=1, compile=True), names=lambda index: [])
    assert task._compiled_call_impl is not None
    engine.close()
    assert task._compiled_call_impl is None and isinstance(task.student, nn.Module)
