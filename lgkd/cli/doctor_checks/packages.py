"""Check Python and packages: missing, too old or too new."""

import importlib.metadata
import sys
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

import lgkd
from lgkd.cli.doctor_checks.finding import Finding
from lgkd.config.trackers import KNOWN, is_here
from lgkd.runs.folder import package_version

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 12)
NEWEST_TORCH = Version("2.15")
"""Newest versions that lgkd's tests have run with; later ones mostly work."""

_EXTRAS = {
    "heic": "images of phones in HEIC",
    "hf": "image classifiers of Hugging Face transformers as students, and data sets of its datasets",
    "onnx": "lgkd export --format onnx, and predicting from such a file",
    "parquet": "tables of labels in Parquet files",
    "serve": "lgkd serve",
    "sweep": "lgkd sweep",
    "tensorboard": "--track tensorboard",
}
"""Purpose of each optional extra of the package."""


def look_at_python() -> Iterator[Finding]:
    """Check the version of Python, and report lgkd's own."""
    place = Path(lgkd.__file__).resolve().parent
    yield Finding("lgkd", "ok", f"{lgkd.__version__} in {place}")
    found = ".".join(map(str, sys.version_info[:3]))
    now = sys.version_info[:2]
    if now < OLDEST_PYTHON:
        yield Finding("python", "problem", f"{found} is too old", "use Python 3.11 or 3.12")
    elif now > NEWEST_PYTHON:
        yield Finding(
            "python",
            "warning",
            f"{found} is newer than the versions lgkd was tested with",
            "if something fails, use Python 3.12",
        )
    else:
        yield Finding("python", "ok", found)


def look_at_packages() -> Iterator[Finding]:
    """Check every required package."""
    needed = [one for one in requirements() if one.marker is None or one.marker.evaluate({"extra": ""})]
    if not needed:
        yield Finding(
            "packages", "warning", "lgkd's requirements are not recorded", "install lgkd by pip, not by copying it"
        )
    sound = []
    for one in needed:
        finding = _look_at(one)
        if finding.state == "ok" and one.name != "torch":
            sound.append(finding.found)
        else:
            yield finding
    if sound:
        yield Finding("packages", "ok", ", ".join(sound))


def _look_at(needed: Requirement) -> Finding:
    found = package_version(needed.name)
    install = f"pip install '{needed.name}{needed.specifier}'"
    if found is None:
        return Finding(needed.name, "problem", "is not installed", install)
    try:
        version = Version(found)
    except InvalidVersion:
        return Finding(needed.name, "warning", f"has an invalid version ({found})", install)
    if not needed.specifier.contains(version, prereleases=True):
        return Finding(needed.name, "problem", f"{found} is not {needed.specifier}", install)
    if needed.name == "torch" and Version(version.base_version) > Version(f"{NEWEST_TORCH}.999"):
        return Finding(
            "torch", "warning", f"{found} is newer than the versions lgkd was tested with",
            f"if something fails: pip install 'torch<={NEWEST_TORCH}.99'",
        )  # fmt: skip
    return Finding(needed.name, "ok", found if needed.name == "torch" else f"{needed.name} {found}")


def look_at_extras() -> Iterator[Finding]:
    """Check the optional extras and trackers; none of them is required."""
    for name, purpose in _EXTRAS.items():
        packages = [one for one in requirements() if one.marker is not None and one.marker.evaluate({"extra": name})]
        packages = [one for one in packages if f'"{name}"' in str(one.marker)]
        missing = [one.name for one in packages if package_version(one.name) is None]
        if missing or not packages:
            lacking = f"not installed ({', '.join(missing)}); for: {purpose}" if packages else f"for: {purpose}"
            yield Finding(f"extra {name}", "ok", lacking, f"if you want it: pip install 'lgkd[{name}]'")
            continue
        wrong = [f for f in map(_look_at, packages) if f.state != "ok"]
        if wrong:
            problems = ", ".join(f"{finding.what} {finding.found}" for finding in wrong)
            yield Finding(f"extra {name}", "warning", problems, f"pip install -U 'lgkd[{name}]'")
        else:
            yield Finding(
                f"extra {name}", "ok", ", ".join(f"{one.name} {package_version(one.name)}" for one in packages)
            )
    here = [name for name in KNOWN if is_here(name)]
    yield Finding("trackers", "ok", ", ".join(here) if here else "none installed; metrics.csv needs none")


def requirements() -> list[Requirement]:
    """Return the requirements in a checkout's pyproject.toml, which may be newer, else in the metadata."""
    lines = _of_checkout(Path(lgkd.__file__).resolve().parent.parent / "pyproject.toml")
    if not lines:
        with suppress(importlib.metadata.PackageNotFoundError):
            lines = importlib.metadata.requires("lgkd") or []
    found = []
    for line in lines:
        try:
            found.append(Requirement(line))
        except InvalidRequirement:
            continue
    return found


def _of_checkout(file: Path) -> list[str]:
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        if canonicalize_name(project["name"]) != "lgkd":
            return []
        extras = project.get("optional-dependencies", {})
        more = [f'{line}; extra == "{name}"' for name, lines in extras.items() for line in lines]
        return [*project["dependencies"], *more]
    except (OSError, ValueError, KeyError, TypeError):
        return []
