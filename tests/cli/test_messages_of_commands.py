"""What commands and functions say of choices that cannot be and of runs that are not whole, word for word."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import lgkd
from lgkd._internal.distributed import join, place
from lgkd.cli import run
from lgkd.errors import InputError, LgkdError, TapError
from lgkd.experiments.quickstart import quickstart
from lgkd.models import teacher_store
from lgkd.models.teacher_store import find_card, verify_weights
from lgkd.runs.folder import check_free, claim, make_folder
from tests.support.manifests import reseal
from tests.support.small import DISTILL, TRAIN, World

DIGITS = ["--dataset", "digits"]
NOTHING_NEW = "nothing was touched. Choose another --out"


@pytest.fixture
def desk(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with copies of the store and of a run; the run's pictures are where they were."""
    shutil.copytree(world.home, tmp_path / "home")
    shutil.copytree(world.guided_run, tmp_path / "mine")
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))
    reseal(path.parent)


def said(error: type[LgkdError], call: Callable[[], object]) -> str:
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["bench", "--student", "deit_tiny", "--images", "1"], 2, "--images is 1, expected at least 2"),
        (["bench", "--student", "deit_tiny", "--repeats", "0"], 2, "--repeats is 0, expected at least 1"),
        (
            ["bench", "--student", "deit_tiny", "--sweep", "batch-size=8,x"],
            2,
            "--sweep 'batch-size=8,x': expected whole numbers above 0 with commas between them, like 32,64,128",
        ),
        (
            ["bench", "--student", "deit_tiny", "--out", "deep/a.json"],
            2,
            "--out deep/a.json: the folder deep does not exist; make it first",
        ),
        (
            [*TRAIN, *DIGITS, "--data-dir", "nowhere"],
            3,
            "there is no folder nowhere; expected one that holds digits, as --data-dir",
        ),
        (
            [*TRAIN, *DIGITS, "--extra", "more"],
            3,
            "there is no folder more; expected one that holds CLASS/*, as --extra",
        ),
        (
            [*DISTILL, *DIGITS, "--cached", "none"],
            3,
            "there is no folder none; expected one that `lgkd cache-teacher` made, or --cached auto",
        ),
        ([*TRAIN, *DIGITS, "--seed", "-1"], 2, "the seed is -1, expected 0 or more"),
        (
            [*TRAIN, *DIGITS, "--out", "a-file"],
            2,
            "a-file is a file, expected a folder that is new or empty; choose another --out",
        ),
        (
            [*TRAIN, *DIGITS, "--out", "mine"],
            2,
            "mine already holds a finished run (deit_tiny guided by resnet8 on pictures, seed 0); "
            f"{NOTHING_NEW}, or move it away",
        ),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_command_says_in_one_line_what_it_was_given_and_what_it_expects(
    desk: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, line: str
) -> None:
    Path("a-file").write_text("")
    assert run(words) == code
    assert capsys.readouterr() == ("", f"lgkd: {line}\n")


def test_options_of_functions_are_told_with_the_closest_and_with_what_they_may_be() -> None:
    text = said(InputError, lambda: lgkd.train("deit_tiny", "digits", epoch=3))  # type: ignore[call-arg]
    assert text.startswith("there is no option 'epoch'; did you mean 'epochs'")
    assert said(InputError, lambda: lgkd.train("deit_tiny", "digits", student_options={"a": object()})) == (
        "student options: Object of type object is not JSON serializable; expected plain numbers, words, true or false"
    )
    assert said(InputError, lambda: lgkd.train_teacher("resnet8", "digits", teacher_options={"a": [1]})) == (
        "teacher options: a is [1], expected a number, a word, true or false"
    )
    assert said(InputError, lambda: lgkd.train(nn.Identity(), "digits", student_options={"a": 1})) == (
        "options are passed to a constructor; the student is a module already, so leave them out"
    )


def test_a_teacher_without_layers_to_guide_by_is_told_how_to_state_them(
    desk: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (desk / "bare_teacher.py").write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    layers = nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)\n"
        "    return nn.Sequential(*layers)\n"
    )
    monkeypatch.syspath_prepend(desk)
    text = said(TapError, lambda: lgkd.train_teacher("bare_teacher:net", world.pictures, image_size=16, device="cpu"))
    assert text.startswith("no teacher: Sequential has no transformer blocks")
    assert text.endswith("; a model of your own can list them in its attribute lgkd_taps")


