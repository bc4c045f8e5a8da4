"""Single values changed by name: `--set a.b=c`."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgkd.config import Recipe, apply_overrides, dump_recipe, explain, load_recipe, parse_recipe
from lgkd.errors import RecipeError
from lgkd.runner.resolve import resolve_recipe

GUIDED = load_recipe("locality-guidance")
PLAIN = load_recipe("supervised")


def refusal(*assignments: str, recipe: Recipe = GUIDED) -> str:
    with pytest.raises(RecipeError) as caught:
        apply_overrides(recipe, list(assignments))
    return str(caught.value)


def only_difference(changed: Recipe, path: str, value: Any) -> None:
    """The recipe is the guided one but for one value; checked on plain dictionaries."""
    expected = GUIDED.model_dump(mode="json")
    here: Any = expected
    *outer, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in outer:
        here = here[part]
    here[last] = value
    assert changed.model_dump(mode="json") == expected


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("optimizer.lr=3e-4", "optimizer.lr", 0.0003),
        (" optimizer.lr = 0.1 ", "optimizer.lr", 0.1),
        ("guide.terms.0.weight=1", "guide.terms.0.weight", 1.0),
        ("view.scale.0=0.5", "view.scale", [0.5, 1.0]),
        ("view.scale=[0.2, 0.9]", "view.scale", [0.2, 0.9]),
        ("view.image_size=64", "view.image_size", 64),
        ("view.image_size=[64, 128]", "view.image_size", [64, 128]),
        ("view.image_size=160x320", "view.image_size", [160, 320]),
        ("view.image_size=96x96", "view.image_size", 96),
        ("view.channels=1", "view.channels", 1),
        ("view.rand_augment=null", "view.rand_augment", None),
        ("ema={decay: 0.99}", "ema", {"decay": 0.99, "warmup": True}),
        ("drop_last=false", "drop_last", False),
        ("about=a = b", "about", "a = b"),
        ("guide=null", "guide", None),
    ],
)
def test_one_value_changes_and_nothing_else(assignment: str, path: str, value: Any) -> None:
    only_difference(apply_overrides(GUIDED, [assignment]), path, value)


@pytest.mark.parametrize(
    ("assignment", "found"),
    [
        (
            "view.image_size=[4, 64]",
            r"must be a side, or \[height, width\], in pixels from 8 to 4,096 \(got \[4, 64\]\)",
        ),
        ("view.image_size=64x", r"must be a whole number, or \[height, width\] like .* \(got '64x'\)"),
        ("view.image_size=5000", r"must be <= 4,096 \(got 5000\)"),
        ("view.image_size.0=64", r"is a single value and has no key '0'"),
        ("view.channels=2", r"must be 1 or 3 \(got 2\)"),
    ],
)
def test_a_size_or_channels_out_of_range_are_refused(assignment: str, found: str) -> None:
    with pytest.raises(RecipeError, match=found):
        apply_overrides(GUIDED, [assignment])


def test_no_assignment_changes_nothing_and_the_recipe_given_stays_as_it_was() -> None:
    before = dump_recipe(GUIDED)
    assert apply_overrides(GUIDED, []) == GUIDED
    apply_overrides(GUIDED, ["batch_size=64", "guide.terms.0.weight=0"])
    assert dump_recipe(GUIDED) == before


def test_an_override_does_what_editing_the_file_does() -> None:
    edited = dump_recipe(GUIDED).replace("epochs: 300", "epochs: 200").replace("weight: 2.5", "weight: 1e-2")
    assert apply_overrides(GUIDED, ["schedule.epochs=200", "guide.terms.0.weight=1e-2"]) == parse_recipe(edited)


def test_a_key_below_null_makes_the_section() -> None:
    ema = apply_overrides(GUIDED, ["ema.decay=0.999"]).ema
    assert ema is not None and (ema.decay, ema.warmup) == (0.999, True)


def test_a_guide_can_be_built_key_by_key() -> None:
    guided = apply_overrides(PLAIN, ["guide.terms.0.kind=locality", "guide.terms.0.weight=2.5"])
    assert guided.guide == GUIDED.guide
    two = apply_overrides(guided, ["guide.terms.1={kind: locality, transform: attention, name: second}"])
    assert two.guide is not None and [term.transform for term in two.guide.terms] == ["linear", "attention"]


def test_of_two_values_for_one_key_the_later_holds() -> None:
    assert apply_overrides(GUIDED, ["batch_size=64", "batch_size=32"]).batch_size == 32


def test_values_that_depend_on_each_other_may_come_in_any_order() -> None:
    for order in (
        ["schedule.epochs=5", "schedule.warmup_epochs=1"],
        ["schedule.warmup_epochs=1", "schedule.epochs=5"],
    ):
        assert apply_overrides(GUIDED, order).schedule.epochs == 5
    assert (
        "schedule.warmup_epochs: must be less than schedule.epochs (5); change either of the two (got 20.0)"
        in refusal("schedule.epochs=5")
    )


def test_all_mistakes_are_told_at_once() -> None:
    assert refusal("optimizer.lrr=3", "batch_size=many", "guide.terms.0.weight=-1", "drop_last") == (
        "--set: 4 problems\n"
        "  'drop_last' has no '='; write NAME=VALUE, like optimizer.lr=3e-4\n"
        "  batch_size: must be a whole number (got 'many')\n"
        "  guide.terms.0.weight: must be >= 0 (got -1)\n"
        "  optimizer.lrr: unknown key (got 3); did you mean 'lr'?"
    )


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("optimzer.lr=1", "optimzer: unknown key (got 1); did you mean 'optimizer'?"),
        ("weight_decay=1", "weight_decay: unknown key (got 1); did you mean 'optimizer.weight_decay'?"),
        ("optimizer.lr.x=1", "optimizer.lr: is a single value and has no key 'x' (got 1)"),
        (
            "guide.terms.weight=1",
            "guide.terms: is a list; name an entry by its number, 0 to 1 (got 'weight')",
        ),
        ("guide.terms.7.weight=1", "guide.terms: is a list; name an entry by its number, 0 to 1 (got '7')"),
        ("guide.terms.-1.weight=1", "is a list; name an entry by its number"),
        ("guide.terms.1.weight=1", "guide.terms.1.kind: this key is required"),
        ("view.scale.2=1", "view.scale: is a list; name an entry by its number, 0 to 1 (got '2')"),
        ("optimizer.lr=", "optimizer.lr: nothing after '='; write null for none"),
        ("=3", "'=3' has no name before the '='"),
        ("optimizer.=3", "optimizer.: unknown key"),
        ("drop_last=yes", "drop_last: must be true or false (got 'yes')"),
        ("batch_size=010", "batch_size: must be a whole number (got '010')"),
        ("optimizer=sgd", "optimizer: must be a section of keys (got 'sgd')"),
        ("optimizer={name: sgd, weight_decay: 0}", "optimizer.lr: this key is required"),
        ("batch_size=&a 3", "batch_size: not readable: anchors and aliases (& and *) are not allowed"),
        ("batch_size=!!int '3'", "batch_size: not readable: tags (!) are not allowed"),
        ("ema={decay: 0.9, decay: 0.8}", "ema.decay: this key is already on line 1"),
        ("ema={decay: 0.9", "ema: not readable:"),
        ("trains=teacher", "guide: must be null in a recipe that trains a teacher"),
        ("accumulate=3", "accumulate: must divide batch_size (128) without remainder (got 3)"),
    ],
)
def test_a_mistake_is_told_with_its_path_and_value(assignment: str, words: str) -> None:
    text = refusal(assignment)
    assert words in text
    assert text.startswith("--set: 1 problem"), text


def test_a_mistake_halfway_down_leaves_no_trace() -> None:
    text = refusal("guide.terms.0.wight=1", recipe=PLAIN)
    assert text.count("\n") == 1 and "guide.terms.0.wight: unknown key (got 1); did you mean 'weight'" in text


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([row.path for row in explain()]) | st.text(alphabet="abcemrp._0123456789", max_size=12),
    st.text(max_size=12) | st.sampled_from(["null", "1e-3", "[1]", "{}", "[{kind: locality}]", "9" * 400, '"\\ud800"']),
)
def test_any_assignment_gives_a_recipe_or_a_recipe_error(path: str, value: str) -> None:
    for recipe in (GUIDED, PLAIN):
        try:
            changed = apply_overrides(recipe, [f"{path}={value}"])
        except RecipeError as error:
            str(error).encode()
        else:
            assert parse_recipe(dump_recipe(changed)) == changed


def test_the_listing_shows_what_each_key_takes_and_its_default() -> None:
    rows = {row.path: row for row in explain()}
    assert rows["optimizer.lr"][1:3] == ("number > 0, <= 100", "required")
    assert rows["precision"][1:3] == ("auto or fp32 or bf16 or fp16", "auto")
    assert rows["clip_norm"][1:3] == ("number > 0, <= 1,000,000 or null", "null")
    assert rows["view.scale"][1:3] == ("two numbers", "[0.08, 1.0]")
    assert rows["drop_last"][1:3] == ("true or false", "true")
    assert rows["ema"][1:3] == ("section or null", "null")
    assert rows["ema.decay"].default == "0.9999"
    kinds = [row.type for row in explain() if row.path == "guide.terms.0.kind"]
    weights = [row.default for row in explain() if row.path == "guide.terms.0.weight"]
    assert (kinds[0], weights[0]) == ("locality", "2.5") and len(kinds) == len(weights) == len(set(kinds))


def test_the_listing_of_a_recipe_shows_its_own_values() -> None:
    rows = {row.path: row.default for row in explain(GUIDED)}
    assert rows["optimizer.lr"] == "0.0005"
    assert rows["guide.terms.0.transform"] == "linear"
    assert rows["ema"] == "null" and "ema.decay" not in rows
    assert rows["about"] == GUIDED.about
    assert "guide.terms.0.weight" not in {row.path for row in explain(PLAIN)}


def test_every_listed_path_of_a_recipe_can_be_set_to_its_listed_value() -> None:
    for row in explain(GUIDED):
        if row.default and row.path != "about":
            assert apply_overrides(GUIDED, [f"{row.path}={row.default}"]) == GUIDED, row


def test_a_problem_is_told_with_the_option_that_was_typed() -> None:
    overrides = ["optimizer.lr: 3", "ema.decay=2", "ema.foo.bar=1"]
    with pytest.raises(RecipeError) as caught:
        resolve_recipe(PLAIN, trains="student", guided=False, epochs=0, overrides=overrides)
    assert str(caught.value) == (
        "4 problems with the options\n"
        "  --set 'optimizer.lr: 3' has no '='; write NAME=VALUE, like optimizer.lr=3e-4\n"
        "  --set ema.decay: must be < 1 (got 2)\n"
        "  --set ema.foo: unknown key (got 1); known: decay, warmup\n"
        "  --epochs must be >= 1 (got 0)"
    )
