"""List every place in the code that raises an error for users, and those that no test raised.

    LGKD_RECORD_ERRORS=FOLDER pytest ...    record the places that the tests reach (the whole suite does so by itself)
    python -m tools.messages FOLDER         print the places that were not reached

A place is a call of an error class of `lgkd.errors`, or of a helper that becomes one (`SPEAKERS`).
"""

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from inspect import isclass
from pathlib import Path

from lgkd import errors
from tools.house import PACKAGE, parsed

ERRORS = {name for name, thing in vars(errors).items() if isclass(thing) and issubclass(thing, errors.LgkdError)}
SPEAKERS = {"Problem", "_Failed", "fault", "refuse"}


@dataclass(frozen=True)
class Place:
    """Locate one call that makes an error.

    Attributes:
        file: below the package.
        first, last: lines of the call.
        name: of what is called.
        text: the constant words of its message; what is put in at run time is "...".
    """

    file: str
    first: int
    last: int
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.first} {self.name}: {self.text}"


def error_places(package: Path = PACKAGE) -> list[Place]:
    """List the places of a package in the order of files and lines."""
    return [place for path in sorted(package.rglob("*.py")) for place in _places_of(path, package)]


def unreached(places: Iterable[Place], reached: Iterable[tuple[str, int]]) -> list[Place]:
    """List the places whose lines are not among (file, line) pairs."""
    lines: dict[str, set[int]] = {}
    for file, line in reached:
        lines.setdefault(file, set()).add(line)
    return [place for place in places if not lines.get(place.file, set()) & set(range(place.first, place.last + 1))]


def read_record(folder: Path) -> tuple[set[tuple[str, int]], set[tuple[str, str]]]:
    """Read what `tests.support.raised` recorded: (file, line) pairs that were reached, (class, message) pairs."""
    reached, said = set(), set()
    for path in sorted(folder.glob("*.tsv")):
        for row in path.read_text(encoding="utf-8").splitlines():
            kind, first, second = row.split("\t", 2)
            if kind == "place":
                reached.add((first, int(second)))
            else:
                said.add((first, second.replace("\\n", "\n")))
    return reached, said


def _places_of(path: Path, package: Path) -> Iterator[Place]:
    tree = parsed(path)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for node in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name in ERRORS | SPEAKERS and node.args and not isinstance(node.args[0], ast.Starred):
            around = [one for one in functions if one.lineno <= node.lineno <= (one.end_lineno or 0)]
            text = _words(node.args[0], around[-1] if around else tree)
            file = path.relative_to(package).as_posix()
            yield Place(file, node.lineno, node.end_lineno or node.lineno, name, text)


def _words(node: ast.expr, around: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_words(value, around) for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _words(node.left, around) + _words(node.right, around)
    if isinstance(node, ast.IfExp):
        return _words(node.body, around)
    if isinstance(node, ast.Name):
        for one in ast.walk(around):
            if isinstance(one, ast.Assign) and any(getattr(t, "id", None) == node.id for t in one.targets):
                return _words(one.value, ast.Module([], []))
    return "..."


if __name__ == "__main__":
    for place in unreached(error_places(), read_record(Path(sys.argv[1]))[0]):
        print(place)
