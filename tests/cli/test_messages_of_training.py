"""What the room of the trainer says where a training cannot begin, go on or be taken up, word for word."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lgkd.config import Optimizer, Schedule
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Guided
from lgkd.errors import InputError
from lgkd.losses import RKD
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.teacher import Teacher
from lgkd.training import train_step as engine_module
from lgkd.training.checkpoint import MANIFEST, load_newest, read_checkpoint, save_checkpoint
from lgkd.training.config import Plan
from lgkd.training.precision import choose_device, choose_precision
from lgkd.training.state import restore_optimizer
from tests.support.training import TinyViT, make_task, train

TENSORS = {"student": {"w": torch.arange(3.0)}}


def spoil(folder: Path, how: str) -> None:
    manifest, weights = folder / MANIFEST, folder / "student.safetensors"
    about = json.loads(manifest.read_text())
    if how == "format":
        about["format"] = 99
    elif how == "name":
        about["files"]["evil.pt"] = {"bytes": 1, "sha256": "0" * 64}
    elif how == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif how == "flipped":
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    elif how == "missing":
        weights.unlink()
    manifest.write_bytes(json.dumps(about, indent=1).encode() + b"\n" + b"\n" * (how == "edited"))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("format", "MANIFEST.json is not a manifest of format 1; it is damaged, or of another lgkd"),
        (
            "name",
            "MANIFEST.json names 'evil.pt', which is not a part of a checkpoint; it is damaged, or of another lgkd",
        ),
        ("cut", "student.safetensors is cut or changed: it has 75 bytes, not the manifest's"),
        ("flipped", "student.safetensors is damaged: its SHA-256 is not the manifest's"),
        ("missing", "student.safetensors cannot be read (No such file or directory)"),
        ("edited", "MANIFEST.json is damaged: it is not as it was written"),
    ],
)
def test_a_damaged_checkpoint_is_told_by_its_file_and_what_to_do(tmp_path: Path, how: str, said: str) -> None:
    folder = save_checkpoint(tmp_path, 1, TENSORS, {})
    spoil(folder, how)
    with pytest.raises(InputError) as caught:
        read_checkpoint(folder)
    assert str(caught.value) == f"{folder}/{said}"
    with pytest.raises(InputError) as caught:
        load_newest(tmp_path)
    assert str(caught.value) == (
        f"no checkpoint can be used: {folder}/{said}. Move the run's folder away to start again"
    )


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    task = make_task()
    task.student.head = nn.Linear(12, 5)
    with pytest.raises(
        InputError, match=r"step-00000020 belongs to another training \(.*head.*\); move the run's folder away"
    ):
        train(tmp_path, task=task)


def test_a_checkpoint_of_more_weights_names_the_one_that_is_not_here(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(
        InputError,
        match="the checkpoint has optimiser state of 'old', which this training does not have; move the run's",
    ):
        restore_optimizer(model, optimizer, {"old|exp_avg": torch.zeros(2)})


def test_a_batch_that_cannot_be_cut_says_why_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    student = TinyViT()
    teacher = Teacher(CifarResNet(8, 3), image_size=8)
    task = Guided(student, Guide(student, teacher, image_size=8, terms=[Term(RKD(), weight=1.0)]))

    def no_room(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory (made up)")

    monkeypatch.setattr(engine_module.Engine, "_gradients", no_room)
    with pytest.raises(
        InputError,
        match="memory ran out, and the batch cannot be split because a term compares the images of a batch "
        "with each other; use a smaller --batch-size",
    ):
        train(None, task=task, accumulate=1, ema=None)


def test_numbers_that_train_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="an epoch of 0 steps trains nothing; expected at least 1"):
        Plan(Optimizer("adamw", lr=1e-3, weight_decay=0.0), Schedule(1), steps_per_epoch=0, seed=0)


def test_devices_and_precisions_are_told_with_those_that_are_known() -> None:
    with pytest.raises(InputError, match="device 'mps' is not supported: lgkd trains on the CPU of a Mac; use --dev"):
        choose_device("mps")
    with pytest.raises(InputError, match="precision is 'fp8'; did you mean 'fp32' or 'fp16'"):
        choose_precision("fp8", "cpu")
