"""Settings that follow the length of a training: the rules of a recipe, their place in messages, and their order."""

import pytest

from lgkd.cli import run
from lgkd.config import (
    apply_length_rules,
    apply_overrides,
    dump_recipe,
    explain,
    load_recipe,
    parse_recipe,
    recipe_from,
)
from lgkd.config.length_rules import in_words, reached, without_teacher
from lgkd.errors import RecipeError

RULES = """by_length:
- from_epochs: 12
  set: {mix: {cutmix: 0.5}}
- from_epochs: 40
  set:
    view: {rand_augment: rand-m9-mstd0.5-inc1}
    ema: {decay: 1e-2}
"""


def text(rules: str = RULES, recipe: str = "supervised") -> str:
    return dump_recipe(load_recipe(recipe)) + rules


def test_a_recipe_without_rules_is_written_as_before() -> None:
    assert "by_length" not in dump_recipe(load_recipe("supervised"))
    assert "by_length" not in load_recipe("supervised").model_dump()


@pytest.mark.parametrize(
    ("epochs", "cutmix", "policy", "decay"),
    [(11.9, 0.0, None, None), (12, 0.5, None, None), (39.9, 0.5, None, None), (40, 0.5, "rand-m9-mstd0.5-inc1", 0.01)],
)
def test_a_rule_applies_from_its_bound_on(
    epochs: float, cutmix: float, policy: str | None, decay: float | None
) -> None:
    base = apply_overrides(load_recipe("supervised"), ["mix.cutmix=0", "view.rand_augment=null"])
    recipe = parse_recipe(dump_recipe(base) + RULES)
    settled = apply_length_rules(recipe, reached(recipe, epochs))
    assert (settled.mix.cutmix, settled.view.rand_augment) == (cutmix, policy)
    assert (settled.ema and settled.ema.decay) == decay
    # Keys that are not named, and those beside them, keep their value; a section that was null has its defaults.
    assert settled.mix.mixup == base.mix.mixup and settled.view.flip == base.view.flip
    assert settled.ema is None or settled.ema.warmup is True
    assert "by_length" not in dump_recipe(settled)


CHANGES = ["mix.cutmix=0", "by_length.0.from_epochs=7", "ema=null"]


def test_what_the_user_sets_wins() -> None:
    recipe = parse_recipe(text())
    settled = apply_length_rules(
        recipe, reached(recipe, 100), ["mix.cutmix=0", "by_length.0.from_epochs=7", "ema=null"]
    )
    assert settled.mix.cutmix == 0 and settled.ema is None and settled.by_length is None
    assert settled.view.rand_augment == "rand-m9-mstd0.5-inc1"


def test_rules_can_be_changed_and_removed_by_overrides() -> None:
    recipe = parse_recipe(text())
    assert [rule.from_epochs for rule in apply_overrides(recipe, ["by_length.0.from_epochs=7"]).by_length] == [7, 40]
    assert apply_overrides(recipe, ["by_length=null"]) == load_recipe("supervised")


def test_a_recipe_with_rules_reads_back_equal() -> None:
    recipe = parse_recipe(text())
    assert parse_recipe(dump_recipe(recipe)) == recipe == recipe_from(recipe.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("rules", "line", "words"),
    [
        ("- from_epochs: 9\n  set: {mix: {cutmx: 1}}", 2, "0.set.mix.cutmx: unknown key (got 1); did you mean"),
        ("- from_epochs: 9\n  set:\n    mix: {cutmix: -1}", 3, "0.set.mix.cutmix: must be >= 0 (got -1"),
        ("- from_epochs: 9\n  set: {schedule: {min_lr: 9}}", 2, "0.set.schedule.min_lr: must be <= optimizer.lr"),
        ("- from_epochs: 9\n  set: {batch_size: 8}", 2, "0.set.batch_size: determines the steps of an epoch, so"),
        ("- from_epochs: 9\n  set: {schedule: {epochs: 8}}", 2, "0.set.schedule.epochs: is the length itself, so"),
        ("- from_epochs: 9\n  set: {trains: student}", 2, "0.set.trains: describes the recipe, so a rule cannot"),
        ("- from_epochs: 9\n  set: {view: {normalize: dataset}}", 2, "0.set.view.normalize: is needed before"),
        ("- from_epochs: 9\n  set: {guide: {terms: []}}", 2, "0.set.guide: adds a guide to a recipe without"),
        ("- from_epochs: 9\n  set: {by_length: null}", 2, "0.set.by_length: would change the rules themselves"),
        ("- from_epochs: 9\n  set: {}", 2, "0.set: must have at least 1 entr"),
        ("- from_epochs: 0\n  set: {drop_path: 0.1}", 1, "0.from_epochs: must be > 0 (got 0"),
        ("- set: {drop_path: 0.1}", 1, "0.from_epochs: this key is required"),
        (
            "- from_epochs: 9\n  set: {drop_path: 0.1}\n- from_epochs: 9\n  set: {drop_path: 0.2}",
            3,
            "1.from_epochs: must be > 9, the bound of the rule before; list the rules by length (got 9",
        ),
    ],
)
def test_a_mistake_in_a_rule_is_refused_with_its_place(rules: str, line: int, words: str) -> None:
    before = text("").count("\n") + 1
    with pytest.raises(RecipeError) as refused:
        parse_recipe(text("by_length:\n" + rules), "mine.yaml")
    assert f"mine.yaml:{before + line}  by_length.{words}" in str(refused.value)


