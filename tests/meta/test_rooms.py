"""Packages and what they may import. Imports point down the table, so that each can be read with those below it."""

import ast
from pathlib import Path

import pytest

import lgkd
from tools.house import PACKAGE, House, imports_of, modules_used, parsed, read_house, rooms_used, sources

# From the bottom to the top: a package may import those that are named here, all of which stand above its own line.
BELOW = {"errors", "_internal"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "_internal": {"errors"},
    "config": BELOW,
    "losses": BELOW,
    "data": {*BELOW, "config"},
    "models": {*BELOW, "data"},
    "distillation": {*BELOW, "config", "losses", "data", "models"},
    "runs": {*BELOW, "config", "data", "models"},
    "training": {*BELOW, "config", "models", "distillation"},
    "deploy": {*BELOW, "data", "models", "runs", "training"},
    "runner": {*BELOW, "config", "losses", "data", "models", "distillation", "runs", "training"},
    "analysis": {*BELOW, "config", "losses", "data", "models", "distillation", "runs", "training", "runner"},
    "benchmark": {*BELOW, "config", "losses", "data", "models", "distillation", "runs", "training", "runner"},
    "api": {"config", "data", "models", "distillation", "runs", "training", "deploy", "runner"},
    "experiments": {*BELOW, "config", "data", "models", "runs", "training", "runner", "api"},
    "autofit": {
        *BELOW, "config", "data", "models", "runs", "training", "deploy", "runner", "analysis",
    },
    "tuning": {*BELOW, "config", "data", "models", "runs", "training", "runner"},
    "cli": {
        *BELOW, "config", "losses", "data", "models", "distillation", "runs", "training", "deploy", "runner",
        "analysis", "benchmark", "api", "experiments", "autofit", "tuning",
    },
    "__main__": {"cli"},
}  # fmt: skip

# A package that may see only these files of another.
ONLY_THESE: dict[tuple[str, str], set[str]] = {
    ("models", "data"): {"data.constants"},
    ("runs", "data"): {"data.catalogue", "data.names"},
    ("runs", "models"): {"models.factory", "models.trust"},
    ("training", "models"): {"models.default_taps", "models.sdpa", "models.stochastic_depth"},
    ("training", "distillation"): {"distillation.tasks"},
    ("deploy", "training"): {"training.label_scores"},
}

# Files that may use Pillow, and what of it beside its types: images are opened in one file and written in another.
IMAGE_LIBRARIES = {"PIL", "pillow_heif", "imagehash"}
PILLOW: dict[str, set[str]] = {
    "data/captions": {"Image.new"},  # draws text
    "data/decode": {"Image.open", "Image.new"},
    "data/encode": {"Image.open", "Image.fromarray", ".save"},  # opens what it has written
    "data/greys": {"Image.fromarray"},  # scales opened images
    "data/image_formats": {"features.check", "pillow_heif.register_heif_opener"},  # lists what can be opened
    "data/image_kinds": set(),  # looks at opened images
    "data/perceptual_hash": {"Image.fromarray"},  # scales decoded pixels
    "data/stored_side": {"Image.fromarray"},  # likewise
}

# Modules at documented or persisted names that only re-export from another place.
RE_EXPORTS = {"quickstart.py", "schedules.py", "data/images.py"}

# Who may import a library that is heavy, or that one package keeps to itself.
ONLY_IN = {
    "accelerate": {"training"},
    "typer": {"cli"},
    "rich": {"cli"},
    "PIL": {"data"},
    "imagehash": {"data"},
    "pillow_heif": {"data"},
    "sklearn": {"data", "analysis"},
    "matplotlib": {"runs", "analysis"},
    "pydantic": {"config", "models"},
    "yaml": {"config"},
    "timm": {"models", "training", "experiments", "benchmark"},
    "safetensors": {"_internal", "training"},
    "huggingface_hub": {"models", "runs", "deploy"},
    "filelock": {"_internal"},
    "psutil": {"_internal"},
    "jinja2": {"analysis"},
    "scipy": {"data", "runs"},
    "datasets": {"data"},
    "pyarrow": {"data"},
    "onnx": {"deploy"},
    "onnxruntime": {"deploy"},
    "starlette": {"deploy"},
    "uvicorn": {"deploy"},
    "optuna": {"tuning"},
}

