"""What lgkd starts, deletes and writes down: nothing of a stranger's, nothing that is not its own, no secret."""

import os
from pathlib import Path

import pytest
import torch

import lgkd
from lgkd._internal.leftovers import remove_scratch_of
from lgkd.cli import run
from lgkd.distillation.teacher_cache.storage import Layout, Writer
from lgkd.errors import DataError, InputError
from lgkd.runs.folder import environment
from lgkd.training.checkpoint import save_checkpoint
from tests.support.security import canary as canary
from tests.support.security import desk as desk
from tests.support.small import TRAIN

# Images


def test_a_picture_that_is_a_program_of_postscript_is_not_handed_to_its_interpreter(
    desk: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (desk / "bin").mkdir()
    (desk / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {canary}\n")
    (desk / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{desk / 'bin'}:{os.environ['PATH']}")
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 12\n%%EndComments\nshowpage\n%%EOF\n"
    (desk / "pictures" / "train" / "rows" / "0.png").write_bytes(program)
    with pytest.raises(DataError, match=r"rows/0\.png \(not an image that Pillow knows\)"):
        lgkd.load_dataset(desk / "pictures")


# What is deleted


def test_cleaning_checkpoints_deletes_only_names_of_lgkd_and_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis.txt").write_text("years of work")
    root = tmp_path / "checkpoint"
    root.mkdir()
    for name in ("notes", "step-1", "step-00000001-copy", "mine.tmp"):
        (root / name).mkdir()
        (root / name / "kept").write_text("")
    for name in ("step-00000001", "step-00000002", "step-00000009.tmp", "best.tmp"):
        (root / name).symlink_to(outside, target_is_directory=True)
    for step in (3, 4, 5):
        save_checkpoint(root, step, {"student": {"w": torch.zeros(1)}}, {})
    assert (outside / "thesis.txt").read_text() == "years of work"
    kept = {path.name for path in root.iterdir()}
    assert kept >= {"notes", "step-1", "step-00000001-copy", "mine.tmp", "step-00000004", "step-00000005"}
    assert "step-00000003" not in kept
    assert all((root / name / "kept").exists() for name in ("notes", "step-1", "step-00000001-copy", "mine.tmp"))


def test_a_cache_that_begins_anew_deletes_only_its_own_files(tmp_path: Path) -> None:
    part = tmp_path / ".features.part"
    part.mkdir()
    (part / "map1.npy").write_bytes(b"half")
    (part / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"\.features\.part holds thesis\.txt, which does not belong to a cache"):
        Writer(tmp_path / "features", {}, Layout({"map1": (2,)}, views=1, images=1), {})
    assert (part / "thesis.txt").read_text() == "years of work"


def test_leavings_are_known_by_their_whole_name(desk: Path, tmp_path: Path) -> None:
    names = [".tiny-backup", ".tiny-0123456789abcdef0", "tiny-0123456789abcdef", ".tiny-0123456789abcdef"]
    images = desk / "home" / "cache" / "images"
    for folder in [tmp_path / "data" / name for name in names] + [images / ".thumbnails", images / ".git"]:
        folder.mkdir(parents=True)
        os.utime(folder, (1, 1))
    remove_scratch_of(tmp_path / "data" / "tiny")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == sorted(names[:3])
    (desk / "pictures" / "train" / "rows" / "0.png").unlink()
    lgkd.load_dataset(desk / "pictures")
    assert (images / ".thumbnails").is_dir() and (images / ".git").is_dir()


# Secrets


def test_no_file_and_no_line_of_a_run_holds_a_secret_of_the_environment(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets = {name: f"secret-of-{name}" for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "LGKD_X")}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    assert run([*TRAIN, "--dataset", "pictures", "--out", "told", "--epochs", "1", "--json"]) == 0
    printed = "".join(capsys.readouterr())
    files = [path for path in (desk / "told").rglob("*") if path.is_file()]
    assert len(files) > 6
    for value in secrets.values():
        assert value not in printed
        assert not [path for path in files if value.encode() in path.read_bytes()]
    allowed = {"OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "WORLD_SIZE"}
    for name in allowed:
        monkeypatch.setenv(name, "1")
    assert set(environment("cpu")["variables"]) == allowed
