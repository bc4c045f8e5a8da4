"""Terms between networks of all kinds: transformers that teach, CNNs that learn, two teachers; and what cannot be."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lgkd.cli import run
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Batch, Guided
from lgkd.errors import InputError, TapError
from lgkd.losses import KD, RKD, TERMS, BlockGuidance, DeiTHard, MapLoss
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.factory import create_student
from lgkd.models.teacher import Teacher
from tests.support.losses import OF_ATTENTION
from tests.support.small import DISTILL, World, snapshot

ANY = [
    kind for kind, loss in TERMS.items() if loss.reads not in ("distillation", "images") and kind not in OF_ATTENTION
]
"""Kinds that any student can have; masked images need a plain ViT."""


@pytest.fixture
def transformer() -> Teacher:
    torch.manual_seed(6)
    return Teacher(create_student("timm:vit_tiny_patch16_224", num_classes=5, image_size=32, patch_size=8, depth=3,
                                  embed_dim=48, num_heads=3), image_size=32)  # fmt: skip


@pytest.mark.parametrize(("name", "size"), [("resnet8", 32), ("timm:resnet10t", 64)])
def test_a_transformer_guides_a_cnn_by_every_term(
    name: str, size: int, transformer: Teacher, make_batch: Callable[..., Batch]
) -> None:
    torch.manual_seed(1)
    student = create_student(name, num_classes=5, image_size=size)
    before = {key: value.clone() for key, value in transformer.model.state_dict().items()}
    terms = [Term(TERMS[kind](), name=kind) for kind in ANY]
    guide = Guide(student, transformer, image_size=size, terms=terms, labels=torch.arange(9) % 5)
    task = Guided(student, guide).train()
    step = task(replace(make_batch(size, count=6), index=torch.arange(6)))
    step.loss.backward()
    assert set(step.parts) == {"classification", *ANY}
    assert all(value.isfinite() and value > 0 for value in step.parts.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters())
    assert [pair.teacher_map for pair in task.guide.pairs] == [(48, 4, 4)] * 3
    assert all(torch.equal(value, before[key]) for key, value in transformer.model.state_dict().items())
    assert all(p.grad is None for p in transformer.parameters())


def test_a_cnn_and_a_transformer_guide_together(
    small_student: Callable[..., tuple[nn.Module, int]],
    teacher: Teacher,
    transformer: Teacher,
    make_batch: Callable[..., Batch],
) -> None:
    student, size = small_student("pit_ti")
    first = Guide(student, teacher, image_size=size, terms=[Term(MapLoss(), 2.5, "maps"), Term(KD(), 0.9, "first-kd")])
    second = Guide(student, transformer, image_size=size, terms=[Term(RKD(), 1.0, "rkd"), Term(KD(), 0.4, "second-kd")])
    task, batch = Guided(student, first, second, classification_weight=0.1).eval(), make_batch(size)
    step = task(batch)
    whole = 0.1 * step.parts["classification"]
    for guide in (first, second):
        for name, weight in guide.weights.items():
            whole = whole + weight * step.parts[name]
    assert torch.equal(whole, step.loss.detach()) and len(step.parts) == 5
    step.loss.backward()
    assert student.head.weight.grad.any()
    alone = Guided(student, second)(batch)
    torch.testing.assert_close(alone.parts["second-kd"], step.parts["second-kd"])


class Pooled(nn.Module):
    """A student without any map, any block and any token."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 8), nn.GELU())
        self.classify = nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classify(self.body(images))


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (MapLoss(), "Pooled has no transformer blocks and no 3 stages to tap"),
        (BlockGuidance(), "Pooled has neither transformer blocks nor stages"),
        (DeiTHard(), "Pooled has no distillation token, which a term reads"),
    ],
)
def test_a_student_that_cannot_serve_a_term_says_so_in_one_line(loss: nn.Module, words: str, teacher: Teacher) -> None:
    with pytest.raises(TapError, match=words) as caught:
        Guide(Pooled(), teacher, image_size=32, terms=[Term(loss)])
    assert "\n" not in str(caught.value)
    Guide(Pooled(), teacher, image_size=32, terms=[Term(KD()), Term(RKD())]).remove()


def test_a_teacher_that_cannot_serve_a_term_says_so_in_one_line(conv_student: nn.Module) -> None:
    with pytest.raises(TapError, match="no transformer blocks and no 3 stages to tap") as caught:
        Teacher(Pooled(), image_size=16)
    assert "\n" not in str(caught.value)
    pooled = Teacher(Pooled(), image_size=16, taps=["body", "body", "body"])
    with pytest.raises(TapError, match=r"tap 'body' has the output shape \(2, 8\), which is not a map") as caught:
        Guide(conv_student, pooled, image_size=32, terms=[Term(MapLoss())])
    assert "\n" not in str(caught.value)
    Guide(conv_student, pooled, image_size=32, terms=[Term(KD())]).remove()
    for kind in ("dkd", "dist", "standardized-kd", "luminet", "dense-kd"):
        with pytest.raises(InputError, match="the student has 5 classes, the teacher 6, and a term compares"):
            Guide(conv_student, Teacher(CifarResNet(8, 6), image_size=8), image_size=32, terms=[Term(TERMS[kind]())])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "guide.terms.0.weight=-1"], "guide.terms.0.weight: must be >= 0 (got -1)"),
        (["--set", "guide.classification_weight=-0.5"], "guide.classification_weight: must be >= 0 (got -0.5)"),
        (["--set", "guide.terms=[{kind: deit-hard}]"], "--student-option distillation_token=true"),
        (["--set", "guide.terms=[{kind: kdd}]"], "unknown kind 'kdd'; did you mean 'kd'"),
        (["--set", "guide.terms=[{kind: kd, for_teacher: 2}]"], "the term kd is for teacher 2, and there are 1"),
        (["--set", "guide.terms=[{kind: kd}, {kind: kd}]"], "are named 'kd'"),
        (["--taps", "blocks.0,blocks.2"], "2 student taps (blocks.0, blocks.2) cannot be paired with 3 teacher taps"),
        (["--student-option", "distillation_token=perhaps"], "distillation_token is 'perhaps', expected true or false"),
    ],
)
def test_a_command_that_cannot_be_ends_with_one_line(
    arguments: list[Any], words: str, world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(here)
    code = run([*DISTILL, "--dataset", str(world.pictures), "--out", "run", *arguments])
    error = capsys.readouterr().err
    assert code == 2 and words in error and error.count("\n") == 1, error
    assert snapshot(here) == before
