"""Recipes as text: read strictly, refused with every mistake and its line, written back exactly."""

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lgkd._internal.paths import recipe_names, recipes_folder
from lgkd.config import Recipe, dump_recipe, load_recipe, parse_recipe, recipe_from
from lgkd.config.yaml_io import read_yaml, write_yaml
from lgkd.errors import RecipeError

GOOD = """\
about: A test.
trains: student
optimizer:
  name: adamw
  lr: 1e-3
  weight_decay: 0.05
schedule: {epochs: 10, warmup_epochs: 2}
batch_size: 12
guide:
  terms:
    - {kind: locality, weight: 2.5}
"""


def refusal(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "my.yaml")
    return str(caught.value)


def test_the_example_is_read_as_written() -> None:
    recipe = parse_recipe(GOOD)
    assert recipe.optimizer.lr == 0.001
    assert recipe.schedule.warmup_epochs == 2
    assert recipe.guide is not None and recipe.guide.terms[0].weight == 2.5


def test_all_mistakes_are_told_at_once_each_with_its_line_and_value() -> None:
    text = GOOD.replace("  lr: 1e-3", "  lr: 1e-3\n  lrr: 3").replace("weight: 2.5", "weight: -1")
    assert refusal(text) == (
        "my.yaml: 2 problems\n"
        "  my.yaml:6  optimizer.lrr: unknown key (got 3); did you mean 'lr'?\n"
        "  my.yaml:12  guide.terms.0.weight: must be >= 0 (got -1)"
    )


def test_a_single_mistake_is_one_problem() -> None:
    assert refusal(GOOD.replace("trains: student", "trains: pupil")).startswith("my.yaml: 1 problem\n")


def test_a_mistyped_key_names_the_closest_one() -> None:
    assert "my.yaml:8  batchsize: unknown key (got 12); did you mean 'batch_size'?" in refusal(
        GOOD.replace("batch_size", "batchsize")
    )


def test_a_missing_key_is_placed_at_the_section_that_lacks_it() -> None:
    text = refusal(GOOD.replace("  name: adamw\n", ""))
    assert "my.yaml:3  optimizer.name: this key is required" in text
    assert "my.yaml:1  trains: this key is required" in refusal(GOOD.replace("trains: student\n", ""))


def test_a_repeated_key_is_refused_with_both_lines_beside_other_mistakes() -> None:
    text = refusal(GOOD + "batch_size: 24\nview: {flip: 3}\n")
    assert "my.yaml:12  batch_size: this key is already on line 8; keep one of the two" in text
    assert "my.yaml:13  view.flip: must be <= 1 (got 3)" in text


def test_a_list_entry_on_its_own_line_is_found_there() -> None:
    text = GOOD.replace("{kind: locality, weight: 2.5}", "kind: locality\n    - kind: locality\n      weight: x")
    assert "my.yaml:13  guide.terms.1.weight: must be a number (got 'x')" in refusal(text)


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "y", "n", "Yes", "NO"])
def test_only_true_and_false_are_booleans(word: str) -> None:
    assert read_yaml(f"a: {word}\n{word}: 1").values == {"a": word, word: 1}
    assert f"drop_last: must be true or false (got '{word}')" in refusal(GOOD + f"drop_last: {word}\n")


@pytest.mark.parametrize(
    "word", ["010", "0o10", "0x1F", "0b11", "1:30", "190:20:30", "1_000", ".inf", ".nan", "2001-01-01"]
)
def test_what_looks_like_a_number_only_to_some_readers_stays_text(word: str) -> None:
    assert read_yaml(f"a: {word}").values == {"a": word}
    assert f"batch_size: must be a whole number (got '{word}')" in refusal(GOOD.replace("12", word))


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("7", 7),
        ("-7", -7),
        ("+7", 7),
        ("0", 0),
        ("1e-3", 0.001),
        ("1.5", 1.5),
        ("5.", 5.0),
        (".5", 0.5),
        ("-1.5E+2", -150.0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'7'", "7"),
        ('"true"', "true"),
    ],
)
def test_plain_values_have_their_plain_meaning(word: str, value: Any) -> None:
    read = read_yaml(f"a: {word}").values["a"]
    assert read == value and type(read) is type(value)


