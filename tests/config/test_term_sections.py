"""Terms in a recipe: every loss has a section, every section makes its loss, with the same options and defaults."""

import inspect
from typing import Any

import pytest
from torch import nn

from lgkd.config import TermSection, dump_recipe, parse_recipe
from lgkd.config.terms import SECTIONS
from lgkd.distillation.terms import make_loss
from lgkd.errors import InputError
from lgkd.losses import TERMS
from tests.support.recipes import recipe, terms_of

# What papers and their authors' code set; None where no published weight is known, as for every loss not named here.
PUBLISHED = {
    "locality": 2.5,
    "blocks": 2.5,
    "hint": 100,
    "attention-transfer": 1000,
    "similarity-preserving": 3000,
    "review": 1,
    "kd": 0.9,
    "deit-hard": 0.5,
    "deit-soft": 0.1,
    "dkd": 1,
    "dist": 1,
    "standardized-kd": 9,
    "standardized-dkd": 9,
    "luminet": 33**2,
    "rkd": 1,
    "cc": None,
    "cross-correlation": None,
    "dense-kd": 1,
    "teacher-head": 1,
    "token-relations": 1,
    "dense-relative-localization": 0.5,
    "target-enhanced-kd": 1,
    "crd": 0.8,
    "attention-relations": 1,
    "early-exits": 1,
    "masked-images": 9,
}

CHANGED: dict[str, dict[str, Any]] = {
    "locality": {"transform": "linear", "normalize": "channel"},
    "blocks": {"normalize": "unit"},
    "hint": {"regressor": "norm"},
    "attention-transfer": {"p": 1.0},
    "kd": {"temperature": 2.0, "mean": "elements"},
    "deit-soft": {"temperature": 1.0, "mean": "elements"},
    "dkd": {"alpha": 2.0, "beta": 3.0, "temperature": 1.0},
    "dist": {"beta": 2.0, "gamma": 0.0, "temperature": 4.0},
    "luminet": {"temperature": 2.0},
    "rkd": {"distance_weight": 1.0, "angle_weight": 2.0},
    "cc": {"gamma": 1.0, "order": 3},
    "cross-correlation": {"kappa": 0.5, "expansion": 2},
    "dense-kd": {"target": "soft", "temperature": 2.0, "course": "cosine"},
    "teacher-head": {"features": 10.0, "projector": "linear"},
    "token-relations": {"temperature": 0.5, "grid": 8},
    "attention-relations": {"heads": 2},
}


def loss_of(kind: str, **options: Any) -> nn.Module:
    return make_loss(terms_of(recipe({"kind": kind, **options}))[0])


def test_every_loss_has_a_section_and_a_published_or_no_weight() -> None:
    assert SECTIONS.keys() == TERMS.keys() and list(SECTIONS)[: len(PUBLISHED)] == list(PUBLISHED)


@pytest.mark.parametrize("kind", TERMS)
def test_a_sections_keys_are_the_options_of_its_loss_with_the_same_defaults(kind: str) -> None:
    wanted = {
        name: parameter.default
        for name, parameter in inspect.signature(TERMS[kind]).parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    }
    fields = SECTIONS[kind].model_fields
    assert {name: fields[name].default for name in fields if name not in TermSection.model_fields} == wanted
    assert fields["weight"].default == (PUBLISHED.get(kind) or 1)


@pytest.mark.parametrize("kind", TERMS)
def test_the_smallest_section_makes_its_loss_and_survives_being_written(kind: str) -> None:
    one = recipe({"kind": kind})
    (term,) = terms_of(one)
    assert type(make_loss(term)) is TERMS[kind]
    assert term.title == ("guidance_linear" if kind == "locality" else kind)
    assert parse_recipe(dump_recipe(one)) == one


@pytest.mark.parametrize("kind", CHANGED)
def test_options_reach_the_loss(kind: str) -> None:
    loss = loss_of(kind, **CHANGED[kind])
    assert {name: getattr(loss, name) for name in CHANGED[kind]} == CHANGED[kind]


@pytest.mark.parametrize(("kind", "options"), [("standardized-kd", {}), ("standardized-dkd", {"alpha": 2, "beta": 3})])
def test_options_reach_the_loss_inside_a_standardised_one(kind: str, options: dict[str, float]) -> None:
    loss = loss_of(kind, temperature=5, eps=0.1, **options)
    assert loss.eps == 0.1
    inside = {"temperature": 5, **options}
    assert {name: getattr(loss.inner, name) for name in inside} == inside


def test_a_term_is_called_by_its_name_its_transform_or_its_kind() -> None:
    one = recipe({"kind": "kd"}, {"kind": "kd", "name": "soft"}, {"kind": "locality", "transform": "attention"})
    assert [term.title for term in terms_of(one)] == ["kd", "soft", "guidance_attention"]


def test_only_linear_maps_are_normalised() -> None:
    with pytest.raises(InputError, match=r"guide.terms.0.normalize: must be none unless transform is linear"):
        recipe({"kind": "locality", "transform": "attention", "normalize": "unit"})


def test_an_option_of_another_kind_is_an_unknown_key() -> None:
    with pytest.raises(InputError, match=r"guide.terms.0.transform: unknown key"):
        recipe({"kind": "kd", "transform": "linear"})
