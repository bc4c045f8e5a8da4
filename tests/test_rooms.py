"""Which room may import which. Imports point down the table, so that every room can be read with those below it."""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "lgkd"

# From the bottom to the top: a room may import rooms that stand above its own line here, and of those only these.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "text": set(),
    "chance": set(),
    "processes": {"errors"},
    "launch": {"errors", "processes"},
    "assets": set(),
    "files": set(),
    "statistics": {"errors"},
    "report": set(),
    "own_terms": {"errors"},
    "trackers": {"errors"},
    "machine": set(),
    "git": set(),
    "recipe": {"errors", "assets", "own_terms"},
    "cards": {"errors", "assets", "files"},
    "runs": {"errors", "files", "git"},
    "weights": {"errors", "files"},
    "data": {"errors", "chance", "assets", "files", "recipe"},
    "models": {"errors", "cards", "weights", "data"},
    "taps": {"errors"},
    "losses": {"errors"},
    "schedules": {"errors"},
    "features": {"errors", "models", "taps"},
    "guide": {"errors", "data", "models", "taps", "losses", "features", "schedules"},
    "tasks": {"errors", "features", "guide"},
    "trainer": {"errors", "chance", "processes", "files", "machine", "weights", "tasks", "models", "trackers"},
    "scoring": {"errors", "models"},
    "layers": {"errors", "models", "taps"},
    "choices": {"errors", "assets", "recipe", "cards", "data", "models", "trackers"},
    "store": {"errors", "cards", "models", "runs", "weights"},
    "options": {"recipe", "trainer"},
    "resuming": {"errors", "recipe", "runs"},
    "begun": {"errors", "models", "options", "runs", "trackers"},
    "comparing": {"errors", "files", "statistics", "report", "recipe", "runs", "resuming"},
    "journal": {"guide", "models", "recipe", "runs", "trainer"},
    "building_terms": {"recipe", "losses", "own_terms", "schedules"},
    "build": {
        "errors", "chance", "recipe", "cards", "weights", "data", "models", "guide", "tasks", "trainer", "choices",
        "building_terms",
    },
    "cached": {
        "errors", "assets", "files", "data", "recipe", "models", "features", "guide", "build",
    },
    "running": {
        "files", "recipe", "cards", "runs", "weights", "data", "models", "guide", "trainer", "scoring", "report",
        "store", "options", "journal", "build", "processes", "tasks",
    },
    "job": {
        "errors", "recipe", "runs", "data", "models", "guide", "trainer", "choices", "store", "options", "resuming",
        "journal", "build", "processes", "running", "cached", "trackers",
    },
    "caching": {"errors", "recipe", "runs", "data", "models", "guide", "build", "cached", "job"},
    "series": {
        "errors", "files", "recipe", "runs", "models", "choices", "options", "comparing", "processes", "job",
    },
    "reproducing": {
        "errors", "files", "statistics", "chance", "recipe", "cards", "runs", "git", "models", "data", "trainer",
        "choices", "options", "resuming", "comparing", "build", "processes", "job", "series",
    },
    "loading": {"errors", "data", "models", "runs", "weights"},
    "predicting": {"errors", "data", "runs", "loading"},
    "exporting": {"errors", "files", "data", "models", "runs", "weights", "loading", "predicting"},
    "opened": {"errors", "data", "models", "trainer", "options", "build", "runs", "loading"},
    "importing": {
        "errors", "assets", "cards", "choices", "data", "models", "build", "runs", "scoring", "store", "trainer",
    },
    "api": {
        "runs", "data", "models", "trainer", "scoring", "options", "begun", "build", "job", "cached", "caching",
        "importing", "loading", "opened", "comparing", "series", "predicting", "exporting",
    },
    "quickstart": {
        "errors", "files", "statistics", "report", "recipe", "runs", "data", "models", "trainer", "choices", "options",
        "api", "comparing",
    },
    "showing": {"errors", "files", "statistics", "report", "comparing", "runs", "data", "scoring", "build", "opened"},
    "inspecting": {
        "errors", "chance", "files", "report", "runs", "data", "models", "taps", "features", "scoring", "build",
        "loading", "opened",
    },
    "doctor": {"errors", "assets", "cards", "data", "machine", "runs", "trackers", "trainer"},
    "foresight": {
        "errors", "data", "losses", "recipe", "runs", "models", "guide", "trainer", "scoring", "choices", "options",
        "build", "job", "machine", "resuming",
    },
    "bench": {
        "errors", "chance", "recipe", "runs", "data", "models", "guide", "trainer", "scoring", "choices", "build",
        "machine", "foresight",
    },
    "cli": {
        "errors", "assets", "files", "recipe", "cards", "runs", "data", "models", "trainer", "layers", "choices",
        "statistics", "api", "quickstart", "processes", "launch", "bench", "own_terms", "importing", "trackers",
        "comparing", "series", "showing", "inspecting", "predicting", "exporting", "reproducing",
        "doctor", "foresight", "machine",
    },
    "__main__": {"cli"},
}  # fmt: skip

# Who may import a library that is heavy, or that one room keeps to itself.
ONLY_IN = {
    "accelerate": {"trainer"},
    "typer": {"cli"},
    "rich": {"cli"},
    "PIL": {"data"},
    "sklearn": {"data"},
    "matplotlib": {"report", "showing"},
    "pydantic": {"recipe", "cards"},
    "yaml": {"recipe"},
    "timm": {"models", "trainer", "quickstart", "bench"},
    "safetensors": {"weights", "trainer"},
    "onnx": {"predicting", "exporting"},
    "onnxruntime": {"predicting"},
}

