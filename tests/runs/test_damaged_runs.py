"""A finished run is what its manifest says: flipped bits, weights that went bad, absurd sizes, no manifest yet."""

import json
import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import lgkd
from lgkd._internal.atomic_io import sha256_of
from lgkd._internal.manifest import MANIFEST, read_manifest
from lgkd.cli import run
from lgkd.errors import InputError, Remark
from lgkd.runs.folder import check_free, is_finished, read_run
from tests.support.manifests import reseal
from tests.support.security import rewrite
from tests.support.small import World

SMALL = ("run.json", "recipe.yaml", "env.json", "metrics.csv", "student.json")
Say = pytest.CaptureFixture[str]


@pytest.fixture
def folder(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a finished run, in the working folder."""
    monkeypatch.setenv("LGKD_HOME", str(world.home))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(world.unguided_run, tmp_path / "mine")
    return Path("mine")


def flip(file: Path, draw: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Changes weights and all that is said of them, as a stranger would."""
    tensors = load_file(folder / "student.safetensors")
    change(tensors)
    save_file(tensors, folder / "student.safetensors")
    rewrite(
        folder / "student.json", lambda about: about.update(weights_sha256=sha256_of(folder / "student.safetensors"))
    )


def test_the_manifest_is_written_last_over_what_decides_a_result(folder: Path) -> None:
    found = read_manifest(folder)
    assert found is not None and set(found) == {*SMALL, "student.safetensors"}
    assert max(folder.rglob("*"), key=lambda path: path.stat().st_mtime_ns if path.is_file() else 0).name == MANIFEST


@pytest.mark.parametrize("name", [*SMALL, "student.safetensors"])
def test_no_flipped_bit_is_evaluated_in_silence(folder: Path, name: str) -> None:
    good = (folder / name).read_bytes()
    for seed in range(10):
        flip(folder / name, random.Random(f"{seed} {name}"))
        with pytest.raises(InputError, match=rf"{name}: has SHA-256 [0-9a-f]{{64}}, expected [0-9a-f]{{64}}"):
            lgkd.evaluate(folder)
        (folder / name).write_bytes(good)


def test_every_command_that_reads_a_run_tells_of_a_changed_learning_rate(folder: Path, capsys: Say) -> None:
    text = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(text.replace("lr: 0.", "lr: 1.", 1))
    assert text != (folder / "recipe.yaml").read_text()
    pictures = ["photos/*.png"]
    for words in (["evaluate"], ["compare"], ["report"], ["inspect", "--out", "looked"], ["export"], ["resume"]):
        assert run([words[0], "mine", *words[1:]]) == 2
        assert "mine/recipe.yaml: has SHA-256" in capsys.readouterr().err, words
    shutil.copy(folder / "student.json", folder / "kept")
    rewrite_raw(folder / "student.json")
    assert run(["predict", "mine", *pictures]) == 2
    assert re.search(r"mine/student\.json: has \d+ bytes, expected \d+ by", capsys.readouterr().err)


def rewrite_raw(file: Path) -> None:
    """Another order of the classes, and no manifest that says so."""
    about = json.loads(file.read_text())
    file.write_text(json.dumps(about | {"classes": about["classes"][::-1]}, indent=2))


def test_a_run_that_died_before_its_manifest_goes_on(world: World, folder: Path, capsys: Say) -> None:
    (folder / MANIFEST).unlink()
    assert read_run(folder)["status"] == "running" and not is_finished(folder)
    assert run(["evaluate", "mine"]) == 2
    assert "mine is not finished, it has no MANIFEST.json yet; go on with it by: lgkd resume mine" in (
        capsys.readouterr().err
    )
    assert run(["resume", "mine", "--quiet"]) == 0
    assert is_finished(folder)
    before, after = (load_file(place / "student.safetensors") for place in (world.unguided_run, folder))
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_place_that_holds_a_damaged_run_is_not_written_into(folder: Path) -> None:
    flip(folder / "run.json", random.Random(0))
    with pytest.raises(InputError, match=r"mine already holds what was finished and is damaged \(mine/run.json: has"):
        check_free(folder)


def test_what_reports_and_users_add_is_theirs(folder: Path) -> None:
    (folder / "report.html").write_text("mine")
    (folder / "curves.png").write_bytes(b"mine")
    (folder / "notes.txt").write_text("mine")
    lgkd.evaluate(folder)


def test_a_run_of_an_older_version_is_read_with_one_line(folder: Path, capsys: Say) -> None:
    (folder / MANIFEST).unlink()
    rewrite(folder / "run.json", lambda info: info.pop("manifest"))
    assert run(["evaluate", "mine"]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "verified" in line]
    assert told == [
        "lgkd: remark: mine could not be verified: there is no MANIFEST.json, which older versions of lgkd "
        "did not write"
    ]
    assert run(["evaluate", "mine", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["images"] == 12 and captured.err == ""
    assert run(["compare", "mine"]) == 0
    assert capsys.readouterr().err.count("could not be verified") == 1


def test_student_json_and_weights_alone_are_enough_and_could_not_be_verified(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name not in ("student.json", "student.safetensors"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.warns(Remark, match="mine could not be verified"):
        lgkd.load_student(folder)


# Weights that went bad, with a right hash


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(folder: Path, value: float, capsys: Say) -> None:
    change_weights(folder, lambda tensors: tensors["head.weight"].view(-1)[3:4].fill_(value))
    for words in (["evaluate", "mine", "--json"], ["export", "mine"]):
        assert run(words) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert (
            "student.safetensors holds numbers that are not finite (head.weight); its training diverged" in captured.err
        )


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64])
def test_weights_of_another_kind_of_number_are_refused(folder: Path, dtype: torch.dtype) -> None:
    change_weights(folder, lambda tensors: tensors.update({"head.bias": tensors["head.bias"].to(dtype)}))
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(InputError, match=rf"1 of another kind of number \(head.bias {kind} instead of float32\)"):
        lgkd.load_student(folder)


def test_weights_in_half_precision_are_taken(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.update({name: value.half() for name, value in tensors.items()}))
    assert all(value.dtype == torch.float32 for value in lgkd.load_student(folder).parameters())


def test_logits_that_overflow_are_no_result(world: World, folder: Path, capsys: Say) -> None:
    """Finite weights whose products are not."""
    change_weights(folder, lambda tensors: [tensors[name].fill_(3e38) for name in ("head.weight", "head.bias")])
    assert run(["evaluate", "mine", "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "mine answers with numbers that are not finite on" in captured.err
    assert run(["predict", "mine", str(world.pictures / "test")]) == 2
    assert "mine answers with numbers that are not finite; its weights are damaged" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_what_is_not_json_is_not_read_as_json(folder: Path, text: str) -> None:
    about = (folder / "student.json").read_text()
    (folder / "student.json").write_text(about.replace('"longest_side": 12', f'"longest_side": {text}'))
    reseal(folder)
    with pytest.raises(InputError, match=rf"student.json cannot be read as JSON \({text} is not JSON\)"):
        lgkd.load_student(folder)


# Sizes out of reason


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"options": {"patch_size": 4, "depth": 10_000_000, "embed_dim": 32, "num_heads": 2}},
            "depth 10,000,000, expected",
        ),
        (
            {"options": {"patch_size": 4, "depth": 3, "embed_dim": 20_000, "num_heads": 2}},
            "embed_dim 20,000, expected at",
        ),
        ({"options": {"patch_size": 4, "depth": [3, 10**9], "num_heads": 2}}, "depth 1,000,000,000, exp"),
        ({"options": {"patch_size": 4, "depth": 1e7, "num_heads": 2}}, "depth 10,000,000, expected at most"),
        ({"num_classes": 10**9}, "num_classes 1,000,000,000, expected at most 1,024 by the weights beside it"),
        ({"image_size": [60_000, 60_000]}, "images of 60,000 x 60,000 pixels, expected at most 16,777,216 in all"),
    ],
)
def test_absurd_sizes_are_refused_at_once(folder: Path, change: dict[str, object], told: str) -> None:
    rewrite(folder / "student.json", lambda about: about.update(change))
    begun = time.monotonic()
    with pytest.raises(InputError, match=f"student.json asks for {told}"):
        lgkd.load_student(folder)
    assert time.monotonic() - begun < 3


@pytest.mark.parametrize("key", ["mean", "std"])
@pytest.mark.parametrize("value", [[0.5, 0.5], ["a", "b", "c"], [1e999, 0.5, 0.5], [True, 0.5, 0.5]])
def test_channels_that_are_no_numbers_are_refused(folder: Path, key: str, value: list[object]) -> None:
    text = json.dumps(json.loads((folder / "student.json").read_text()) | {key: value}).replace("Infinity", "1e999")
    (folder / "student.json").write_text(text)
    reseal(folder)
    with pytest.raises(InputError, match=f"student.json lacks a proper {key}"):
        lgkd.load_student(folder)


def test_the_golden_runs_say_nothing_of_a_manifest() -> None:
    """Else the tests of earlier versions would show nothing."""
    from tests import GOLDEN

    runs = [file.parent for file in GOLDEN.rglob("run.json")]
    assert len(runs) > 3 and not any((folder / MANIFEST).exists() for folder in runs)
    assert not any("manifest" in json.loads((folder / "run.json").read_text()) for folder in runs)
    assert np.all([read_run(folder)["status"] in ("finished", "running") for folder in runs])
