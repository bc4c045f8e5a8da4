"""Classes and files that are called like formulas and control sequences, through every command that names them."""

import csv
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lgkd._internal.csv_tables import original
from lgkd.cli import run
from tests.support.small import DISTILL, QUICK, TRAIN, make_pictures
from tests.support.unrendered import real_figures

SPOOFED = "lgkd: remark: all is well"
CLASSES = ("=1+2", "+plus", "-minus", "@at", "\ttab", "\rcr", "x\x1b[2J\x9b", f"n\n{SPOOFED}", "user\u202egnp", "plain")
FILE = f"=cmd|' x\x1b]0;owned\x07\n{SPOOFED}\udcff.png"
"""As a name of a file; its last sign is a byte that is no text."""


@contextmanager
def harmless(capfd: pytest.CaptureFixture[str]) -> Iterator[list[str]]:
    """What is printed inside does nothing to a terminal, and no line of it is one of a name's."""
    said: list[str] = []
    yield said
    out, err = capfd.readouterr()
    said += [out, err]
    for line in (out + err).split("\n"):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", line), repr(line)
        assert not line.startswith(SPOOFED), "a name made a line of its own"


def cells(file: Path) -> list[list[str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        found = list(csv.reader(stream))
    for text in (cell for row in found for cell in row):
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e]", text), (file, text)
        if re.match(r"\s*[=+\-@]", text):
            float(text)  # a number, which a spreadsheet may take for one
    return found


# Pictures that inspect and report draw have no shapes for such signs, of which matplotlib warns.
@pytest.mark.filterwarnings("ignore:Glyph")
@real_figures()
def test_no_command_obeys_the_names_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    zoo = make_pictures(tmp_path / f"-zoo\n{SPOOFED}", CLASSES, train=3, test=1)
    (zoo / "test" / "=1+2" / "0.png").rename(zoo / "test" / "=1+2" / FILE)
    (zoo / "train" / "plain" / f"broken{SPOOFED}\n\x1b[2J.txt").write_text("no image")
    data = str(zoo)
    teach = ["train-teacher", "resnet8", data, *QUICK, "--epochs", "1", "--image-size", "16", "--out", "taught"]
    guided = [*DISTILL[:-1], "--epochs", "1", "--dataset", data]
    alone = [*TRAIN[:-1], "--epochs", "1", "--dataset", data, "--out", "=alone"]
    commands = [
        ["check", data],
        ["check", data, "--json"],
        [*teach, "--dry-run"],
        teach,
        ["teachers", "resnet8"],
        [*guided, "--out", "guided"],
        [*alone, "--dry-run"],
        alone,
        ["evaluate", "guided"],
        ["evaluate", "guided", "--json"],
        ["predict", "guided", str(zoo / "test"), "--top-k", "9"],
        ["predict", "guided", str(zoo / "test"), "--top-k", "9", "--json"],
        ["predict", "guided", str(zoo / "test"), "--top-k", "9", "--csv", "answers.csv"],
        ["predict", "guided", str(zoo / "no\nsuch\x1b[2J.png")],
        ["compare", "guided", "=alone", "--csv", "compared.csv"],
        ["inspect", "guided", "--baseline", "=alone", "--out", "inspected"],
        ["report", "guided"],
        ["export", "guided", "--format", "safetensors"],
    ]
    printed = []
    for command in commands:
        with harmless(capfd) as said:
            code = run(command)
        assert code in ((2,) if "no\nsuch\x1b[2J.png" in command[-1] else (0,)), (command, said)
        printed.append(said[0])
    scores = json.loads(printed[9])
    assert len(scores["per_class"]) == len(CLASSES)
    by_json = json.loads(printed[11])
    rows = cells(tmp_path / "answers.csv")
    images = list(map(str, sorted((zoo / "test").glob("*/*"))))
    assert sorted(original(row[0]) for row in rows[1:]) == sorted(images)
    assert {original(cell) for row in rows[1:] for cell in row[2:20:2]} <= set(CLASSES)
    assert [[original(cell) for cell in row[2:20:2]] for row in rows[1:]] == [
        [one["class"] for one in each["classes"]] for each in by_json
    ]
    assert not list(filter(None, (row[-1] for row in rows[1:])))
    tables = [*tmp_path.glob("*.csv"), *tmp_path.glob("*/*.csv")]
    assert len(tables) >= 7 and all(len(cells(file)) > 1 for file in tables)