def test_ordinary_yaml_is_read_as_by_the_common_reader() -> None:
    text = "a: {b: [1, 2.5, x], c: 'q: r'}\nd:\n  - e\n  - f: >-\n      two\n      lines\n"
    text += "  - null\ng: |\n  kept\n"
    assert read_yaml(text).values == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x 1\nb: *x", "my.yaml:1  not readable: anchors and aliases (& and *) are not allowed"),
        ("about: x\nb: *x", "my.yaml:2  not readable: anchors and aliases (& and *) are not allowed"),
        (
            "about: !!python/object/apply:os.system ['true']",
            "my.yaml:1  not readable: tags (!) are not allowed",
        ),
        ("about: x\nbatch_size: !!int '3'", "my.yaml:2  not readable: tags (!) are not allowed"),
        ("about: ! x", "tags (!) are not allowed"),
        ("a: b: c", "my.yaml:1  not readable: mapping values are not allowed here"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("about: x\na: [1, 2", "my.yaml:2  not readable: while parsing a flow sequence"),
        ("about: x\na: \x07", "my.yaml:2  not readable: special characters are not allowed"),
        ('a: "\\UFFFFFFFF"', "my.yaml: 1 problem\n  not readable:"),
        ("", "my.yaml:1  is empty; a recipe is a list of keys and their values"),
        ("# nothing\n", "my.yaml:1  is empty"),
        ("- a\n- b", "my.yaml:1  must be a list of keys and their values (got ['a', 'b'])"),
        ("just words", "must be a list of keys and their values (got 'just words')"),
        ("[1]: 2", "my.yaml:1  a key must be a plain word"),
        ("about: x\n? {a: b}\n: 3", "my.yaml:2  a key must be a plain word"),
        ("<<: {a: 1}", "<<: unknown key"),
        ("a: " + "[" * 30 + "]" * 30, "my.yaml:1  not readable: nested deeper than 20 levels"),
        ("a:\n" + "  - 1\n" * 10_000, "my.yaml:9999  not readable: more than 10,000 keys and values"),
        ("a: '" + "x" * 1_000_001 + "'", "longer than 1,000,000 bytes"),
        ("a: " + "9" * 5000, "a: unknown key (got inf)"),
    ],
)
def test_what_a_recipe_may_not_hold_is_refused_in_words(text: str, words: str) -> None:
    assert words in refusal(text)


def test_a_tower_of_aliases_is_refused_at_its_first_stone() -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    assert "my.yaml:1  not readable: anchors and aliases" in refusal(bomb)


def test_a_wall_of_mistakes_is_cut_short() -> None:
    text = refusal(GOOD + "".join(f"wrong{i}: 1\n" for i in range(80)))
    assert text.startswith("my.yaml: 80 problems\n")
    assert text.endswith("... and 30 more")


def test_values_and_keys_cannot_bring_terminal_codes_into_a_message() -> None:
    text = refusal(GOOD + '"\\e[31mred": "\\e[2J"\n')
    assert "\x1b" not in text and "\\x1b[31mred: unknown key" in text


def test_a_long_value_is_shortened_in_the_message() -> None:
    assert max(len(line) for line in refusal(GOOD + f"trains2: {'x' * 5000}\n").splitlines()) < 200


def test_a_name_finds_a_shipped_recipe_and_a_path_the_same_file() -> None:
    by_name = load_recipe("locality-guidance")
    file = recipes_folder() / "locality-guidance.yaml"
    assert by_name == load_recipe(file) == load_recipe(str(file)) == parse_recipe(file.read_text("utf-8"))


def test_an_unknown_name_lists_the_known_ones_and_the_closest() -> None:
    with pytest.raises(
        RecipeError, match="there is no recipe 'localty-guidance'; did you mean 'locality-guidance'"
    ) as caught:
        load_recipe("localty-guidance")
    assert all(name in str(caught.value) for name in recipe_names())
    with pytest.raises(RecipeError, match=r"give one of the names below, or a \.yaml file\. Recipes: adaptive-"):
        load_recipe("zzzz")


@pytest.mark.parametrize("name", ["nowhere.yaml", "nowhere.yml", "\0.yaml", ""])
def test_a_file_that_is_not_there_is_a_recipe_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"cannot be read|there is no recipe"):
        load_recipe(name)


def test_a_folder_is_not_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path)


def test_an_existing_file_needs_no_yaml_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").write_text(GOOD)
    assert load_recipe("mine") == parse_recipe(GOOD)


def test_a_shipped_name_goes_before_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("teacher").write_text(GOOD)
    assert load_recipe("teacher").trains == "teacher"


def test_files_from_other_editors_are_read(tmp_path: Path) -> None:
    file = tmp_path / "windows.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_recipe(file) == parse_recipe(GOOD)


def test_a_file_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"trains: student\nabout: Gr\xfc\xdfe\n")
    with pytest.raises(RecipeError, match=r"latin\.yaml:2  not UTF-8 text"):
        load_recipe(file)
    file.write_bytes(GOOD.encode("utf-16"))
    with pytest.raises(RecipeError, match="not UTF-8 text"):
        load_recipe(file)


def test_a_huge_file_is_refused_without_being_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "huge.yaml"
    with file.open("wb") as stream:
        stream.truncate(10**12)  # sparse: takes no room on the disk
    with pytest.raises(RecipeError, match=r"longer than 1,000,000 bytes"):
        load_recipe(file)


def test_a_text_that_is_read_again_shares_nothing_with_the_first_reading() -> None:
    text = "view: {image_size: [32, 32]}\nbatch_size: 8, 9\nbatch_size: 8\n"
    first = read_yaml(text)
    first.values["view"]["image_size"].append(1)
    first.problems.clear()
    first.lines.clear()
    again = read_yaml(text)
    assert again.values["view"] == {"image_size": [32, 32]}
    assert len(again.problems) == 1 and again.lines["view",] == 1


