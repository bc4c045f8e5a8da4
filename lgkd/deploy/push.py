"""Push an export to the Hugging Face hub. Uploaded are the files of `UPLOADED`, and nothing else.

The token is found by huggingface_hub's own means (HF_TOKEN, or `hf auth login`), and is never read by lgkd.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from lgkd._internal.manifest import MANIFEST
from lgkd.deploy.options import CARD, FORMATS
from lgkd.errors import InputError, MissingError
from lgkd.runs.folder import EXPORT, STUDENT, STUDENT_WEIGHTS
from lgkd.runs.hub import repository_of

UPLOADED = (STUDENT_WEIGHTS, STUDENT, EXPORT, CARD, MANIFEST)

_REFUSED = (401, 403)


def check_push(repository: str, formats: Iterable[str] | None, *, offline: bool) -> tuple[str, ...]:
    """Check the options of a push before anything is exported; return the formats to export.

    Args:
        repository: OWNER/NAME.
        formats: as of --format; None for those that are uploaded.
        offline: whether no connection may be opened.

    Raises:
        InputError: the name is not possible, another format is asked for, or lgkd is offline.
    """
    if repository_of(repository).revision is not None or repository.startswith("hf:"):
        raise InputError(f"--push is {repository!r}, expected OWNER/NAME; leave out hf: and the revision")
    if offline:
        raise InputError(
            "--push uploads, and lgkd is offline, expected a connection; leave out --push, or --offline and "
            "LGKD_OFFLINE"
        )
    chosen = ("safetensors",) if formats is None else tuple(formats)
    if set(chosen) != {"safetensors"}:
        raise InputError(
            f"--push uploads {FORMATS['safetensors']} alone, and --format names {', '.join(chosen) or 'none'}, "
            "expected safetensors; leave out --format, and export other formats without --push"
        )
    return chosen


def push(folder: Path, repository: str, *, public: bool, private_paths: Iterable[Path] = ()) -> str:
    """Upload an export as one commit, and return its address.

    Args:
        folder: of the export.
        repository: OWNER/NAME; it is made if it does not exist.
        public: whether a new repository can be read by everybody; an existing one stays as it is.
        private_paths: folders whose names may not be in an uploaded file, beside the home and the working folder.

    Raises:
        InputError: a file names a folder of this machine; nothing was uploaded.
        MissingError: the hub cannot be reached, or refuses.
    """
    contents = {name: (folder / name).read_bytes() for name in UPLOADED}
    check_no_paths(contents, (*private_paths, Path.home(), Path.cwd()))
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(library_name="lgkd")
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        done = api.create_commit(
            repository,
            operations=[CommitOperationAdd(name, data) for name, data in contents.items()],
            commit_message="Upload a student of lgkd",
        )
    except Exception as error:  # of the network, the server; their texts may hold what was sent
        code = getattr(getattr(error, "response", None), "status_code", None)
        why = f"it answered {code}" if isinstance(code, int) else type(error).__name__
        advice = (
            "log in by `hf auth login` or set HF_TOKEN, with a token that may write there"
            if code in _REFUSED or type(error).__name__ == "LocalTokenNotFoundError"
            else "check the name and the connection, and push again"
        )
        raise MissingError(
            f"the hub did not take {repository} ({why}), expected a repository that you may write; {advice}. The "
            f"export is in {folder}"
        ) from None
    return str(done.commit_url)


def check_no_paths(contents: dict[str, bytes], folders: Iterable[Path]) -> None:
    """Refuse text files that name a folder of this machine.

    Raises:
        InputError: one does.
    """
    for folder in folders:
        path = os.fsencode(folder)
        if len(path) < 4:  # the root and the like, which any text may contain
            continue
        for name, data in contents.items():
            if not name.endswith(".safetensors") and path in data:
                raise InputError(
                    f"{name} names {folder}, a folder of this machine, expected none in what is uploaded; nothing was "
                    "uploaded. Rename the data set or the recipe that has this name, and export again"
                )
