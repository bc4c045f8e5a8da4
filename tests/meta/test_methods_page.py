"""docs/methods.md is what the code says, and the example in it works as it stands."""

import re
from pathlib import Path

import pytest

import lgkd
from lgkd.cli import run
from lgkd.config import dump_recipe, load_recipe
from lgkd.losses import TERMS
from tests.support.small import DISTILL, World
from tools.methods_page import PAGE, generated

TEXT = PAGE.read_text(encoding="utf-8")


def test_tables_and_descriptions_are_those_of_the_code() -> None:
    assert generated(TEXT) == TEXT, "run python -m tools.methods_page"


def test_every_kind_is_described_and_was_measured() -> None:
    full, costs = TEXT.partition("## Every term in full")[2], TEXT.partition("<!-- costs -->")[2]
    for kind in TERMS:
        assert f"### {kind}\n" in full and f"| {kind} | " in costs.partition("<!-- end")[0]
        one = full.partition(f"### {kind}\n")[2].partition("### ")[0]
        assert "Source" in one and "| `weight` |" in one, f"{kind} says neither whence it comes nor what it weighs"


def test_every_recipe_that_the_page_names_is_there() -> None:
    for name in re.findall(r"--recipe ([a-z-]+)(?=\s)", TEXT):
        assert load_recipe(name).trains == "student"


@pytest.mark.usefixtures("own_modules")
def test_the_term_of_ones_own_works_as_it_stands(world: World, here: Path) -> None:
    example = TEXT.partition("<!-- own term -->")[2].partition("<!-- end of own term -->")[0]
    code, section = (re.search(rf"```{kind}\n(.*?)```", example, re.DOTALL)[1] for kind in ("python", "yaml"))
    (here / "my_terms.py").write_text(code)
    plain = dump_recipe(load_recipe("supervised"))
    assert "guide: null\n" in plain
    (here / "mine.yaml").write_text(plain.replace("guide: null\n", section))
    asked = [*DISTILL, "--dataset", str(world.pictures), "--recipe", "mine.yaml", "--use", "my_terms", "--epochs", "1"]
    assert run([*asked, "--out", "run"]) == 0
    row = lgkd.load_run("run").metrics[-1]
    assert row["loss_cosine"] >= 0
    assert row["loss"] == pytest.approx(row["loss_classification"] + 2 * row["loss_cosine"], rel=1e-5)
