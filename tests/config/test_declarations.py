"""What a recipe may say and what the Python classes behind it take: the same defaults and the same ranges.

Every section of the schema is walked. A key that belongs to no class, or whose class differs on purpose, is named in
`APART` with the reason.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from torch import nn

from lgkd.config import AdaptiveStop, LengthRule, Optimizer, OwnTerm, Recipe, Sam, Section, TermSchedule, TermSection
from lgkd.config.declaration import check_values
from lgkd.config.introspect import is_pair, list_entry, sections_of, variants
from lgkd.config.schema import (
    EarlyStopping,
    Ema,
    Evaluation,
    Expectation,
    Guidance,
    Lookahead,
    Mix,
    Schedule,
    Top1,
    View,
)
from lgkd.config.terms import SECTIONS as TERM_SECTIONS
from lgkd.data.transforms.mixup import Mixing
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Guided
from lgkd.errors import InputError
from lgkd.losses import KD, TERMS, AttentionTransfer
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.teacher import Teacher
from lgkd.training.config import Plan

ADAMW, SHORT = Optimizer("adamw", 1e-3, 0.05), Schedule(10)


class Own(nn.Module):
    """A loss of the user's own."""

    reads = "logits"


def guided(**words: Any) -> Guided:
    student, teacher = CifarResNet(8, 3), Teacher(CifarResNet(8, 3), image_size=8)
    return Guided(student, Guide(student, teacher, image_size=8, terms=[Term(KD())]), **words)


# For each section what it sets in Python, as a constructor that takes some of its keys by their names.
BEHIND: dict[type[Section], Callable[..., Any]] = {
    View: View,
    Mix: Mix,
    Optimizer: lambda **words: Optimizer(**{"name": "adamw", "lr": 1e-3, "weight_decay": 0.05, **words}),
    Schedule: lambda **words: Schedule(**{"epochs": 10, **words}),
    Ema: Ema,
    EarlyStopping: EarlyStopping,
    Lookahead: Lookahead,
    Sam: Sam,
    Guidance: guided,
    AdaptiveStop: AdaptiveStop,
    TermSchedule: TermSchedule,
    Recipe: lambda **words: Plan(ADAMW, SHORT, steps_per_epoch=1, seed=0, **words),
    **{TERM_SECTIONS[kind]: loss for kind, loss in TERMS.items()},
}
REQUIRED: dict[type[Section], dict[str, Any]] = {
    Optimizer: {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05},
    Schedule: {"epochs": 10},
    Guidance: {"terms": [{"kind": "kd"}]},
    Recipe: {
        "about": "A test.",
        "trains": "student",
        "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05},
        "schedule": {"epochs": 10},
    },
    **{TERM_SECTIONS[kind]: {"kind": kind} for kind in TERMS},
}
DESCRIPTIONS = {Top1, Expectation}
"""Sections that set nothing: they tell of runs that were made."""

PLAN = {"accumulate", "clip_norm", "evaluate_every", "precision"}
TERM = {"kind", "name", "schedule", "for_teacher"}
APART: dict[type[Section], dict[str, str]] = {
    Evaluation: {"interpolation": "null says: as in training"},
    Guidance: {
        "teacher_bn": "of the teacher, compared below",
        "view": "of the guide and the loader: true or false, and a list, in Python",
        "terms": "a guide is given terms, of which each section is compared",
    },
    LengthRule: dict.fromkeys(("from_epochs", "set"), "of recipes alone: in Python the length is chosen with the rest"),
    TermSchedule: {"adaptive": "a section of its own"},
    Schedule: dict.fromkeys(("epochs", "steps"), "one of the two is given, tested with the schedule"),
    Recipe: {
        "precision": "auto is decided before a plan is made",
        "label_smoothing": "of the mixing, compared below",
        "drop_path": "an option of models",
        "fake_quantize": "of the models, before the plan",
        "drop_last": "of the loader",
        "sampler": "of the loader",
        **dict.fromkeys(("class_weights", "logit_adjustment"), "computed for the classes of a training"),
        "batch_size": "of the loader",
        "evaluations": "in the epochs between two of a plan, compared in tests/runner/test_time_budget.py",
        "early_stopping": "a section of its own",
        **dict.fromkeys(("about", "source", "expect", "trains"), "tells, sets nothing"),
        **dict.fromkeys(
            ("view", "evaluation", "mix", "optimizer", "schedule", "ema", "lookahead", "sam", "guide", "by_length"),
            "sections of their own",
        ),
    },
    **{TERM_SECTIONS[kind]: {**dict.fromkeys(TERM | {"weight"}, "of the term, compared below")} for kind in TERMS},
    OwnTerm: dict.fromkeys((*TERM, "weight", "loss", "options"), "its class is the user's"),
}


