"""What a recipe accepts, what it refuses, and that it explains itself."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from lgkd.config import Recipe, Section, View, explain, recipe_from
from lgkd.config.problems import dotted
from lgkd.config.terms import SECTIONS
from lgkd.config.validate import problems_in
from lgkd.config.yaml_io import Document
from lgkd.errors import RecipeError


def student(**changes: Any) -> dict[str, Any]:
    """The smallest complete student recipe, with changes at the top level."""
    return {
        "about": "A test.",
        "trains": "student",
        "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05},
        "schedule": {"epochs": 10},
        "batch_size": 12,
        **changes,
    }


def guide(**changes: Any) -> dict[str, Any]:
    return {"terms": [{"kind": "locality", **changes}]}


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as caught:
        recipe_from(values, "test")
    return str(caught.value)


def test_what_is_left_out_takes_the_documented_defaults() -> None:
    recipe = recipe_from(student())
    assert recipe.view == View()
    assert (recipe.view.crop, recipe.view.scale, recipe.view.flip) == ("random-resized", (0.08, 1.0), 0.5)
    assert (recipe.mix.mixup, recipe.mix.cutmix, recipe.label_smoothing, recipe.drop_path) == (0, 0, 0, 0)
    assert (recipe.optimizer.betas, recipe.optimizer.eps) == ((0.9, 0.999), 1e-8)
    assert (recipe.accumulate, recipe.drop_last, recipe.precision) == (1, True, "auto")
    assert recipe.ema is None and recipe.guide is None and recipe.expect is None


def test_numbers_may_come_as_text_but_only_decimal_text() -> None:
    recipe = recipe_from(student(optimizer={"name": "adamw", "lr": "1e-3", "weight_decay": "5.0E-2"}))
    assert (recipe.optimizer.lr, recipe.optimizer.weight_decay) == (0.001, 0.05)
    for text in ("nan", "inf", "1_0", "0x1", "010", "1:30", " 1", "", "one"):
        changed = student(optimizer={"name": "adamw", "lr": text, "weight_decay": 0})
        assert f"optimizer.lr: must be a number (got {text!r})" in refusal(changed)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_must_be_finite(value: float) -> None:
    assert "label_smoothing: must be a finite number" in refusal(student(label_smoothing=value))


def test_true_is_not_a_number_and_one_is_not_true() -> None:
    assert "batch_size: must be a whole number (got true)" in refusal(student(batch_size=True))
    assert "drop_path: must be a number (got true)" in refusal(student(drop_path=True))
    assert "drop_last: must be true or false (got 1)" in refusal(student(drop_last=1))
    assert "drop_last: must be true or false (got 'yes')" in refusal(student(drop_last="yes"))


def test_whole_numbers_are_not_rounded_and_text_is_not_made_of_numbers() -> None:
    assert "batch_size: must be a whole number (got 12.0)" in refusal(student(batch_size=12.0))
    assert "batch_size: must be a whole number (got '12')" in refusal(student(batch_size="12"))
    assert "about: must be text (got 3)" in refusal(student(about=3))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 0}, "batch_size: must be >= 1 (got 0)"),
        ({"label_smoothing": 1}, "label_smoothing: must be < 1 (got 1)"),
        ({"clip_norm": 0}, "clip_norm: must be > 0 (got 0)"),
        ({"evaluate_every": 10**7}, "evaluate_every: must be <= 1,000,000 (got 10000000)"),
        ({"evaluate_every": 10**80}, "a very large number"),
        ({"precision": "fp8"}, "precision: must be 'auto', 'fp32', 'bf16' or 'fp16' (got 'fp8')"),
        ({"guide": guide(weight=-1)}, "guide.terms.0.weight: must be >= 0 (got -1)"),
        ({"guide": {"terms": []}}, "guide.terms: must have at least 1 entry (got [])"),
        ({"guide": {"terms": {}}}, "guide.terms: must be a list"),
        ({"guide": 3}, "guide: must be a section of keys (got 3)"),
        ({"ema": {"decay": 1}}, "ema.decay: must be < 1 (got 1)"),
        ({"view": {"scale": [0.5]}}, "view.scale: must be two numbers in brackets"),
        ({"view": {"scale": [0.5, 0.1]}}, "view.scale: must be [smallest, largest]"),
        ({"view": {"scale": [0, 1]}}, "view.scale.0: must be > 0 (got 0)"),
        ({"view": {"ratio": ["a", 1]}}, "view.ratio.0: must be a number (got 'a')"),
        ({"view": {"rand_augment": "rand-z9"}}, "view.rand_augment: must be 'rand' and then"),
        ({"about": "two\nlines"}, "about: must be one line of printable text"),
        ({"about": "  "}, "about: must be one line of printable text"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_bound_and_value(changes: dict[str, Any], words: str) -> None:
    assert words in refusal(student(**changes))


def test_every_number_of_the_schema_has_an_upper_and_a_lower_bound() -> None:
    numbers = [row for row in explain(Recipe) if row.type.startswith(("number", "whole number"))]
    assert len(numbers) > 25
    for row in numbers:
        assert ">" in row.type and "<" in row.type, f"{row.path} is unbounded: {row.type}"


def test_warm_up_must_end_before_the_training_does() -> None:
    text = refusal(student(schedule={"epochs": 10, "warmup_epochs": 10}))
    assert "schedule.warmup_epochs: must be less than schedule.epochs (10); change either of the two (got 10" in text
    assert recipe_from(student(schedule={"epochs": 1, "warmup_epochs": 0.5})).schedule.warmup_epochs == 0.5


def test_the_batch_must_be_divisible_by_its_micro_batches() -> None:
    assert recipe_from(student(accumulate=3)).accumulate == 3
    assert "accumulate: must divide batch_size (12) without remainder (got 5)" in refusal(student(accumulate=5))


def test_a_teacher_recipe_has_no_guide() -> None:
    assert "guide: must be null in a recipe that trains a teacher" in refusal(student(trains="teacher", guide=guide()))
    assert recipe_from(student(trains="teacher")).guide is None


def test_the_rate_cannot_end_above_its_peak() -> None:
    text = refusal(student(schedule={"epochs": 10, "min_lr": 0.5}))
    assert "schedule.min_lr: must be <= optimizer.lr (0.001) (got 0.5)" in text


def test_nesterov_without_momentum_is_refused_for_sgd_alone() -> None:
    sgd = {"name": "sgd", "lr": 0.1, "weight_decay": 0, "momentum": 0}
    assert "optimizer.nesterov: must be false when momentum is 0 (got true)" in refusal(student(optimizer=sgd))
    assert recipe_from(student(optimizer={**sgd, "nesterov": False})).optimizer.momentum == 0
    assert recipe_from(student(optimizer={**sgd, "name": "adamw"})).optimizer.nesterov


def test_two_terms_of_one_name_are_refused_and_nameless_ones_are_not() -> None:
    term = {"kind": "locality", "name": "maps"}
    assert "guide.terms.1.name: another term has this name" in refusal(student(guide={"terms": [term, term]}))
    assert len(recipe_from(student(guide={"terms": [{"kind": "locality"}] * 2})).guide.terms) == 2  # type: ignore[union-attr]


def test_an_unknown_kind_of_term_names_the_known_ones() -> None:
    text = refusal(student(guide=guide(kind="localty")))
    assert "guide.terms.0.kind: unknown kind 'localty'; did you mean 'locality'?" in text
    assert "guide.terms.0.kind: this key is required" in refusal(student(guide={"terms": [{"weight": 1}]}))
    for nothing in (3, None, "kd", []):
        assert "guide.terms.0: must be a section of keys" in refusal(student(guide={"terms": [nothing]}))


def test_a_key_in_the_wrong_section_is_sent_to_the_right_one() -> None:
    assert "weight_decay: unknown key (got 0.1); did you mean 'optimizer.weight_decay'?" in refusal(
        student(weight_decay=0.1)
    )


def test_an_expectation_with_one_seed_has_no_spread() -> None:
    run = {"dataset": "some", "epochs": 3, "command": "lgkd train", "date": "2025-02-03"}
    one = {**run, "top1": {"mean": 0.5, "sd": 0.1, "seeds": 1}}
    assert "expect.0.top1.seeds: one seed has no spread; set sd to null" in refusal(student(expect=[one]))
    two = {**run, "top1": {"mean": 0.5, "sd": 0.1, "seeds": 2}}
    recipe = recipe_from(student(expect=[two]))
    assert recipe.expect is not None and recipe.expect[0].top1.mean == 0.5
    assert "expect.0.date: must be a date" in refusal(student(expect=[{**two, "date": "yesterday"}]))


def test_a_recipe_cannot_be_changed_once_made() -> None:
    recipe = recipe_from(student(guide=guide()))
    with pytest.raises(ValidationError, match="frozen"):
        recipe.batch_size = 3  # type: ignore[misc]
    assert isinstance(recipe.guide and recipe.guide.terms, tuple)
    assert hash(recipe) == hash(recipe_from(student(guide=guide())))


def test_a_recipe_has_no_place_for_who_is_trained_on_what() -> None:
    keys = set(Recipe.model_fields)
    assert not keys & {"student", "teacher", "dataset", "data", "model", "taps", "layers", "pairs", "seed"}
    assert not set(SECTIONS["locality"].model_fields) & {"pairs", "taps", "layers", "teacher", "student"}


def test_every_key_says_in_one_sentence_what_it_means() -> None:
    rows = explain(Recipe)
    assert len(rows) > 60
    for row in rows:
        assert row.description.endswith("."), f"{row.path} has no sentence: {row.description!r}"
        assert "\n" not in row.description


def test_every_section_refuses_unknown_keys() -> None:
    sections = [Recipe, *all_below(Section)]
    assert len(set(sections)) >= 10
    for section in sections:
        assert section.model_config.get("extra") == "forbid"
        assert section.model_config.get("frozen") is True
        assert section.model_config.get("allow_inf_nan") is False


def all_below(section: type[Section]) -> list[type[Section]]:
    return [found for child in section.__subclasses__() for found in (child, *all_below(child))]


def test_the_kind_of_a_term_is_not_part_of_its_place() -> None:
    """Pydantic puts the chosen kind into its locations as soon as there are two; users never wrote it."""

    class Other(Section):
        kind: Literal["other"]
        weight: float

    locality = SECTIONS["locality"]

    class Two(Section):
        terms: list[Annotated[locality | Other, Field(discriminator="kind")]]

    values = {"terms": [{"kind": "locality", "weight": -1}, {"kind": "other"}, {"kind": "third"}]}
    with pytest.raises(ValidationError) as caught:
        Two.model_validate(values)
    assert caught.value.errors()[0]["loc"] == ("terms", 0, "locality", "weight")
    found = {dotted(problem.path): problem.message for problem in problems_in(caught.value, Document(values))}
    assert found["terms.0.weight"] == "must be >= 0 (got -1)"
    assert found["terms.1.weight"] == "this key is required"
    assert found["terms.2.kind"] == "unknown kind 'third'; did you mean 'other'?"
