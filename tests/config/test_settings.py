"""Sections that Python code makes, too: called as documentation and tests always called them."""

import copy
import dataclasses
import inspect
import pickle
from pathlib import Path
from typing import Any

import pytest

import lgkd
from lgkd.config import (
    EarlyStopping,
    Ema,
    Lookahead,
    Mix,
    Optimizer,
    Recipe,
    Sam,
    Schedule,
    View,
    dump_recipe,
    load_recipe,
    parse_recipe,
)
from lgkd.config.base import Settings
from lgkd.errors import InputError, RecipeError
from lgkd.schedules import AdaptiveStop, TermSchedule

GOLDEN = Path(__file__).parent.parent / "golden"

# Made by position, the same by name, one changed field, and what the first is printed as.
MADE: list[tuple[Settings, Settings, dict[str, Any], str]] = [
    (
        AdaptiveStop(-0.9, 2, True, 3),
        AdaptiveStop(threshold=-0.9, window=2, relative=True, patience=3),
        {"window": 4},
        "AdaptiveStop(threshold=-0.9, window=2, relative=True, patience=3)",
    ),
    (
        TermSchedule(4, "cosine", 0.5, None, (), 0.1, None, AdaptiveStop(window=1)),
        TermSchedule(warmup=4.0, shape="cosine", end=0.5, adaptive=AdaptiveStop(window=1)),
        {"shape": "steps", "milestones": (3, 6)},
        "TermSchedule(warmup=4.0, shape='cosine', end=0.5, over=None, milestones=(), factor=0.1, until=None, "
        "adaptive=AdaptiveStop(threshold=-0.1, window=1, relative=True, patience=2))",
    ),
    (
        Optimizer("sgd", 0.1, 5e-4, (0.9, 0.98)),
        Optimizer(name="sgd", lr=0.1, weight_decay=5e-4, betas=(0.9, 0.98)),
        {"momentum": 0.5},
        "Optimizer(name='sgd', lr=0.1, weight_decay=0.0005, betas=(0.9, 0.98), eps=1e-08, momentum=0.9, nesterov=True, "
        "bias_lr_scale=1.0)",
    ),
    (
        Schedule(30, 2, 1e-3, 1e-5, "step"),
        Schedule(30, warmup_epochs=2, warmup_factor=1e-3, min_lr=1e-5, stepped="step"),
        {"epochs": 40},
        "Schedule(epochs=30, warmup_epochs=2.0, warmup_factor=0.001, min_lr=1e-05, stepped='step', steps=None, "
        "decay='cosine')",
    ),
    (Lookahead(3), Lookahead(every=3), {"decay": 0.5}, "Lookahead(every=3, decay=0.95)"),
    (Sam(2.0, True), Sam(rho=2.0, adaptive=True), {"rho": 0.5}, "Sam(rho=2.0, adaptive=True)"),
    (
        EarlyStopping(4),
        EarlyStopping(patience=4),
        {"min_delta": 0.5},
        "EarlyStopping(patience=4, min_delta=0.0)",
    ),
    (Ema(0.5, False), Ema(decay=0.5, warmup=False), {"decay": 0.25}, "Ema(decay=0.5, warmup=False)"),
    (
        Mix(0.8, 1.0),
        Mix(mixup=0.8, cutmix=1.0),
        {"switch": 0.0},
        "Mix(mixup=0.8, cutmix=1.0, probability=1.0, switch=0.5)",
    ),
    (
        View(32, "pad"),
        View(image_size=32, crop="pad"),
        {"flip": 0.0},
        "View(image_size=32, crop='pad', scale=(0.08, 1.0), ratio=(0.75, 1.3333333333), padding=0.125, "
        "interpolation='bicubic', flip=0.5, rand_augment=None, color_jitter=0.0, erase=0.0, repeats=1, "
        "normalize='imagenet', fixed=None, alternate_flip=False, padding_mode='constant', channels=3)",
    ),
]
each = pytest.mark.parametrize(("one", "same", "change", "printed"), MADE, ids=[type(row[0]).__name__ for row in MADE])


def test_every_setting_of_python_is_among_them() -> None:
    assert {type(row[0]) for row in MADE} == set(Settings.__subclasses__())


@each
def test_position_and_name_give_the_same(one: Settings, same: Settings, change: dict[str, Any], printed: str) -> None:
    assert one == same and hash(one) == hash(same) and len({one, same}) == 1
    assert repr(one) == repr(same) == printed
    assert one != dataclasses.replace(one, **change) and one != vars(one)


