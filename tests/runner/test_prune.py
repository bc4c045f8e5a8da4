"""`lgkd prune`: a smaller student in a run's folder, which every other command takes."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from lgkd.api import evaluate, export
from lgkd.cli import run
from lgkd.errors import InputError, TakenError
from lgkd.models.pruned_student import prunable_parts
from lgkd.runner.prune_student import PrunedRun, prune_student
from lgkd.runs.compare import compare
from lgkd.runs.load_student import load_student
from tests.support.small import World, snapshot


@pytest.fixture(scope="module")
def pruned(world: World, tmp_path_factory: pytest.TempPathFactory) -> PrunedRun:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LGKD_HOME", str(world.home))
        before = snapshot(world.guided_run, world.home)
        made = prune_student(world.guided_run, 0.5, out=tmp_path_factory.mktemp("made") / "pruned", images=20)
        assert snapshot(world.guided_run, world.home) == before
    return made


def test_the_smaller_student_is_loaded_like_every_other(pruned: PrunedRun, world: World, here: Path) -> None:
    whole, small = load_student(world.guided_run), load_student(pruned.folder)
    assert sum(map(len, pruned.heads)) == 3 and sum(map(len, pruned.units)) == 3 * 64
    for part, heads, units in zip(prunable_parts(small), pruned.heads, pruned.units, strict=True):
        assert (part.heads, part.units) == (len(heads), len(units))
    # The kept rows are those of the whole student.
    own = whole.state_dict()["blocks.1.mlp.fc1.weight"][pruned.units[1]]
    assert torch.equal(small.state_dict()["blocks.1.mlp.fc1.weight"], own)
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (whole, small)]
    assert pruned.parameters == tuple(counts) and counts[1] < 0.6 * counts[0]
    assert evaluate(pruned.folder).top1 == pytest.approx(pruned.scores[1])
    assert evaluate(world.guided_run).top1 == pytest.approx(pruned.scores[0])


def test_importance_is_that_of_the_guided_loss_on_whole_batches(pruned: PrunedRun) -> None:
    about = pruned.info["pruned"]
    assert pruned.guided and about["terms"] and about["images"] == 24  # three batches of eight
    assert about["heads"] == pruned.heads and about["parameters_before"] == pruned.parameters[0]


def test_it_is_the_same_again_and_without_the_guide_it_differs(pruned: PrunedRun, world: World, here: Path) -> None:
    again = prune_student(world.guided_run, 0.5, out=here / "again", images=20)
    assert (again.heads, again.units) == (pruned.heads, pruned.units)
    alone = prune_student(world.guided_run, 0.5, out=here / "alone", images=20, guided=False)
    assert not alone.guided and alone.info["pruned"]["terms"] == [] and alone.units != pruned.units
    baseline = prune_student(world.unguided_run, 0.5, out=here / "baseline", images=20, keep_heads=1)
    assert [len(heads) for heads in baseline.heads] == [2, 2, 2] and not baseline.guided


def test_it_is_compared_and_exported(pruned: PrunedRun, world: World, here: Path) -> None:
    found = compare(world.guided_run, pruned.folder)
    assert sorted(group.runs[0].top1 for group in found.groups) == pytest.approx(sorted(pruned.scores))
    export(pruned.folder, here / "exported")
    assert torch.equal(
        load_student(here / "exported").state_dict()["head.weight"], pruned.student.state_dict()["head.weight"]
    )


def test_the_command_prints_the_one_that_fine_tunes(
    world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prune", str(world.guided_run), "--keep", "0.5", "--out", "small", "--images", "20"]
    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"]["after"] < found["parameters"]["before"] and sum(found["units"]) == 192
    command = shlex.split(found["fine_tune"])
    assert command[:2] == ["lgkd", "distill"] and command[-1] == "small"
    assert run([*command[1:], "--epochs", "1", "--device", "cpu", "--quiet", "--out", "tuned"]) == 0
    about = json.loads((here / "tuned" / "run.json").read_text())
    assert about["student"]["options"] == found["options"] and about["init"]["classifier"] == "kept"
    capsys.readouterr()
    assert run([*words[:-4], "--out", "other", "--images", "8", "--without-guide", "--keep-units", "1"]) == 0
    out = capsys.readouterr().out
    assert "128 of 128" in out and "not fine-tuned" in out and "lgkd distill --student deit_tiny" in out


def test_bad_requests_touch_nothing(world: World, pruned: PrunedRun, here: Path) -> None:
    before = snapshot(here, world.guided_run)
    with pytest.raises(InputError, match=r"the kept share is 1.5, expected above 0 and at most 1"):
        prune_student(world.guided_run, 1.5, out=here / "new")
    with pytest.raises(InputError, match="0 images were asked for to measure importance on"):
        prune_student(world.guided_run, 0.5, out=here / "new", images=0)
    with pytest.raises(TakenError):
        prune_student(world.guided_run, 0.5, out=pruned.folder)
    with pytest.raises(InputError, match="is a teacher's run, expected that of a student"):
        prune_student(world.teacher_run, 0.5, out=here / "new")
    assert snapshot(here, world.guided_run) == before


def test_unfinished_runs_are_refused(world: World, here: Path) -> None:
    shutil.copytree(world.guided_run, here / "begun")
    info = json.loads((here / "begun" / "run.json").read_text()) | {"status": "running"}
    (here / "begun" / "MANIFEST.json").unlink()
    (here / "begun" / "run.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match="is not finished; resume it by"):
        prune_student(here / "begun", 0.5, out=here / "new")
    with pytest.raises(TakenError, match="holds an unfinished run; nothing was touched"):
        prune_student(world.guided_run, 0.5, out=here / "begun")


def test_other_images_and_missing_projections_are_refused(
    world: World, here: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other") / "pictures"
    shutil.copytree(world.pictures, other)
    shutil.copy(other / "test" / "rows" / "0.png", other / "test" / "rows" / "9.png")
    with pytest.raises(InputError, match=r"has other images than .* was trained on"):
        prune_student(world.guided_run, 0.5, out=here / "new", dataset=other)
    shutil.copytree(world.guided_run, here / "copy")
    shutil.rmtree(here / "copy" / "checkpoint")
    with pytest.raises(InputError, match="holds no checkpoint, expected one with the projections of its terms"):
        prune_student(here / "copy", 0.5, out=here / "newer", images=8)
