"""Checkpoints: whole or not there, checked when read."""

import json
import os

import pytest
import torch
from safetensors.torch import load

from lgkd.errors import InputError
from lgkd.training import checkpoint
from lgkd.training.checkpoint import (
    FAULT_VARIABLE,
    MANIFEST,
    load_newest,
    read_checkpoint,
    save_best,
    save_checkpoint,
)
from tests.support.damage import corruptions

TENSORS = {
    "student": {"weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(3)},
    "guide": {},
    "optimizer": {"weight|exp_avg": torch.full((2, 3), 0.5)},
}
STATE = {"progress": {"epoch": 1}, "rows": [0.1, 1e-300], "name": "Käfer"}


def test_what_was_saved_comes_back_to_the_bit(tmp_path):
    save_checkpoint(tmp_path, 7, TENSORS, STATE)
    found = load_newest(tmp_path)
    assert found is not None
    assert found.step == 7
    assert found.state == {"format": 1, **STATE, "step": 7}
    assert found.damaged == ()
    assert found.tensors.keys() == TENSORS.keys()
    for part, tensors in TENSORS.items():
        assert found.tensors[part].keys() == tensors.keys()
        assert all(torch.equal(found.tensors[part][name], value) for name, value in tensors.items())


def test_a_folder_without_checkpoints_has_none(tmp_path):
    assert load_newest(tmp_path) is None
    assert load_newest(tmp_path / "nowhere") is None


def test_the_last_two_and_the_best_are_kept(tmp_path):
    save_best(tmp_path, {"student": TENSORS["student"]}, {"best": {"epoch": 1}})
    for step in (1, 2, 3, 10_000_000_000):
        save_checkpoint(tmp_path, step, TENSORS, STATE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "step-00000003", "step-10000000000"]
    save_best(tmp_path, {"student": {"weight": torch.ones(1)}}, {"best": {"epoch": 2}})
    tensors, state = read_checkpoint(tmp_path / "best")
    assert state["best"] == {"epoch": 2}
    assert torch.equal(tensors["student"]["weight"], torch.ones(1))


def test_every_process_reads_the_tensors_in_the_same_order(tmp_path, monkeypatch):
    # safetensors hands them over in an order that differs from process to process; sums over processes follow it.
    folder = save_checkpoint(tmp_path, 7, {"meters": {name: torch.tensor(1.0) for name in "dbca"}}, STATE)
    for order in (sorted, lambda names: sorted(names, reverse=True)):
        with monkeypatch.context() as patch:
            patch.setattr(
                checkpoint, "load", lambda data, order=order: {name: load(data)[name] for name in order("abcd")}
            )
            assert list(read_checkpoint(folder)[0]["meters"]) == ["a", "b", "c", "d"]


def test_saving_a_step_again_replaces_it(tmp_path):
    save_checkpoint(tmp_path, 5, TENSORS, {"n": 1})
    save_checkpoint(tmp_path, 5, TENSORS, {"n": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]
    assert load_newest(tmp_path).state["n"] == 2


def test_files_are_readable_under_the_umask_and_hold_no_pickle(tmp_path):
    old = os.umask(0o027)
    try:
        folder = save_checkpoint(tmp_path, 1, TENSORS, STATE)
    finally:
        os.umask(old)
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o640, path
        assert path.suffix in (".json", ".safetensors")
        assert not path.read_bytes().startswith((b"\x80", b"PK")), path


def test_tied_weights_and_views_are_saved(tmp_path):
    base = torch.arange(4.0)
    save_checkpoint(tmp_path, 1, {"student": {"a": base, "b": base, "part": base[1:3]}}, {})
    assert torch.equal(load_newest(tmp_path).tensors["student"]["part"], torch.tensor([1.0, 2.0]))


def test_every_flipped_or_cut_checkpoint_is_refused_by_name_and_the_one_before_is_used(tmp_path):
    save_checkpoint(tmp_path, 1, TENSORS, {"n": 1})
    newest = save_checkpoint(tmp_path, 2, TENSORS, {"n": 2})
    tried = 0
    for path, data in corruptions(newest, seed=0, flips=200, cuts=50):
        good = path.read_bytes()
        path.write_bytes(data)
        found = load_newest(tmp_path)
        path.write_bytes(good)
        tried += 1
        assert found is not None, path
        assert found.state["n"] == 1, (path, tried)
        assert len(found.damaged) == 1
        assert str(newest) in found.damaged[0]
    assert tried >= 250
    assert load_newest(tmp_path).state["n"] == 2


def test_a_missing_file_is_named(tmp_path):
    folder = save_checkpoint(tmp_path, 2, TENSORS, STATE)
    (folder / "student.safetensors").unlink()
    with pytest.raises(InputError, match=r"no checkpoint can be used: .*student\.safetensors cannot be read"):
        load_newest(tmp_path)


def test_a_manifest_that_names_a_file_elsewhere_is_refused(tmp_path):
    folder = save_checkpoint(tmp_path, 2, TENSORS, STATE)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["../../secret.safetensors"] = {"bytes": 1, "sha256": "0" * 64}
    (folder / MANIFEST).write_bytes(json.dumps(manifest, indent=1).encode() + b"\n")
    with pytest.raises(InputError, match=r"names '\.\./\.\./secret\.safetensors'"):
        read_checkpoint(folder)


SAVE = """
import sys, torch
from pathlib import Path
from lgkd.training.checkpoint import save_checkpoint
save_checkpoint(Path(sys.argv[1]), int(sys.argv[2]), {"student": {"w": torch.full((3,), float(sys.argv[2]))}}, {})
"""
POINTS = [
    "written-student.safetensors",
    "synced-student.safetensors",
    "written-state.json",
    "synced-state.json",
    "written-MANIFEST.json",
    "synced-MANIFEST.json",
    "before-rename",
    "after-rename",
    "before-dropping",
    "after-dropping",
]


@pytest.mark.parametrize("point", POINTS)
def test_a_process_that_dies_at_any_point_of_a_save_leaves_a_good_checkpoint(tmp_path, nursery, point):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"student": {"w": torch.full((3,), float(step))}}, {})
    done = nursery.start(["-c", SAVE, str(tmp_path), "3"], **{FAULT_VARIABLE: point})
    done.communicate()
    assert done.returncode == 70
    found = load_newest(tmp_path)
    assert found.damaged == ()
    renamed = POINTS.index(point) >= POINTS.index("after-rename")
    assert found.step == (3 if renamed else 2)
    assert torch.equal(found.tensors["student"]["w"], torch.full((3,), float(found.step)))
    save_checkpoint(tmp_path, 4, TENSORS, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{found.step:08d}", "step-00000004"]


def test_dying_between_the_two_renames_of_a_step_saved_again_loses_nothing(tmp_path, nursery):
    save_checkpoint(tmp_path, 3, {"student": {"w": torch.full((3,), 3.0)}}, {})
    done = nursery.start(["-c", SAVE, str(tmp_path), "3"], **{FAULT_VARIABLE: "between-renames"})
    done.communicate()
    assert done.returncode == 70
    assert load_newest(tmp_path).step == 3


def test_a_full_disk_leaves_the_older_checkpoint_and_says_what_is_needed(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, TENSORS, {"n": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"step-00000002 could not be written \(No space left on device; .* MB free"):
        save_checkpoint(tmp_path, 2, TENSORS, {"n": 2})
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert load_newest(tmp_path).state["n"] == 1
