"""Read and write YAML as recipes use it: plain values only, each with its line.

PyYAML alone turns `no` into false and `010` into 8, silently keeps the last of two equal keys,
and expands a few bytes of aliases to gigabytes. Here values are read as they are written:
no tags, anchors or aliases, no repeated keys, no value that is not spelt as decimal or as text.
"""

import copy
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import yaml

from lgkd._internal.text import safe_text
from lgkd.config.base import FLOAT_TEXT, WHOLE_TEXT
from lgkd.config.problems import Path, Problem

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_NODES = 10_000

_SPELLINGS = {
    "null": "~|null|Null|NULL|",
    "bool": "true|True|TRUE|false|False|FALSE",
    "int": WHOLE_TEXT,
    "float": FLOAT_TEXT,
}


@dataclass
class Document:
    """Hold the values of a YAML text, the line of every key and entry, and the problems found so far."""

    values: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line_of(self, path: Path) -> int | None:
        """Return the line of a key, or of the closest section around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)


class _Reader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012  # a new one, or PyYAML's own would stay in force
    depth = 0
    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _refused("anchors and aliases (& and *) are not allowed; write the value out", event)
        if getattr(event, "tag", None) is not None:
            raise _refused("tags (!) are not allowed; write the plain value, text in quotes", event)
        self.nodes += 1
        if self.nodes > MAX_NODES:  # a megabyte of small values would take the reader half a minute
            raise _refused(f"more than {MAX_NODES:,} keys and values; this is not a recipe", event)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _refused(f"nested deeper than {MAX_DEPTH} levels", event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Writer(yaml.SafeDumper):
    """Write YAML; quote strings that this reader or a common YAML 1.1 reader would not read as text."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # a copy: PyYAML's own must not change
        first: list(resolvers) for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


for _name, _spelling in _SPELLINGS.items():
    for _class in (_Reader, _Writer):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_spelling})\Z"), None)


def _write_list(writer: _Writer, data: list[Any]) -> yaml.Node:
    flat = not any(isinstance(entry, dict | list) for entry in data)
    return writer.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flat)


_Writer.add_representer(list, _write_list)


def _refused(message: str, at: yaml.Event) -> yaml.MarkedYAMLError:
    mark: Any = at.start_mark
    return yaml.MarkedYAMLError(problem=message, problem_mark=mark)


def read_yaml(text: str) -> Document:
    """Read one YAML document. Errors are collected in `problems`; nothing is raised."""
    return copy.deepcopy(_read(text))


@lru_cache(maxsize=32)  # a command reads its recipe several times, at 20 ms each: PyYAML's strict half is Python
def _read(text: str) -> Document:
    document = Document()
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        document.problems.append(Problem(f"longer than {MAX_BYTES:,} bytes; this is not a recipe"))
        return document
    try:
        reader = _Reader(text)
        try:
            node = reader.get_single_node()
        finally:
            reader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = ": ".join(part for part in (error.context, error.problem) if part)
        line = mark.line + 1 if mark else None
        document.problems.append(Problem(f"not readable: {safe_text(words, 200)}", (), line))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        document.problems.append(Problem(f"not readable: {safe_text(str(error.reason), 200)}", (), line))
    except (ValueError, OverflowError) as error:  # PyYAML lets "\UFFFFFFFF" through to chr()
        document.problems.append(Problem(f"not readable: {safe_text(str(error), 200)}"))
    else:
        if node is not None:
            document.lines[()] = node.start_mark.line + 1
            document.values = _value(node, (), document)
    return document


def write_yaml(values: Any) -> str:
    """Write plain values as YAML that `read_yaml` reads back exactly."""
    text: str = yaml.dump(values, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=110)
    return text


def _value(node: yaml.Node, path: Path, document: Document) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, document)
    if isinstance(node, yaml.SequenceNode):
        entries = []
        for index, entry in enumerate(node.value):
            document.lines[(*path, index)] = entry.start_mark.line + 1
            entries.append(_value(entry, (*path, index), document))
        return entries
    kind, text = node.tag.rpartition(":")[2], node.value
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int" and len(text) <= 100:  # Python refuses to read whole numbers of thousands of digits
        return int(text)
    if kind in ("int", "float"):
        return float(text)
    return text


def _mapping(node: yaml.MappingNode, path: Path, document: Document) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode) or not key_node.value:
            document.problems.append(Problem("a key must be a plain word", path, line))
            continue
        # A key is the written text, even if a value of that spelling would be a number.
        key = key_node.value
        place = (*path, key)
        if key in values:
            message = f"this key is already on line {document.lines[place]}; keep one of the two"
            document.problems.append(Problem(message, place, line))
            continue
        document.lines[place] = line
        values[key] = _value(value_node, place, document)
    return values
