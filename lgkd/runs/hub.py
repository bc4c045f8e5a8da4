"""Pull an exported student from the Hugging Face hub: `hf:OWNER/NAME`, or `hf:OWNER/NAME@REVISION`.

Of a repository only the files of `PULLED` are downloaded, into the cache of huggingface_hub, and compared with the
repository's MANIFEST.json. The manifest detects damage, not forgery: whoever can write to the repository can change
both.
No torch in here.
"""

import re
from pathlib import Path
from typing import NamedTuple

from lgkd._internal.manifest import MANIFEST, verify
from lgkd._internal.text import first_line, safe_text
from lgkd.errors import InputError, MissingError
from lgkd.runs.folder import EXPORT, STUDENT, STUDENT_WEIGHTS

PREFIX = "hf:"

PULLED = (STUDENT_WEIGHTS, STUDENT, EXPORT, MANIFEST)
"""Files of a repository that are read: safetensors and JSON."""

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_REVISION = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}"


class Repository(NamedTuple):
    """Name a repository of models, and one of its versions."""

    name: str
    revision: str | None = None


def is_hub(source: str | Path) -> bool:
    """Return true for a source on the hub."""
    return _text(source).startswith(PREFIX)


def repository_of(text: str) -> Repository:
    """Read OWNER/NAME, OWNER/NAME@REVISION, or one of these after `hf:`.

    Raises:
        InputError: it is neither.
    """
    found = re.fullmatch(rf"({_NAME}/{_NAME})(?:@({_REVISION}))?", text.removeprefix(PREFIX))
    if found is None or ".." in text or "--" in text:
        raise InputError(f"{safe_text(text)!r} is not a repository, expected OWNER/NAME; write it like hf:me/digits")
    return Repository(found[1], found[2])


def pull(source: str | Path, *, offline: bool) -> Path:
    """Return the folder of a repository's student, downloaded if need be.

    Args:
        source: `hf:OWNER/NAME`, with `@REVISION` (a branch, tag or commit) for another than the newest version.
        offline: open no connection, and take what was downloaded before.

    Raises:
        InputError: the name is not possible, the repository holds no student of lgkd, or a file differs from its
            manifest.
        MissingError: there is no such repository, or it cannot be downloaded.
    """
    wanted = repository_of(_text(source))
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(wanted.name, revision=wanted.revision, allow_patterns=[*PULLED], local_files_only=offline)
        )
    except Exception as error:  # of the network, the server, the disk
        where = "and lgkd is offline" if offline else f"and could not be downloaded ({_reason(error)})"
        raise MissingError(
            f"{wanted.name} is not here, {where}; expected a repository of an export that you may read: check its "
            "name, and for a private one log in by `hf auth login` or set HF_TOKEN"
        ) from None
    lacking = [name for name in (STUDENT_WEIGHTS, STUDENT, MANIFEST) if not (folder / name).is_file()]
    if lacking:
        raise InputError(
            f"{PREFIX}{wanted.name} has no {lacking[0]}, expected the files of `lgkd export --push`; name another "
            "repository, or export the student again"
        )
    verify(folder, (STUDENT_WEIGHTS, STUDENT))
    return folder


def _text(source: str | Path) -> str:
    return source.as_posix() if isinstance(source, Path) else source


def _reason(error: Exception) -> str:
    """Return the code of a server's refusal, else the first line of the error: never headers, which hold the token."""
    code = getattr(getattr(error, "response", None), "status_code", None)
    return f"the hub answered {code}" if isinstance(code, int) else first_line(error)
