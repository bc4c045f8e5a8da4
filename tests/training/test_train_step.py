"""The trainer's corners: what is told meanwhile, the best epoch, a step's pieces, a single process."""

import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lgkd.config import TermSchedule
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Batch, Guided, Step, Supervised
from lgkd.errors import InputError, NonFiniteError, Paused
from lgkd.losses import RKD, MapLoss
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.teacher import Teacher
from lgkd.training import loop
from lgkd.training import train_step as engine_module
from lgkd.training.checkpoint import load_newest
from lgkd.training.checkpointer import Checkpointer
from lgkd.training.distributed_step import looks_across, same_start
from lgkd.training.loop import fit
from lgkd.training.metrics import RunningMean
from lgkd.training.signals import StopCondition
from lgkd.training.train_step import Engine
from tests.support.training import EPOCHS, STEPS, TinyViT, make_images, make_loader, make_plan, make_task, train


class Listener:
    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.told: list[dict[str, float]] = []

    def on_start(self, epochs: int, steps_per_epoch: int) -> None:
        assert (epochs, steps_per_epoch) == (EPOCHS, STEPS)

    def on_step(self, epoch: int, step: int, parts: dict[str, float], images_per_second: float) -> None:
        assert images_per_second > 0
        self.steps.append((epoch, step))
        self.told.append(dict(parts))

    def on_epoch(self, row: Any) -> None:
        # The last step of an epoch was told with the epoch's means.
        assert self.told[-1] == pytest.approx({name: row.train[name] for name in self.told[-1]})


def an_engine(task: Any = None, **changes: Any) -> Engine:
    return Engine(task or make_task(), make_plan(**changes), names=lambda index: [f"image{n}" for n in index.tolist()])


def one_batch() -> Batch:
    return next(iter(make_loader(make_images()).epoch(0)))


# What is told, and how it ends


def test_whoever_looks_on_hears_of_steps_with_the_means_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_SECONDS_BETWEEN_LOOKS", 0.0)
    listener = Listener()
    train(None, callbacks=(listener,))
    assert listener.steps == [(epoch, step) for epoch in range(EPOCHS) for step in range(STEPS)]


def test_the_end_of_a_term_is_said_and_from_then_on_it_is_not_in_the_rows(tmp_path: Path) -> None:
    task = make_task()
    guide = Guide(
        task.student,
        Teacher(CifarResNet(8, 3), image_size=8),
        image_size=8,
        terms=[Term(MapLoss("linear"), weight=2.5, name="near", schedule=TermSchedule(until=2))],
        taps=["blocks.0", "blocks.1", "blocks.2"],
    )
    said: list[str] = []
    _, rows = train(tmp_path, task=Guided(task.student, guide), say=said.append)
    assert said == ["near ended after epoch 2: it was scheduled for 2 epochs"]
    assert ["near" in row.train for row in rows] == [True, True, False, False]
    assert [row.train["weight_near"] for row in rows] == [2.5, 2.5, 0.0, 0.0]


def test_a_training_that_keeps_nothing_pauses_all_the_same() -> None:
    with pytest.raises(Paused, match="paused after 0 seconds"):
        train(None, stop=StopCondition(0.0))


def test_a_part_that_is_not_finite_ends_the_epoch_though_the_loss_is_finite() -> None:
    class Hidden(Supervised):
        def forward(self, batch: Batch) -> Step:
            step = super().forward(batch)
            return Step(step.loss, step.logits, step.parts | {"hidden": torch.tensor(float("inf"))})

    with pytest.raises(NonFiniteError, match=r"non-finite values in epoch 1: .*'hidden': inf.*; try a lower"):
        train(None, task=Hidden(TinyViT()))


# The best epoch


def scored(root: Path, scores: list[float], select_on: str = "val", **changes: Any) -> tuple[Checkpointer, list[dict]]:
    """A training whose epochs score as given; the student's weights as every evaluation saw them."""
    checkpointer = Checkpointer(root, every_seconds=1e9, select_on=select_on)
    seen: list[dict[str, Tensor]] = []
    left = list(scores)

    def evaluate(model: nn.Module) -> dict[str, float]:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"val": left.pop(0)}

    fit(make_task(), make_loader(make_images()), make_plan(**changes), evaluate=evaluate, checkpointer=checkpointer)
    return checkpointer, seen