# What the command line imports before it knows that it will train; neither these files nor any that they import while
# they are imported may wait for a heavy library.
WITHOUT_TORCH = (
    "errors", "cli/", "config/", "autofit/__init__", "autofit/folder", "autofit/plan", "autofit/request",
    "_internal/atomic_io", "_internal/distributed", "_internal/hardware",
    "_internal/launch", "_internal/metric_rules", "_internal/paths", "_internal/text", "benchmark/__init__",
    "benchmark/options", "benchmark/target",
    "data/__init__", "data/catalogue", "data/image_folder", "data/listing", "data/locations", "data/names",
    "data/sources/archives",
    "data/sources/arrange", "data/sources/chaoyang", "data/sources/download", "data/sources/publisher_files",
    "data/sources/folder", "data/sources/hugging_face", "data/sources/named", "data/sources/parquet",
    "data/sources/rows",
    "data/sources/source", "data/sources/table", "data/sources/tiny_imagenet", "deploy/__init__", "deploy/options",
    "deploy/push",
    "deploy/inference/__init__",
    "deploy/inference/image_files", "deploy/inference/locate", "deploy/requirements",
    "deploy/serve/__init__",
    "experiments/__init__", "experiments/catalogue/", "experiments/layout", "experiments/markdown",
    "experiments/results", "experiments/select", "experiments/spec", "models/__init__", "models/known_models",
    "models/model_info", "models/registry", "models/teacher_card", "models/teacher_store", "runner/__init__",
    "runner/find_teacher", "runner/jobs", "runner/options", "runner/resolve",
    "runner/selection",
    "runner/workers", "runs/__init__",
    "runs/class_results", "runs/compare/", "runs/early_stop", "runs/folder", "runs/hub", "runs/identity", "runs/plots",
    "runs/statistics", "tuning/__init__", "tuning/outcome", "tuning/request", "tuning/space", "tuning/study",
)  # fmt: skip
HEAVY = {"torch", "torchvision", "timm", "numpy", "accelerate", "PIL", "sklearn", "matplotlib", "safetensors"}


def name_of(path: Path) -> str:
    """The file below `lgkd/`, without its suffix."""
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def files() -> list[tuple[str, Path]]:
    """Every source file with its package, without those that only re-export."""
    return [(room, path) for room, path in sources() if path.relative_to(PACKAGE).as_posix() not in RE_EXPORTS]


def test_every_file_is_in_a_package_of_the_table_and_every_package_exists() -> None:
    assert {room for room, _ in files()} == set(MAY_IMPORT)


def test_the_table_points_down() -> None:
    seen: set[str] = set()
    for room, below in MAY_IMPORT.items():
        assert below <= seen, f"{room} may import {sorted(below - seen)}, which stand above it"
        seen.add(room)


def test_no_files_import_each_other_in_a_circle() -> None:
    assert read_house().circles == ()


@pytest.mark.parametrize(("room", "path"), [pytest.param(*found, id=name_of(found[1])) for found in files()])
def test_a_file_imports_only_packages_below_its_own(room: str, path: Path) -> None:
    extra = rooms_used(path) - MAY_IMPORT[room] - {room}
    assert not extra, f"{path} reaches up into {sorted(extra)}"
    for (importer, imported), allowed in ONLY_THESE.items():
        if room == importer:
            used = {name for name in modules_used(path) if name.split(".")[0] == imported}
            assert used <= allowed, f"{path} may see only {sorted(allowed)} of lgkd.{imported}"


def test_no_rule_for_single_files_is_out_of_date() -> None:
    for (importer, imported), allowed in ONLY_THESE.items():
        used = {
            name
            for room, path in files()
            if room == importer
            for name in modules_used(path)
            if name.split(".")[0] == imported
        }
        assert used == allowed, (importer, imported)


@pytest.mark.parametrize("name", sorted(RE_EXPORTS))
def test_a_re_export_is_a_few_lines_and_holds_what_it_names(name: str) -> None:
    path = PACKAGE / name
    assert len(path.read_text(encoding="utf-8").splitlines()) < 8
    assert len(parsed(path).body) == 1 + len(imports_of(path))


def test_no_submodule_bears_the_name_of_a_public_function() -> None:
    """Importing `lgkd.export` as a module would replace the function `lgkd.export` wherever it was imported before."""
    modules = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix in ("", ".py")}
    assert "analysis" in modules
    assert modules & set(lgkd.__all__) == {"losses"}


@pytest.mark.parametrize(
    "package", [pytest.param(path.parent, id=path.parent.name) for path in sorted(PACKAGE.rglob("__init__.py"))]
)
def test_no_package_defines_what_one_of_its_modules_is_called(package: Path) -> None:
    tree = parsed(package / "__init__.py")
    defined = {getattr(node, "name", "") for node in tree.body}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module != ".".join(package.relative_to(PACKAGE.parent).parts):
            defined |= {alias.asname or alias.name for alias in node.names}
    modules = {path.stem if path.suffix else path.name for path in package.iterdir() if path.suffix in ("", ".py")}
    assert not defined & modules


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_imported_only_where_it_belongs(library: str) -> None:
    where = {room for room, path in files() for name in imports_of(path) if name.split(".")[0] == library}
    assert where, f"nothing imports {library}; take it out of this table"
    assert where <= ONLY_IN[library]


