"""Sharpness-aware minimisation: against hand-worked values, a loop in float64, and trainings without it."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from lgkd.config import Ema, Lookahead, Optimizer, Sam, Schedule
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Batch, Guided, Step, Supervised, Task
from lgkd.errors import NonFiniteError, Paused
from lgkd.losses import CRD
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.teacher import Teacher
from lgkd.training.metrics import RunningMean
from lgkd.training.train_step import Engine
from tests.support.training import StopAfter, digest, make_images, make_loader, make_plan, make_task, train

PLAIN_SGD = Optimizer("sgd", lr=0.1, weight_decay=0.0, momentum=0.0, nesterov=False)
ALONE: dict[str, Any] = {"accumulate": 1, "ema": None, "clip_norm": None}


def an_engine(task: nn.Module, **changes: Any) -> Engine:
    engine = Engine(task, make_plan(**changes), names=lambda index: [f"image{n}" for n in index.tolist()])
    engine.task.train()
    return engine


class Bowl(nn.Module):
    """The weights (3, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return self.weight.expand(len(images), 2)


class Quadratic(Task):
    """The loss |w|^2 / 2, whose gradient is w."""

    def forward(self, batch: Batch) -> Step:
        logits = self.student(batch.images)
        return Step(logits.square().mean(0).sum() / 2, logits)


@pytest.mark.parametrize(
    ("sam", "expected"),
    [
        # |g| = 5, w' = w (1 + 0.5 / 5) = (3.3, 4.4); w - 0.1 w'.
        (Sam(0.5), (2.67, 3.56)),
        # |w| g = (9, 16), of norm sqrt(337) = 18.357560; w' = w + (27, 64) / 18.357560 = (4.470784, 7.486301).
        (Sam(1.0, adaptive=True), (2.5529216, 3.2513699)),
    ],
    ids=["sam", "asam"],
)
def test_a_step_on_a_quadratic_by_hand(sam: Sam, expected: tuple[float, float]) -> None:
    task = Quadratic(Bowl())
    schedule = Schedule(1)  # one step an epoch, at the peak rate
    engine = an_engine(task, optimizer=PLAIN_SGD, sam=sam, schedule=schedule, steps_per_epoch=1, **ALONE)
    meters = RunningMean()
    engine.step(Batch(torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64), index=torch.arange(4)), 0, 0, meters)
    assert task.student.weight.tolist() == pytest.approx(expected, rel=1e-6)
    assert meters.read()["loss"] == 12.5, "the loss at the weights is logged, not that above them"