def walk(section: type[Section], seen: set[type[Section]]) -> Iterator[type[Section]]:
    """The sections below one, each once."""
    if section not in seen:
        seen.add(section)
        yield section
        for field in section.model_fields.values():
            entry = list_entry(field.annotation)
            for inner in sections_of(field.annotation if entry is None else entry):
                yield from walk(inner, seen)


SECTIONS = sorted(walk(Recipe, set()), key=lambda section: section.__name__)
KEYS = [
    pytest.param(section, key, id=f"{section.__name__}.{key}")
    for section in SECTIONS
    if section not in DESCRIPTIONS
    for key in section.model_fields
    if key not in APART.get(section, {})
]


def bounds(annotation: Any, metadata: tuple[Any, ...]) -> list[float]:
    """Every bound that stands at a key, however deep."""
    entries = [one for entry in metadata for one in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]
    found = [
        float(getattr(entry, name)) for entry in entries for name in ("ge", "gt", "le", "lt") if hasattr(entry, name)
    ]
    for argument in get_args(annotation):
        if get_origin(argument) is not None:
            found += bounds(argument, getattr(argument, "__metadata__", ()))
    return found


def probes(section: type[Section], key: str) -> list[Any]:
    """Values on, beside and far from every bound of a key, and some of other sorts."""
    field = section.model_fields[key]
    kinds = variants(field.annotation)
    if any(get_origin(kind) is Literal for kind in kinds):
        return [*get_args(kinds[0]), "nonsense", 1]
    if bool in kinds:
        return [True, False, "yes", 1]
    if str in kinds:
        return ["rand-m9-mstd0.5-inc1", "rand", "rand-m101", "rand-n16", "rand-p1.5", "rand-m9-m8", "rand-m1.5", "x", 3]
    edges = bounds(field.annotation, tuple(field.metadata))
    numbers: list[float] = [0.0, -1.0, 0.5, 1.0, 1.5, 2.0, 1e12, math.inf, -math.inf, math.nan]
    for edge in edges:
        numbers += [edge, math.nextafter(edge, math.inf), math.nextafter(edge, -math.inf), edge + 1, edge - 1]
    whole = [int(number) for number in numbers if math.isfinite(number) and number.is_integer()]
    values: list[Any] = [*numbers, *whole, True, "3"]
    if is_pair(field.annotation):
        pairs = [(first, second) for first in values[:-2] for second in (0.5, 1.0, first)] + [(0.9, 0.1), (1.0,), 3]
        return pairs if int not in kinds else [*values[:-1], *pairs, (8, 4096), (7, 9), (9, 4097), (8, 8, 8)]
    if list_entry(field.annotation) is not None:
        return [(value,) for value in values[:-2]] + [(1.0,) * 101, (1.0, 2.0)]
    # Recipes are text, in which a number may be written as text.
    return [value for value in values if not isinstance(value, str)]


def accepts(make: Callable[..., Any], **words: Any) -> bool:
    try:
        make(**words)
    except InputError:
        return False
    return True


def recipe_accepts(section: type[Section], key: str, value: Any) -> bool:
    try:
        section.model_validate({**REQUIRED.get(section, {}), key: value})
    except ValidationError as error:
        return not any(found["loc"][0] == key for found in error.errors())
    return True


