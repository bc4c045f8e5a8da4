"""What every kind of term must show in a training from a recipe: it learns, its parts add up, its teacher stays."""

import hashlib
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.config import Recipe, recipe_from
from lgkd.data.prepare import Data, make_train_loader, prepare_data
from lgkd.distillation.tasks import Batch, Guided
from lgkd.losses import TERMS
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.teacher import Teacher
from lgkd.runner.build import make_guides, make_student, make_task
from tests.support.losses import OF_ATTENTION

STEPS, STEPS_PER_EPOCH = 50, 10
TOKEN = ("deit-hard", "deit-soft")
DRAWS = ("dense-relative-localization", "masked-images", "crd")
"""Kinds that draw for every image of a batch; their own tests show what they draw and that they read the images."""
OPTIONS = {kind: {"eps": 0.1} for kind in ("standardized-kd", "standardized-dkd")}


def make_recipe(*terms: dict[str, Any], **guide: Any) -> Recipe:
    return recipe_from(
        {
            "about": "A test.",
            "trains": "student",
            "view": {"image_size": 8, "crop": "none", "flip": 0.0, "normalize": "dataset"},
            "optimizer": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.05},
            "schedule": {"epochs": STEPS // STEPS_PER_EPOCH},
            "batch_size": 16,
            "guide": {"terms": list(terms), **guide},
        }
    )


@dataclass(frozen=True)
class Digits:
    """The images, batches of them for all trainings, and a teacher that has seen some."""

    data: Data
    batches: list[Batch]
    teacher: Teacher


@pytest.fixture(scope="module")
def digits() -> Digits:
    data = prepare_data("digits", normalize="dataset")
    torch.manual_seed(0)
    model = CifarResNet(8, 10)
    loader = make_train_loader(make_recipe({"kind": "locality"}), data, image_size=(8, 8), seed=0, device="cpu")
    epochs = (loader.epoch(epoch) for epoch in range(STEPS))
    batches = [*islice(chain.from_iterable(epochs), STEPS)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for batch in batches:
        F.cross_entropy(model(batch.images), batch.targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return Digits(data, batches, Teacher(model, image_size=8, mean=data.mean, std=data.std))


def make(recipe: Recipe, digits: Digits) -> Guided:
    kinds = {term.kind for term in recipe.guide.terms}
    options = {
        "patch_size": 2,
        "depth": 3,
        "embed_dim": 24,
        "num_heads": 2,
        "distillation_token": bool(kinds & {*TOKEN}),
    }
    # Its head does not start at zero: one that does shows nothing to a term that looks at directions alone.
    student = make_student("timm:vit_tiny_patch16_224", recipe, classes=10, seed=0, options=options)
    guides = make_guides(student, [digits.teacher], recipe, digits.data, image_size=(8, 8), taps=None, seed=0)
    task = make_task(student, guides, recipe)
    assert isinstance(task, Guided)
    return task


def state_hash(model: nn.Module) -> str:
    whole = hashlib.sha256()
    for name, value in model.state_dict().items():
        whole.update(name.encode() + value.numpy().tobytes())
    return whole.hexdigest()


def assert_adds_up(task: Guided, loss: Tensor, parts: dict[str, Tensor]) -> None:
    """The parts times their weights, summed in the order of the recipe, are the loss to the last bit."""
    weight = task.classification_weight
    whole = parts["classification"] if weight == 1 else weight * parts["classification"]
    for name in task.guide.active:
        whole = whole + task.guide.weight(name) * parts[name]
    assert torch.equal(whole, loss), (whole, loss)
    assert set(parts) == {"classification", *task.guide.active}


def train(recipe: Recipe, digits: Digits) -> tuple[Guided, list[dict[str, float]]]:
    """Fifty steps, in which the parts add up and the teacher stays as it is; the task, and loss and parts of each."""
    task = make(recipe, digits).train()
    before = state_hash(digits.teacher.model)
    optimizer = torch.optim.AdamW(task.parameters(), lr=recipe.optimizer.lr, weight_decay=recipe.optimizer.weight_decay)
    rows: list[dict[str, float]] = []
    task.guide.on_train_start(recipe.schedule.epochs)
    for number, batch in enumerate(digits.batches):
        task.guide.set_epoch(number / STEPS_PER_EPOCH)
        step = task(batch)
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
        assert_adds_up(task, step.loss.detach(), step.parts)
        rows.append({"loss": step.loss.item(), **{name: value.item() for name, value in step.parts.items()}})
        if (number + 1) % STEPS_PER_EPOCH == 0:
            recent = rows[-STEPS_PER_EPOCH:]
            means = {name: sum(row[name] for row in recent) / STEPS_PER_EPOCH for name in recent[0]}
            task.guide.on_epoch_end((number + 1) // STEPS_PER_EPOCH, means)
    assert state_hash(digits.teacher.model) == before
    assert all(p.grad is None and not p.requires_grad for p in digits.teacher.parameters())
    task.guide.remove()
    return task, rows


def fell(rows: list[dict[str, float]], name: str) -> bool:
    values = [row[name] for row in rows if name in row]
    return sum(values[-10:]) < sum(values[:10])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in TERMS if kind not in OF_ATTENTION])
def test_a_term_alone_is_learned_in_fifty_steps(kind: str, digits: Digits) -> None:
    recipe = make_recipe({"kind": kind, **OPTIONS.get(kind, {})}, classification_weight=0)
    task, rows = train(recipe, digits)
    (name,) = task.guide.weights
    assert fell(rows, "loss") and fell(rows, name)
    assert rows[0]["loss"] == pytest.approx(task.guide.weights[name] * rows[0][name], rel=1e-6)


@pytest.mark.parametrize(
    ("terms", "guide"),
    [
        pytest.param([{"kind": "locality"}, {"kind": "standardized-kd", "eps": 0.1}], {}, id="locality, standardized"),
        pytest.param(
            [{"kind": "kd"}, {"kind": "dist"}, {"kind": "rkd"}], {"classification_weight": 0.1}, id="kd, dist, rkd"
        ),
    ],
)
def test_terms_are_learned_together(terms: list[Any], guide: dict[str, float], digits: Digits) -> None:
    task, rows = train(make_recipe(*terms, **guide), digits)
    assert fell(rows, "loss")
    assert len(task.guide.weights) == len(terms) and all(fell(rows, name) for name in task.guide.weights)


def test_all_blocks_are_guided_until_their_loss_falls_no_more(digits: Digits) -> None:
    stop = {"threshold": -0.6, "window": 2, "patience": 3}
    task, rows = train(make_recipe({"kind": "blocks", "schedule": {"adaptive": stop}}), digits)
    steps = [number for number, row in enumerate(rows) if "blocks" in row]
    assert steps == list(range(len(steps))) and STEPS_PER_EPOCH < len(steps) < STEPS, (
        "it ends midway, at an epoch's end"
    )
    assert task.guide.active == () and task.guide.current_weights() == {"blocks": 0.0}
    assert fell(rows, "blocks") and fell(rows, "loss")


@pytest.mark.parametrize("kind", [kind for kind in TERMS if kind not in (*DRAWS, *OF_ATTENTION)])
def test_the_order_of_a_batch_does_not_matter(kind: str, digits: Digits) -> None:
    recipe = make_recipe({"kind": kind, **OPTIONS.get(kind, {})})
    task = make(recipe, digits).train()
    batch = digits.batches[0]
    order = torch.randperm(len(batch.images), generator=torch.Generator().manual_seed(1))
    (name,) = task.guide.weights
    here, there = (task(each).parts[name] for each in (batch, Batch(batch.images[order], batch.targets[order])))
    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-6)
    assert here > 1e-6
    other = task(Batch(batch.images.roll(1, dims=3), batch.targets)).parts[name]
    assert (other - here).abs() > 1e-4 * here.abs(), "the term sees the images"
    task.guide.remove()


