"""Read, resume, evaluate and export runs, a store and a checkpoint of commit 6cf8da7, before the packages moved.

They were written by `tools.golden.old_run`'s commands in a checkout of that commit, with one thread; `whole` is the run
that `paused` would have become. `quickstart` holds the student's name as `lgkd.quickstart:small_vit`.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import lgkd
from lgkd.cli import run
from lgkd.runs.folder import ENV, RUN, environment, package_version
from lgkd.runs.identity import _PACKAGES
from lgkd.training.checkpoint import load_newest
from tests import GOLDEN

FOLDER = GOLDEN / "run_6cf8da7"
USE = ["--use", "tests.torture.students"]
LITTLE = "tests.torture.students:Little"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, whose store is the store."""
    shutil.copytree(FOLDER, tmp_path / "kept")
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "kept" / "home"))
    return tmp_path / "kept"


def results(folder: Path) -> dict[str, float]:
    return json.loads((folder / RUN).read_text(encoding="utf-8"))["results"]


def same_machine(folder: Path) -> bool:
    then = json.loads((folder / ENV).read_text(encoding="utf-8"))
    now = environment(device="cpu")
    return all(then[key] == now[key] for key in ("processor", "packages", "threads"))


def without_key_bias(name: str, value: torch.Tensor) -> torch.Tensor:
    if not name.endswith("qkv.bias"):
        return value
    query, _, values = value.chunk(3)
    return torch.cat([query, values])


@pytest.mark.parametrize("name", ["finished", "quickstart", "whole"])
def test_a_finished_run_is_evaluated_to_what_it_wrote(
    kept: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", str(kept / name), "--json", *USE]) == 0
    found = json.loads(capsys.readouterr().out)
    # On another processor a rounding may turn the decision on an image.
    assert abs(found["top1"] - results(FOLDER / name)["test_top1"]) < 3 / 599
    assert "agreement" in found, "the teacher of the store was not found"


def test_the_quickstarts_student_needs_no_trust(kept: Path) -> None:
    loaded = lgkd.load_student(kept / "quickstart")
    weights = load_file(kept / "quickstart" / "student.safetensors")
    assert type(loaded).__name__ == "VisionTransformer"
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())


def test_a_teacher_of_the_store_is_read(kept: Path) -> None:
    teacher = lgkd.load_teacher(LITTLE, "digits")
    (weights,) = kept.glob("home/teachers/digits/*/weights.safetensors")
    assert all(torch.equal(v, teacher.model.state_dict()[k]) for k, v in load_file(weights).items())


def test_a_paused_run_ends_as_the_undisturbed_one(kept: Path) -> None:
    """Equal to the bit where processor and packages are those that wrote it; elsewhere but for rounding.

    The bias of attention's keys has no gradient but for rounding (softmax ignores a shift), which AdamW scales up to
    steps of full size: it is compared on the same processor only.
    """
    then = json.loads((kept / "paused" / ENV).read_text(encoding="utf-8"))["packages"]
    differing = any(then[name] != package_version(name) for name in _PACKAGES)
    assert run(["resume", str(kept / "paused"), "--quiet", *USE, *(["--force"] if differing else [])]) == 0
    resumed, whole = (load_file(kept / name / "student.safetensors") for name in ("paused", "whole"))
    assert resumed.keys() == whole.keys()
    for name, value in whole.items():
        assert torch.equal(resumed[name], value) or not same_machine(FOLDER / "whole"), name
        found, expected = (without_key_bias(name, tensor) for tensor in (resumed[name], value))
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4), name


def test_its_checkpoint_is_whole(kept: Path) -> None:
    checkpoint = load_newest(kept / "paused" / "checkpoint")
    assert checkpoint is not None
    assert set(checkpoint.tensors) == {"student", "ema", "guide", "optimizer", "meters"}


@pytest.mark.parametrize("name", ["finished", "quickstart"])
def test_a_finished_run_is_exported(kept: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    command = ["export", str(kept / name), "--out", str(out), "--format", "safetensors", "--format", "torch-export"]
    assert run([*command, "--quiet", *USE]) == 0
    exported, kept_weights = load_file(out / "student.safetensors"), load_file(kept / name / "student.safetensors")
    assert all(torch.equal(exported[key], value) for key, value in kept_weights.items())