def test_the_mistakes_of_all_rules_are_reported_at_once() -> None:
    rules = "by_length:\n- from_epochs: 1\n  set: {a: 1, trains: teacher}\n- from_epochs: 2\n  set: {drop_path: 2}\n"
    with pytest.raises(RecipeError, match="3 problems"):
        parse_recipe(text(rules))


def test_rules_are_checked_with_those_before_them() -> None:
    # A minimum above the recipe's peak is below that of the first rule.
    first, second = "{optimizer: {lr: 2}}", "{schedule: {min_lr: 1}}"
    both = f"by_length:\n- from_epochs: 1\n  set: {first}\n- from_epochs: 2\n  set: {second}\n"
    assert len(parse_recipe(text(both)).by_length) == 2
    with pytest.raises(RecipeError, match=r"by_length\.0\.set\.schedule\.min_lr: must be <= optimizer.lr"):
        apply_overrides(load_recipe("supervised"), ["by_length.0.from_epochs=1", f"by_length.0.set={second}"])


def test_a_rule_cannot_remove_the_guide_but_change_it() -> None:
    start = "by_length:\n- from_epochs: 1\n  set: "
    recipe = parse_recipe(text(start + "{guide: {teacher_bn: batch}, drop_path: 0.2}\n", "locality-guidance"))
    settled = apply_length_rules(recipe, recipe.by_length)
    assert settled.guide.teacher_bn == "batch" and settled.guide.terms == recipe.guide.terms
    alone = without_teacher(recipe)
    assert alone.guide is None and [rule.set for rule in alone.by_length] == [{"drop_path": 0.2}]
    only = parse_recipe(text(start + "{guide: {teacher_bn: batch}}\n", "locality-guidance"))
    assert without_teacher(only).by_length is None
    with pytest.raises(RecipeError, match="removes the guide; a rule can only change its settings"):
        parse_recipe(text(start + "{guide: null}\n", "locality-guidance"))


def test_the_rules_are_put_into_words_without_what_the_user_has_set() -> None:
    recipe = parse_recipe(text())
    assert in_words(reached(recipe, 5), 5) is None
    assert in_words(reached(recipe, 50), 50) == (
        "the recipe sets for a training of 50 epochs: mix.cutmix=0.5 (from 12 epochs); "
        "view.rand_augment=rand-m9-mstd0.5-inc1, ema.decay=0.01 (from 40 epochs)"
    )
    assert in_words(reached(recipe, 50), 50, ["mix", "ema.decay"]) == (
        "the recipe sets for a training of 50 epochs: view.rand_augment=rand-m9-mstd0.5-inc1 (from 40 epochs)"
    )


def test_the_rules_are_shown_key_by_key_and_as_yaml(tmp_path, capsys) -> None:
    rows = {row.path: row for row in explain(parse_recipe(text()))}
    shown = rows["by_length.1.set.view.rand_augment"]
    assert shown.default == "rand-m9-mstd0.5-inc1" and shown.description == rows["view.rand_augment"].description
    assert "by_length.0.set" not in rows and rows["by_length.0.set.mix.cutmix"].default == "0.5"
    file = tmp_path / "mine.yaml"
    file.write_text(text())
    assert run(["recipes", str(file)]) == 0
    assert parse_recipe(capsys.readouterr().out) == parse_recipe(text())
