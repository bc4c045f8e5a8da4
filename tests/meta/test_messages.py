"""The list of places that make errors, the record of those that tests reach, and the form of a message.

The whole suite ends with an error if a place was not reached or a message lacks a part; see `tests/support/raised.py`.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from lgkd.data.image_folder import read_tree
from lgkd.errors import DataError, InputError, LgkdError
from tests import CHECKOUT
from tests.support import raised
from tools.messages import error_places, read_record, unreached

SOURCE = """
from lgkd.errors import DataError, InputError, Paused

def one(path, names):
    raise DataError(f"{path} lacks {', '.join(names)}: it is not the published archive")

def two(name):
    message = f"stopped by {name} and saved"
    raise Paused(message) if name else InputError(
        "a sentence " + "of two halves"
    )

def three(error, fault):
    fault(f"{error} is a pipe; remove it")
    raise KeyError("not for users, however long it may be")
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "some.py").write_text(SOURCE)
    return tmp_path / "package"


def test_every_call_of_an_error_class_is_a_place(package: Path) -> None:
    assert [(p.file, p.first, p.last, p.name, p.text) for p in error_places(package)] == [
        ("some.py", 5, 5, "DataError", "... lacks ...: it is not the published archive"),
        ("some.py", 9, 9, "Paused", "stopped by ... and saved"),
        ("some.py", 9, 11, "InputError", "a sentence of two halves"),
        ("some.py", 14, 14, "fault", "... is a pipe; remove it"),
    ]


def test_a_place_is_reached_by_any_of_its_lines(package: Path) -> None:
    places = error_places(package)
    assert unreached(places, []) == places
    assert unreached(places, [("some.py", 10), ("some.py", 14), ("other.py", 5)]) == places[:2]


def test_the_places_of_lgkd_are_found() -> None:
    places = error_places()
    assert len(places) > 500 and len({place.file for place in places}) > 80
    assert {"config/yaml_io.py", "_internal/launch.py", "training/signals.py"} <= {place.file for place in places}


def test_an_error_is_recorded_with_the_lines_that_led_to_it(tmp_path: Path) -> None:
    """In a process of its own, whose record is read here; a helper's caller is among the lines."""
    program = (
        "from tests.support.raised import record_errors\nrecord_errors()\n"
        "from lgkd.data.image_folder import read_tree\nfrom pathlib import Path\n"
        f"read_tree(Path({str(tmp_path / 'nowhere')!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**raised.os.environ, raised.VARIABLE: str(tmp_path), "PYTHONPATH": str(CHECKOUT)},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert "nowhere" in done.stderr
    reached, said = read_record(tmp_path)
    assert {file for file, _ in reached} == {"data/image_folder.py", "data/listing.py"}
    assert len(unreached(error_places(), reached)) < len(error_places())
    ((kind, text),) = said
    assert issubclass(getattr(raised.lgkd.errors, kind), LgkdError) and "nowhere" in text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("it is cut: copy it again", None),
        ("lr is -1, expected a number above 0", None),
        ("", "it is empty"),
        ("the file is cut", "one part"),
        ("the file is cut; copy it again.", "full stop"),
        ("<object at 0x7f> is none; name it: <Net object at 0x7f>", "only a developer"),
    ],
)
def test_a_message_has_parts(text: str, fault: str | None) -> None:
    faults = raised.faults_of(InputError.__name__, text)
    assert len(faults) == (fault is not None)
    assert fault is None or fault in faults[0]


def test_what_is_said_to_be_out_of_reach_is_there_once() -> None:
    for words, reason in raised.OUT_OF_REACH.items():
        assert len(reason.split()) > 3, words
        assert sum(words in str(place) for place in error_places()) == 1, words


def test_the_record_of_this_very_process_is_kept(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        read_tree(tmp_path / "seventeen")
    with pytest.raises(InputError):
        raise InputError("a test made this one")
    said = {text for _, text in read_record(Path(raised.os.environ[raised.VARIABLE]))[1]}
    assert any("seventeen" in text for text in said)
    assert "a test made this one" not in said