class Net(nn.Module):
    """Two layers of fixed numbers, in float64, without statistics and draws."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 5).double(), nn.Linear(5, 3).double()
        for number, weight in enumerate(self.parameters()):
            values = torch.linspace(-1.0, 1.0, weight.numel(), dtype=torch.float64)
            weight.data = values.sin().mul(1 + number).view_as(weight)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.first(images.flatten(1)).tanh())


def batches(count: int = 6) -> Iterator[Batch]:
    for number in range(count):
        images = torch.linspace(-3.0, 3.0, 48, dtype=torch.float64).mul(number + 1).cos().view(8, 6)
        yield Batch(images, torch.arange(8) % 3, index=torch.arange(8))


MOMENTUM = Optimizer("sgd", lr=0.1, weight_decay=0.01, momentum=0.9, nesterov=False)
CONSTANT = Schedule(1, min_lr=0.1)  # the rate stays 0.1


def stepped(sam: Sam | None, accumulate: int = 1, **changes: Any) -> tuple[list[Tensor], dict[str, float]]:
    """The weights after six steps, and the means of the losses."""
    net, meters = Net(), RunningMean()
    settings = {"optimizer": MOMENTUM, "schedule": CONSTANT, "steps_per_epoch": 6, "sam": sam, **ALONE}
    engine = an_engine(Supervised(net), **settings | {"accumulate": accumulate} | changes)
    for place, batch in enumerate(batches()):
        engine.step(batch, 0, place, meters)
    return [weight.detach() for weight in net.parameters()], meters.read()


def transcribed(rho: float, adaptive: bool) -> list[Tensor]:
    """The same six steps in a loop: both gradients, then momentum and decay by hand."""
    net = Net()
    weights = [*net.parameters()]
    momentum = [torch.zeros_like(weight) for weight in weights]
    for batch in batches():
        slopes = torch.autograd.grad(F.cross_entropy(net(batch.images), batch.targets), weights)
        scales = [weight.detach().abs() if adaptive else 1.0 for weight in weights]
        norm = sum(float((scale * slope).square().sum()) for scale, slope in zip(scales, slopes, strict=True)) ** 0.5
        ways = [scale * scale * slope * rho / norm for scale, slope in zip(scales, slopes, strict=True)]
        for weight, way in zip(weights, ways, strict=True):
            weight.data = weight.data + way
        slopes = torch.autograd.grad(F.cross_entropy(net(batch.images), batch.targets), weights)
        for number, (weight, way, slope) in enumerate(zip(weights, ways, slopes, strict=True)):
            weight.data = weight.data - way
            decayed = slope + (0.01 * weight.data if weight.ndim > 1 else 0.0)
            momentum[number] = 0.9 * momentum[number] + decayed
            weight.data = weight.data - 0.1 * momentum[number]
    return [weight.detach() for weight in weights]


# The sums of the magnitudes of the four tensors after these steps by github.com/davda54/sam at 3c3afdb.
GOLDEN = {
    Sam(0.3): (16.387271621549804, 7.74322042220629, 21.12866095258632, 5.92310010856224),
    Sam(1.5, adaptive=True): (17.53704640530841, 7.659547650151384, 21.121243490491764, 5.910308332190256),
}


@pytest.mark.parametrize(("sam", "golden"), GOLDEN.items(), ids=["sam", "asam"])
def test_six_steps_equal_a_loop_and_the_published_code(sam: Sam, golden: tuple[float, ...]) -> None:
    found, _ = stepped(sam)
    for ours, theirs in zip(found, transcribed(sam.rho, sam.adaptive), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert [float(weight.abs().sum()) for weight in found] == pytest.approx(golden, rel=1e-9)
    plain, _ = stepped(None)
    assert not torch.allclose(plain[0], found[0], rtol=1e-3)


def test_the_gradient_of_the_whole_batch_counts_not_that_of_its_pieces() -> None:
    whole, losses = stepped(Sam(0.3))
    for accumulate in (2, 3):
        parts, other = stepped(Sam(0.3), accumulate)
        for ours, theirs in zip(whole, parts, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
        assert other == pytest.approx(losses, rel=1e-6)


def test_what_a_recording_will_write_over_is_copied() -> None:
    for ours, theirs in zip(stepped(Sam(0.3), 2)[0], stepped(Sam(0.3), 2, cuda_graphs=True)[0], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "changes", [{}, {"accumulate": 1, "ema": None, "lookahead": Lookahead(3)}], ids=["ema", "slow"]
)
def test_a_radius_below_rounding_gives_the_plain_training_to_the_bit(tmp_path, changes: dict[str, Any]) -> None:
    """With dropout, BatchNorm, a teacher, clipping: so draws, statistics and maps of both passes are the same."""
    train(tmp_path / "plain", every=1e9, **changes)
    train(tmp_path / "sam", every=1e9, sam=Sam(1e-30), **changes)
    assert digest(tmp_path / "sam") == digest(tmp_path / "plain")


def test_both_passes_read_the_same_memories_and_write_them_once() -> None:
    """CRD's memories are buffers: with a radius below rounding, training is the plain one to the bit."""
    left = []
    for sam in (None, Sam(1e-30)):
        torch.manual_seed(3)
        student = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
        teacher = Teacher(CifarResNet(8, 4), image_size=8)
        crd = CRD(negatives=3, width=4)
        guide = Guide(student, teacher, image_size=8, terms=[Term(crd)], labels=torch.arange(12) % 4)
        engine = an_engine(Guided(student, guide), sam=sam, schedule=CONSTANT, **ALONE)
        meters = RunningMean()
        for place in range(3):
            images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(place))
            index = torch.arange(6) + place
            engine.step(Batch(images, index % 4, index=index), 0, place, meters)
        left.append([*engine.task.state_dict().values(), torch.tensor(meters.read()["crd"])])
    assert all(torch.equal(*pair) for pair in zip(*left, strict=True))


def test_a_resumed_training_ends_equal_to_the_bit(tmp_path) -> None:
    settings: dict[str, Any] = {"sam": Sam(0.5, adaptive=True), "every": 1e9}
    train(tmp_path / "whole", **settings)
    with pytest.raises(Paused):
        train(tmp_path / "parts", stop=StopAfter(7), **settings)
    train(tmp_path / "parts", **settings)
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")
    train(tmp_path / "plain", every=1e9)
    assert digest(tmp_path / "plain") != digest(tmp_path / "whole")


