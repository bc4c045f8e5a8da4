"""Losses of the user's own, in recipes: registered by a module of the user's, which no recipe can import."""

import sys
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

import lgkd
from lgkd.cli import run
from lgkd.config import apply_overrides, dump_recipe, explain, parse_recipe, registry
from lgkd.distillation.terms import make_loss
from lgkd.errors import InputError, RecipeError
from tests.support.recipes import recipe, terms_of
from tests.support.small import DISTILL, World


class Nearer(nn.Module):
    reads = "logits"

    def __init__(self, power: float, kind: str = "plain", *, careful: bool = False) -> None:
        super().__init__()
        if power < 0:
            raise ValueError("power below zero")
        self.power, self.kind, self.careful = power, kind, careful

    def forward(self, ours: Tensor, theirs: Tensor, targets: Tensor) -> Tensor:
        return (ours - theirs).abs().pow(self.power).mean()


pytestmark = pytest.mark.usefixtures("own_modules")


def own(**section: Any) -> dict[str, Any]:
    return {"kind": "own", "loss": "nearer", "options": {"power": 2.0}, **section}


def refusal(**section: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        recipe(own(**section))
    return str(caught.value)


def test_a_registered_loss_is_made_with_its_options_and_called_by_its_name() -> None:
    assert lgkd.register_term("nearer")(Nearer) is Nearer
    first, second = terms_of(
        recipe(own(options={"power": 2, "careful": True, "kind": "odd"}), own(name="mine", weight=3))
    )
    loss = make_loss(first)
    assert isinstance(loss, Nearer) and (loss.power, loss.kind, loss.careful) == (2, "odd", True)
    assert (first.title, second.title, second.weight) == ("nearer", "mine", 3)


def test_such_a_recipe_is_written_changed_and_explained_like_any_other() -> None:
    lgkd.register_term("nearer")(Nearer)
    one = recipe(own())
    assert parse_recipe(dump_recipe(one)) == one and hash(one) == hash(parse_recipe(dump_recipe(one)))
    changed = apply_overrides(one, ["guide.terms.0.options.power=3", "guide.terms.0.options.careful=true"])
    (term,) = terms_of(changed)
    assert term.options == {"power": 3, "careful": True} and terms_of(one)[0].options == {"power": 2.0}
    with pytest.raises(TypeError, match="frozen"):
        term.options["power"] = 4
    rows = {row.path: row for row in explain(one)}
    assert rows["guide.terms.0.options"].default == "{'power': 2.0}"
    assert rows["guide.terms.0.options"].type == "section"


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"options": {"power": 1, "kid": "a"}}, "options.kid: Nearer has no such option; did you mean 'kind'? (got"),
        ({"options": {}}, "options: Nearer needs the option 'power'; add it"),
        ({"options": {"power": [1]}}, "options.power: must be a number, text, true, false or null"),
        ({"options": 3}, "options: must be a section of keys (got 3)"),
        ({"loss": "neaer"}, "loss: no loss is registered as 'neaer' (did you mean 'nearer'?); import the module"),
        ({"power": 2}, "power: unknown key"),
    ],
)
def test_what_the_loss_does_not_take_is_told_where_it_stands(section: dict[str, Any], words: str) -> None:
    lgkd.register_term("nearer")(Nearer)
    text = refusal(**section)
    assert f"guide.terms.0.{words}" in text and text.count("guide.terms") == 1


def test_without_its_module_a_recipe_says_what_to_do_and_imports_nothing() -> None:
    text = refusal(loss="os")
    assert (
        "no loss is registered as 'os' (nothing is registered); import the module that registers it, with --use" in text
    )


def test_a_loss_that_cannot_be_made_says_so() -> None:
    lgkd.register_term("nearer")(Nearer)
    with pytest.raises(InputError, match="nearer cannot be created with power=-1: ValueError: power below zero"):
        make_loss(terms_of(recipe(own(options={"power": -1})))[0])


def test_a_name_is_given_once_and_to_a_loss() -> None:
    lgkd.register_term("nearer")(Nearer)
    lgkd.register_term("nearer")(type("Nearer", (Nearer,), {"__module__": __name__}))  # its module was imported anew
    other = type("Other", (Nearer,), {"__module__": __name__})
    with pytest.raises(InputError, match=r"Other cannot be registered as 'nearer', the name of .*Nearer; choose"):
        lgkd.register_term("nearer")(other)
    with pytest.raises(InputError, match="Linear cannot be registered as 'line'; expected a class with the attribute"):
        lgkd.register_term("line")(nn.Linear)
    with pytest.raises(InputError, match="a term cannot be registered as 'a b'; expected 1 to 40 letters"):
        lgkd.register_term("a b")(Nearer)


MODULE = """
import lgkd
from torch import nn

@lgkd.register_term("apart")
class Apart(nn.Module):
    reads = "logits"

    def __init__(self, power=2.0):
        super().__init__()
        self.power = power

    def forward(self, ours, theirs, targets):
        return (ours - theirs).abs().pow(self.power).mean()
"""


def test_a_command_imports_what_use_names_and_resume_asks_for_it_again(
    world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "my_terms.py").write_text(MODULE)
    (here / "broken_terms.py").write_text("1 / 0")
    asked = [*DISTILL, "--dataset", str(world.pictures), "--out", str(here / "run")]
    term = ["--set", "guide.terms=[{kind: own, loss: apart, options: {power: 1.0}}, {kind: locality}]"]
    assert run([*asked, *term]) == 2
    assert "no loss is registered as 'apart'" in capsys.readouterr().err
    assert run([*asked, *term, "--use", "broken_terms"]) == 2
    error = capsys.readouterr().err.strip()
    assert "--use broken_terms: the module cannot be imported (ZeroDivisionError: division by zero)" in error
    assert "\n" not in error
    assert run([*asked, *term, "--use", "my_terms", "--max-time", "0.001"]) == 75
    registry._REGISTERED.clear()
    sys.modules.pop("my_terms")
    assert run(["resume", str(here / "run")]) == 2
    assert "import the module that registers it, with --use" in capsys.readouterr().err
    assert run(["recipes", str(here / "run" / "recipe.yaml"), "--use", "my_terms"]) == 0
    assert "apart" in capsys.readouterr().out
    assert run(["resume", str(here / "run"), "--use", "my_terms", "--quiet"]) == 0
    assert {"loss_apart", "loss_guidance_linear"} <= lgkd.load_run(here / "run").metrics[-1].keys()
