"""A checkpoint knows what it is of: what lies beside it is not believed."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from lgkd.cli import run
from lgkd.runs.folder import read_metrics
from tests.support.small import TRAIN, World, pause_after, snapshot


def command(world: World, out: str, *more: str) -> list[str]:
    return [*TRAIN, "--dataset", str(world.pictures), "--out", out, *more]


@pytest.fixture
def paused(world: World, here: Path, monkeypatch: pytest.MonkeyPatch):
    """Pauses a training after two steps."""

    def go(out: str = "mine", *more: str) -> Path:
        with monkeypatch.context() as patch:
            pause_after(patch, 2)
            assert run(command(world, out, *more)) == 75
        return Path(out)

    return go


def newest(folder: Path) -> Path:
    return max((folder / "checkpoint").glob("step-*"))


def rewritten(checkpoint: Path, change) -> None:
    """Change a checkpoint's state, and its manifest with it."""
    state, manifest = (json.loads((checkpoint / name).read_text()) for name in ("state.json", "MANIFEST.json"))
    change(state)
    data = json.dumps(state, indent=1, ensure_ascii=False).encode() + b"\n"
    (checkpoint / "state.json").write_bytes(data)
    manifest["files"]["state.json"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (checkpoint / "MANIFEST.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def flip(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert re.search(old, text)
    file.write_text(re.sub(old, new, text))


def test_a_flipped_bit_of_the_recipe_is_noticed_on_resume(paused, here: Path, capsys) -> None:
    folder = paused()
    capsys.readouterr()
    flip(folder / "recipe.yaml", r"(?m)^(  lr: )0\.0005$", r"\g<1>0.0007")
    before = snapshot(folder)
    assert run(["resume", "mine", "--quiet"]) == 2
    assert capsys.readouterr().err == (
        f"lgkd: {newest(folder)} was made by another training than run.json and recipe.yaml beside it describe; it "
        "was not touched. Take these files, or the checkpoint, from a copy, or use --force to resume from it "
        "anyway:\n  recipe.optimizer.lr: was 0.0005, now 0.0007\n"
    )
    after = snapshot(folder)
    assert {name: value for name, value in after.items() if "checkpoint" in name} == {
        name: value for name, value in before.items() if "checkpoint" in name
    }
    assert run(["resume", "mine", "--force"]) == 0
    assert "resuming although the checkpoint differs: recipe.optimizer.lr: was 0.0005, now 0.0007" in (
        capsys.readouterr().err
    )
    assert read_metrics(folder)[-1]["epoch"] == 2


def test_another_seed_in_run_json_is_noticed(paused, here: Path, capsys) -> None:
    folder = paused()
    info = json.loads((folder / "run.json").read_text())
    info["seed"] = info["call"]["options"]["seed"] = 1
    (folder / "run.json").write_text(json.dumps(info))
    assert run(["resume", "mine", "--quiet"]) == 2
    assert "\n  seed: was 0, now 1\n" in capsys.readouterr().err


def test_the_checkpoint_of_another_run_is_noticed(paused, here: Path, world: World, capsys) -> None:
    mine, other = paused("mine"), paused("other", "--seed", "3")
    shutil.rmtree(mine / "checkpoint")
    shutil.copytree(other / "checkpoint", mine / "checkpoint")
    assert run(command(world, "mine")) == 2
    assert "\n  seed: was 3, now 0\n" in capsys.readouterr().err


def test_the_best_student_of_another_run_is_noticed(paused, here: Path, world: World, capsys) -> None:
    held_out = ("--val-fraction", "0.25")
    assert run(command(world, "other", "--seed", "3", *held_out)) == 0
    assert run(command(world, "mine", *held_out)) == 0
    info = json.loads(Path("mine/run.json").read_text())
    Path("mine/run.json").write_text(json.dumps({**info, "status": "running"}))
    Path("mine/MANIFEST.json").unlink()
    shutil.rmtree("mine/checkpoint/best")
    shutil.copytree("other/checkpoint/best", "mine/checkpoint/best")
    capsys.readouterr()
    assert run(command(world, "mine", *held_out)) == 2
    assert "mine/checkpoint/best was made by another training" in capsys.readouterr().err


def test_a_checkpoint_of_an_earlier_version_is_taken_as_it_is(paused, here: Path, world: World, capsys) -> None:
    folder = paused()

    def forget(state) -> None:
        assert state["identity"].pop("settings") and re.fullmatch("[0-9a-f]{64}", state["identity"].pop("digest"))

    rewritten(newest(folder), forget)
    assert run(command(world, "mine")) == 0


def test_a_setting_that_only_a_later_version_knows_is_no_difference(paused, here: Path, world: World) -> None:
    folder = paused()
    rewritten(newest(folder), lambda state: state["identity"]["settings"].pop("recipe.view.flip"))
    assert run(command(world, "mine")) == 0