def one_batch() -> Batch:
    return next(iter(make_loader(make_images()).epoch(0)))


def test_the_frozen_teacher_runs_once_a_piece_and_the_student_twice() -> None:
    task = make_task()
    taught, seen = [], []
    teach = task.guide.teach
    task.guide.teach = lambda images: taught.append(len(images)) or teach(images)
    task.student.register_forward_pre_hook(lambda *_: seen.append(None))
    engine = an_engine(task, accumulate=2, sam=Sam(0.1))
    engine.step(one_batch(), 0, 0, RunningMean())
    assert taught == [4, 4] and len(seen) == 4


def test_a_teacher_whose_terms_have_ended_is_not_run() -> None:
    task = make_task()
    for state in task.guide.term_states.values():
        state.ended = 1
    task.guide.teach = None
    assert task.run_frozen(one_batch()).taught == (None,)
    an_engine(task, sam=Sam(0.1)).step(one_batch(), 0, 0, RunningMean())


def test_inside_all_trained_weights_are_moved_by_rho_projections_included_and_statistics_are_kept() -> None:
    task = make_task()
    engine = an_engine(task, accumulate=1, sam=Sam(0.25))
    engine._gradients(one_batch())
    before = {name: value.clone() for name, value in task.state_dict().items()}
    begun = [torch.full_like(buffer, 0.5) for buffer in task.buffers()]
    with engine.sam.perturbed(lambda norm: norm * 0, begun):
        assert all(torch.equal(*pair) for pair in zip(task.buffers(), begun, strict=True))
        moved = {name: value - before[name] for name, value in task.named_parameters()}
        assert all(weight.grad is None for weight in task.parameters())
        engine._gradients(one_batch())
        assert not torch.equal(task.student.norm.running_mean, before["student.norm.running_mean"])
    assert any(name.startswith("guides") and value.abs().max() > 0 for name, value in moved.items())
    assert torch.cat([value.flatten() for value in moved.values()]).norm().item() == pytest.approx(0.25, rel=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())


# What is not finite


class Broken(Task):
    """Puts infinity into the loss, or into the gradient alone, in one of the passes."""

    def __init__(self, where: str, number: int) -> None:
        super().__init__(Net())
        self.where, self.number, self.passes = where, number, 0

    def forward(self, batch: Batch) -> Step:
        step: Step = Supervised(self.student)(batch)
        self.passes += 1
        if self.passes != self.number:
            return step
        if self.where == "loss":
            return Step(step.loss * torch.inf, step.logits, {"classification": step.loss.detach() * torch.inf})
        step.logits.register_hook(lambda slope: slope * torch.inf)
        return Step(step.loss + 0.0 * step.logits.sum(), step.logits, step.parts)


@pytest.mark.parametrize("optimizer", [MOMENTUM, Optimizer("lion", lr=0.1, weight_decay=0.0)], ids=["sgd", "lion"])
@pytest.mark.parametrize("number", [1, 2], ids=["first", "second"])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_in_either_pass_skips_the_update(where: str, number: int, optimizer: Optimizer) -> None:
    task = Broken(where, number)
    engine = an_engine(task, optimizer=optimizer, sam=Sam(0.3), **ALONE | {"clip_norm": 1.0})
    with pytest.raises(NonFiniteError, match=r"epoch 1, step 1: .* not finite"):
        engine.step(next(batches()), 0, 0, RunningMean())
    assert all(
        torch.equal(ours, fresh) for ours, fresh in zip(task.student.parameters(), Net().parameters(), strict=True)
    )


def scaled(engine: Engine, scale: float) -> torch.amp.GradScaler:
    """Give an engine the scaler of an fp16 training."""
    scaler = engine.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    engine.optimizer = engine.accelerator.prepare_optimizer(engine.raw_optimizer)
    # Accelerate unscales nothing on a CPU.
    engine.accelerator.unscale_gradients = lambda: scaler.unscale_(engine.raw_optimizer)
    return scaler


class Spike(Supervised):
    """A loss whose scaled gradient overflows in the first of two passes alone."""

    passes = 0

    def forward(self, batch: Batch) -> Step:
        self.passes += 1
        step = super().forward(batch)
        if self.passes == 1:
            step.logits.register_hook(lambda slope: slope * 1e300 * 1e300)
        return step


