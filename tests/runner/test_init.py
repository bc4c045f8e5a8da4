"""A training that starts from trained weights: of a run, of a file; recorded, compared, resumed, for all seeds."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import lgkd
from lgkd.cli import run
from lgkd.errors import InputError, MissingError, TakenError
from tests.support.small import QUICK, TINY, TINY_OPTIONS, TRAIN, World, make_pictures, pause_after

STILL = ["optimizer.lr=1e-30", "optimizer.weight_decay=0", "schedule.min_lr=0"]
FROZEN = [word for setting in STILL for word in ("--set", setting)]
"""Too small a rate to change a weight: what a run ends with is what it started from."""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "student.safetensors")


def about(folder: str) -> dict:
    return json.loads(Path(folder, "run.json").read_text())


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name, value in one.items() if not torch.equal(value, other[name])}


def test_a_run_of_the_same_classes_starts_where_its_parent_ended(world: World, capsys: pytest.CaptureFixture) -> None:
    command = [*TRAIN, "--dataset", str(world.pictures), *FROZEN]
    assert run([*command, "--init", str(world.unguided_run), "--out", "again"]) == 0
    assert differing(weights("again"), weights(world.unguided_run)) == set()
    assert about("again")["init"] == {
        "path": str(world.unguided_run),
        "sha256": hashlib.sha256((world.unguided_run / "student.safetensors").read_bytes()).hexdigest(),
        "classifier": "kept",
        "resized": [],
    }
    assert about("again")["call"]["options"]["init"] == str(world.unguided_run)
    assert "init" not in about(str(world.unguided_run))
    # Another beginning is another training.
    assert run([*command, "--out", "plain"]) == 0
    assert len(differing(weights("plain"), weights(world.unguided_run))) > 20


def test_other_classes_and_larger_images_are_said_and_recorded(world: World) -> None:
    other = make_pictures(Path("other"), ("checks", "rows", "slanted", "x"), train=4, test=2)
    said: list[str] = []
    made = lgkd.train(
        "deit_tiny", other, student_options=TINY_OPTIONS, image_size=32, epochs=1, batch_size=8, out="finer",
        init=world.unguided_run, overrides=STILL, say=said.append, seed=3,
    )  # fmt: skip
    place = world.unguided_run / "student.safetensors"
    assert f"starts from {place}: its classifier is drawn anew, for other classes; pos_embed is resized" in said
    assert {key: made.info["init"][key] for key in ("classifier", "resized")} == {
        "classifier": "new",
        "resized": ["pos_embed"],
    }
    theirs, ours = weights(world.unguided_run), weights("finer")
    changed = {
        name for name in ours if ours[name].shape != theirs[name].shape or not torch.equal(ours[name], theirs[name])
    }
    assert changed == {"pos_embed", "head.weight", "head.bias"}


def test_classes_of_other_names_and_equal_number_need_a_new_classifier(world: World) -> None:
    renamed = make_pictures(Path("renamed"), ("a", "b", "c"), train=4, test=2)
    command = [*TRAIN, "--dataset", str(renamed), *FROZEN, "--epochs", "1"]
    assert run([*command, "--init", str(world.unguided_run), "--out", "by-folder"]) == 0
    assert about("by-folder")["init"]["classifier"] == "new"
    assert weights("by-folder")["head.weight"].abs().max() < 1e-20, "deit_tiny's classifier starts from zeros"
    assert run([*command, "--init", str(world.unguided_run / "student.safetensors"), "--out", "by-its-file"]) == 0
    assert about("by-its-file")["init"]["classifier"] == "new", "student.json beside it names the classes"
    # A file alone names no classes.
    shutil.copy(world.unguided_run / "student.safetensors", "bare.safetensors")
    assert run([*command, "--init", "bare.safetensors"]) == 0
    folder = "runs/deit_tiny_renamed_from-bare_supervised_seed0"
    assert about(folder)["init"]["classifier"] == "kept"
    assert torch.equal(weights(folder)["head.weight"], weights(world.unguided_run)["head.weight"])


def test_a_guided_student_a_teacher_and_all_seeds_start_from_it(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(world.home, tmp_path / "home")
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "home"))
    data = ["--dataset", str(world.pictures)]
    distill = ["distill", "--student", "deit_tiny", "--teacher", "resnet8", *TINY, *QUICK, *FROZEN, *data, "--quiet"]
    command = [*distill, "--init", str(world.unguided_run), "--seeds", "0,1", "--with-baseline", "--epochs", "1"]
    assert run([*command, "--out", "series"]) == 0
    members = sorted(Path("series").glob("*/run.json"))
    assert len(members) == 4
    for member in members:
        assert differing(weights(member.parent), weights(world.unguided_run)) == set()
    teach = ["train-teacher", "resnet8", str(world.pictures), *QUICK, *FROZEN, "--image-size", "16", "--quiet"]
    assert run([*teach, "--init", str(world.teacher_run), "--replace", "--out", "teacher"]) == 0
    learned = {name for name in weights("teacher") if "running" not in name and "tracked" not in name}
    assert not differing(weights("teacher"), weights(world.teacher_run)) & learned
    kept = lgkd.load_teacher("resnet8", world.pictures)
    assert torch.equal(kept.model.fc.weight, weights(world.teacher_run)["fc.weight"])
    assert kept.card is not None
    assert kept.card.recipe == f"teacher, from weights of SHA-256 {about('teacher')['init']['sha256']}"


def test_weights_that_depend_on_the_images_are_not_fitted_again(world: World) -> None:
    options = {"epochs": 1, "batch_size": 8, "image_size": 16, "overrides": STILL}
    lgkd.train_teacher("fastnet_small", world.pictures, out="first", **options)
    other = make_pictures(Path("other"), train=5, test=2)
    lgkd.train_teacher("fastnet_small", other, out="second", init="first", **options)
    assert torch.equal(weights("second")["stem.conv.weight"], weights("first")["stem.conv.weight"])
    lgkd.train_teacher("fastnet_small", other, out="third", replace=True, **options)
    assert not torch.equal(weights("third")["stem.conv.weight"], weights("first")["stem.conv.weight"])


@pytest.mark.parametrize("gone", [False, True])
def test_a_stopped_run_goes_on_to_the_bit_even_without_its_parent(
    world: World, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    shutil.copytree(world.unguided_run, "parent")
    command = [*TRAIN, "--dataset", str(world.pictures), "--init", "parent"]
    assert run([*command, "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert run([*command, "--out", "parts"]) == 75
    before = about("parts")["init"]
    if gone:
        Path("parent").rename("moved")
    assert run(["resume", "parts", "--quiet"]) == 0
    assert differing(weights("parts"), weights("whole")) == set()
    assert about("parts")["init"] == before and about("parts")["call"]["options"]["init"] == str(
        Path("parent").resolve()
    )


def test_a_run_without_its_parent_needs_its_record(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(world.unguided_run, "parent")
    pause_after(monkeypatch, 2)
    assert run([*TRAIN, "--dataset", str(world.pictures), "--init", "parent", "--out", "parts"]) == 75
    shutil.rmtree("parent")
    info = about("parts")
    info["init"] = {"path": 3}
    Path("parts/run.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match=r"run.json lacks a proper init; it is damaged"):
        lgkd.resume("parts")


def test_another_beginning_is_another_training(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [*TRAIN, "--dataset", str(world.pictures), "--out", "parts"]
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert run([*command, "--init", str(world.unguided_run)]) == 75
    options = {"student_options": TINY_OPTIONS, "image_size": 16, "epochs": 2, "batch_size": 8, "precision": "fp32"}
    with pytest.raises(TakenError, match=r"init.sha256: was \"[0-9a-f]{64}\", now null"):
        lgkd.train("deit_tiny", world.pictures, out="parts", **options)
    with pytest.raises(TakenError, match=r"init.sha256: was \"[0-9a-f]{64}\", now \"[0-9a-f]{64}\""):
        lgkd.train("deit_tiny", world.pictures, out="parts", init=world.guided_run, **options)


def test_what_is_not_a_beginning_is_refused_before_torch_is_needed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(start: str, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            lgkd.train("deit_tiny", world.pictures, init=start, out="new")
        assert not Path("new").exists()

    refused("nowhere", MissingError, r"there is nothing at nowhere; expected the folder of a finished run or")
    Path("weights.pth").write_bytes(b"x")
    refused("weights.pth", InputError, r"weights.pth is not a .safetensors file; --init expects one")
    Path("empty").mkdir()
    refused("empty", InputError, r"empty holds no student.json; expected the folder of a finished run")
    Path("broken.safetensors").write_bytes(b"x")
    refused("broken.safetensors", InputError, r"broken.safetensors: not a safetensors file")
    refused(str(world.teacher_run), InputError, r"\(resnet8\) does not fit VisionTransformer: \d+ missing")
    monkeypatch.setattr("lgkd.runner.initial_weights.sha256_of", unreadable)
    refused(
        "broken.safetensors", InputError, r"broken.safetensors cannot be read \(Permission denied\); make it readable"
    )


def unreadable(path: Path) -> str:
    raise PermissionError(13, "Permission denied", str(path))


def test_the_options_of_the_parent_are_named_where_they_differ(world: World) -> None:
    with pytest.raises(InputError, match=r"student.safetensors \(deit_tiny with patch_size=4 depth=3 embed_dim=32 num"):
        lgkd.train("deit_tiny", world.pictures, init=world.unguided_run, image_size=16, out="new", epochs=1)


def test_a_dry_run_reads_them_and_a_report_names_the_folder(world: World, capsys: pytest.CaptureFixture) -> None:
    command = [*TRAIN, "--dataset", str(world.pictures), "--init", str(world.unguided_run), "--epochs", "1"]
    assert run([*command, "--dry-run", "--out", "new"]) == 0
    assert not Path("new").exists()
    capsys.readouterr()
    assert run([*command, "--out", "new", "--report"]) == 0
    page = Path("new/report.html").read_text()
    assert f"It started from trained weights (unguided, SHA-256 {about('new')['init']['sha256']})." in page
    made = lgkd.export("new", "exported", formats=["safetensors"])
    card = (made.folder / "README.md").read_text()
    assert f"| started from | trained weights, SHA-256 {about('new')['init']['sha256']} |" in card
    assert "--init unguided" in page and str(world.unguided_run) not in page.partition("lgkd train")[2][:300]
