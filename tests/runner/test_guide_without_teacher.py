"""Guides without a teacher: terms that read the student alone, in `lgkd train`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lgkd.benchmark.options import Choices, check_plain
from lgkd.benchmark.subject import load_data, load_pair
from lgkd.cli import run
from lgkd.config import load_recipe
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Batch, Guided
from lgkd.errors import InputError
from lgkd.losses import KD, DenseRelativeLocalization, MaskedImages
from lgkd.models.factory import create_student
from lgkd.runner.dry_run.warnings import best_unguided
from lgkd.runner.resolve import resolve_recipe
from lgkd.runs.compare.comparison import compare
from tests.support.small import TRAIN, World, pause_after

pytestmark = pytest.mark.usefixtures("here")

TERMS = [
    {"kind": "masked-images", "width": 16, "heads": 2, "hidden": 0.5},
    {"kind": "dense-relative-localization", "hidden": 16},
]


@pytest.fixture
def alone() -> str:
    """A recipe whose terms read the student alone, in a file."""
    whole = load_recipe("supervised").model_dump(mode="json", exclude={"guide", "expect"})
    Path("alone.yaml").write_text(yaml.safe_dump({**whole, "guide": {"terms": TERMS}}))
    return "alone.yaml"


def train(world: World, recipe: str, out: str, *more: str) -> int:
    words = [*TRAIN, "--recipe", recipe, "--device", "cpu"]
    return run([*words, "--dataset", str(world.pictures), "--out", out, *more])


def weights(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "student.safetensors")


def test_it_trains_without_a_teacher_and_is_resumed_to_the_bit(
    world: World, alone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(world, alone, "whole") == 0
    about = json.loads(Path("whole/run.json").read_text())
    assert about["kind"] == "train" and about["teacher"] is None and about["pairs"] == []
    columns = Path("whole/metrics.csv").read_text().splitlines()[0].split(",")
    assert {"loss_masked-images", "loss_dense-relative-localization"} <= {*columns}
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert train(world, alone, "paused") == 75
    assert run(["resume", "paused", "--quiet"]) == 0
    ours, theirs = weights("paused"), weights("whole")
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert train(world, "supervised", "plain") == 0
    assert any(not torch.equal(value, theirs[name]) for name, value in weights("plain").items())
    assert run(["evaluate", "whole"]) == 0
    # It is compared with the plain training of the same student, and is nobody's baseline.
    assert run(["report", "whole", "plain"]) == 0
    found = compare(Path("whole"), Path("plain"), world.guided_run)
    pairs = [(one.reference.label, one.group.label) for one in found.differences]
    assert pairs[0] == ("deit_tiny unguided", "deit_tiny with masked-images, dense-relative-localization")
    assert all(reference == "deit_tiny unguided" for reference, _ in pairs) and len(pairs) == 2
    assert best_unguided(about["dataset"]["name"], [Path()])[1] == Path("plain")  # type: ignore[index]


def test_a_dry_run_of_several_seeds_expects_the_terms(world: World, alone: str) -> None:
    assert train(world, alone, "many", "--seeds", "0,1") == 0
    assert train(world, alone, "many", "--seeds", "0,1", "--dry-run") == 0


def test_a_term_for_a_numbered_teacher_needs_none(world: World) -> None:
    term = "{kind: dense-relative-localization, hidden: 16, for_teacher: 1}"
    assert train(world, "supervised", "one", "--set", f"guide={{terms: [{term}]}}") == 0


def test_a_rule_that_adds_a_term_for_a_teacher_is_refused(
    world: World, alone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = "by_length=[{from_epochs: 0.5, set: {guide: {terms: [{kind: kd}]}}}]"
    assert train(world, alone, "rule", "--set", rule) == 2
    assert "kd of the recipe reads a teacher, and there is none; train by `lgkd distill`" in capsys.readouterr().err


def test_a_bench_measures_the_terms() -> None:
    choices = Choices(student="vit_96", overrides=[f"guide={{terms: {json.dumps(TERMS)}}}"], images=20, batch_size=4)
    model, guide, _ = load_pair(choices, load_data(choices))
    assert guide is not None and not guide.has_teacher and [*guide.weights] == [term["kind"] for term in TERMS]
    guide.remove()
    with pytest.raises(InputError, match="--against plain: the plain loop knows no"):
        check_plain(choices)
    assert model is not None


def test_a_teacher_that_no_term_reads_is_refused(world: World, alone: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["distill", "--student", "vit_96", "--teacher", "resnet8", "--recipe", alone, "--dry-run"]
    assert run([*words, "--dataset", str(world.pictures)]) == 2
    said = capsys.readouterr().err
    assert "(masked-images, dense-relative-localization) read the student alone, so no teacher would be run" in said
    assert "train without one by `lgkd train`, or add a term that reads a teacher" in said
    # A run of an earlier version, which did not refuse it, is resumed by the recipe in its folder.
    Path("run").mkdir()
    kept = Path(alone).rename("run/recipe.yaml")
    assert resolve_recipe(kept, trains="student", guided=True).guide is not None


def test_a_guide_without_a_teacher_adds_its_terms(make_batch: Callable[..., Batch]) -> None:
    student = create_student("vit_96", num_classes=5, image_size=32, depth=3, embed_dim=12, num_heads=2)
    guide = Guide(student, None, image_size=32, terms=[Term(MaskedImages()), Term(DenseRelativeLocalization())])
    assert not guide.has_teacher and not guide.needs_teacher and guide.teaches == {}
    task = Guided(student, guide)
    assert task.frozen_models == {}
    task.cast_frozen(torch.bfloat16)
    step = task(make_batch(32))
    step.loss.backward()
    parts = step.parts
    whole = parts["classification"] + 9 * parts["maskedimages"] + 0.5 * parts["denserelativelocalization"]
    assert step.loss.item() == pytest.approx(whole.item(), rel=1e-6)
    assert guide.on_epoch_end(1, {}) == []
    with pytest.raises(InputError, match=r"this guide has no teacher: its terms \(maskedimages, .*\) read the student"):
        _ = guide.teacher
    guide.remove()


def test_terms_that_read_a_teacher_need_one() -> None:
    student = create_student("vit_96", num_classes=5, image_size=32, depth=3, embed_dim=12, num_heads=2)
    with pytest.raises(InputError, match=r"the teacher is None, and KD of the terms reads one; pass an lgkd.Teacher"):
        Guide(student, None, image_size=32, terms=[Term(KD()), Term(MaskedImages())])
