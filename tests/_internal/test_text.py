"""Words of messages."""

import pytest

from lgkd._internal.text import counted, first_line, listed, one_line, visible


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [
        (0, "image", "0 images"),
        (1, "image", "1 image"),
        (1200, "image", "1,200 images"),
        (1, "class", "1 class"),
        (2, "class", "2 classes"),
        (0.5, "epoch", "0.5 epochs"),
    ],
)
def test_a_number_has_its_noun(number: float, noun: str, words: str) -> None:
    assert counted(number, noun) == words


def test_of_a_long_list_the_first_are_named_and_all_are_counted() -> None:
    assert listed([]) == ""
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abcd"), most=4) == "a, b, c, d"
    assert listed(list("abcde"), most=4) == "a, b, c, d, ... (5 in all)"


def test_an_error_is_told_by_its_first_line_or_its_class() -> None:
    assert first_line(ValueError("\n one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
    assert first_line(ValueError("x" * 300)) == "x" * 200


def test_what_acts_on_a_screen_is_written_as_its_escape() -> None:
    assert visible("a\x1b[2J\nb\tc\u202e") == "a\\x1b[2J\nb\tc\\u202e"
    assert one_line("a\x1b[2J\nb\tc\u202e") == "a\\x1b[2J\\nb\\tc\\u202e"
