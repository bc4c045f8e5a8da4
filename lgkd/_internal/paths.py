"""Locate the user's store, and the recipes and teachers that come with lgkd.

Only the standard library, so that every command can use it without waiting for an import.
"""

import getpass
import os
import tempfile
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def home() -> Path:
    """Return the user's store: `$LGKD_HOME`, else `~/.cache/lgkd`. Absolute; it need not exist yet.

    Some containers run under a user number that has no home at all. There the store is a folder of
    that user in the temporary directory, so that commands still start.
    """
    chosen = os.environ.get("LGKD_HOME", "").strip()
    if chosen:
        try:
            return Path(chosen).expanduser().absolute()
        except RuntimeError:  # "~" without a home: take the sign literally, as a shell would
            return Path(chosen).absolute()
    try:
        return Path.home().absolute() / ".cache" / "lgkd"
    except RuntimeError:
        return Path(tempfile.gettempdir()).absolute() / f"lgkd-{_user()}"


def recipes_folder() -> Path:
    """Return the folder of the recipes that come with lgkd (`NAME.yaml` each)."""
    return _shipped("recipes")


def teachers_folder() -> Path:
    """Return the folder of the teachers that come with lgkd (`DATASET/NAME/card.json` each)."""
    return _shipped("teachers")


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with lgkd, sorted."""
    return sorted(path.stem for path in recipes_folder().glob("*.yaml") if path.is_file())


def _shipped(kind: str) -> Path:
    # The wheel has the folder inside the package; a checkout has it beside the package. The wheel's
    # path is checked first: a folder beside an installed package belongs to another project.
    installed = _PACKAGE / "_assets" / kind
    return installed if installed.is_dir() else _PACKAGE.parent / kind


def _user() -> str:
    if hasattr(os, "getuid"):
        return str(os.getuid())
    return getpass.getuser()