def test_training_knows_no_guide_and_no_teacher() -> None:
    """A task owns what it learns from: the loop, its step and its checkpoints speak of tasks alone, in prose, too."""
    found = [
        f"{path.name}:{number}: {line.strip()}"
        for path in sorted((PACKAGE / "training").rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "guide" in line.lower() or "teacher" in line.lower()
    ]
    assert found == []


def test_images_are_opened_in_one_file_and_written_in_one() -> None:
    users = [path for _, path in sources() if {name.split(".")[0] for name in imports_of(path)} & IMAGE_LIBRARIES]
    assert {name_of(path): pillow_in(path) for path in users} == PILLOW


def pillow_in(path: Path) -> set[str]:
    """The functions of Pillow that a file names; its types and constants do nothing."""
    names = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.Attribute)]
    used = {
        f"{node.value.id}.{node.attr}"
        for node in names
        if isinstance(node.value, ast.Name) and node.value.id in ("Image", "features", "pillow_heif")
    }
    types = {"Image.Image", "Image.Resampling", "Image.Transpose"}
    return (used - types) | {".save" for node in names if node.attr == "save"}


def test_pydantic_checks_recipes_and_cards_alone() -> None:
    users = {name_of(path) for room, path in sources() if room == "models" and "pydantic" in imports_of(path)}
    assert users == {"models/teacher_card", "models/teacher_store"}


def test_what_answers_at_once_does_not_wait_for_torch() -> None:
    """Neither by an import of its own nor by one of lgkd's files that it imports."""
    paths = {name_of(path): path for _, path in sources()}
    waiting = [name for name in paths if name.startswith(WITHOUT_TORCH) and not name.startswith("cli/doctor_checks/")]
    assert all(any(name.startswith(one) for name in waiting) for one in WITHOUT_TORCH)
    seen: dict[str, str] = dict.fromkeys(waiting, "")
    while waiting:
        name = waiting.pop()
        imported = imports_of(paths[name], top_only=True)
        heavy = {one.split(".")[0] for one in imported} & HEAVY
        assert not heavy, f"{name} waits for {sorted(heavy)}{seen[name]}"
        for one in modules_used(paths[name], top_only=True):
            below = one.replace(".", "/")
            for file in (below, f"{below}/__init__"):
                if file in paths and file not in seen:
                    seen[file] = f", imported by {name}{seen[name]}"
                    waiting.append(file)
    assert len(seen) > 80


def test_files_of_tests_borrow_nothing_from_each_other() -> None:
    """What two of them need stands in a file of its own; else a change of one breaks the other unawares."""
    borrowed = {
        path.name: [name for name in imports_of(path) if name.rpartition(".")[2].startswith("test_")]
        for path in sorted(PACKAGE.with_name("tests").rglob("*.py"))
    }
    assert len(borrowed) > 100
    assert {name: found for name, found in borrowed.items() if found} == {}


def test_the_house_is_read_as_it_is(tmp_path: Path) -> None:
    """Three rooms on three floors, of which one holds two files that import each other."""
    package = tmp_path / "lgkd"
    (package / "config").mkdir(parents=True)
    (package / "errors.py").write_text("import os\n")
    (package / "config" / "__init__.py").write_text("")
    (package / "config" / "schema.py").write_text("from lgkd.errors import InputError\n")
    (package / "config" / "validate.py").write_text("from lgkd.config import schema\n")
    (package / "api.py").write_text("def later():\n    from lgkd.config.schema import Recipe\n    import lgkd.errors\n")
    house = read_house(package)
    assert house == House(
        lines={"api": 3, "config": 2, "errors": 1},
        files={"api": 1, "config": 3, "errors": 1},
        arrows={"api": frozenset({"config", "errors"}), "config": frozenset({"errors"}), "errors": frozenset()},
        floors={"errors": 1, "config": 2, "api": 3},
        circles=(),
    )
    again = package.rename(tmp_path / "again")
    (again / "config" / "schema.py").write_text("from lgkd.config import validate\nimport lgkd.api\n")
    circled = read_house(again)
    assert circled.circles == (frozenset({"api", "config.schema", "config.validate"}),)
    assert circled.floors == {}


def test_the_reader_of_imports_sees_them_all(tmp_path: Path) -> None:
    file = tmp_path / "some.py"
    file.write_text(
        "from typing import TYPE_CHECKING\nimport lgkd.errors as e\nfrom lgkd import api, __version__\n"
        "from lgkd.data.image_folder import File\nif TYPE_CHECKING:\n    from lgkd.runner.runner import Run\n"
        "def later():\n    import torch.nn\n    from lgkd.distillation import guide\n"
    )
    assert rooms_used(file) == {"errors", "api", "data", "runner", "distillation"}
    assert modules_used(file) == {"errors", "api", "data.image_folder", "runner.runner", "distillation.guide"}
    assert "torch.nn" in imports_of(file)
    assert not {"torch.nn", "lgkd.runner.runner", "lgkd.distillation"} & set(imports_of(file, top_only=True))
    assert modules_used(file, top_only=True) == {"errors", "api", "data.image_folder"}


def test_the_reader_of_imports_refuses_relative_ones(tmp_path: Path) -> None:
    file = tmp_path / "some.py"
    file.write_text("from .errors import InputError\n")
    with pytest.raises(ValueError, match="relatively"):
        imports_of(file)
