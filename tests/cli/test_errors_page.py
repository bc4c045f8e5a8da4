"""docs/errors.md shows what commands really print, and every family of errors with its exit code."""

import re
import shlex
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lgkd import errors
from lgkd.cli import run
from lgkd.runs.identity import lock_run
from tests import CHECKOUT
from tests.support.manifests import reseal
from tests.support.small import World

PAGE = CHECKOUT / "docs" / "errors.md"
HOME = "/home/me"
# What makes a training of the page last a second; where it stands in the command does not matter.
SMALL = shlex.split(
    "--image-size 16 --student-option patch_size=4 --student-option depth=3 --student-option embed_dim=32 "
    "--student-option num_heads=2 --epochs 3 --images-per-class 4 --batch-size 8 --precision fp32 --device cpu --quiet"
)
TRAINS = ("--out bad", "--out held", "--out paused", "--out stopped", "--taps")


def examples() -> Iterator[tuple[int, str, str]]:
    """Every command of the page with the exit code of its section and what it prints."""
    for section in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.M)[1:]:
        codes = re.match(r"(\d+)(?: and (\d+))?:", section)
        for block in re.findall(r"^```console\n(.*?)^```$", section, flags=re.M | re.S):
            for example in re.split(r"^\$ ", block, flags=re.M)[1:]:
                command, _, printed = example.partition("\n")
                assert codes is not None, command
                yield int(codes[2] or codes[1]), command, printed


@pytest.fixture
def desk(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the page's author has in his working folder."""
    work = tmp_path / "work"
    shutil.copytree(world.home, tmp_path / ".cache" / "lgkd")
    shutil.copytree(world.pictures, work / "pictures")
    shutil.copytree(world.unguided_run, work / "from-elsewhere")
    about = work / "from-elsewhere" / "student.json"
    about.write_text(about.read_text().replace('"name": "deit_tiny"', '"name": "their_nets:Net"'))
    reseal(about.parent)
    (work / "photos" / "train" / "cats").mkdir(parents=True)
    (work / "notes").mkdir()
    (work / "notes" / "a.txt").write_text("")
    (work / "mine.yaml").write_text(
        "trains: student\nbatch_size: 64\noptimizer:\n  lr: fast\n  decay: 0.05\nschedule:\n  epochs: 100\n"
    )
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / ".cache" / "lgkd"))
    monkeypatch.chdir(work)
    return tmp_path


@contextmanager
def circumstances(command: str, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """What must be the case for a command to end as it does on the page."""
    if command.endswith("--out held"):
        Path("held").mkdir()
        with lock_run(Path("held")):
            yield
        return
    if command.endswith("--out stopped"):
        patch.setattr("lgkd.runner.record.CsvLogger.on_start", lambda *_: signal.raise_signal(signal.SIGTERM))
    if command == "lgkd students":

        def surprised(*_: object) -> None:
            raise KeyError("surprise")

        patch.setattr("lgkd.cli.catalogue.names", surprised)
    yield


def comparable(text: str) -> str:
    """Without what differs from one torch to another: when and where numbers ceased to be finite."""
    return re.sub(r"in epoch \d+, step \d+: .* not finite.*?\. The", "in epoch 1, step 3: ... not finite. The", text)


@pytest.mark.parametrize(("code", "command", "printed"), [pytest.param(*one, id=one[1][:60]) for one in examples()])
def test_an_example_is_what_the_command_prints(
    desk: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    command: str,
    printed: str,
) -> None:
    words = shlex.split(command)
    assert words[0] == "lgkd"
    more = SMALL if any(word in command for word in TRAINS) else []
    with circumstances(command, monkeypatch):
        assert run([*words[1:], *more]) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert comparable(err.lstrip("\n").replace(str(desk), HOME)) == comparable(printed)


def test_the_page_has_examples_of_every_code() -> None:
    assert {code for code, _, _ in examples()} == {1, 2, 3, 4, 5, 75, 143}
    assert len(list(examples())) >= 15


def test_the_page_names_every_family_with_its_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = {row.split("|")[1]: row for row in text.splitlines() if re.match(r"\| \[\d", row)}
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.LgkdError) and kind is not errors.LgkdError:
            code = "130" if kind is errors.Interrupted else str(kind.exit_code)
            (row,) = (row for cell, row in rows.items() if re.search(rf"\[{code}\b", cell))
            assert f"`{name}`" in row, name
    assert errors.Interrupted("stopped", signal.SIGINT).exit_code == 130
    assert errors.Interrupted("stopped", signal.SIGTERM).exit_code == 143


def test_debug_alone_shows_tracebacks_for_errors_of_every_kind(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (["students", "deit_tny"], ["evaluate", "none"], ["distil"], ["train", "--epochs", "x"]):
        code = run(words)
        quiet = capsys.readouterr().err
        assert "Traceback" not in quiet and quiet.startswith("lgkd: ") and quiet.count("\n") == 1
        for place in (0, len(words)):
            assert run([*words[:place], "--debug", *words[place:]]) == code == 2
            loud = capsys.readouterr().err
            assert loud.startswith("Traceback (most recent call last):\n") and loud.endswith(quiet)


def test_links_of_the_page_lead_somewhere() -> None:
    text = PAGE.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line[3:].lower()).replace(" ", "-")
        for line in text.splitlines()
        if line[:3] == "## "
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        assert (PAGE.parent / file).exists() if file else anchor in headings, target