@pytest.mark.parametrize(
    ("scores", "best"), [([0.25, 0.5, 0.5, 0.375], 2), ([0.5, 0.25, 0.375, 0.25], 1), ([0.0, 0.25, 0.5, 0.75], 4)]
)
def test_the_first_of_the_best_epochs_is_kept_as_it_was_judged(tmp_path: Path, scores: list[float], best: int) -> None:
    checkpointer, seen = scored(tmp_path, scores)
    tensors, about = checkpointer.load_best()
    assert about == {"epoch": best, "score": scores[best - 1]}
    assert tensors.keys() == seen[best - 1].keys()
    assert all(torch.equal(tensors[name], seen[best - 1][name]) for name in tensors)
    # A process that died between two renames left it under its old name.
    (tmp_path / "best").rename(tmp_path / "best.old")
    assert checkpointer.load_best()[1] == about


def test_without_its_score_no_epoch_is_the_best(tmp_path: Path) -> None:
    checkpointer, _ = scored(tmp_path, [0.25, 0.5, 0.5, 0.375], select_on="another")
    assert not (tmp_path / "best").exists()
    with pytest.raises(InputError, match=r"best\.old/MANIFEST\.json cannot be read"):
        checkpointer.load_best()


def test_a_training_without_a_guide_is_taken_up_again(tmp_path: Path) -> None:
    def fresh() -> Supervised:
        torch.manual_seed(1)
        return Supervised(TinyViT())

    whole, rows = train(None, task=fresh())
    stop = StopCondition()
    stop._seen = signal.SIGUSR1
    with pytest.raises(Paused):
        train(tmp_path, task=fresh(), stop=stop)
    again, ends = train(tmp_path, task=fresh())
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), again.parameters(), strict=True))
    assert [row.train for row in ends] == [row.train for row in rows]


