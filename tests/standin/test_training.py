"""Trainings on the stand-in: equal to those of the CPU, and no step waits."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lgkd.config import Ema, Lookahead, Mix, Optimizer, Sam, View
from lgkd.config.schema import Guidance
from lgkd.data.loader import EvalLoader, TrainLoader
from lgkd.data.transforms.augment import Augment, Plain
from lgkd.data.transforms.mixup import Mixing
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Guided
from lgkd.distillation.terms import make_loss
from lgkd.errors import NonFiniteError
from lgkd.losses import TERMS, MapLoss
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.default_taps import default_taps
from lgkd.models.factory import create_model
from lgkd.models.pruned_teacher import trim
from lgkd.models.teacher import Teacher
from lgkd.training.checkpointer import Checkpointer
from lgkd.training.evaluate import score
from lgkd.training.loop import fit
from lgkd.training.metrics import RunningMean
from lgkd.training.signals import Paused
from lgkd.training.train_step import Engine
from tests.support.losses import OF_ATTENTION, attention_guide
from tests.support.standin import counting
from tests.support.training import StopAfter, TinyViT, digest, make_images, make_loader, make_plan, make_task

pytestmark = pytest.mark.standin

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def adamw(**changes: Any) -> dict[str, Any]:
    return {"optimizer": Optimizer("adamw", lr=1e-3, weight_decay=0.05), "ema": None} | changes


def stepped(task: Guided, where: str, loader: TrainLoader, **changes: Any) -> tuple[dict[str, float], list[Any]]:
    """Five steps: the means of the losses, and what each step asked of the device."""
    engine = Engine(task, make_plan(device=where, **changes), names=lambda index: [])
    meters, counts = RunningMean(), []
    engine.task.train()
    for place, batch in enumerate(loader.epoch(0)):
        with counting() as seen:
            engine.step(batch, 0, place, meters)
        counts.append(seen)
    engine.guard.settle()
    means = meters.read()
    engine.close()
    return means, counts


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon", "lion", "nadamw"])
def test_losses_equal_those_of_the_cpu_and_no_step_waits(device: str, name: str) -> None:
    optimizer = Optimizer(name, lr=1e-3, weight_decay=0.05)
    found = {}
    for where in ("cpu", device):
        loader = make_loader(make_images(), device=where)
        found[where], counts = stepped(make_task(), where, loader, optimizer=optimizer, ema=Ema(0.9))
    assert found[device] == pytest.approx(found["cpu"], rel=1e-5)
    # The first step makes the optimiser's state.
    assert [dict(seen.waits) for seen in counts[1:]] == [{}] * 4
    assert [seen.uploads for seen in counts[1:]] == [0] * 4


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_norm": None, "accumulate": 1},
        {"lookahead": Lookahead(every=2), "ema": None},
        {"channels_last": True},
        {"sam": Sam(0.05, adaptive=True)},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_every_way_to_step_does(device: str, changes: dict[str, Any]) -> None:
    found = {}
    for where in ("cpu", device):
        loader = make_loader(make_images(), device=where)
        found[where], counts = stepped(make_task(), where, loader, **adamw() | changes)
    assert found[device] == pytest.approx(found["cpu"], rel=1e-5)
    assert [dict(seen.waits) for seen in counts[1:]] == [{}] * 4


def test_schedule_free_adamw_does_and_no_step_waits(device: str) -> None:
    found = {}
    for where in ("cpu", device):
        task = make_task()
        task.student.norm = torch.nn.Identity()
        optimizer = Optimizer("schedule-free-adamw", lr=1e-3, weight_decay=0.05)
        loader = make_loader(make_images(), device=where)
        found[where], counts = stepped(task, where, loader, optimizer=optimizer, ema=None)
    assert found[device] == pytest.approx(found["cpu"], rel=1e-5)
    assert [dict(seen.waits) for seen in counts[1:]] == [{}] * 4


TOKEN = {"patch_size": 2, "depth": 3, "embed_dim": 12, "num_heads": 2, "distillation_token": True}


def small_guide(student: torch.nn.Module, depth: int, loss: torch.nn.Module) -> Guide:
    torch.manual_seed(depth)
    teacher = Teacher(CifarResNet(depth, 3), image_size=8)
    taps = ["blocks.0", "blocks.1", "blocks.2"]
    terms, labels = [Term(loss, 2.5, name=f"term-{depth}")], make_images().labels
    return Guide(student, teacher, image_size=8, terms=terms, taps=taps, labels=labels)


def test_two_teachers_with_views_of_their_own_do(device: str) -> None:
    view = View(rand_augment="rand-m9-mstd0.5-inc1", erase=0.25)
    found = {}
    for where in ("cpu", device):
        torch.manual_seed(1)
        student = TinyViT()
        task = Guided(student, small_guide(student, 8, MapLoss("linear")), small_guide(student, 14, MapLoss("linear")))
        augment = [Augment(view, size, mean=MEAN, std=STD, seed=3) for size in (8, 8)]
        mixing = Mixing(Mix(mixup=0.8, cutmix=1.0), classes=3, smoothing=0.1, seed=3)
        loader = TrainLoader(
            make_images(), augment[0], mixing, batch_size=8, seed=3, device=where, views=(None, augment[1])
        )
        found[where], counts = stepped(task, where, loader, **adamw())
    assert found[device] == pytest.approx(found["cpu"], rel=1e-5)
    assert [dict(seen.waits) for seen in counts[1:]] == [{}] * 4


@pytest.mark.parametrize("kind", sorted(TERMS))
def test_every_kind_of_term_does(device: str, kind: str) -> None:
    section = Guidance.model_validate({"terms": [{"kind": kind}]})
    found = {}
    for where in ("cpu", device):
        torch.manual_seed(1)
        deit = "deit" in kind or kind in OF_ATTENTION
        student = create_model("deit_tiny", num_classes=3, image_size=8, options=TOKEN) if deit else TinyViT()
        if kind in OF_ATTENTION:
            guide = attention_guide(student, kind, size=8, classes=3, patch_size=2)
        else:
            guide = small_guide(student, 8, make_loss(section.terms[0]))
        loader = make_loader(make_images(24), device=where)
        changes = adamw(accumulate=1, steps_per_epoch=3)
        found[where], counts = stepped(Guided(student, guide), where, loader, **changes)
    assert found[device] == pytest.approx(found["cpu"], rel=1e-5)
    assert [dict(seen.waits) for seen in counts[1:]] == [{}] * 2


@pytest.mark.parametrize(
    "view",
    [
        View(rand_augment="rand-m9-mstd0.5-inc1", erase=0.5),
        View(crop="pad", padding=0.25, padding_mode="reflect", color_jitter=0.4, alternate_flip=True),
        View(crop="none", interpolation="bilinear"),
    ],
    ids=["random-resized", "pad", "none"],
)
def test_the_images_of_the_loader_equal_those_of_the_cpu_and_no_batch_waits(device: str, view: View) -> None:
    drawn = {}
    for where in ("cpu", device):
        augment = Augment(view, 8, mean=MEAN, std=STD, seed=3)
        mixing = Mixing(Mix(mixup=0.8, cutmix=1.0), classes=3, smoothing=0.1, seed=3)
        extra = make_images(11)
        loader = TrainLoader(
            make_images(), augment, mixing, batch_size=8, seed=3, device=where, extra=extra, extra_share=0.25
        )
        list(loader.epoch(0))  # tables and normalisation are sent once
        with counting() as seen:
            drawn[where] = [(batch.images, batch.targets) for batch in loader.epoch(1)]
    assert dict(seen.waits) == {} and seen.launches.total() > 0
    for (ours, our_targets), (theirs, their_targets) in zip(drawn[device], drawn["cpu"], strict=True):
        assert ours.device.type == our_targets.device.type == device
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(our_targets.cpu(), their_targets, rtol=1e-5, atol=1e-6)


def test_a_batch_that_is_drawn_in_portions_for_lack_of_memory_is_the_same(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = View(rand_augment="rand-m9-mstd0.5-inc1", erase=0.5)
    images, index = make_images(), torch.arange(43)
    drawn, uploads = [], []
    for free in (2**34, 10 * 5 * (256 + 24) * 64):
        monkeypatch.setattr("lgkd.data.transforms.device._free_memory", lambda device, free=free: free)
        augment = Augment(view, 8, mean=MEAN, std=STD, seed=3)
        for _ in range(2):
            with counting() as seen:
                drawn.append(augment(images.pixels.to(device), images.sizes, index, 1).cpu())
        uploads.append(seen.uploads)
    assert uploads == [2, 1 + 9], "the images; and the parameters, once, or once for each five images"
    assert all(torch.equal(one, drawn[0]) for one in drawn)


def test_a_teacher_has_one_launch_a_convolution_and_the_maps_of_the_cpu(device: str) -> None:
    torch.manual_seed(0)
    model = CifarResNet(14, 3).eval().requires_grad_(False)
    images = torch.randn(4, 3, 8, 8)
    pruned = trim(model, default_taps(model), logits=False, images=images)
    assert pruned is not None
    _, expected = pruned(images)
    pruned.to(device)
    images = images.to(device)
    for _ in range(2):  # the first pass is compared with the graph as it was
        with counting() as seen:
            _, maps = pruned(images)
    assert dict(seen.launches) == {
        "cudnn_convolution_relu": 7,
        "cudnn_convolution_add_relu": 6,
        "convolution_overrideable": 2,
    }
    assert not seen.waits
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-4, atol=1e-5)
    _, back = pruned.to("cpu")(images.cpu())
    assert all(map(torch.equal, back, expected))


def test_an_evaluation_waits_for_its_end_alone(device: str) -> None:
    scores = {}
    for where in ("cpu", device):
        torch.manual_seed(1)
        student = TinyViT().to(where)
        loader = EvalLoader(make_images(), Plain(8, mean=MEAN, std=STD), batch_size=8, device=where)
        with counting() as seen:
            scores[where] = score(student, loader)
    assert scores[device].flat() == pytest.approx(scores["cpu"].flat(), rel=1e-5)
    assert set(seen.waits) <= {"download", "bincount"}


def test_a_training_is_paused_and_resumed_to_the_digit(device: str, tmp_path: Path) -> None:
    def run(root: Path, stop: StopAfter | None = None) -> None:
        fit(
            make_task(),
            make_loader(make_images(), device=device),
            make_plan(device=device),
            checkpointer=Checkpointer(root, every_seconds=1e9),
            stop=stop,
        )

    run(tmp_path / "whole")
    with pytest.raises(Paused):
        run(tmp_path / "parts", StopAfter(7))
    run(tmp_path / "parts")
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_step_that_is_not_finite_changes_no_weight_and_the_next_does_not_either(device: str, name: str) -> None:
    optimizer = Optimizer(name, lr=1e-3, weight_decay=0.05)
    plan = make_plan(device=device, optimizer=optimizer, ema=None, accumulate=1)
    engine = Engine(make_task(), plan, names=lambda index: [f"image{place}" for place in index.tolist()])
    meters = RunningMean()
    engine.task.train()
    first, bad, after, *_ = make_loader(make_images(), device=device).epoch(0)
    engine.step(first, 0, 0, meters)
    before = {key: value.detach().cpu().clone() for key, value in engine.task.named_parameters()}
    bad.images[2] = float("nan")
    engine.step(bad, 0, 1, meters)
    with pytest.raises(NonFiniteError, match="epoch 1, step 2: classification"):
        engine.step(after, 0, 2, meters)
    changed = [
        key for key, value in engine.task.named_parameters() if not torch.equal(value.detach().cpu(), before[key])
    ]
    # A fused optimiser keeps its moments too, so that its next step is a good one.
    assert (changed == []) if name == "muon" else changed
    assert all(torch.isfinite(value.detach().cpu()).all() for value in engine.task.parameters())
    engine.close()
