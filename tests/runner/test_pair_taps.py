"""Layers of the teacher named with those of the student: `--taps STUDENT:TEACHER`."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lgkd.cli import run
from lgkd.errors import InputError
from lgkd.runner.build import pair_taps
from tests.support.small import DISTILL, TINY, World, pause_after

OWN = "blocks.0:stage1,blocks.1:stage2,blocks.2:stage3"
"""The default taps of both, written out."""
OTHER = "blocks.0:stage2,blocks.2:stage3"


pytestmark = pytest.mark.usefixtures("here")


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "student.safetensors")


def same(one: str | Path, other: str | Path) -> bool:
    ours, theirs = weights(one), weights(other)
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


def distill(world: World, out: str, *more: str) -> int:
    return run([*DISTILL, "--dataset", str(world.pictures), "--out", out, *more])


def test_default_layers_by_name_train_the_same_student(world: World) -> None:
    assert distill(world, "named", "--taps", OWN) == 0
    assert same("named", world.guided_run)
    assert json.loads(Path("named/run.json").read_text())["call"]["taps"] == OWN.split(",")


def test_other_layers_of_the_teacher_guide_and_are_resumed_to_the_bit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert distill(world, "whole", "--taps", OTHER) == 0
    assert not same("whole", world.guided_run)
    about = json.loads(Path("whole/run.json").read_text())
    assert [(pair["student"], pair["teacher"]) for pair in about["pairs"]] == [
        ("blocks.0", "stage2"),
        ("blocks.2", "stage3"),
    ]
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert distill(world, "paused", "--taps", OTHER) == 75
    assert run(["resume", "paused", "--quiet"]) == 0
    assert same("paused", "whole")


def test_a_cache_of_other_layers_serves_their_training_alone(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*DISTILL[1:5], *TINY, "--device", "cpu", "--dataset", str(world.pictures), "--taps", OTHER, "--quiet"]
    assert run(["cache-teacher", *words, "--views", "1", "--storage", "fp32", "--out", "cache"]) == 0
    assert distill(world, "cached", "--cached", "cache", "--taps", OTHER) == 0
    assert distill(world, "online", "--set", "view.fixed=1", "--taps", OTHER) == 0
    assert same("cached", "online")
    capsys.readouterr()
    assert distill(world, "refused", "--cached", "cache") != 0
    assert "teacher's layers" in capsys.readouterr().err


def test_pairs_are_split_and_mixtures_refused() -> None:
    assert pair_taps(None) == (None, None)
    assert pair_taps(["a", "b.0"]) == (["a", "b.0"], None)
    assert pair_taps(["a:x", "b.0:y.1"]) == (["a", "b.0"], ["x", "y.1"])
    with pytest.raises(InputError, match=r"--taps a:x,b: some name a layer of the teacher .* or none$"):
        pair_taps(["a:x", "b"])


def test_a_layer_that_the_teacher_lacks_ends_with_one_line(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert distill(world, "run", "--taps", "blocks.0:layer9") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "layer9" in error and "layer" in error
    assert not Path("run").exists()
