"""Read the structure of the code from its imports: packages, floors, arrows and circles.

    python -m tools.house [FOLDER]     print the packages of lgkd/ (or of FOLDER), one line each

A room is a package or module directly below `lgkd/`. An arrow leads from a room to every room that one of its files
imports. The floor of a room is 1 plus the highest floor that it imports. A circle is a set of files that import each
other, counted with all imports, wherever in a file they are.
"""

import ast
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
PACKAGE = TOP / "lgkd"

_NOT_ROOMS = {"__init__", "_assets"}


@dataclass(frozen=True)
class House:
    """Hold the rooms of a package and the imports between them.

    Attributes:
        lines: of source in each room.
        files: in each room.
        arrows: for each room, the rooms that it imports.
        floors: for each room its floor, from 1; empty where rooms import each other.
        circles: sets of files that import each other, as dotted names below the package.
    """

    lines: Mapping[str, int]
    files: Mapping[str, int]
    arrows: Mapping[str, frozenset[str]]
    floors: Mapping[str, int]
    circles: tuple[frozenset[str], ...]


def sources(package: Path = PACKAGE) -> list[tuple[str, Path]]:
    """List every source file of a package with its room, without the package's own `__init__`."""
    found = []
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        if room not in _NOT_ROOMS:
            found.append((room, path))
    return found


@cache
def parsed(path: Path) -> ast.Module:
    """Parse a source file, once."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path, *, top_only: bool = False) -> list[str]:
    """List the dotted names of all modules that a file imports.

    Args:
        path: the file.
        top_only: leave out imports inside functions and those for type checkers.

    Raises:
        ValueError: the file imports relatively.
    """
    names: list[str] = []
    for node in _import_nodes(parsed(path), top_only=top_only):
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif node.level or node.module is None:
            raise ValueError(f"{path}:{node.lineno} imports relatively; write lgkd.PACKAGE")
        elif node.module == "lgkd":
            # `from lgkd import api` names a room only in its second half.
            names.extend(f"lgkd.{alias.name}" for alias in node.names)
        else:
            names.append(node.module)
    return names


def modules_used(path: Path, package: Path = PACKAGE, *, top_only: bool = False) -> set[str]:
    """List the files of lgkd that a file imports, as dotted names below `lgkd`; a package stands for its `__init__`."""
    used = set()
    for node in _import_nodes(parsed(path), top_only=top_only):
        if isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names}
        elif node.module is not None:
            # `from lgkd.cli import options` reads a file of the package and nothing of its `__init__`.
            named = [f"{node.module}.{alias.name}" for alias in node.names]
            used |= {name if _is_module(name, package) else node.module for name in named}
    return {name.removeprefix("lgkd.") for name in used if name.startswith("lgkd.") and _is_module(name, package)}


def rooms_used(path: Path) -> set[str]:
    """List the rooms that a file imports."""
    return {name.split(".")[1] for name in imports_of(path) if name.startswith("lgkd.") and name != "lgkd.__version__"}


def read_house(package: Path = PACKAGE) -> House:
    """Read the rooms, floors, arrows and circles of a package."""
    lines: dict[str, int] = {}
    files: dict[str, int] = {}
    arrows: dict[str, set[str]] = {}
    for room, path in sources(package):
        lines[room] = lines.get(room, 0) + len(path.read_text(encoding="utf-8").splitlines())
        files[room] = files.get(room, 0) + 1
        arrows.setdefault(room, set()).update(rooms_used(path) - {room})
    frozen = {room: frozenset(used & set(arrows)) for room, used in arrows.items()}
    by_file = {_dotted(path, package): modules_used(path, package) for _, path in sources(package)}
    circles = tuple(frozenset(one) for one in _components(by_file) if len(one) > 1)
    return House(lines, files, frozen, _floors(frozen), circles)


@cache
def _import_nodes(tree: ast.Module, *, top_only: bool) -> tuple[ast.Import | ast.ImportFrom, ...]:
    found: list[ast.Import | ast.ImportFrom] = []
    waiting: list[ast.AST] = [tree]
    while waiting:
        for child in ast.iter_child_nodes(waiting.pop()):
            if isinstance(child, ast.Import | ast.ImportFrom):
                found.append(child)
            if not (top_only and _is_for_later(child)):
                waiting.append(child)
    return tuple(found)


def _is_for_later(node: ast.AST) -> bool:
    """Return whether what a node imports is not imported with its file: by a function, or for type checkers."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.dump(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def _dotted(path: Path, package: Path) -> str:
    return ".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__")


@cache
def _is_module(name: str, package: Path) -> bool:
    path = package.joinpath(*name.split(".")[1:])
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _floors(arrows: Mapping[str, frozenset[str]]) -> dict[str, int]:
    floors: dict[str, int] = {}
    while len(floors) < len(arrows):
        ready = [room for room, used in arrows.items() if room not in floors and used <= set(floors)]
        if not ready:
            return {}
        floors |= {room: 1 + max((floors[below] for below in arrows[room]), default=0) for room in ready}
    return floors


def _components(arrows: Mapping[str, set[str]]) -> list[set[str]]:
    """Find the sets of nodes that reach each other (Kosaraju's algorithm)."""
    order: list[str] = []
    seen: set[str] = set()

    def visit(node: str, edges: Mapping[str, set[str]], out: list[str]) -> None:
        stack = [(node, iter(sorted(edges.get(node, ()))))]
        seen.add(node)
        while stack:
            current, rest = stack[-1]
            following = next((n for n in rest if n in arrows and n not in seen), None)
            if following is None:
                stack.pop()
                out.append(current)
            else:
                seen.add(following)
                stack.append((following, iter(sorted(edges.get(following, ())))))

    for node in arrows:
        if node not in seen:
            visit(node, arrows, order)
    back: dict[str, set[str]] = {}
    for node, used in arrows.items():
        for one in used:
            back.setdefault(one, set()).add(node)
    seen.clear()
    components = []
    for node in reversed(order):
        if node not in seen:
            members: list[str] = []
            visit(node, back, members)
            components.append(set(members))
    return components


def main() -> None:
    """Print the house."""
    house = read_house(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else PACKAGE)
    floors = house.floors or dict.fromkeys(house.arrows, 0)
    for room in sorted(house.arrows, key=lambda name: (floors[name], name)):
        size = f"{house.files[room]:>3} files {house.lines[room]:>6,} lines"
        print(f"{floors[room]:>2}  {room:<14} {size}  -> {', '.join(sorted(house.arrows[room])) or '-'}")
    arrows = sum(map(len, house.arrows.values()))
    print(
        f"{len(house.arrows)} rooms, {max(floors.values())} floors, {arrows} arrows between rooms, "
        f"{len(house.circles)} circles of files, {sum(house.files.values())} files, {sum(house.lines.values()):,} lines"
    )
    for circle in house.circles:
        print("circle:", ", ".join(sorted(circle)))


if __name__ == "__main__":
    main()
