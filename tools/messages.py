"""Every message that lgkd has for its users, and whether a test reads its text.

    python -m tools.messages            lists the messages whose text no test reads

A message is what a call of an error class of `lgkd.errors`, or of a helper that speaks for one (`SPEAKERS`), is given.
A string of a test reads the message with which it shares most words; see `Reader`.
"""

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from inspect import isclass
from pathlib import Path

from lgkd import errors

TESTS = Path(__file__).resolve().parent.parent / "tests"
PACKAGE = TESTS.parent / "lgkd"

GRAM = 6
"""Signs in a row that are compared."""
ENOUGH = 7
"""Grams that a string and a message must share: those of 12 signs in a row."""

ERRORS = {name for name, thing in vars(errors).items() if isclass(thing) and issubclass(thing, errors.LgkdError)}
SPEAKERS = {"Problem", "Relayed", "ValueError", "_Failed", "_refused", "fault", "refuse"}
"""What is called with a sentence that ends up in such an error."""

NOT_TESTS = {"messages.py", "test_messages.py"}


@dataclass(frozen=True)
class Message:
    """What one call says.

    Attributes:
        place: the file below the package, and the line of the call.
        says: the name of what is called.
        parts: the words of the sentence, without what is put in when it is said and pieces shorter than `GRAM`.
    """

    place: str
    says: str
    parts: tuple[str, ...]

    @property
    def text(self) -> str:
        return "...".join(self.parts)


def messages(package: Path = PACKAGE) -> list[Message]:
    """All messages of a package that have words enough to be known by, in the order of files and lines."""
    found = [message for path in sorted(package.rglob("*.py")) for message in messages_in(path, package)]
    return [message for message in found if len(grams(message.parts)) >= ENOUGH]


def messages_in(path: Path, package: Path) -> Iterator[Message]:
    tree = parsed(path)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in sorted((n for n in ast.walk(tree) if isinstance(n, ast.Call)), key=lambda call: call.lineno):
        says = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if says not in ERRORS | SPEAKERS or not node.args:
            continue
        sentence = node.args[1 if says == "Relayed" and len(node.args) > 1 else 0]
        around = [f for f in functions if f.lineno <= node.lineno <= (f.end_lineno or 0)]
        for parts in readings(sentence, around[-1] if around else tree):
            telling = tuple(part for part in parts if grams([part]))
            yield Message(f"{path.relative_to(package).as_posix()}:{node.lineno}", says, telling)


def readings(sentence: ast.expr, around: ast.AST) -> Iterator[tuple[str, ...]]:
    """The constant words of a sentence; of a variable, those of everything that its function puts into it."""
    if isinstance(sentence, ast.IfExp):
        yield from readings(sentence.body, around)
        yield from readings(sentence.orelse, around)
    elif isinstance(sentence, ast.Name):
        for node in ast.walk(around):
            if isinstance(node, ast.Assign) and any(getattr(t, "id", None) == sentence.id for t in node.targets):
                yield from readings(node.value, around)
    else:
        yield words(sentence)


def words(sentence: ast.expr) -> tuple[str, ...]:
    """The constant pieces of a string, of one with fields, and of several that are added."""
    if isinstance(sentence, ast.Constant):
        return (sentence.value,) if isinstance(sentence.value, str) else ()
    if isinstance(sentence, ast.JoinedStr):
        return tuple(piece for value in sentence.values for piece in words(value))
    if isinstance(sentence, ast.BinOp) and isinstance(sentence.op, ast.Add):
        return words(sentence.left) + words(sentence.right)
    return ()


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def grams(parts: Iterable[str]) -> set[str]:
    """All `GRAM` signs in a row; white space counts as one space, since messages and tests break lines anywhere."""
    flat = [" ".join(f"<{part}>".split())[1:-1] for part in parts]
    return {part[start : start + GRAM] for part in flat for start in range(len(part) - GRAM + 1)}


def strings_of_tests(*folders: Path) -> Iterator[tuple[str, ...]]:
    """All strings in the tests but their docstrings, each in its constant pieces; a pattern as the text it matches."""
    for path in sorted(
        path for folder in folders or (TESTS, TESTS.with_name("tools")) for path in folder.rglob("*.py")
    ):
        if path.name in NOT_TESTS:
            continue
        tree = parsed(path)
        described = (n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef) and n.body)
        docstrings = {id(node.body[0].value) for node in described if isinstance(node.body[0], ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in docstrings:
                pieces = words(node)
                yield pieces
                yield tuple(re.sub(r"\\(.)", r"\1", piece) for piece in pieces)


class Reader:
    """Tells which messages a string reads: that with which it shares most grams, and those of which it has all.

    Either way these must be `ENOUGH`. Of two messages with which it shares as many, it reads the shorter one; of more
    than two none, as "it is not the published archive" stands in a dozen.
    """

    def __init__(self, said: Iterable[Message]) -> None:
        self._sizes = {message.parts: len(grams(message.parts)) for message in said}
        self._of: defaultdict[str, set[tuple[str, ...]]] = defaultdict(set)
        for parts in self._sizes:
            for gram in grams(parts):
                self._of[gram].add(parts)

    def read(self, string: tuple[str, ...]) -> set[tuple[str, ...]]:
        """The messages that a string reads, each by its parts."""
        shared = Counter(parts for gram in grams(string) for parts in self._of.get(gram, ()))
        most = max(shared.values(), default=0)
        if most < ENOUGH:
            return set()
        whole = {parts for parts, count in shared.items() if count == self._sizes[parts] >= ENOUGH}
        best = sorted((self._sizes[parts], parts) for parts, count in shared.items() if count == most)
        return whole | ({best[0][1]} if len(best) <= 2 else set())


def unread(said: list[Message], strings: Iterable[tuple[str, ...]]) -> list[Message]:
    """The messages that none of the strings reads."""
    reader = Reader(said)
    read = set().union(*(reader.read(string) for string in set(strings)))
    return [message for message in said if message.parts not in read]


if __name__ == "__main__":
    for message in unread(messages(), strings_of_tests()):
        print(f"{message.place:<32} {message.says:<14} {message.text}")