class Layouts(nn.Module):
    """Two blocks of one network whose outputs are tokens (B,N,D), maps (B,D,h,w) or maps with channels last."""

    lgkd_taps = ("out0", "out1", "out1")
    lgkd_blocks = ("out0", "out1")

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout = layout
        self.patch, self.mix, self.head = (
            nn.Conv2d(3, 12, 2, stride=2),
            nn.Conv2d(12, 12, 3, padding=1),
            nn.Linear(12, 10),
        )
        self.out0, self.out1 = nn.Identity(), nn.Identity()
        self.output_fmt = "NHWC" if layout == "last" else None

    def forward(self, images: Tensor) -> Tensor:
        first = self.patch(images)
        second = first + self.mix(first).relu()
        for out, value in ((self.out0, first), (self.out1, second)):
            out({"tokens": value.flatten(2).mT, "maps": value, "last": value.permute(0, 2, 3, 1)}[self.layout])
        return self.head(second.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    "kind", [kind for kind, loss in TERMS.items() if "maps" in loss.reads and kind not in OF_ATTENTION]
)
def test_tokens_and_maps_of_the_same_numbers_are_guided_alike(kind: str, digits: Digits) -> None:
    recipe = make_recipe({"kind": kind})
    batch = digits.batches[0]
    values = []
    for layout in ("tokens", "maps", "last"):
        torch.manual_seed(1)
        student = Layouts(layout)
        (guide,) = make_guides(student, [digits.teacher], recipe, digits.data, image_size=(8, 8), taps=None, seed=0)
        step = Guided(student, guide)(batch)
        step.loss.backward()
        values.append((step.loss.detach(), student.patch.weight.grad))
    for loss, gradient in values[1:]:
        torch.testing.assert_close(loss, values[0][0], rtol=1e-5, atol=0)
        torch.testing.assert_close(gradient, values[0][1], rtol=1e-3, atol=1e-5)
