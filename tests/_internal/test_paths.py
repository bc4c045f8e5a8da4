"""Where things lie, and that finding them costs next to nothing."""

import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from lgkd._internal import paths
from tests import CHECKOUT

REPOSITORY = CHECKOUT


def test_the_store_is_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "store"))
    assert paths.home() == tmp_path / "store"
    assert not (tmp_path / "store").exists(), "asking must not make the folder"


def test_a_relative_store_is_made_absolute_and_a_tilde_is_the_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LGKD_HOME", "store")
    assert paths.home() == tmp_path / "store"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LGKD_HOME", "~/kept")
    assert paths.home() == tmp_path / "kept"


@pytest.mark.parametrize("value", ["", "  ", None])
def test_without_the_variable_the_store_is_in_the_cache_of_the_home(
    value: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if value is None:
        monkeypatch.delenv("LGKD_HOME", raising=False)
    else:
        monkeypatch.setenv("LGKD_HOME", value)
    assert paths.home() == tmp_path / ".cache" / "lgkd"


@pytest.mark.skipif(os.name != "posix", reason="user numbers are a posix thing")
def test_a_user_without_any_home_still_has_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("LGKD_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    found = paths.home()
    assert found.is_absolute()
    assert str(os.getuid()) in found.name


def test_in_a_checkout_recipes_and_teachers_lie_beside_the_package() -> None:
    assert paths.recipes_folder() == REPOSITORY / "recipes"
    assert paths.teachers_folder() == REPOSITORY / "teachers"
    assert paths.teachers_folder().is_dir()


def test_recipe_names_are_those_of_the_files() -> None:
    on_disk = sorted(
        file.name.removesuffix(".yaml") for file in (REPOSITORY / "recipes").iterdir() if file.name.endswith(".yaml")
    )
    assert paths.recipe_names() == on_disk
    assert len(on_disk) >= 4


def _installed(place: Path) -> ModuleType:
    """The module as it lies in a wheel: its assets inside the package, strangers beside it."""
    package = place / "lgkd"
    for folder in ("_assets/recipes", "_assets/teachers", "../recipes", "../teachers"):
        (package / folder).mkdir(parents=True)
    (package / "_assets/recipes/ours.yaml").write_text("about: ours")
    (place / "recipes/theirs.yaml").write_text("about: of some other package")
    (package / "_internal").mkdir()
    (package / "_internal/paths.py").write_text(Path(paths.__file__).read_text())
    spec = importlib.util.spec_from_file_location("installed_paths", package / "_internal/paths.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_installed_package_reads_its_own_assets_and_not_its_neighbours(tmp_path: Path) -> None:
    installed = _installed(tmp_path)
    assert installed.recipes_folder() == tmp_path / "lgkd" / "_assets" / "recipes"
    assert installed.teachers_folder() == tmp_path / "lgkd" / "_assets" / "teachers"
    assert installed.recipe_names() == ["ours"]


def test_the_wheel_is_told_to_carry_both_folders() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    carried = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert carried == {"recipes": "lgkd/_assets/recipes", "teachers": "lgkd/_assets/teachers"}


def test_reading_every_recipe_and_card_needs_no_torch() -> None:
    program = """
import sys
from lgkd import config
from lgkd._internal import paths
from lgkd.models import teacher_store
recipes = [config.load_recipe(name) for name in paths.recipe_names()]
teacher_store.list_cards()
assert len(recipes) >= 4
heavy = {"torch", "numpy", "torchvision", "timm", "accelerate"} & set(sys.modules)
assert not heavy, heavy
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