def test_every_section_of_the_schema_is_compared_or_set_apart_with_a_reason() -> None:
    assert len(SECTIONS) > 25
    for section in SECTIONS:
        if section not in DESCRIPTIONS:
            assert section in BEHIND or set(section.model_fields) == set(APART[section]), section
    for section, keys in APART.items():
        assert section in SECTIONS and keys.keys() <= section.model_fields.keys(), section
        assert all(len(reason.split()) > 2 for reason in keys.values())


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_a_key_has_one_default(section: type[Section], key: str) -> None:
    field = section.model_fields[key]
    made = BEHIND[section](**{name: value for name, value in REQUIRED.get(section, {}).items() if name not in
                              {"kind", "terms"} and section is not Recipe})  # fmt: skip
    if not field.is_required():
        # A loss keeps some options within its parts.
        found = getattr(made, key) if hasattr(made, key) else getattr(made.inner, key)
        assert found == field.default and type(found) is type(field.default)


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_a_key_has_one_range(section: type[Section], key: str) -> None:
    tried = probes(section, key)
    found = {repr(value): accepts(BEHIND[section], **{key: value}) for value in tried}
    wanted = {repr(value): recipe_accepts(section, key, value) for value in tried}
    assert found == wanted
    assert any(wanted.values()) and not all(wanted.values())


@pytest.mark.parametrize("kind", TERMS)
def test_a_term_of_python_has_the_weight_of_a_recipes(kind: str) -> None:
    section = TERM_SECTIONS[kind]
    loss = TERMS[kind]()
    assert Term(loss).weight == section.model_fields["weight"].default
    for value in probes(section, "weight"):
        assert accepts(Term, loss=loss, weight=value) == recipe_accepts(section, "weight", value), value


def test_a_loss_of_ones_own_has_the_weight_of_one() -> None:
    class Closer(AttentionTransfer):
        """Not the loss that the weight was published for."""

    assert Term(Own()).weight == Term(Closer()).weight == OwnTerm.model_fields["weight"].default == 1
    assert TermSection.model_fields["weight"].default == 1


def test_teacher_and_label_smoothing_are_those_of_a_recipe() -> None:
    assert Teacher(CifarResNet(8, 3), image_size=8).batch_norm == Guidance.model_fields["teacher_bn"].default

    def make(**words: Any) -> Mixing:
        return Mixing(Mix(), classes=3, seed=0, **words)

    assert make().smoothing == Recipe.model_fields["label_smoothing"].default
    for value in probes(Recipe, "label_smoothing"):
        assert accepts(make, smoothing=value) == recipe_accepts(Recipe, "label_smoothing", value), value


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: View(ratio=(0.001, 1)), "View: ratio.0 must be >= 0.01 (got 0.001)"),
        (lambda: View(rand_augment="rand-m101"), "View: rand_augment must be 'rand' and then any of -m"),
        (
            lambda: View(rand_augment="rand-z9"),
            "cannot read 'z9'; expected parts like m9, n2, mstd0.5, mmax10, inc1, p0.5 (got 'rand-z9')",
        ),
        (lambda: Mix(mixup=101), "Mix: mixup must be <= 100 (got 101)"),
        (lambda: AdaptiveStop(window=2_000_000), "AdaptiveStop: window must be <= 1,000,000 (got 2000000)"),
        (lambda: TermSchedule(milestones=(0,)), "TermSchedule: milestones.0 must be > 0 (got 0)"),
        (lambda: Term(KD(), weight=1e7), "the term of KD: weight must be <= 1,000,000 (got 10000000.0)"),
        (lambda: guided(classification_weight=1e7), "the guided task: classification_weight must be <= 1,000,000"),
        (lambda: KD(1e4), "KD: temperature is 10000.0, expected a number > 0 and <= 1000"),
        (lambda: TERMS["cc"](order=11), "CorrelationCongruence: order is 11, expected a whole number >= 1 and <= 10"),
        (
            lambda: Optimizer("sgd", 0.1, 0.0, momentum=0),
            "Optimizer: nesterov must be false when momentum is 0",
        ),
        (lambda: Schedule(3, warmup_epochs=3), "Schedule: warmup_epochs must be less than schedule.epochs (3)"),
        (lambda: Ema(1.0), "Ema: decay must be < 1 (got 1.0)"),
        (lambda: Plan(ADAMW, SHORT, 1, 0, accumulate=0), "the plan: accumulate must be >= 1 (got 0)"),
    ],
)
def test_the_message_names_what_it_belongs_to_the_bound_and_the_value(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        make()
    assert message in str(refused.value)


def test_values_of_keys_that_are_set_elsewhere_are_not_missed() -> None:
    check_values(Recipe, "the plan", {"accumulate": 2})
    with pytest.raises(InputError, match="the plan: accumulate must be a whole number"):
        check_values(Recipe, "the plan", {"accumulate": torch.tensor(2)})
