"""Asking git for the commit of the working folder: right, and without starting a program that the folder names."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lgkd.runs.folder import environment

Plant = Callable[[Path, str], None]
"""Makes a repository start a program when git is asked for its status: the repository, the program."""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one committed file, in which the test stands; no setting of the user's counts."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    (tmp_path / "gitconfig").write_text("[user]\n\tname = a\n\temail = a@b\n")
    folder = tmp_path / "stranger"
    folder.mkdir()
    monkeypatch.chdir(folder)
    git("init", "-q")
    (folder / "file").write_text("x\n")
    commit()
    return folder


def git(*words: str, at: Path | None = None) -> str:
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True, cwd=at).stdout


def commit(at: Path | None = None) -> None:
    git("add", ".", at=at)
    git("commit", "-qm", "one", at=at)


def touch(file: Path) -> None:
    """Another time and the same content, so that git has to look into the file."""
    os.utime(file, (1_000_000_000, 1_000_000_000))


def test_a_commit_and_a_change_are_told_as_git_tells_them(repository: Path) -> None:
    head = git("rev-parse", "HEAD").strip()
    assert environment("cpu")["git"] == {"commit": head, "changed": False}
    touch(repository / "file")
    assert environment("cpu")["git"] == {"commit": head, "changed": False}
    (repository / "file").write_text("y\n")
    assert environment("cpu")["git"] == {"commit": head, "changed": True}


def test_a_file_that_git_does_not_know_is_a_change(repository: Path) -> None:
    (repository / "new").write_text("x")
    assert environment("cpu")["git"]["changed"] is True


def test_outside_a_repository_and_before_its_first_commit_there_is_no_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert environment("cpu")["git"] is None
    git("init", "-q")
    assert environment("cpu")["git"] is None


def test_asking_git_writes_nothing_into_the_repository(repository: Path) -> None:
    touch(repository / "file")
    before = (repository / ".git" / "index").read_bytes()
    environment("cpu")
    assert (repository / ".git" / "index").read_bytes() == before


def _watcher(repository: Path, program: str) -> None:
    git("config", "core.fsmonitor", program)


def _clean_filter(repository: Path, program: str) -> None:
    git("config", "filter.Evil.Name.clean", program)
    _goes_through_the_filter(repository, "Evil.Name")


def _process_filter(repository: Path, program: str) -> None:
    git("config", "filter.evil.process", program)
    _goes_through_the_filter(repository, "evil")


def _included_filter(repository: Path, program: str) -> None:
    (repository / ".git" / "more").write_text(f'[filter "evil"]\n\tclean = {program}\n')
    git("config", "include.path", "more")
    _goes_through_the_filter(repository, "evil")


def _filter_of_this_worktree(repository: Path, program: str) -> None:
    git("config", "extensions.worktreeConfig", "true")
    git("config", "--worktree", "filter.evil.clean", program)
    _goes_through_the_filter(repository, "evil")


def _goes_through_the_filter(repository: Path, name: str) -> None:
    (repository / ".git" / "info" / "attributes").write_text(f"* filter={name}\n")


def _filter_of_a_submodule(repository: Path, program: str) -> None:
    inner = repository / "inner"
    inner.mkdir()
    git("init", "-q", at=inner)
    (inner / "file").write_text("x\n")
    commit(at=inner)
    commit()
    git("config", "filter.evil.clean", program, at=inner)
    _goes_through_the_filter(inner, "evil")
    touch(inner / "file")


def _hook(repository: Path, program: str) -> None:
    hook = repository / ".git" / "hooks" / "post-index-change"
    hook.parent.mkdir(exist_ok=True)
    hook.symlink_to(program)


def _connection(repository: Path, program: str) -> None:
    """What HEAD holds is missing, and a server is said to have it."""
    for key, value in {
        "core.repositoryFormatVersion": "1",
        "extensions.partialClone": "origin",
        "remote.origin.promisor": "true",
        "remote.origin.url": "ssh://nowhere/x",
        "core.sshCommand": program,
    }.items():
        git("config", key, value)
    tree = git("rev-parse", "HEAD^{tree}").strip()
    (repository / ".git" / "objects" / tree[:2] / tree[2:]).unlink()


TRAPS: dict[str, tuple[Plant, bool | None]] = {
    # None: whether files differ cannot be told without the program.
    "a watcher of files": (_watcher, False),
    "a filter": (_clean_filter, None),
    "a filter that stays": (_process_filter, None),
    "a filter in an included file": (_included_filter, None),
    "a filter of this worktree": (_filter_of_this_worktree, None),
    "a filter of a submodule": (_filter_of_a_submodule, False),
    "a hook": (_hook, False),
    "a connection": (_connection, None),
}


@pytest.mark.parametrize("kind", TRAPS)
def test_asking_git_starts_no_program_that_a_repository_names(repository: Path, tmp_path: Path, kind: str) -> None:
    plant, changed = TRAPS[kind]
    canary, program = tmp_path / "canary", tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {canary}\nexit 1\n")
    program.chmod(0o755)
    plant(repository, str(program))
    head = git("rev-parse", "HEAD").strip()
    touch(repository / "file")
    subprocess.run(["git", "status", "--porcelain"], capture_output=True, stdin=subprocess.DEVNULL)
    assert canary.exists(), "the trap works"
    canary.unlink()
    touch(repository / "file")
    (repository / ".git" / "index").touch()
    assert environment("cpu")["git"] == {"commit": head, "changed": changed}
    assert not canary.exists()


def test_a_filter_of_the_users_own_is_used(repository: Path, tmp_path: Path) -> None:
    # As git-lfs is: a file that differs from what is committed by the filter alone is no change.
    git("config", "--global", "filter.mine.clean", "tr a-z A-Z")
    (repository / ".gitattributes").write_text("file filter=mine\n")
    touch(repository / "file")  # else git may trust its index and not look into the file again
    commit()
    assert git("show", "HEAD:file") == "X\n"
    os.utime(repository / "file", (1_100_000_000, 1_100_000_000))
    assert environment("cpu")["git"]["changed"] is False