def test_an_overflow_of_the_scaled_first_gradient_skips_the_step_and_lowers_the_scale() -> None:
    task = Spike(Net())
    engine = an_engine(task, optimizer=MOMENTUM, sam=Sam(0.3), **ALONE)
    scaler = scaled(engine, 2.0**16)
    engine.step(next(batches()), 0, 0, RunningMean())
    assert scaler.get_scale() == 2.0**15
    assert all(
        torch.equal(ours, fresh) for ours, fresh in zip(task.student.parameters(), Net().parameters(), strict=True)
    )


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_a_scale_of_the_loss_changes_no_step(clip_norm: float | None) -> None:
    found = []
    for scale in (None, 2.0**10):
        net = Net()
        engine = an_engine(Supervised(net), optimizer=MOMENTUM, sam=Sam(0.3), **ALONE | {"clip_norm": clip_norm})
        if scale is not None:
            scaled(engine, scale)
        for place, batch in enumerate(batches()):
            engine.step(batch, 0, place % 5, RunningMean())
        found.append([weight.detach() for weight in net.parameters()])
    for plain, by_scaler in zip(*found, strict=True):
        torch.testing.assert_close(by_scaler, plain, rtol=1e-9, atol=1e-12)


def test_memory_that_runs_out_in_the_second_pass_repeats_the_step_in_smaller_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, _ = stepped(Sam(0.3), 2)
    net = Net()
    settings = {"optimizer": MOMENTUM, "schedule": CONSTANT, "steps_per_epoch": 6, "sam": Sam(0.3), **ALONE}
    engine, real, calls = an_engine(Supervised(net), **settings), Engine._gradients, []

    def cramped(*given: Any) -> Any:
        calls.append(engine.accumulate)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("made up")
        return real(engine, *given)

    monkeypatch.setattr(engine, "_gradients", cramped)
    for place, batch in enumerate(batches()):
        engine.step(batch, 0, place, RunningMean())
    assert calls == [1, 1] + [2] * 12
    for ours, theirs in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-10, atol=1e-12)


# Compiled


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
def test_both_passes_are_one_compiled_graph_and_learn_what_eager_ones_do() -> None:
    counter = CompileCounterWithBackend("eager")
    learned = []
    for compiles in (False, True):
        task = make_task()
        engine = an_engine(task, accumulate=1, sam=Sam(0.2))
        if compiles:
            task.compile(dynamic=False, fullgraph=True, backend=counter)
        for place, batch in enumerate(make_loader(make_images()).epoch(0)):
            engine.step(batch, 0, place, RunningMean())
        learned.append({name: value.clone() for name, value in task.state_dict().items()})
    assert counter.frame_count == 1
    for name, value in learned[0].items():
        torch.testing.assert_close(learned[1][name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_recorded_training_learns_what_an_eager_one_learns(accumulate: int) -> None:
    learned = []
    for graphs in (False, True):
        task = make_task()
        for module in task.modules():  # a compiler draws dropout from another stream
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            elif isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0
        settings = {"device": "cuda", "accumulate": accumulate, "compile": graphs, "cuda_graphs": graphs}
        engine = an_engine(task, sam=Sam(0.2), **settings)
        for epoch in range(3):
            for place, batch in enumerate(make_loader(make_images(), device="cuda").epoch(epoch)):
                engine.step(batch, epoch, place, RunningMean())
        engine.guard.settle()
        learned.append({name: value.cpu() for name, value in task.state_dict().items()})
        engine.close()
    for name, value in learned[0].items():
        torch.testing.assert_close(learned[1][name], value, rtol=1e-3, atol=1e-4)


def test_a_task_of_ones_own_runs_its_frozen_models_in_each_pass() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student, self.runs = Net(), 0

        def forward(self, batch: Batch) -> Step:
            self.runs += 1
            step: Step = Supervised(self.student)(batch)
            return step

    own = Own()
    an_engine(own, optimizer=MOMENTUM, sam=Sam(0.3), **ALONE).step(next(batches()), 0, 0, RunningMean())
    assert own.runs == 2


def test_the_average_follows_the_updated_weights() -> None:
    task = Supervised(Net())
    engine = an_engine(task, optimizer=MOMENTUM, sam=Sam(0.3), accumulate=1, clip_norm=None, ema=Ema(0.0, False))
    engine.step(next(batches()), 0, 0, RunningMean())
    for ours, theirs in zip(engine.eval_model.parameters(), task.student.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_guided_task_takes_results_that_are_known_already() -> None:
    task = make_task()
    assert isinstance(task, Guided)
    known = task.run_frozen(one_batch())
    task.guide.teach = None
    assert task.run_frozen(known).taught[0] is known.taught[0]
