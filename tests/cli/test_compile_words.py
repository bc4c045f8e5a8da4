"""The words of `--compile`, those of earlier versions included, and what they mean to a command."""

from typing import Any

import pytest

from lgkd.benchmark import run as bench_module
from lgkd.benchmark.options import Choices
from lgkd.cli import _with_compile_word, completion, run


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["--compile"], ["--compile=whole"]),
        (["--no-compile"], ["--compile=off"]),
        (["--compile", "--seed", "1"], ["--compile=whole", "--seed", "1"]),
        (["train", "--compile", "vit_96", "digits"], ["train", "--compile=whole", "vit_96", "digits"]),
        (["--compile", "blocks"], ["--compile", "blocks"]),
        (["--compile=auto", "--seed", "1"], ["--compile=auto", "--seed", "1"]),
    ],
)
def test_words_of_before_stand_for_those_of_now(typed: list[str], meant: list[str]) -> None:
    assert _with_compile_word(typed) == meant


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ([], None),
        (["--compile"], True),
        (["--no-compile"], False),
        (["--compile", "auto"], None),
        (["--compile", "blocks"], "blocks"),
        (["--compile", "whole"], True),
        (["--compile=off"], False),
    ],
)
def test_a_command_receives_the_value(words: list[str], value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Choices] = []

    def bench(choices: Choices, **_: Any) -> dict[str, Any]:
        seen.append(choices)
        return {}

    monkeypatch.setattr(bench_module, "bench", bench)
    assert run(["bench", "--student", "vit_96", *words, "--json"]) == 0
    assert [choices.compile for choices in seen] == [value]


def test_another_word_is_refused_with_the_closest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--student", "vit_96", "--compile=block"]) == 2
    assert "--compile 'block' is unknown; did you mean 'blocks'?" in capsys.readouterr().err
    assert completion.compiled("b") == ["blocks"]
