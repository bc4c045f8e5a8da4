"""What stands in the pages: blocks of code with what is said of them, commands, and running them in order.

A comment on the line before a block says what is to be done with it:

    <!-- run -->                    commands: run as they stand, trainings with fewer images and less time
    <!-- file: mine.py -->          write it down under that name
    <!-- run by: tests/test_x.py --> that test does it
    <!-- not run: reason -->        nobody does
    <!-- older: reason -->          commands of another day, which need not be understood any more

Python is run unless it says otherwise, in order, all blocks of a page in one world.
"""

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lgkd.cli import run

ROOT = Path(__file__).resolve().parent.parent
LOG = ROOT / "dev" / "LOG.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", LOG, *sorted((ROOT / "docs").glob("*.md"))]
SHELLS = ("sh", "bash", "console", "")
_DIRECTIVE = re.compile(r"\s*<!-- (run|file|run by|not run|older)(?:: (.+?))? -->\s*$")
_ENDS_COMMAND = ("&&", "||", ";", "|", ">", ";;")


def replaced(page: str, name: str, text: str) -> str:
    """Put other text between the marks `<!-- NAME -->` and `<!-- end of NAME -->` of a page."""
    marks = re.compile(rf"<!-- {name} -->\n.*?<!-- end of {name} -->", re.DOTALL)
    assert len(marks.findall(page)) == 1, f"the page has no place for {name}"
    return marks.sub(lambda _: f"<!-- {name} -->\n{text.strip()}\n<!-- end of {name} -->", page)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page, line: where its fence opens.
        language: what stands behind the fence.
        text: without the fences, dedented.
        told, about: what the comment before it says; "" and "" without one.
    """

    page: Path
    line: int
    language: str
    text: str
    told: str = ""
    about: str = ""

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page, in order."""
    found: list[Block] = []
    fence, began, language, inside, before = "", 0, "", [], ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        opened = re.match(r"\s*(`{3,})(.*)$", line)
        if not fence and opened:
            fence, language, began, inside = opened[1], opened[2].strip(), number, []
        elif fence and opened and opened[1] == fence and not opened[2].strip():
            said = _DIRECTIVE.match(before)
            told, about = (said[1], said[2] or "") if said else ("", "")
            found.append(Block(page, began, language, textwrap.dedent("\n".join(inside)) + "\n", told, about))
            fence, before = "", ""
        elif fence:
            inside.append(line)
        else:
            before = line
    assert not fence, f"{page}:{began}: the block does not end"
    return found


def commands(block: Block) -> list[list[str]]:
    """The words of every command of a block of the shell, variables put in."""
    text = block.text
    if block.language == "console" and re.search(r"^\$ ", text, re.M):
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
    text = re.sub(r"\\\n\s*", " ", text)
    if not block.language:  # formulas and drawings, for the most part
        text = "\n".join(line for line in text.splitlines() if line.startswith("lgkd "))
    known: dict[str, str] = {}
    found: list[list[str]] = []
    for line in text.splitlines():
        if assigned := re.match(r'(\w+)="([^"]*)"', line):
            known[assigned[1]] = assigned[2]
        else:
            found.extend(_split(_filled(line, known)))
    return found


def _filled(line: str, known: dict[str, str]) -> str:
    """A line with its variables put in; those of the shell itself stay."""

    def value(found: re.Match[str]) -> str:
        name, old = found[1] or found[2], found[3]
        return known[name].replace(old, "") if name in known and old else known.get(name, found[0])

    return re.sub(r"\$(?:(\w+)|\{(\w+)(?:/([^/}]*)/[^}]*)?\})", value, line)


def _split(line: str) -> list[list[str]]:
    reader = shlex.shlex(line, posix=True, punctuation_chars=";|&<>")
    reader.whitespace_split = True
    reader.commenters = "#"
    ended: list[list[str]] = [[]]
    for word in reader:
        if word in _ENDS_COMMAND:
            ended.append([])
        else:
            ended[-1].append(word)
    return [words for words in ended if words]


def of_lgkd(words: list[str]) -> list[str] | None:
    """What lgkd is given in a command that starts it, at once or through another program; None: it does not."""
    for place, word in enumerate(words):
        if Path(word).name == "lgkd":
            return words[place + 1 :]
    return None


def spoken(page: Path) -> list[tuple[str, list[str]]]:
    """Commands of lgkd within sentences and tables: as they stand, and their words."""
    text = re.sub(r"^\s*(`{3,}).*?^\s*\1\s*$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    found = [" ".join(one.split()) for one in re.findall(r"(?<!`)`(lgkd [^`]+)`(?!`)", text)]
    return [(one, words[1:]) for one in found for words in _split(one.replace("\\|", "|"))[:1]]


TRAININGS = ("train", "distill", "train-teacher")
FEW = ["--epochs", "2", "--images-per-class", "4", "--batch-size", "8", "--precision", "fp32", "--device", "cpu"]
TINY = ["patch_size=4", "depth=3", "embed_dim=32", "num_heads=2"]


def shortened(words: list[str]) -> list[str]:
    """A training that takes a second: fewer images, and a smaller one of the named students."""
    if not words or words[0] not in TRAININGS:
        return words
    more = [*FEW, "--quiet", *(["--max-time", "0"] if "--max-time" in words else [])]
    if "deit_tiny" in words and not any(word.startswith("patch_size") for word in words):
        more += ["--image-size", "16", *(word for option in TINY for word in ("--student-option", option))]
    return [*words, *more]


def run_page(page: Path, names: dict[str, Any]) -> dict[str, Any]:
    """Run a page in the working folder: Python in `names`, commands in this process; returns the names."""
    for block in blocks(page):
        if block.told == "file":
            Path(block.about).write_text(block.text, encoding="utf-8")
        elif block.language == "python" and block.told in ("", "run"):
            # The lines of the page, so that a traceback leads there.
            exec(compile("\n" * block.line + block.text, str(page), "exec"), names)
        elif block.language in SHELLS and block.told == "run":
            for words in commands(block):
                asked = of_lgkd(words)
                assert asked is not None, f"{block.place}: {words[0]} is not lgkd; only its commands are run"
                code = 75 if "--max-time" in asked else 0
                assert run(shortened(asked)) == code, f"{block.place}: lgkd {' '.join(asked)}"
    return names