class Plain(nn.Module):
    """A module with a student and a step, and nothing else that a task has."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.student = TinyViT()

    def forward(self, batch: Batch) -> Step:
        step: Step = Supervised(self.student)(batch)
        return step


def test_a_plain_module_with_a_student_is_trained_and_taken_up_again_to_the_bit(tmp_path: Path) -> None:
    expected, _ = train(None, task=Supervised(Plain().student))
    stop = StopCondition()
    stop._seen = signal.SIGUSR1
    with pytest.raises(Paused):
        train(tmp_path, task=Plain(), stop=stop)
    for root in (None, tmp_path):
        trained, _ = train(root, task=Plain())
        for name, value in trained.state_dict().items():
            assert torch.equal(value, expected.state_dict()[name]), name
    found = load_newest(tmp_path)
    assert found is not None and found.tensors["guide"] == {}
    assert {name.partition("|")[0] for name in found.tensors["optimizer"]} == {n for n, _ in Plain().named_parameters()}


def test_a_checkpoint_whose_losses_no_float_holds_is_refused(tmp_path: Path) -> None:
    engine, meters = an_engine(), RunningMean()
    checkpointer = Checkpointer(tmp_path)
    for state in engine.task.guide.term_states.values():
        state.losses = [10**400]  # type: ignore[list-item]
    engine.step(one_batch(), 0, 0, meters)
    checkpointer.save(engine, loop.Progress(), meters)
    with pytest.raises(InputError, match="belongs to another training"):
        checkpointer.restore(engine, meters)


def test_only_the_first_process_writes_and_a_strangers_leavings_stay(tmp_path: Path) -> None:
    engine, checkpointer = an_engine(), Checkpointer(tmp_path / "kept")
    engine.rank = 1
    checkpointer.save_best(engine, loop.Progress(best={"epoch": 1, "score": 0.5}))
    checkpointer.save(engine, loop.Progress(), RunningMean())
    assert not (tmp_path / "kept").exists()
    engine.rank = 0
    (tmp_path / "kept" / "mine.tmp").mkdir(parents=True)
    (tmp_path / "kept" / "step-00000001.tmp").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "kept" / "best.tmp").symlink_to(tmp_path / "elsewhere")
    checkpointer.save(engine, loop.Progress(), RunningMean())
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["best.tmp", "mine.tmp", "step-00000000"]
    assert (tmp_path / "elsewhere").is_dir()


# A step


def test_images_are_laid_out_channels_last_where_the_plan_says_so() -> None:
    layouts: list[bool] = []

    class Looker(TinyViT):
        def forward(self, images: Tensor) -> Tensor:
            layouts.append(images.is_contiguous(memory_format=torch.channels_last))
            return super().forward(images)

    for wanted in (False, True):
        engine = an_engine(Supervised(Looker()), channels_last=wanted, accumulate=1)
        engine.step(one_batch(), 0, 0, RunningMean())
    assert layouts == [False, True]


def test_what_is_known_of_the_teachers_is_looked_up_by_places_and_epoch() -> None:
    task, asked = make_task(), []
    known = task.guide.teach(one_batch().images)

    def lookup(index: Tensor, epoch: int) -> tuple[Any, ...]:
        asked.append((index.tolist(), epoch))
        return (known,)

    engine = an_engine(task)
    engine.lookup = lookup
    task.guide.teach = None  # it must not be run
    batch = one_batch()
    engine.step(batch, 3, 2, RunningMean())
    assert batch.index is not None and asked == [(batch.index.tolist(), 3)]


def test_only_what_is_out_of_memory_makes_a_step_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = an_engine(accumulate=2)
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    tried: list[int] = []

    def fails(error: Exception) -> Callable[[Batch], Any]:
        def gradients(_: Batch) -> Any:
            tried.append(engine.accumulate)
            raise error

        return gradients

    monkeypatch.setattr(engine, "_gradients", fails(RuntimeError("shapes do not fit")))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        engine.step(one_batch(), 0, 0, RunningMean())
    assert tried == [2] and not emptied
    monkeypatch.setattr(engine, "_gradients", fails(RuntimeError("DefaultCPUAllocator: can't allocate memory: 9")))
    with pytest.raises(InputError, match="memory ran out with a single image a piece; use smaller images"):
        engine.step(one_batch(), 0, 0, RunningMean())
    assert tried == [2, 2, 4, 8] and len(emptied) == 3


def test_a_term_across_the_batch_keeps_it_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def task() -> Guided:
        student = TinyViT()
        guide = Guide(student, Teacher(CifarResNet(8, 3), image_size=8), image_size=8, terms=[Term(RKD())])
        return Guided(student, guide)

    with pytest.raises(
        InputError, match=r"^accumulate is 2, and a term compares the images of a batch with each other"
    ):
        an_engine(task(), accumulate=2)
    engine = an_engine(task(), accumulate=1)

    def cramped(_: Batch) -> Any:
        raise torch.OutOfMemoryError("made up")

    monkeypatch.setattr(engine, "_gradients", cramped)
    with pytest.raises(InputError, match="memory ran out, and the batch cannot be split because a term"):
        engine.step(one_batch(), 0, 0, RunningMean())


def test_meters_that_saw_nothing_know_nothing() -> None:
    assert RunningMean().read() == {}


# Among processes, of which there is one here


@pytest.fixture
def alone() -> Any:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_truths_and_strided_weights_have_the_same_start_too(alone: Any) -> None:
    truths, turned = torch.tensor([True, False, True]), torch.arange(6.0).view(2, 3).T
    same_start([truths, turned])
    assert truths.tolist() == [True, False, True] and truths.dtype == torch.bool
    assert turned.tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


class NormFree(nn.Module):
    """A student without BatchNorm, one map and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 2, stride=2), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).mean((2, 3)))


@pytest.mark.parametrize(
    ("norm", "teacher_bn", "transform", "expected"),
    [
        (False, None, None, False),
        (True, None, None, True),
        (False, "running", "linear", False),
        (False, "batch", "linear", True),
        (False, "running", "similarity", True),
    ],
)
def test_a_step_looks_across_by_batchnorm_in_training_or_by_a_term(
    norm: bool, teacher_bn: Any, transform: Any, expected: bool
) -> None:
    student = TinyViT() if norm else NormFree()
    task: Any = Supervised(student)
    if teacher_bn is not None:
        teacher = Teacher(CifarResNet(8, 3), image_size=8, batch_norm=teacher_bn)
        names = {"taps": ["body"], "teacher_taps": ["stage1"]}
        task = Guided(student, Guide(student, teacher, image_size=8, terms=[Term(MapLoss(transform))], **names))
    task.train()
    assert looks_across(task) is expected


def test_a_step_among_several_that_look_at_nothing_across_needs_no_gathering(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = an_engine(accumulate=1)
    entered: list[Any] = []
    monkeypatch.setattr(engine_module, "DistributedStep", lambda task, *_: entered.append(task) or nullcontext())
    engine.step(one_batch(), 0, 0, RunningMean())
    assert entered == []
    engine._joined = True
    engine.step(one_batch(), 0, 1, RunningMean())
    assert entered == [engine.task]
