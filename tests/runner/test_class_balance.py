"""Trainings on classes that are not equally many: their settings, remarks, errors, resumed to the bit, in processes."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import lgkd
from lgkd._internal.safetensors_io import load_weights
from lgkd.cli import run
from lgkd.config import Recipe, dump_recipe, load_recipe
from lgkd.config.overrides import apply_overrides
from lgkd.config.validate import parse_recipe
from lgkd.data.prepare import make_class_balance, prepare_data
from lgkd.errors import InputError, Paused, RecipeError
from lgkd.runs.folder import read_metrics
from tests.support.costs import is_cost
from tests.support.data import distinct, images, made
from tests.support.forking import Nursery
from tests.support.launching import guided as guided_words
from tests.support.launching import lgkd as in_processes
from tests.support.small import DISTILL, QUICK, TINY, TINY_OPTIONS, TRAIN, World, make_pictures, pause_after

ALL = ["class_weights={rows: 3}", "sampler=balanced", "logit_adjustment=1"]
SETTINGS = [["class_weights=balanced"], ["sampler=balanced"], ["logit_adjustment=1"], ALL]


def words_of(overrides: list[str]) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


def lopsided(folder: Path) -> Path:
    """Eight, two and eight training images of three classes."""
    root = make_pictures(folder)
    for number in range(2, 8):
        (root / f"train/columns/{number}.png").unlink()
    return root


def plain_rows(folder: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if not is_cost(k)} for row in read_metrics(folder)]


@pytest.mark.parametrize("overrides", SETTINGS, ids=" ".join)
def test_a_guided_training_is_recorded_and_resumed_to_the_bit(world: World, here, monkeypatch, overrides) -> None:
    words = [*DISTILL, "--dataset", str(world.pictures), *words_of(overrides)]
    assert run([*words, "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert run([*words, "--out", "parts"]) == 75
    assert run([*words, "--out", "parts"]) == 0
    whole, parts = (load_weights(Path(name) / "student.safetensors") for name in ("whole", "parts"))
    assert all((whole[name] == parts[name]).all() for name in whole)
    assert plain_rows(Path("whole")) == plain_rows(Path("parts"))
    if overrides != ["class_weights=balanced"]:  # the classes of the pictures are equally many
        assert plain_rows(Path("whole")) != plain_rows(world.guided_run)
    recipe = load_recipe(Path("whole/recipe.yaml"))
    found = (recipe.class_weights, recipe.sampler, recipe.logit_adjustment)
    assert found == {
        "class_weights=balanced": ("balanced", "shuffled", 0.0),
        "sampler=balanced": ("none", "balanced", 0.0),
        "logit_adjustment=1": ("none", "shuffled", 1.0),
    }.get(overrides[0], ({"rows": 3.0}, "balanced", 1.0))


def test_equal_classes_train_to_the_bits_of_a_run_without_weights(world: World, here) -> None:
    # Balanced weights of equal classes are 1; the sum of a batch is divided by the same number of images.
    words = [*TRAIN, "--dataset", str(world.pictures), "--set", "class_weights=balanced", "--out", "weighted"]
    assert run(words) == 0
    ours, theirs = (load_weights(folder / "student.safetensors") for folder in (Path("weighted"), world.unguided_run))
    largest = max(float((ours[name] - theirs[name]).abs().max()) for name in ours)
    assert largest < 1e-5


def test_a_teacher_takes_the_keys_and_an_unknown_class_is_refused_before_the_folder_is_made(
    here, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("LGKD_HOME", str(here / "home"))
    root = lopsided(here / "pictures")
    words = ["train-teacher", "resnet8", str(root), *QUICK, "--image-size", "16"]
    assert run([*words, "--set", "class_weights={column: 2}", "--out", "teacher"]) == 2
    assert "class_weights has a weight for 'column', expected classes of the data set (checks, columns, rows)" in (
        capsys.readouterr().err
    )
    assert not Path("teacher").exists()
    assert run([*words, "--set", "class_weights.columns=2", "--set", "sampler=balanced", "--out", "teacher"]) == 0
    assert load_recipe(Path("teacher/recipe.yaml")).class_weights == {"columns": 2.0}
    assert json.loads(Path("teacher/run.json").read_text())["steps_per_epoch"] == 2  # 18 images, batches of 8


def test_a_dry_run_finds_the_unknown_class_and_needs_no_image_of_every_class(here, capsys) -> None:
    root = lopsided(here / "pictures")
    words = ["train", "--student", "deit_tiny", *TINY, *QUICK, "--dataset", str(root), "--dry-run"]
    assert run([*words, "--set", "class_weights={column: 2}"]) == 2
    assert "class_weights has a weight for 'column'" in capsys.readouterr().err
    assert run([*words, *words_of(ALL)]) == 0


def heard(root: Path, folder: Path, *overrides: str) -> list[str]:
    sentences: list[str] = []
    lgkd.train(
        "deit_tiny", root, student_options=TINY_OPTIONS, image_size=16, epochs=1, batch_size=8, device="cpu",
        out=folder, overrides=overrides, say=sentences.append,
    )  # fmt: skip
    return sentences


def test_classes_of_very_different_size_get_a_remark_that_names_the_keys(tmp_path: Path) -> None:
    root = lopsided(tmp_path / "pictures")
    fact = (
        "the largest class has 4 times the training images of the smallest (checks: 8, columns: 2): accuracy says "
        "little of the small ones"
    )
    advice = ", and --set class_weights=balanced or --set sampler=balanced trains on all classes alike"
    assert fact + advice in heard(root, tmp_path / "plain")
    assert fact + advice in lgkd.check(root).remarks
    for number, override in enumerate(["sampler=balanced", "class_weights={columns: 2}", "logit_adjustment=0.5"]):
        assert fact in heard(root, tmp_path / str(number), override)
    shutil.copy(root / "train/columns/0.png", root / "train/columns/2.png")
    assert not any("the largest class has" in one for one in lgkd.check(root).remarks)


def test_settings_that_count_twice_get_a_remark(tmp_path: Path) -> None:
    root = lopsided(tmp_path / "pictures")
    remark = (
        "class_weights: balanced and logit_adjustment: 0.5: each makes up for the sizes of the classes, so together "
        "they favour small ones; one of them is enough"
    )
    assert remark in heard(root, tmp_path / "two", "class_weights=balanced", "logit_adjustment=0.5")
    assert not any("one of them is enough" in one for one in heard(root, tmp_path / "one", "logit_adjustment=0.5"))


@pytest.mark.parametrize("value", ["3", "null", "Balanced", "{cat: 0}", "{cat: -1}", "{cat: many}", "[1, 2]"])
def test_weights_that_are_none_are_refused_in_one_problem(value: str) -> None:
    with pytest.raises(RecipeError) as caught:
        apply_overrides(load_recipe("supervised"), [f"class_weights={value}"])
    head, line = str(caught.value).splitlines()
    assert head == "--set: 1 problem"
    assert line.startswith("  class_weights: must be none, balanced, or a section of positive numbers by class name")


def test_a_class_is_weighted_by_its_own_key() -> None:
    changed = apply_overrides(load_recipe("supervised"), ["class_weights.cat=2", "class_weights.1=5e-1"])
    assert changed.class_weights == {"cat": 2.0, "1": 0.5}
    assert parse_recipe(dump_recipe(changed)) == changed
    assert apply_overrides(changed, ["class_weights=none"]).class_weights == "none"


def recipe_with(**changes: object) -> Recipe:
    return load_recipe("supervised").model_copy(update=changes)


def test_classes_are_counted_after_the_subset_and_the_held_out_part() -> None:
    data = made(images(distinct(1, 30), [0] * 20 + [1] * 10, "train"), images(distinct(2, 4), [0, 1] * 2, "test"))
    whole = prepare_data(data, normalize="imagenet")
    assert make_class_balance(recipe_with(class_weights="balanced"), whole).weights.tolist() == [0.75, 1.5]
    few = prepare_data(data, normalize="imagenet", val_fraction=0.1)  # 2 and 1 of them are held out
    assert torch.bincount(few.train.labels).tolist() == [18, 9]
    odd = prepare_data(data, normalize="imagenet", val_fraction=0.04)  # 1 and 1
    found = make_class_balance(recipe_with(class_weights="balanced", logit_adjustment=1.0), odd)
    assert found.weights.tolist() == pytest.approx([28 / (2 * 19), 28 / (2 * 9)])
    assert found.adjustment.exp().tolist() == pytest.approx([19 / 28, 9 / 28])


def test_a_cache_serves_no_balanced_sampler(world: World, here, capsys) -> None:
    words = [*DISTILL, "--dataset", str(world.pictures), "--cached", "auto", "--set", "sampler=balanced"]
    assert run([*words, "--out", "mine"]) == 2
    assert "sampler is balanced, which shows images of small classes several times an epoch" in capsys.readouterr().err


def test_a_paused_run_is_not_resumed_with_another_setting(tmp_path: Path) -> None:
    options = {"student_options": TINY_OPTIONS, "image_size": 16, "epochs": 1, "batch_size": 8, "device": "cpu"}
    root = make_pictures(tmp_path / "pictures")
    with pytest.raises(Paused):
        lgkd.train("deit_tiny", root, out=tmp_path / "run", max_time=0, **options)
    with pytest.raises(InputError, match=r'recipe\.sampler: was "shuffled", now "balanced"'):
        lgkd.train("deit_tiny", root, out=tmp_path / "run", overrides=["sampler=balanced"], **options)


@pytest.mark.slow
def test_two_processes_train_as_one(nursery: Nursery, world: World, tmp_path: Path, monkeypatch) -> None:
    """Weights are divided by their sum over the whole batch, and the balanced order is shared."""
    pictures = lopsided(tmp_path / "pictures")
    shutil.copytree(world.home, tmp_path / "home")
    own = World(tmp_path / "home", pictures, world.teacher_run, world.guided_run, world.unguided_run)
    keys = words_of(["class_weights={columns: 5}", "sampler=balanced", "logit_adjustment=1", "mix.mixup=0"])
    teach = ["train-teacher", "resnet8", str(pictures), *QUICK, "--image-size", "16", "--quiet", "--replace"]
    monkeypatch.setenv("LGKD_HOME", str(own.home))
    assert run([*teach, "--out", str(tmp_path / "teacher")]) == 0
    done = in_processes(nursery, own, tmp_path, *guided_words(own, "--nproc", "2", *keys))
    _, error = done.communicate()
    assert done.returncode == 0, error
    assert run(guided_words(own, "--out", str(tmp_path / "single"), *keys)) == 0
    two, one = (load_weights(tmp_path / name / "student.safetensors") for name in ("mine", "single"))
    for name, value in one.items():
        assert torch.allclose(two[name], value, rtol=1e-4, atol=1e-6), name
    losses = [read_metrics(tmp_path / name)[-1]["loss"] for name in ("mine", "single")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
