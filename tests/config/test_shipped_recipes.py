"""The recipes that come with lgkd: complete, honest, free of models and data, true to their sources."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lgkd._internal.paths import recipe_names, recipes_folder, teachers_folder
from lgkd.config import Recipe, dump_recipe, load_recipe, parse_recipe

FILES = sorted(recipes_folder().rglob("*"))
RECIPES = [file for file in FILES if file.suffix == ".yaml"]

# Names of students, teachers and data sets, of which a recipe may know nothing.
STRANGERS = re.compile(
    r"deit|pit_|convit|pvt|t2t|cvt|dhvt|poorvit|vit_|cct|swin|resnet|wrn|vgg|mobilenet|shufflenet|timm:"
    r"|cifar|digits|imagenet[-_ ]?(1k|21k)|flowers|chaoyang|tiny[-_ ]?imagenet",
    re.IGNORECASE,
)


def test_there_are_recipes_and_each_is_found_by_name() -> None:
    assert len(RECIPES) >= 4
    assert {"teacher", "supervised", "locality-guidance", "quickstart"} <= set(recipe_names())
    assert sorted(file.stem for file in RECIPES) == recipe_names(), "a recipe in a subfolder would never be listed"
    assert FILES == RECIPES, "only recipes lie in the recipes folder"


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_it_loads_and_survives_being_written_out(file: Path) -> None:
    recipe = load_recipe(file.stem)
    assert parse_recipe(dump_recipe(recipe)) == recipe
    assert recipe.about.endswith(".") and recipe.source is not None


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_another_yaml_reader_sees_the_same_values(file: Path) -> None:
    def numbers(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: numbers(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [numbers(inner) for inner in value]
        try:  # the common reader takes 1e-3 for text
            return value if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            return value

    def within(part: Any, whole: Any) -> bool:
        if isinstance(part, dict):
            return isinstance(whole, dict) and all(within(part[key], whole.get(key, "?")) for key in part)
        if isinstance(part, list):
            return len(part) == len(whole) and all(within(a, b) for a, b in zip(part, whole, strict=True))
        return bool(part == whole)

    written = numbers(yaml.safe_load(file.read_text("utf-8")))
    assert within(written, numbers(load_recipe(file.stem).model_dump(mode="json")))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_it_names_no_student_no_teacher_and_no_data_set(file: Path) -> None:
    # Some kinds of terms are called after the model that their source trained.
    kinds = {"terms": {"__all__": {"kind"}}}
    apart = {"expect": True, "view": {"normalize"}, "guide": kinds}
    values = load_recipe(file.stem).model_dump(mode="json", exclude=apart)
    assert not STRANGERS.search(yaml.safe_dump(values)), STRANGERS.search(yaml.safe_dump(values))
    assert not {"student", "teacher", "dataset", "taps"} & set(values)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_its_head_says_what_it_is_whence_it_comes_and_what_differs(file: Path) -> None:
    head = file.read_text("utf-8").partition("\nabout:")[0]
    lines = head.rstrip().splitlines()
    assert len(lines) >= 5 and all(line.startswith("#") for line in lines)
    assert "# Source: " in head and "# What differs from" in head


def test_locality_guidance_has_the_values_of_the_authors_code() -> None:
    recipe = load_recipe("locality-guidance")
    view, optimizer, schedule = recipe.view, recipe.optimizer, recipe.schedule
    assert recipe.trains == "student"
    assert view.image_size is None and (view.crop, view.interpolation) == ("random-resized", "bicubic")
    assert (view.scale, view.flip, view.erase, view.color_jitter) == ((0.08, 1.0), 0.5, 0.25, 0.0)
    assert view.ratio == pytest.approx((3 / 4, 4 / 3))
    assert (view.rand_augment, view.normalize) == ("rand-m9-mstd0.5-inc1", "imagenet")
    assert (recipe.mix.mixup, recipe.mix.cutmix, recipe.label_smoothing) == (0, 0, 0)
    assert (optimizer.name, optimizer.lr, optimizer.weight_decay) == ("adamw", 0.0005, 0.05)
    assert (optimizer.betas, optimizer.eps) == ((0.9, 0.999), 1e-8)
    assert (schedule.epochs, schedule.warmup_epochs, schedule.stepped) == (300, 20, "epoch")
    assert schedule.min_lr == 5e-6
    assert schedule.warmup_factor * optimizer.lr == pytest.approx(5e-7)
    assert (recipe.batch_size, recipe.accumulate, recipe.drop_last, recipe.drop_path) == (128, 1, True, 0.1)
    assert recipe.clip_norm is None and recipe.ema is None
    assert recipe.guide is not None and len(recipe.guide.terms) == 1
    term = recipe.guide.terms[0]
    assert (term.kind, term.transform, term.weight) == ("locality", "linear", 2.5)


def test_the_baseline_is_the_guided_recipe_without_its_guide() -> None:
    apart = {"about", "guide"}
    guided, plain = load_recipe("locality-guidance"), load_recipe("supervised")
    assert plain.guide is None and guided.guide is not None
    assert plain.model_dump(exclude=apart) == guided.model_dump(exclude=apart)


@pytest.mark.parametrize(
    ("name", "weight", "terms"),
    [
        ("adaptive-guidance", 1.0, [{"kind": "blocks", "weight": 2.5}]),
        ("logit-standardized", 0.5, [{"kind": "standardized-kd", "temperature": 3.0, "eps": 0.1, "weight": 10.0}]),
        ("deit-distillation", 0.5, [{"kind": "deit-hard", "weight": 0.5}]),
    ],
)
def test_other_guided_recipes_differ_in_the_guide_alone(name: str, weight: float, terms: list[dict[str, Any]]) -> None:
    apart = {"about", "source", "guide"}
    ours, theirs = load_recipe("locality-guidance"), load_recipe(name)
    assert theirs.model_dump(exclude=apart) == ours.model_dump(exclude=apart)
    assert theirs.guide is not None and ours.guide is not None
    rest = {"terms", "classification_weight"}
    assert theirs.guide.model_dump(exclude=rest) == ours.guide.model_dump(exclude=rest)
    assert theirs.guide.classification_weight == weight
    for wanted, term in zip(terms, theirs.guide.terms, strict=True):
        assert wanted.items() <= term.model_dump().items()


def test_guidance_plus_is_locality_guidance_with_logits_and_another_optimiser() -> None:
    apart = {"about", "source", "guide", "optimizer"}
    ours, theirs = load_recipe("guidance-plus"), load_recipe("locality-guidance")
    assert ours.model_dump(exclude=apart) == theirs.model_dump(exclude=apart)
    assert ours.guide is not None and theirs.guide is not None
    assert ours.guide.model_dump(exclude={"terms"}) == theirs.guide.model_dump(exclude={"terms"})
    maps, logits = ours.guide.terms
    assert maps == theirs.guide.terms[0]
    assert logits.model_dump(exclude_defaults=True) == {"kind": "standardized-kd", "eps": 0.1, "weight": 3.0}
    assert (ours.optimizer.name, ours.optimizer.weight_decay) == ("muon", theirs.optimizer.weight_decay)


def test_adaptive_guidance_ends_by_its_own_relative_measure() -> None:
    guide = load_recipe("adaptive-guidance").guide
    assert guide is not None and guide.terms[0].schedule is not None
    stop = guide.terms[0].schedule.adaptive
    assert stop is not None and (stop.threshold, stop.window, stop.relative) == (-0.1, None, True)


def test_the_teacher_has_the_values_of_the_authors_code() -> None:
    recipe = load_recipe("teacher")
    assert recipe.trains == "teacher" and recipe.view.image_size == 32
    strong = {"image_size"}
    assert recipe.view.model_dump(exclude=strong) == load_recipe("supervised").view.model_dump(exclude=strong)
    optimizer, schedule = recipe.optimizer, recipe.schedule
    assert (optimizer.name, optimizer.lr, optimizer.weight_decay) == ("sgd", 0.1, 0.0005)
    assert (optimizer.momentum, optimizer.nesterov) == (0.9, True)
    assert (schedule.epochs, schedule.warmup_epochs, schedule.stepped) == (300, 0, "epoch")
    assert schedule.min_lr == 0
    assert recipe.batch_size == 128 and recipe.drop_last


def test_quickstart_never_mirrors_a_digit_and_stays_small() -> None:
    recipe = load_recipe("quickstart")
    assert recipe.view.flip == 0 and recipe.view.normalize == "dataset"
    assert recipe.view.image_size is not None and recipe.view.image_size <= 32
    assert recipe.guide is not None and recipe.guide.terms[0].kind == "locality"


def test_an_expectation_is_a_run_that_was_made() -> None:
    for name in recipe_names():
        for run in load_recipe(name).expect or ():
            assert run.command.startswith("lgkd "), f"{name}: {run.command!r} cannot be repeated"


def test_no_recipe_says_of_itself_what_only_the_schema_knows() -> None:
    known = set(Recipe.model_fields)
    for file in RECIPES:
        assert set(yaml.safe_load(file.read_text("utf-8"))) <= known


def test_the_teachers_folder_says_what_lies_in_it() -> None:
    text = (teachers_folder() / "README.md").read_text("utf-8")
    assert "DATASET/NAME/card.json" in text and "DATASET/NAME/weights.safetensors" in text
