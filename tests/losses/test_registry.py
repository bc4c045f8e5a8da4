"""Losses of lgkd register themselves: options from the signature, checked on every call, and written for recipes."""

import json
from typing import Annotated, Any, Literal

import pytest
from torch import Tensor, nn

import lgkd.losses
from lgkd.errors import InputError
from lgkd.losses import KD, TERMS
from lgkd.losses.registry import TERMS as REGISTERED
from lgkd.losses.registry import Bounds, Factor, OnlyWith, options_of, register_loss, registration
from tools import loss_table

SAMPLE_KIND = "sample"


@pytest.fixture
def sample() -> Any:
    """A loss with an option of every type, registered for one test."""

    @register_loss(SAMPLE_KIND, weight=3.0, weight_help="Multiplies nothing.")
    class Sample(nn.Module):
        """A sample.

        Args:
            scale: Multiplies
                the loss.
            steps: Steps of it.
            careful: true: slower.
            form: One of two.
            extra: Only for round ones.

        Raises:
            InputError: never.
        """

        reads = "logits"

        def __init__(
            self,
            scale: Factor = 1.0,
            steps: Annotated[int, Bounds(ge=1, le=10)] = 2,
            careful: bool = False,
            *,
            form: Literal["round", "square"] = "round",
            extra: Annotated[float, Bounds(gt=0, le=1), OnlyWith("form", "round")] = 0.5,
        ) -> None:
            super().__init__()
            self.got = (scale, steps, careful, form, extra)

        def forward(self, student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
            return (student - teacher).mean()

    yield Sample
    del REGISTERED[SAMPLE_KIND]


def test_the_table_and_the_names_for_type_checkers_are_those_of_the_code() -> None:
    text = loss_table.TABLE.read_text(encoding="utf-8")
    assert loss_table.table(text) == text, "run python -m tools.loss_table"
    assert loss_table.STUB.read_text(encoding="utf-8") == loss_table.stub(), "run python -m tools.loss_table"
    assert json.loads(text).keys() == TERMS.keys()
    page = loss_table.REFERENCE.read_text(encoding="utf-8")
    assert loss_table.reference(page, json.loads(text)) == page, "run python -m tools.loss_table"


def test_every_loss_is_a_name_of_the_package() -> None:
    assert {loss.__name__ for loss in TERMS.values()} | {"TERMS"} == set(lgkd.losses.__all__)
    for loss in TERMS.values():
        assert getattr(lgkd.losses, loss.__name__) is loss and loss.__module__.startswith("lgkd.losses.")


def test_a_new_loss_comes_last_in_the_table_with_all_that_its_signature_says(sample: type[nn.Module]) -> None:
    before = loss_table.TABLE.read_text(encoding="utf-8")
    after = json.loads(loss_table.table(before))
    assert list(after) == [*json.loads(before), SAMPLE_KIND]
    assert {kind: entry for kind, entry in after.items() if kind != SAMPLE_KIND} == json.loads(before)
    assert after[SAMPLE_KIND] == {
        "loss": f"{__name__}:Sample",
        "summary": "A sample.",
        "reads": "logits",
        "weight": 3.0,
        "weight_help": "Multiplies nothing.",
        "options": {
            "scale": {"type": "number", "ge": 0, "le": 1_000_000, "default": 1.0, "help": "Multiplies the loss."},
            "steps": {"type": "whole", "ge": 1, "le": 10, "default": 2, "help": "Steps of it."},
            "careful": {"type": "switch", "default": False, "help": "true: slower."},
            "form": {"choices": ["round", "square"], "default": "round", "help": "One of two."},
            "extra": {
                "type": "number",
                "gt": 0,
                "le": 1,
                "default": 0.5,
                "only_with": ["form", "round"],
                "help": "Only for round ones.",
            },
        },
    }


def test_arguments_are_checked_and_handed_on(sample: Any) -> None:
    assert sample().got == (1.0, 2, False, "round", 0.5)
    made = sample(3, 4, True, form="round", extra=1)
    assert made.got == (3.0, 4, True, "round", 1.0) and isinstance(made.got[0], float)
    assert sample(form="square", extra=0.5).got[3:] == ("square", 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": -1}, "Sample: scale is -1, expected a number >= 0 and <= 1e+06"),
        ({"steps": 2.0}, "Sample: steps is 2.0, expected a whole number >= 1 and <= 10"),
        ({"steps": float("nan")}, "Sample: steps is nan, expected a whole number >= 1 and <= 10"),
        ({"careful": 1}, "Sample: careful is 1, expected True or False"),
        ({"form": "rund"}, "Sample: unknown form 'rund'; did you mean 'round'?"),
        ({"extra": 0}, "Sample: extra is 0, expected a number > 0 and <= 1"),
        (
            {"form": "square", "extra": 1},
            "Sample: extra is 1.0 and form 'square'; leave extra at 0.5, or set form to 'round'",
        ),
    ],
)
def test_an_option_out_of_range_is_refused(sample: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        sample(**options)
    assert str(refused.value) == message


def test_a_class_derived_from_a_loss_is_checked_by_its_own_name_and_has_no_entry(sample: Any) -> None:
    class Mine(KD):
        pass

    with pytest.raises(InputError, match="Mine: temperature is 0, expected a number > 0"):
        Mine(0)
    assert registration(Mine) is None and registration(KD) is not None
    assert registration(sample) is not None and registration(nn.Linear) is None


@pytest.mark.parametrize("hint", [str, float, Annotated[str, "any"], list[float]])
def test_an_option_that_a_recipe_could_not_write_is_refused_where_it_is_declared(hint: Any) -> None:
    class Wrong(nn.Module):
        """Wrong.

        Args:
            option: An option.
        """

        def __init__(self, option: Any = 1.0) -> None:
            super().__init__()

    Wrong.__init__.__annotations__["option"] = hint
    with pytest.raises(TypeError, match=r"option option of Wrong needs a default, a line in the docstring's Args, and"):
        options_of(Wrong)


def test_an_option_without_default_or_description_is_refused() -> None:
    class Silent(nn.Module):
        """No word of it."""

        def __init__(self, careful: bool = True) -> None:
            super().__init__()

    class Needed(nn.Module):
        """Needed.

        Args:
            careful: true: slower.
        """

        def __init__(self, careful: bool) -> None:
            super().__init__()

    for wrong in (Silent, Needed):
        with pytest.raises(TypeError, match=f"option careful of {wrong.__name__} needs a default"):
            options_of(wrong)


def test_a_range_has_one_lower_bound() -> None:
    assert 0 not in Bounds(gt=0, le=1) and 0 in Bounds(ge=0, le=1) and 1 in Bounds(gt=0, le=1)
    assert -1 in Bounds(ge=-2, le=1) and 2 not in Bounds(ge=-2, le=1)
    assert repr(Bounds(gt=0, le=1e-3)) == "Bounds(gt=0, le=0.001)" and repr(Bounds(ge=1, le=9)) == "Bounds(ge=1, le=9)"
    for lower in ({}, {"gt": 0, "ge": 0}):
        with pytest.raises(TypeError, match="one lower bound"):
            Bounds(le=1, **lower)


def test_a_kind_is_given_once() -> None:
    with pytest.raises(TypeError, match="Linear is registered as 'kd', which KD is; choose another name"):
        register_loss("kd", weight=1.0, weight_help="Multiplies it.")(nn.Linear)
    assert TERMS["kd"] is KD
