"""Read the commit of the working folder from git without starting any program that the repository names."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# The working folder may be an untrusted repository, and git starts programs that a repository names: to watch
# files, after writing the index, in submodules, to fetch missing objects.
_GIT = ("git", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}", "--no-optional-locks")
_GIT_ALONE = {"GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1"}
_OWN_SCOPES = {"system", "global", "command"}


def git_state(folder: Path | None = None, only: Sequence[str] = ()) -> dict[str, Any] | None:
    """Return a folder's commit, by default the working folder's, and the state of its files; None outside a repository.

    "changed" is None where that cannot be determined: files are compared through the filters that a repository's
    settings name, and these are programs of its author. The user's own filters (git-lfs) are run.

    Args:
        folder: in the repository.
        only: paths whose changes count, relative to it; all of the repository if there are none.
    """
    try:
        commit = _git("rev-parse", "HEAD", folder=folder).strip()
    except (OSError, subprocess.SubprocessError):
        return None
    changed = None
    try:
        if not _has_filters(folder):
            changed = bool(_git("status", "--porcelain", "--ignore-submodules=all", "--", *only, folder=folder))
    except (OSError, subprocess.SubprocessError):
        pass
    return {"commit": commit, "changed": changed}


def _has_filters(folder: Path | None) -> bool:
    """Return true if the repository itself, not its user, names filters."""
    try:
        asked = ("config", "--show-scope", "--name-only", "-z", "--get-regexp", r"^filter\.")
        found = _git(*asked, folder=folder).split("\0")
    except subprocess.CalledProcessError as error:
        if error.returncode == 1:  # there are none
            return False
        raise
    return not _OWN_SCOPES.issuperset(found[:-1:2])


def _git(*words: str, folder: Path | None) -> str:
    # Fixed words, no shell; git is looked up as in a user's own call.
    done = subprocess.run(  # noqa: S603
        [*_GIT, *words],
        capture_output=True,
        text=True,
        errors="replace",
        check=True,
        timeout=5,
        cwd=folder,
        env=os.environ | _GIT_ALONE,
    )
    return done.stdout
