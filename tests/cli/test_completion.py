"""What a shell completes: commands, options and names, without waiting for torch."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lgkd._internal.paths import recipe_names
from lgkd.cli import completion
from lgkd.data.catalogue import CATALOGUE
from lgkd.models.registry import names
from tests.support.small import World, environment

HEAVY = "{'torch', 'torchvision', 'timm', 'numpy', 'accelerate', 'sklearn', 'PIL', 'matplotlib', 'safetensors'}"


def completed(world: World, *words: str, shell: str = "bash", **more: str) -> list[str]:
    """What lgkd answers a shell when the cursor stands behind the last word; torch must not have been loaded for it."""
    code = (
        "import sys\n"
        "from lgkd.cli import run\n"
        "code = run([])\n"
        f"assert not {HEAVY} & set(sys.modules), {HEAVY} & set(sys.modules)\n"
        "sys.exit(code)\n"
    )
    line = ["lgkd", *words]
    asked = {
        "_LGKD_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": " ".join(line),
        "COMP_CWORD": str(len(line) - 1),
        "_TYPER_COMPLETE_ARGS": " ".join(line),
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_WORD_TO_COMPLETE": line[-1],
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env={**environment(world.home), **asked}, capture_output=True, text=True, **more
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr[-1000:]
    return done.stdout.split() if shell == "bash" else [done.stdout]


def test_commands_and_options_are_completed(world: World) -> None:
    assert completed(world, "qui") == ["quickstart"]
    assert completed(world, "comp") == ["compare"]
    assert completed(world, "distill", "--with-b") == ["--with-baseline"]


def test_names_of_everything_are_completed_where_they_are_asked_for(world: World) -> None:
    assert completed(world, "distill", "--student", "pv") == ["pvt_v2_b0", "pvtv2", "pvt_tiny"]
    # The one that was trained here, before those that come with lgkd; no others.
    assert completed(world, "distill", "--teacher", "res")[0] == "resnet8"
    assert "resnet44" not in completed(world, "distill", "--teacher", "res")
    assert completed(world, "train", "--student", "pvtv2", "--dataset", "di") == ["digits"]
    assert completed(world, "train", "--recipe", "super") == ["supervised"]
    assert completed(world, "train-teacher", "vgg") == [name for name in names("teacher") if name.startswith("vgg")]
    assert completed(world, "train", "--precision", "b") == ["bf16"]
    assert completed(world, "train", "--select-by", "b") == ["balanced_accuracy"]


@pytest.mark.parametrize("shell", ["zsh", "fish", "powershell"])
def test_other_shells_are_answered_too(world: World, shell: str) -> None:
    assert "digits" in completed(world, "datasets", "dig", shell=shell)[0]


def test_without_a_word_all_names_are_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(names("student")) <= set(completion.students(""))
    # Who has trained none is offered what can be trained.
    assert completion.teachers("") == completion.trained_teachers("")
    assert completion.datasets("") == list(CATALOGUE) and completion.recipes("") == recipe_names()
    assert set(completion.models("")) == {*completion.students(""), *completion.teachers("")}


def test_runs_and_folders_of_runs_are_offered(world: World, here: Path) -> None:
    shutil.copytree(world.guided_run, "runs/one")
    shutil.copytree(world.guided_run, "runs/many/seed0-guided")
    Path("runs/nothing").mkdir()
    assert completion.runs("") == completion.runs("ru") == ["runs/many", "runs/one"]
    assert completion.runs("runs/o") == ["runs/one"] and completion.runs("on") == ["runs/one"]
    assert completion.runs("runs/many/") == ["runs/many/seed0-guided"]
    assert completion.runs("nowhere/x") == []


def test_a_damaged_store_does_not_disturb_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = tmp_path / "teachers" / "digits" / "resnet8" / "card.json"
    card.parent.mkdir(parents=True)
    card.write_text("{")
    monkeypatch.setenv("LGKD_HOME", str(tmp_path))
    assert "resnet56" in completion.trained_teachers("resnet5")