@each
def test_it_is_replaced_copied_pickled_and_listed_as_a_dataclass(
    one: Settings, same: Settings, change: dict[str, Any], printed: str
) -> None:
    other = dataclasses.replace(one, **change)
    assert type(other) is type(one) and {name: getattr(other, name) for name in change} == change
    assert {name: value for name, value in vars(other).items() if name not in change} == {
        name: value for name, value in vars(one).items() if name not in change
    }
    for twin in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one)), one.model_copy()):
        assert twin == one and hash(twin) == hash(one) and type(twin) is type(one)
    fields = dataclasses.fields(one)
    assert [field.name for field in fields] == list(type(one).model_fields)
    assert dataclasses.asdict(one) == one.model_dump()
    parameters = inspect.signature(type(one)).parameters
    assert [(name, one.default) for name, one in parameters.items()] == [
        (field.name, inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default)
        for field in fields
    ]


@each
def test_it_cannot_be_changed_once_made(one: Settings, same: Settings, change: dict[str, Any], printed: str) -> None:
    name, value = next(iter(change.items()))
    with pytest.raises(dataclasses.FrozenInstanceError, match=f"cannot assign to field '{name}'"):
        setattr(one, name, value)
    with pytest.raises(AttributeError, match=f"cannot delete field '{name}'"):
        delattr(one, name)
    assert one == same


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdaptiveStop(window=0), "AdaptiveStop: window must be >= 1 (got 0)"),
        (lambda: AdaptiveStop("steep"), "AdaptiveStop: threshold must be a number (got 'steep')"),
        (lambda: AdaptiveStop(1e10, 0), "AdaptiveStop: threshold must be <= 1,000,000,000 (got 10000000000.0)"),
        (lambda: TermSchedule(milestones=(3, 0)), "TermSchedule: milestones.1 must be > 0 (got 0)"),
        (lambda: TermSchedule(adaptive=3), "TermSchedule: adaptive must be a section of keys (got 3)"),
        (lambda: dataclasses.replace(Ema(), decay=1.0), "Ema: decay must be < 1 (got 1.0)"),
    ],
)
def test_a_value_out_of_range_is_one_message(make: Any, message: str) -> None:
    with pytest.raises(InputError) as refused:
        make()
    assert str(refused.value) == message and not isinstance(refused.value, RecipeError)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Optimizer("sgd"), "missing a required argument: 'lr'"),
        (lambda: Schedule(1, epochs=2), "multiple values for argument 'epochs'"),
        (lambda: AdaptiveStop(treshold=1), "unexpected keyword argument 'treshold'"),
        (lambda: Ema(0.5, True, 1), "too many positional arguments"),
    ],
)
def test_a_wrong_call_is_a_type_error(make: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


def test_inside_a_recipe_all_mistakes_are_told_with_their_lines() -> None:
    text = dump_recipe(load_recipe("supervised")).replace("flip: 0.5", "flip: 2").replace("mixup: 0.0", "mixup: -1")
    with pytest.raises(RecipeError) as refused:
        parse_recipe(text, "mine")
    lines = text.splitlines()
    flip, mixup = (next(n for n, line in enumerate(lines, 1) if word in line) for word in ("flip: 2", "mixup: -1"))
    assert str(refused.value).splitlines() == [
        "mine: 2 problems",
        f"  mine:{flip}  view.flip: must be <= 1 (got 2)",
        f"  mine:{mixup}  mix.mixup: must be >= 0 (got -1)",
    ]


@pytest.mark.parametrize("name", ["locality-guidance", "adaptive-guidance", "guidance-plus", "deit-distillation"])
def test_a_recipe_is_pickled_and_copied_with_its_terms(name: str) -> None:
    recipe = load_recipe(name)
    for twin in (pickle.loads(pickle.dumps(recipe)), copy.deepcopy(recipe)):
        assert twin == recipe and isinstance(twin, Recipe) and dump_recipe(twin) == dump_recipe(recipe)


@pytest.mark.parametrize("file", sorted(GOLDEN.rglob("recipe.yaml")), ids=lambda file: file.parent.name)
def test_a_recipe_that_an_older_version_wrote_is_written_again_to_the_byte(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    later = (
        "evaluation:\n  interpolation: null\n",
        "  alternate_flip: false\n",
        "  channels: 3\n",
        "  padding_mode: constant\n",
        "  bias_lr_scale: 1.0\n",
        "lookahead: null\n",
        "class_weights: none\n",
        "logit_adjustment: 0.0\n",
        "sampler: shuffled\n",
        "  steps: null\n",
        "  decay: cosine\n",
        "evaluations: null\n",
        "early_stopping: null\n",
        "sam: null\n",
        "fake_quantize: null\n",
    )
    dumped = dump_recipe(parse_recipe(text))
    for key in later:
        assert key in text or dumped.count(key) == 1
        dumped = dumped.replace(key, "")
    assert dumped == text, "the only keys that those versions did not know"


def test_the_documented_name_is_that_of_the_recipe() -> None:
    recipe = load_recipe("adaptive-guidance")
    assert recipe.guide is not None
    schedule = recipe.guide.terms[0].schedule
    assert isinstance(schedule, TermSchedule) and isinstance(schedule.adaptive, AdaptiveStop)
    assert lgkd.Term(lgkd.losses.KD(), schedule=schedule).schedule is schedule