# Rooms that the command line imports before it knows that it will train: they must not wait for these.
WITHOUT_TORCH = {
    "errors",
    "own_terms",
    "trackers",
    "machine",
    "assets",
    "files",
    "recipe",
    "cards",
    "runs",
    "choices",
    "resuming",
    "comparing",
    "cli",
    "report",
    "statistics",
    "processes",
    "launch",
}
FILES_WITHOUT_TORCH = {
    "bench/__init__",
    "bench/choices",
    "data/__init__",
    "data/archives",
    "data/arranging",
    "data/catalogue",
    "data/download",
    "data/names",
    "data/places",
    "data/trees",
    "exporting/__init__",
    "exporting/choices",
    "models/__init__",
    "models/catalogue",
    "models/known_models",
    "models/model_info",
    "reproducing/__init__",
    "reproducing/choosing",
    "reproducing/folders",
    "reproducing/known/__init__",
    "reproducing/known/deit",
    "reproducing/known/minutes",
    "reproducing/known/others",
    "reproducing/known/teachers",
    "reproducing/known/two_cores",
    "reproducing/markdown",
    "reproducing/outcome",
    "reproducing/shape",
    "predicting/__init__",
    "predicting/files",
    "predicting/needs",
    "predicting/places",
}
HEAVY = {"torch", "torchvision", "timm", "numpy", "accelerate", "PIL", "sklearn", "matplotlib", "safetensors"}


def sources() -> list[tuple[str, Path]]:
    """Every source file with its room."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        below = path.relative_to(PACKAGE)
        if below.parts[0] not in ("__init__.py", "_assets"):
            found.append((below.parts[0].removesuffix(".py"), path))
    return found


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path, *, top_only: bool = False) -> list[str]:
    """Dotted names of all modules that a file imports, wherever in it; or only while it is itself imported."""
    tree = parsed(path)
    names: list[str] = []

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                names.extend(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno} imports relatively; write lgkd.ROOM"
                assert child.module is not None
                # `from lgkd import api` names a room only in its second half.
                names.extend(f"lgkd.{alias.name}" for alias in child.names) if child.module == "lgkd" else names.append(
                    child.module
                )
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            if not (top_only and (later or typing)):
                visit(child)

    visit(tree)
    return names


def rooms_used(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports_of(path) if name.startswith("lgkd.") and name != "lgkd.__version__"}


def test_every_file_is_in_a_room_of_the_table_and_every_room_exists() -> None:
    assert {room for room, _ in sources()} == set(MAY_IMPORT)


def test_the_table_points_down_so_that_there_are_no_cycles() -> None:
    seen: set[str] = set()
    for room, below in MAY_IMPORT.items():
        assert below <= seen, f"{room} may import {sorted(below - seen)}, which stand above it"
        seen.add(room)


@pytest.mark.parametrize(("room", "path"), [pytest.param(*found, id=str(found[1].name)) for found in sources()])
def test_a_file_imports_only_the_rooms_below_its_own(room: str, path: Path) -> None:
    extra = rooms_used(path) - MAY_IMPORT[room] - {room, "text"}
    assert not extra, f"{path} reaches up into {sorted(extra)}"


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_imported_only_where_it_belongs(library: str) -> None:
    where = {room for room, path in sources() for name in imports_of(path) if name.split(".")[0] == library}
    assert where, f"nothing imports {library}; take it out of this table"
    assert where <= ONLY_IN[library]


def test_images_are_opened_in_one_file_and_written_in_one() -> None:
    users = [path.name for _, path in sources() if "PIL" in {n.split(".")[0] for n in imports_of(path)}]
    assert users == ["decode.py", "encode.py"]


def test_rooms_that_answer_at_once_do_not_wait_for_torch() -> None:
    looked_at = 0
    for room, path in sources():
        name = path.relative_to(PACKAGE).with_suffix("").as_posix()
        if room in WITHOUT_TORCH or name in FILES_WITHOUT_TORCH:
            looked_at += 1
            heavy = {name.split(".")[0] for name in imports_of(path, top_only=True)} & HEAVY
            assert not heavy, f"{path} waits for {sorted(heavy)}"
    assert looked_at > len(WITHOUT_TORCH)


def test_files_of_tests_borrow_nothing_from_each_other() -> None:
    """What two of them need lies in a file of its own; else who changes one breaks the other unawares."""
    borrowed = {
        path.name: [name for name in imports_of(path) if name.startswith("tests.test_")]
        for path in sorted(PACKAGE.with_name("tests").rglob("*.py"))
    }
    assert len(borrowed) > 100
    assert {name: found for name, found in borrowed.items() if found} == {}


def test_the_reader_of_imports_sees_them_all(tmp_path: Path) -> None:
    file = tmp_path / "some.py"
    file.write_text(
        "from typing import TYPE_CHECKING\nimport lgkd.errors as e\nfrom lgkd import api, __version__\n"
        "from lgkd.data.trees import File\nif TYPE_CHECKING:\n    from lgkd.job import Run\n"
        "def later():\n    import torch.nn\n    from lgkd.guide import Guide\n"
    )
    assert rooms_used(file) == {"errors", "api", "data", "job", "guide"}
    assert "torch.nn" in imports_of(file)
    assert not {"torch.nn", "lgkd.job", "lgkd.guide"} & set(imports_of(file, top_only=True))


def test_the_reader_of_imports_refuses_relative_ones(tmp_path: Path) -> None:
    file = tmp_path / "some.py"
    file.write_text("from .errors import InputError\n")
    with pytest.raises(AssertionError, match="relatively"):
        imports_of(file)