def test_a_teacher_without_a_term_is_told_by_its_number(
    desk: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    terms = ["--set", "guide.terms=[{kind: kd, for_teacher: 1}]"]
    assert run([*DISTILL, "--teacher", "resnet8", "--dataset", str(world.pictures), "--out", "new", *terms]) == 2
    assert capsys.readouterr().err == (
        "lgkd: no term of the recipe is for teacher 2; leave that teacher out, or add a term\n"
    )


# Runs


def unfinished(about: dict[str, Any]) -> None:
    about["status"] = "running"


def test_a_run_of_objects_is_gone_on_with_by_the_call_that_began_it(desk: Path) -> None:
    rewrite(desk / "mine" / "run.json", lambda about: about.update(status="running", call=None))
    assert said(InputError, lambda: lgkd.resume("mine")) == (
        "mine was started in Python from objects that have no name; repeat that call with out='mine'"
    )


def test_a_run_that_is_finished_is_not_gone_on_with(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["resume", "mine"]) == 2
    assert capsys.readouterr().err == (
        "lgkd: mine is finished (deit_tiny guided by resnet8 on pictures, seed 0); there is nothing to resume; "
        "evaluate it by `lgkd evaluate`, or train it for more epochs by --extend\n"
    )


def test_images_that_moved_are_named_with_the_place_they_were_at(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(desk / "mine" / "run.json", lambda about: about["dataset"].update(path="/gone"))
    assert run(["evaluate", "mine"]) == 3
    assert capsys.readouterr().err == (
        "lgkd: the data that mine was trained on is no longer at /gone; name it with --dataset\n"
    )


def test_a_run_whose_environment_is_damaged_says_so(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(desk / "mine" / "run.json", unfinished)
    (desk / "mine" / "env.json").write_text("{")
    reseal(desk / "mine")
    assert run(["resume", "mine", "--quiet"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("lgkd: mine/env.json cannot be read (")
    assert err.endswith("); it is damaged, start a new run in another --out\n")


def test_a_folder_that_is_taken_or_cannot_be_made_is_told(desk: Path) -> None:
    rewrite(desk / "mine" / "run.json", unfinished)
    assert not check_free(Path("mine"))
    text = said(LgkdError, lambda: claim(Path("mine")))
    assert (
        text == f"mine already holds an unfinished run (deit_tiny guided by resnet8 on pictures, seed 0); {NOTHING_NEW}"
    )
    Path("a-file").write_text("")
    assert said(InputError, lambda: make_folder(Path("a-file/runs"))) == (
        "a-file/runs cannot be made (Not a directory); choose another folder"
    )


def test_a_run_of_another_lgkd_says_which_format_is_read(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(desk / "mine" / "run.json", lambda about: about.update(format=99))
    assert run(["evaluate", "mine"]) == 2
    assert capsys.readouterr().err == (
        "lgkd: mine/run.json has format 99, this lgkd reads format 1; use the lgkd that wrote it\n"
    )


def test_a_run_that_lacks_what_belongs_there_names_it(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(desk / "mine" / "student.json", lambda about: about.update(image_size="16"))
    assert run(["evaluate", "mine"]) == 2
    assert capsys.readouterr().err == (
        "lgkd: mine/student.json lacks a proper image_size; it is damaged or something else\n"
    )
    rewrite(desk / "mine" / "run.json", lambda about: (unfinished(about), about["call"].update(taps="blocks.0")))
    assert run(["resume", "mine"]) == 2
    assert capsys.readouterr().err == (
        "lgkd: mine/run.json lacks a proper call.taps; it is damaged or something else, repeat the command that "
        "started it\n"
    )


# Cards


def test_a_name_that_leads_elsewhere_names_no_teacher() -> None:
    assert said(InputError, lambda: find_card("..", "pictures")).startswith(
        "'..' cannot name a teacher's folder: it must be 1 to 128 letters, digits"
    )


def test_a_card_that_cannot_be_read_or_is_none_says_what_to_do(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card, folder = find_card("resnet8", "pictures")
    (folder / "weights.safetensors").unlink()
    assert said(InputError, lambda: verify_weights(card, folder)) == (
        f"{folder}/weights.safetensors: cannot be read (No such file or directory); train the teacher again: "
        "lgkd train-teacher resnet8 pictures"
    )
    monkeypatch.setattr(teacher_store, "MAX_BYTES", 10)
    assert said(InputError, lambda: find_card("resnet8", "pictures")) == (
        f"{folder}/card.json: longer than 10 bytes; this is not a card, remove the folder and train the teacher again"
    )

    def broken(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", broken)
    assert said(InputError, lambda: find_card("resnet8", "pictures")) == (
        f"{folder}/card.json: cannot be read (Input/output error); make it readable, or remove the folder"
    )


# Processes and seeds


def test_contradictory_processes_are_told_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(InputError, lambda: place({"RANK": "3", "WORLD_SIZE": "2"})) == (
        "RANK is 3 and WORLD_SIZE is 2; expected a rank below the number"
    )
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    assert said(InputError, lambda: join("cuda:1")) == (
        "2 processes cannot share cuda:1; use --device cuda, and each takes its own"
    )


def test_a_quickstart_needs_seeds_that_are_seeds() -> None:
    assert said(InputError, lambda: quickstart(None, seeds=[])) == (
        "there are no seeds; give at least one, such as 0,1,2"
    )
    assert said(InputError, lambda: quickstart(None, seeds=[0, -3])) == "a seed is -3, expected 0 or more"