def test_plain_values_read_back_equal() -> None:
    values = {
        "a": [
            "yes",
            "1e-3",
            "010",
            "null",
            "~",
            "",
            "true",
            "1:30",
            "=",
            "<<",
            "a: b",
            "# c",
            " d ",
            "ü\u2028x",
        ]
    }
    assert read_yaml(write_yaml(values)).values == values
    assert yaml.safe_load(write_yaml(values)) == values


def numbers(low: float, high: float, **kwargs: Any) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, **kwargs)


def pairs(low: float, high: float) -> st.SearchStrategy[list[float]]:
    return st.lists(numbers(low, high), min_size=2, max_size=2).map(sorted)


lines = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=40)
choice = st.sampled_from
sections = st.fixed_dictionaries(
    {
        "about": lines,
        "trains": st.just("student"),
        "optimizer": st.fixed_dictionaries(
            {"name": choice(["adamw", "sgd"]), "lr": numbers(1e-300, 100), "weight_decay": numbers(0, 10)},
            optional={"betas": pairs(0, 0.999), "nesterov": st.just(False), "eps": numbers(1e-30, 1)},
        ),
        "schedule": st.fixed_dictionaries(
            {"epochs": st.integers(2, 10**6)},
            optional={"warmup_epochs": numbers(0, 1.5), "stepped": choice(["epoch", "step"])},
        ),
        "batch_size": st.integers(1, 10**6),
    },
    optional={
        "source": st.none() | lines,
        "view": st.fixed_dictionaries(
            {},
            optional={
                "scale": pairs(0.001, 1),
                "image_size": st.none() | st.integers(8, 4096),
                "flip": numbers(0, 1),
            },
        ),
        "clip_norm": st.none() | numbers(1e-9, 1e6),
        "ema": st.none() | st.fixed_dictionaries({"decay": numbers(0, 0.9999), "warmup": st.booleans()}),
        "guide": st.fixed_dictionaries(
            {
                "terms": st.lists(
                    st.fixed_dictionaries({"kind": st.just("locality"), "weight": numbers(0, 1e6)}),
                    min_size=1,
                    max_size=3,
                )
            }
        ),
    },
)


@settings(max_examples=100, deadline=None)
@given(sections)
def test_a_dumped_recipe_reads_back_equal_and_complete(values: dict[str, Any]) -> None:
    recipe = recipe_from(values)
    text = dump_recipe(recipe)
    assert parse_recipe(text) == recipe
    assert dump_recipe(parse_recipe(text)) == text
    # A recipe without rules is written as before there were any.
    assert set(yaml.safe_load(text)) == set(Recipe.model_fields) - {"by_length"}


scraps = choice(
    [
        *("&a", "*a", "!!int", "!x", "{", "}", "[", "]", "'", '"', "|", ">", "#", "---", "...", "<<"),
        *("null", "nan", "-1", "1e999", "true", "é"),
        *("- ", "? ", ": ", "%YAML 9.9", "9" * 400, '"\\ud800"', "\\U99999999"),
        *("\t", "\n", "  ", "\ufeff", "\x00", "\x85", "\ud800"),
    ]
)


@settings(max_examples=250, deadline=None)
@given(
    choice(sorted(recipe_names())),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 30), scraps), min_size=1, max_size=4),
)
def test_a_damaged_text_gives_a_recipe_or_a_recipe_error(name: str, cuts: list[tuple[int, int, str]]) -> None:
    # Without its comments, so that damage meets something that counts.
    text = dump_recipe(load_recipe(name))
    for at, length, scrap in cuts:
        start = at % len(text)
        text = text[:start] + scrap + text[start + length :]
    try:
        recipe = parse_recipe(text, "damaged.yaml")
    except RecipeError as error:
        assert "\n" in str(error) and str(error).startswith("damaged.yaml: ")
        str(error).encode()
    else:
        assert parse_recipe(dump_recipe(recipe)) == recipe


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1e-3", "locality", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=250, deadline=None)
@given(choice(sorted(recipe_names())), anything, anything, st.randoms(use_true_random=False))
def test_any_value_in_any_place_gives_a_recipe_or_a_recipe_error(
    name: str, first: Any, second: Any, chance: random.Random
) -> None:
    values = load_recipe(name).model_dump(mode="json")
    for value in (first, second):
        here: Any = values
        while True:
            key = chance.choice([*here, "new"]) if isinstance(here, dict) else chance.randrange(len(here))
            deeper = here.get(key) if isinstance(here, dict) else here[key]
            if isinstance(deeper, dict | list) and deeper and chance.random() < 0.8:
                here = deeper
            else:
                here[key] = value
                break
    try:
        recipe = recipe_from(values, "changed")
    except RecipeError as error:
        str(error).encode()
    else:
        assert parse_recipe(dump_recipe(recipe)) == recipe
