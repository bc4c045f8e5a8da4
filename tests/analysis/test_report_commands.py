"""The commands of a report can be pasted: a shell splits them, and lgkd's own options take every word."""

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lgkd.analysis.report.command import command
from lgkd.analysis.report.reproduction import _file, reproduction
from lgkd.analysis.report.selection import choose
from lgkd.analysis.report.teacher_command import teacher_commands
from lgkd.cli.app import load_command
from lgkd.models.teacher_card import Accuracy, TeacherCard
from lgkd.models.teacher_store import save_card, teacher_folder
from tests.support.comparing import TEACHER, make_run, make_seeds

CALL = {"model_options": {"depth": 3}, "teachers": ["resnet8"], "taps": None, "options": {"subset_seed": 0}}
PHOTOS = {"name": "my photos", "path": "/home/somebody/my photos"}


def parsed(line: str) -> tuple[str, dict[str, Any]]:
    """The command and its options, as lgkd's own parser reads a line; nothing is run."""
    program, name, *words = shlex.split(line)
    assert program == "lgkd"
    with load_command(name).make_context(name, words, resilient_parsing=False) as context:
        return name, context.params


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def card(dataset: str, **changes: Any) -> TeacherCard:
    about: dict[str, Any] = {
        "name": "resnet8", "architecture": "resnet8", "options": {}, "dataset": dataset, "fingerprint": "f" * 64,
        "classes": ["a", "b"], "images": 20, "image_size": 32, "mean": (0.5, 0.25, 0.125), "std": (0.2, 0.2, 0.2),
        "taps": ["stem"], "accuracy": Accuracy(top1=0.5, split="test", epoch=7, epochs=7), "recipe": "teacher-fast",
        "seed": 3, "parameters": 7, "weights_sha256": TEACHER["sha256"], "lgkd_version": "0", "torch_version": "0",
        "created": "2026-11-30",
    }  # fmt: skip
    return TeacherCard(**(about | changes))


def test_the_teacher_is_trained_as_its_card_says(tmp_path: Path) -> None:
    about = card("photos", options={"width": 2}, subset="20 images per class, seed 1")
    save_card(about, teacher_folder("resnet8", "photos"))
    run = make_run(tmp_path / "run", 0.5, guided=True, dataset={"name": "photos", "path": "/x/photos"}, call=CALL)
    (found,) = teacher_commands(choose([run]))
    name, given = parsed(found.line)
    assert (name, given["teacher"], given["dataset"]) == ("train-teacher", "resnet8", "photos/")
    wanted = {"recipe": "teacher-fast", "epochs": 7, "image_size": 32, "seed": 3, "images_per_class": 20}
    wanted["subset_seed"] = 1
    assert {key: given[key] for key in wanted} == wanted
    assert given["teacher_option"] == ["width=2"]


@pytest.mark.parametrize("other", [False, True])
def test_without_its_card_or_with_another_one_the_unknown_is_said(tmp_path: Path, *, other: bool) -> None:
    if other:
        save_card(card("digits", weights_sha256="b" * 64), teacher_folder("resnet8", "digits"))
    (found,) = teacher_commands(choose([make_run(tmp_path / "run", 0.5, guided=True, call=CALL)]))
    assert "recipe and length are not known" in found.what
    assert found.line == "lgkd train-teacher resnet8 digits" and parsed(found.line)[0] == "train-teacher"


def test_an_imported_teacher_is_imported_again(tmp_path: Path) -> None:
    about = card("digits", recipe=f"imported from model.pth, SHA-256 {'c' * 64}")
    save_card(about, teacher_folder("resnet8", "digits"))
    run = make_run(tmp_path / "run", 0.5, guided=True, call=CALL)
    (found,) = teacher_commands(choose([run]))
    name, given = parsed(found.line)
    assert (name, given["weights"], given["sha256"]) == ("import-teacher", "model.pth", "c" * 64)
    assert (given["mean"], given["std"]) == ("0.5,0.25,0.125", "0.2,0.2,0.2")


def test_a_teacher_that_is_the_student_of_a_run_comes_with_its_recipe(tmp_path: Path) -> None:
    taught = make_run(tmp_path / "taught", 0.5, kind="teacher", call={**CALL, "teachers": []})
    call = {**CALL, "teachers": [str(taught)]}
    run = make_run(tmp_path / "run", 0.5, guided=True, teacher={"run": str(taught)}, call=call)
    (found,) = teacher_commands(choose([run]))
    assert found.recipe == ("teacher-recipe.yaml", (taught / "recipe.yaml").read_text())
    name, given = parsed(found.line)
    assert (name, given["recipe"], str(given["out"])) == ("train-teacher", "teacher-recipe.yaml", "taught")
    assert parsed(str(command(choose([run]), out="again")))[1]["teacher"] == ["taught"]


def test_the_command_of_all_folds_trains_them_all(tmp_path: Path) -> None:
    for fold in (1, 2, 3):
        for guided in (True, False):
            make_run(
                tmp_path / "folds" / f"seed0-fold{fold}-{'guided' if guided else 'unguided'}", 0.5, guided=guided,
                dataset={"subset": f"fold {fold} of 3, seed 0"},
                call={**CALL, "options": {"subset_seed": 0, "folds": 3, "fold": fold}},
            )  # fmt: skip
    chosen = choose([tmp_path / "folds"])
    name, given = parsed(str(command(chosen, out="again")))
    assert name == "distill" and given["with_baseline"] is True
    assert (given["seeds"], given["folds"], given["fold"]) == ("0", 3, None)


def test_all_commands_of_a_page_are_taken_by_lgkd(tmp_path: Path) -> None:
    make_seeds(tmp_path / "series", [0.5, 0.6], guided=True, dataset=PHOTOS, call=CALL)
    make_seeds(tmp_path / "series", [0.4, 0.5], dataset=PHOTOS, call=CALL)
    page = "".join(reproduction(choose([tmp_path / "series"]), "a: 1\n"))
    lines = [line.partition("</pre>")[0] for line in page.split('<pre class="line" tabindex="0">')[1:]]
    lines = [line.replace("&#39;", "'").replace("&#34;", '"') for line in lines]
    assert [parsed(line)[0] for line in lines] == ["train-teacher", "distill", "report"]
    assert "'my photos/'" in lines[0] and "<details><summary>recipe.yaml, 1 line</summary>" in page


def test_a_pasted_recipe_is_written_as_it_is(tmp_path: Path) -> None:
    content = "about: costs $HOME `date` 'x' \"y\"\nEND_OF_RECIPE\nlast: \\n\n"
    step = _file("recipe.yaml", content, "Write it.")
    subprocess.run(["sh"], input="\n".join(step.lines) + "\n", cwd=tmp_path, text=True, check=True)
    assert (tmp_path / "recipe.yaml").read_text() == content
