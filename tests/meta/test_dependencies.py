"""What lgkd imports, pyproject.toml declares: nothing is used that only happens to come with something else."""

import re
import sys
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.house import PACKAGE, TOP, imports_of, sources

# Modules whose distribution bears another name, or comes as a part of another: pydantic's core, what Jinja escapes by.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "markupsafe": "jinja2",
    "mpl_toolkits": "matplotlib",
    "pydantic_core": "pydantic",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
NOT_FOR_USERS = {"dev", "docs"}


def project() -> dict[str, object]:
    return tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(one).name) for one in requirements}


def third_party() -> dict[str, str]:
    """Every distribution that a file of lgkd imports from, inside functions too, and one such file."""
    found = {}
    for path in [path for _, path in sources()] + [PACKAGE / "__init__.py"]:
        for module in {name.partition(".")[0] for name in imports_of(path)} - sys.stdlib_module_names - {"lgkd"}:
            found[canonicalize_name(DISTRIBUTIONS.get(module, module))] = path.name
    return found


def test_every_import_is_a_declared_dependency_or_an_extra() -> None:
    declared = names(project()["dependencies"])
    for extra, requirements in project()["optional-dependencies"].items():
        declared |= names(requirements) if extra not in NOT_FOR_USERS else set()
    imported = third_party()
    assert {"torch", "scipy", "filelock", "pillow-heif"} <= imported.keys()
    assert {name: file for name, file in imported.items() if name not in declared} == {}


def test_every_dependency_is_imported_somewhere() -> None:
    # Imported by name, where Accelerate's class for it is: see `lgkd.training.tracking`.
    assert names(project()["dependencies"]) - third_party().keys() == set()


def test_every_dependency_but_torchs_companion_has_a_floor() -> None:
    loose = [one for one in project()["dependencies"] if not re.search(r">=\d", one)]
    assert loose == ["torchvision"], "torchvision's version goes with torch's"
