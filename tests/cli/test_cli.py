"""The command line as people meet it: help, listings, results, JSON, quiet, tracebacks only on demand."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest

from lgkd import __version__
from lgkd.cli import run
from lgkd.cli.app import COMMANDS, GROUPS, load_command
from lgkd.cli.display import Display, duration, show_pairs, show_table
from lgkd.cli.options import key_values
from lgkd.data.catalogue import CATALOGUE
from lgkd.errors import Interrupted, LgkdError, MissingError, NonFiniteError
from lgkd.models.registry import names
from tests.support.manifests import reseal
from tests.support.screen import row, shown_on, terminal
from tests.support.small import CLASSES, DISTILL, QUICK, TINY, World, environment

SHORTENED = {"quickstart", "distill", "evaluate", "compare", "resume"}
"""Commands whose own first line does not fit the list of all."""


@pytest.fixture
def here(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and the world's store, which is only read."""
    monkeypatch.setenv("LGKD_HOME", str(world.home))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command that must succeed prints; it must print nothing on standard error."""
    assert run(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_help_fits_80_columns_and_lists_every_command_once_under_its_heading(here: Path, capsys) -> None:
    text = said(capsys, "--help")
    assert max(map(len, text.splitlines())) <= 80
    assert len(COMMANDS) >= 9
    for heading, commands in GROUPS.items():
        section = re.search(rf"^{heading}:\n((?:  .+\n)+)", text, re.M).group(1)
        assert re.findall(r"^  (\S+) ", section, re.M) == list(commands)
    # Descriptions begin in one column in all sections.
    lines = [
        line for heading in GROUPS for line in text.partition(f"\n{heading}:\n")[2].partition("\n\n")[0].splitlines()
    ]
    assert len(lines) == len(COMMANDS)
    assert {re.match(r"  \S+ +", line).end() for line in lines} == {18}
    assert "..." not in text.replace("[ARGS]...", "")
    assert said(capsys) == text


def test_examples_of_the_help_name_commands(here: Path, capsys) -> None:
    examples = re.findall(r"^    lgkd (\S+)", said(capsys, "--help"), re.M)
    assert len(examples) >= 5 and set(examples) <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_fits_80_columns_and_has_an_example(here: Path, capsys, command: str) -> None:
    text = said(capsys, command, "--help")
    assert max(map(len, text.splitlines())) <= 80
    assert f"Example: lgkd {command}" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_of_a_command_is_read_without_a_mistake(here: Path, capsys, monkeypatch, command: str) -> None:
    """Options and arguments of every example exist: what stops it is at most something that is not here."""
    text = said(capsys, command, "--help")
    words = re.search(r"Example: lgkd (.+)", text).group(1).split()
    place = f"lgkd.cli.{COMMANDS[command][0]}.{command.replace('-', '_')}"
    monkeypatch.setattr(place, _no_operation(load_command(command).callback.__wrapped__))
    assert run(words) == 0, capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_the_list_of_commands_says_of_each_what_its_own_help_says_first(command: str) -> None:
    loaded, (_, listed) = load_command(command), COMMANDS[command]
    first = loaded.help.partition("\n")[0]
    assert loaded.name == command and loaded.short_help == listed
    assert (listed != first) == (command in SHORTENED), f"{command}: {first!r}, listed as {listed!r}"
    assert len(listed) < 65 and listed.endswith(".")


def _no_operation(function):
    import functools

    @functools.wraps(function)
    def instead(*_: object, **__: object) -> None:
        """Does nothing, with the options of the function that it stands for."""

    return instead


def test_the_version_is_told(capsys) -> None:
    assert said(capsys, "--version") == f"lgkd {__version__}\n"


def test_students_and_data_sets_are_all_listed(here: Path, capsys) -> None:
    text = said(capsys, "students")
    assert re.search(r"^vit_128 .*  32 to 96 px; minutes to an hour on a CPU$", text, re.M)
    assert re.search(r"^deit_tiny .*  224 px, smaller with patch_size; hours on a GPU$", text, re.M)
    assert [line.split()[0] for line in text.splitlines()[2:-1]] == names("student")
    assert {one["name"] for one in json.loads(said(capsys, "students", "--json"))} == set(names("student"))
    text = said(capsys, "datasets")
    assert [line.split()[0] for line in text.splitlines()[2:-1]] == list(CATALOGUE)
    assert [one["name"] for one in json.loads(said(capsys, "datasets", "--json"))] == list(CATALOGUE)


def test_the_teacher_that_was_trained_is_listed_and_shown(world: World, here: Path, capsys) -> None:
    top1 = json.loads((world.teacher_run / "run.json").read_text())["results"]["test_top1"]
    text = said(capsys, "teachers")
    trained = [line.split() for line in text.partition("trained teachers\n")[2].splitlines()]
    assert ["resnet8", "pictures", f"{top1:.2%}", "24"] in trained  # beside those that come with lgkd
    listed = json.loads(said(capsys, "teachers", "--json"))
    assert {one["name"] for one in listed["architectures"]} == set(names("teacher"))
    (card,) = (one for one in listed["trained"] if one["dataset"] == "pictures")
    assert card["accuracy"]["top1"] == top1
    (shown,) = json.loads(said(capsys, "teachers", "resnet8", "--json"))
    assert shown["classes"] == list(CLASSES)
    assert Path(shown["folder"]) == world.home / "teachers" / "pictures" / "resnet8"
    text = said(capsys, "teachers", "resnet8")
    assert re.search(r"data set +pictures \(3 classes, 24 images\)", text)
    assert "16 x 16 px" in text


def test_a_recipe_is_shown_as_yaml_that_can_be_used(here: Path, capsys) -> None:
    from lgkd.config import load_recipe, parse_recipe

    text = said(capsys, "recipes", "teacher")
    assert parse_recipe(text) == load_recipe("teacher")
    assert json.loads(said(capsys, "recipes", "teacher", "--json")) == load_recipe("teacher").model_dump(mode="json")
    assert "locality-guidance" in json.loads(said(capsys, "recipes", "--json"))


def test_layers_shows_the_default_taps_and_their_maps(here: Path, capsys) -> None:
    words = ["layers", "deit_tiny", *(word.replace("--student-option", "--option") for word in TINY)]
    lines = said(capsys, *words).splitlines()
    assert lines[2].split() == ["blocks.0", "17", "x", "32", "32", "x", "4", "x", "4", "4", "36%", "default"]
    assert lines[-1].endswith("more layers with --all")
    rows = json.loads(said(capsys, *words, "--json"))
    assert [row["name"] for row in rows if row["tapped"]] == ["blocks.0", "blocks.1", "blocks.2"]
    pairing = 2 + 3  # the title, the heads, and a row for each default tap
    assert len(said(capsys, *words, "--all").splitlines()) == 2 + len(rows) + pairing


def test_layers_takes_options_by_the_names_that_the_trainings_have_for_them(capsys) -> None:
    plain = [word for word in TINY if word != "--student-option"]
    assert said(capsys, "layers", "deit_tiny", *TINY) == said(
        capsys, "layers", "deit_tiny", *plain[:2], *(word for one in plain[2:] for word in ("--teacher-option", one))
    )


def test_piped_tables_have_one_line_a_row_and_no_spaces_at_the_end(capsys) -> None:
    show_table("a title", ("name", "number"), [("x" * 100, 5), ("[red]y[/red]", 10_000)], right=(1,))
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["a title", f"{'name':<100}  number", f"{'x' * 100}       5", f"{'[red]y[/red]':<100}   10000"]


def test_tables_on_a_terminal_stay_within_its_width() -> None:
    with terminal() as screen:
        show_table("a title", ("name", "text"), [("one", "word " * 40), ("six", "w" * 200)])
    lines = shown_on(screen)
    assert max(map(len, lines)) <= 80
    assert sum(line.count("w") for line in lines) == 240


def test_long_values_are_not_broken_when_piped(capsys) -> None:
    show_pairs({"a": "x" * 200, "name": "[bold]"})
    assert capsys.readouterr().out == f"a     {'x' * 200}\nname  [bold]\n"


def test_without_a_terminal_a_training_says_a_line_now_and_then(capsys) -> None:
    with Display("guided x") as display:
        display.on_start(3, 10)
        display.on_step(0, 1, {"accuracy": 0.5}, 10.0)
        display.say("a remark")
        for epoch in (1, 2, 3):
            display.on_epoch(row(epoch, test_top1=0.25))
    out, err = capsys.readouterr()
    assert out == ""
    remark, first, last = err.splitlines()
    assert remark == "a remark"
    assert first.startswith(
        "guided x epoch 1/3 test 25.0% train 50.0% class 1.5 guidance_linear 0.25 1,234 img/s, "
    ) and first.endswith(" left")
    assert last.startswith("guided x epoch 3/3 ")
    assert last.endswith(", 0s left")


def test_a_quiet_training_says_nothing(capsys) -> None:
    with Display("guided x", quiet=True) as display:
        display.decoded(5, 5)
        display.say("a remark")
        display.on_start(1, 10)
        display.on_epoch(row(1, test_top1=0.25))
    assert capsys.readouterr() == ("", "")


def test_the_live_line_of_a_terminal_keeps_to_one_line_of_80_columns() -> None:
    with terminal() as screen, Display("guided convit_tiny") as display:
        display.on_start(300, 10)
        display.on_step(0, 1, row(1).train, 1234.5)
        display.on_epoch(row(1, test_top1=0.25))
        display.say("a remark above the line")
        display.on_epoch(row(2))
    lines = [line for line in shown_on(screen) if line.strip()]
    assert max(map(len, lines)) <= 80
    assert "a remark above the line" in [line.rstrip() for line in lines]
    assert re.search(r"^guided.* 2/300 .* test 25.0% class 1.5 linear 0.25 1,234", lines[-1])


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0s"), (59.4, "59s"), (59.6, "1m00s"), (185, "3m05s"), (3600, "1h00m"), (7805, "2h10m")],
)
def test_durations_are_told_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_options_of_a_constructor_are_numbers_truths_and_words() -> None:
    pairs = ["depth=2", "rate=1e-3", "qkv_bias=false", "pool=avg", "name=a=b"]
    assert key_values(pairs, "--student-option") == {
        "depth": 2, "rate": 1e-3, "qkv_bias": False, "pool": "avg", "name": "a=b",
    }  # fmt: skip
    assert key_values(None, "--student-option") == {}


def test_evaluate_tells_what_the_training_found(world: World, here: Path, capsys) -> None:
    result = json.loads((world.guided_run / "run.json").read_text())["results"]
    found = json.loads(said(capsys, "evaluate", str(world.guided_run), "--json"))
    assert found["images"] == 12
    assert found["top1"] == result["test_top1"]
    assert found["loss"] == pytest.approx(result["test_loss"], abs=1e-6)
    assert 0 <= found["agreement"] <= 1
    assert len(found["per_class"]) == 3
    text = said(capsys, "evaluate", str(world.guided_run))
    assert re.search(rf"^top-1 +{result['test_top1']:.2%}$", text, re.M)
    text = said(capsys, "evaluate", str(world.unguided_run))
    assert "top-1" in text and "teacher" not in text


def test_evaluate_says_so_where_the_teacher_is_not_here(world: World, here: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("LGKD_HOME", str(here / "empty"))
    assert "no teacher available" in said(capsys, "evaluate", str(world.guided_run))
    assert "teacher" not in said(capsys, "evaluate", str(world.teacher_run))


def test_a_trained_teacher_is_followed_by_the_command_that_it_is_for(
    world: World, here: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("LGKD_HOME", str(here / "store"))
    (here / "pictures").symlink_to(world.pictures)
    teach = ["train-teacher", "resnet8", "pictures/", *QUICK, "--epochs", "1", "--image-size", "16"]
    assert run([*teach, "--images-per-class", "4", "--subset-seed", "1", "--out", "mine"]) == 0
    kept, told = capsys.readouterr().out.splitlines()[-2:]
    assert kept == "kept in mine"
    assert told == (
        "as teacher resnet8 for pictures (4 images per class, seed 1) in the store; next: lgkd distill --student "
        "vit_128 --teacher resnet8 --dataset pictures/ --recipe fast --time 45m --images-per-class 4 --subset-seed 1"
    )
    words = shlex.split(told.partition("next: lgkd ")[2])
    assert run([*words, *TINY, *QUICK[2:], "--dry-run", "--json"]) == 0


def test_two_teachers_of_a_name_are_two_blocks_and_a_folder_is_sent_to_check(
    world: World, here: Path, capsys, monkeypatch
) -> None:
    store = here / "store"
    monkeypatch.setenv("LGKD_HOME", str(store))
    one = next(world.home.glob("teachers/*/resnet8"))
    for name in ("first", "second"):
        shutil.copytree(one, store / "teachers" / name / "resnet8")
        card = store / "teachers" / name / "resnet8" / "card.json"
        card.write_text(card.read_text().replace('"dataset": "pictures"', f'"dataset": "{name}"'))
        reseal(card.parent)
    blocks = said(capsys, "teachers", "resnet8").split("\n\n")
    assert [re.search(r"data set +(\w+)", block)[1] for block in blocks] == ["first", "second"]  # type: ignore[index]
    (here / "photos").mkdir()
    assert run(["datasets", "photos"]) == 2
    assert "check it with: lgkd check photos" in capsys.readouterr().err


def test_json_of_a_training_is_its_run_json_and_all_that_is_printed(world: World, here: Path, capsys) -> None:
    words = [word for word in DISTILL if word != "--quiet"]
    text = said(capsys, *words, "--dataset", str(world.pictures), "--json")
    found = json.loads(text)
    folder = Path(found.pop("folder"))
    assert folder == Path("runs/deit_tiny_pictures_by-resnet8_locality-guidance_seed0")
    kept = json.loads((folder / "run.json").read_text())
    assert kept == {"format": 1, **found}


def test_a_training_tells_its_result_and_where_it_is(world: World, here: Path, capsys) -> None:
    text = said(capsys, *DISTILL, "--dataset", str(world.pictures), "--out", "mine", "--seed", "3")
    first, *_, last = text.splitlines()
    assert re.match(r"test top-1 [0-9.]+% after epoch 2 \(the last; nothing was selected\), calibration error ", first)
    assert last == "kept in mine"


def test_a_training_that_is_not_quiet_speaks_of_the_teacher(world: World, here: Path, capsys) -> None:
    words = [word for word in DISTILL if word != "--quiet"]
    assert run([*words, "--dataset", str(world.pictures), "--images-per-class", "4", "--epochs", "1"]) == 0
    _, err = capsys.readouterr()
    assert re.search(r"^teacher resnet8: [0-9.]+% top-1 on pictures test, trained on 24 images$", err, re.M)
    assert "the teacher saw all training images, the student sees 4 images per class, seed 0" in err
    assert "guided deit_tiny epoch 1/1 test " in err


class Broken(Exception):
    """Something nobody thought of."""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (MissingError("not here"), 3, "lgkd: not here\n"),
        (NonFiniteError("went bad"), 4, "lgkd: went bad\n"),
        (Interrupted("stopped, saved", 15), 143, "lgkd: stopped, saved\n"),
        (KeyboardInterrupt(), 130, "lgkd: stopped by the keyboard\n"),
        (
            Broken("two\n  lines"),
            1,
            "lgkd: unexpected Broken: two lines. This is a bug in lgkd; run again with --debug and report it\n",
        ),
        (
            OSError(28, "No space left on device", "runs/x"),
            2,
            "lgkd: runs/x: No space left on device; earlier content is intact. Free some space, run the same command "
            "again\n",
        ),
        (
            OSError(13, "Permission denied", "runs/x"),
            2,
            "lgkd: runs/x: Permission denied; check the path, or choose another (--out, or LGKD_HOME)\n",
        ),
        (
            FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp', '/usr/tmp', '/']"),
            2,
            "lgkd: there is no writable folder for temporary files, and torch does not start without one; "
            "name one: set TMPDIR, or TORCHINDUCTOR_CACHE_DIR for the files that torch compiles\n",
        ),
        (
            MemoryError("12 GiB"),
            1,
            "lgkd: not enough memory (12 GiB); close other programs, or use a machine with more\n",
        ),
    ],
)
def test_a_traceback_is_shown_on_demand_only(
    here: Path, capsys, monkeypatch, error: BaseException, code: int, line: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("lgkd.cli.catalogue.names", fail)
    assert run(["students"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.lstrip("\n") == line
    for words in (["students", "--debug"], ["--debug", "students"]):
        assert run(words) == code
        err = capsys.readouterr().err
        assert err.endswith(line)
        assert isinstance(error, KeyboardInterrupt) or "Traceback (most recent call last)" in err


def test_python_says_that_there_is_no_folder_for_temporary_files_as_it_is_read_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def imports_torch(*_: object) -> None:
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/nowhere"])
        tempfile.gettempdir()

    monkeypatch.setattr("lgkd.cli.catalogue.names", imports_torch)
    assert run(["students"]) == 2
    assert "set TMPDIR, or TORCHINDUCTOR_CACHE_DIR" in capsys.readouterr().err


def test_every_error_of_lgkd_has_a_documented_exit_code() -> None:
    def family(kind: type) -> set[type]:
        return {kind}.union(*(family(child) for child in kind.__subclasses__()))

    codes = {kind.__name__: getattr(kind, "exit_code", None) for kind in family(LgkdError) if kind is not Interrupted}
    assert set(codes.values()) == {1, 2, 3, 4, 5, 75} and codes["OutOfMemoryError"] == 1
    assert codes["DataError"] == codes["TapError"] == codes["ModelError"] == codes["TakenError"] == 2


def test_warnings_are_remarks_of_one_line_and_none_where_only_the_result_was_asked_for(
    here: Path, capsys, monkeypatch
) -> None:
    def listed(*_: object) -> list[str]:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("an odd\nthing", stacklevel=1)
        return []

    monkeypatch.setattr("lgkd.cli.catalogue.names", listed)
    assert run(["students"]) == 0
    assert capsys.readouterr().err == "lgkd: remark: an odd thing\n"
    assert run(["students", "--json"]) == 0
    assert capsys.readouterr().err == ""


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['lgkd', 'recipes', '--json']; from lgkd.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert err == b""


def test_a_terminal_that_knows_ascii_only_gets_every_line(tmp_path: Path) -> None:
    folder = tmp_path / "Äpfel"
    code = f"import sys; sys.argv = ['lgkd', 'evaluate', {str(folder)!r}]; from lgkd.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment(tmp_path), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pfel; expected the folder of a run" in done.stderr
