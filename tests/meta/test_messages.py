"""Every message for users is read by a test, word for word; see `tools/messages.py`."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tools.messages import Message, Reader, messages, strings_of_tests, unread

UNREACHABLE: dict[str, str] = {}
"""Messages that no test can reach, each by words of its own, with the reason."""


@cache
def left_unread() -> list[Message]:
    return unread(messages(), strings_of_tests())


def test_every_message_is_read_by_a_test() -> None:
    left = [
        f"{message.place}: {message.text}"
        for message in left_unread()
        if not any(words in message.text for words in UNREACHABLE)
    ]
    assert not left, "no test reads these messages:\n  " + "\n  ".join(left)


def test_what_is_said_to_be_out_of_reach_is_there_once_and_read_by_no_test() -> None:
    for words, reason in UNREACHABLE.items():
        assert len(reason.split()) > 3, words
        assert sum(words in message.text for message in messages()) == 1, f"{words!r} is no message any more"
        assert any(words in message.text for message in left_unread()), f"a test reads {words!r} after all"


PACKAGE = """
from lgkd.errors import DataError, InputError, Paused

def one(path, names):
    raise DataError(f"{path} lacks {', '.join(names)}: it is not the published archive")

def two(path):
    if path:
        raise DataError(f"{path} holds too much, {3} GB: it is not the published archive")
    raise DataError(
        f"{path} is cut: "
        "it is not the published archive"
    )

def three(name):
    message = f"stopped by {name} and saved"
    raise Paused(message) if name else InputError("a sentence " + "of two halves")

def four(error):
    raise InputError(f"{error}") from error
    raise KeyError("not for users, however long it may be")
"""


@pytest.fixture
def made(tmp_path: Path) -> Callable[[str], list[str]]:
    """Lines of the messages of a small package that tests with such strings do not read."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "some.py").write_text(PACKAGE)

    def left(tests: str) -> list[str]:
        folder = tmp_path / f"tests{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "test_some.py").write_text(tests)
        found = messages(tmp_path / "package")
        assert len(found) == 5
        return [message.place.partition(":")[2] for message in unread(found, strings_of_tests(folder))]

    return left


def test_a_message_is_read_by_words_of_its_own_wherever_they_are_broken(made: Callable[[str], list[str]]) -> None:
    assert made("") == ["5", "9", "10", "17", "17"]
    assert made("match=r'a\\.tgz lacks x, y: it is not the published'") == ["9", "10", "17", "17"]
    assert made("assert 'holds too much,  3' in err\nassert 'is cut: it is not' in err") == ["5", "17", "17"]
    assert made("assert f'{x} and saved' == err") == ["5", "9", "10", "17", "17"]
    assert made("assert f'stopped by {x} and saved' == err; '''sentence\nof two halves'''") == ["5", "9", "10"]


def test_words_that_many_messages_share_read_none_of_them(made: Callable[[str], list[str]]) -> None:
    assert made("match='it is not the published archive'") == ["5", "9", "10", "17", "17"]
    assert made("'''lacks x: it is not the published archive'''") == ["5", "9", "10", "17", "17"]  # a docstring


def test_the_messages_of_lgkd_are_found() -> None:
    places = {message.place.partition(":")[0] for message in messages()}
    assert len(messages()) > 350 and len(places) > 60
    assert {"config/yaml_io.py", "_internal/launch.py", "data/image_folder.py", "training/signals.py"} <= places


def test_a_message_reads_itself_and_the_weather_reads_none() -> None:
    said = messages()
    reader = Reader(said)
    assert not reader.read(("the weather is fine and nothing else is said here",))
    for message in said:
        assert message.parts in reader.read(message.parts), message.place
