"""Cells of CSV files: nothing is computed and nothing acts, and every text can be had back."""

import csv
import io
import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lgkd._internal.csv_tables import cell, original, table

FORMULAS = ["=1+2", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1", "=cmd|'/C calc'!A0", "'=1", "-0.5"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_that_a_spreadsheet_would_compute_begins_with_an_apostrophe(text: str) -> None:
    assert cell(text).startswith("'")
    assert original(cell(text)) == text


def test_cells_are_those_written_by_hand() -> None:
    assert cell("=1+2") == "'=1+2"
    assert cell("a\x1b[2Jb") == r"'a\x1b[2Jb"
    assert cell("one\ntwo\tthree\\") == r"'one\ntwo\tthree\\"
    assert cell("bad\udcff.png") == r"'bad\udcff.png"
    assert cell("user\u202egnp.exe") == r"'user\u202egnp.exe"
    for plain in ("cat", "C:\\photos\\1.png", "Äpfel", "a=b", "1-2", "it's", ""):
        assert cell(plain) == plain == original(plain)


def test_numbers_stay_numbers() -> None:
    found = list(csv.reader(io.StringIO(table(["a", "b", "c", "d"], [{"a": -0.5, "b": 3, "c": -1e-300}]).decode())))
    assert found == [["a", "b", "c", "d"], ["-0.5", "3", "-1e-300", ""]]
    assert float(str(cell(-math.inf))) == -math.inf


@given(st.text())
@example("'\\x1b")
@example("\ud800\\")
def test_every_text_can_be_had_back_and_does_nothing(text: str) -> None:
    rows = list(csv.reader(io.StringIO(table([text], [{text: text}]).decode("utf-8"), newline="")))
    shown = rows[0][0] if rows[0] else ""
    assert original(shown) == text
    assert not re.match(r"\s*[=+\-@\t\r\n]", shown)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown)
