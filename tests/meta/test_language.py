"""Language of docstrings: the first line is an imperative with the field's noun."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import lgkd

PACKAGE = Path(lgkd.__file__).parent
NOT_AN_IMPERATIVE = re.compile(r"(What|Whether|Who|Which|Of|Those|That|Where|How|The|A|An|As|One|Everything|Nothing)\b")


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and first line of every docstring of a module, its classes and functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text.splitlines()[0]


def test_docstrings_begin_with_an_imperative() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line} {first}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, first in docstrings(path)
        if NOT_AN_IMPERATIVE.match(first)
    ]
    assert found == []


def test_the_walk_sees_them() -> None:
    assert sum(1 for path in PACKAGE.rglob("*.py") for _ in docstrings(path)) > 1500
