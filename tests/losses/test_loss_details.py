"""What the losses take, what they refuse and how they say it: every option, default, bound and name."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lgkd.errors import InputError
from lgkd.losses import (
    DIST,
    DKD,
    KD,
    RKD,
    AttentionTransfer,
    BlockGuidance,
    CorrelationCongruence,
    CrossCorrelation,
    DeiTHard,
    DeiTSoft,
    DenseKD,
    Hint,
    LumiNet,
    MapLoss,
    ReviewKD,
    StandardizedDKD,
    StandardizedKD,
    TeacherHead,
    TokenRelations,
)
from tests.support.losses import built, normal

NOT_NEGATIVE, POSITIVE = ">= 0", "> 0"
NUMBERS: list[tuple[type[nn.Module], str, str, float]] = [
    # The loss, the option, its bound and its default.
    (AttentionTransfer, "p", POSITIVE, 2.0),
    (KD, "temperature", POSITIVE, 4.0),
    (DeiTSoft, "temperature", POSITIVE, 3.0),
    (DKD, "alpha", NOT_NEGATIVE, 1.0),
    (DKD, "beta", NOT_NEGATIVE, 8.0),
    (DKD, "temperature", POSITIVE, 4.0),
    (DIST, "beta", NOT_NEGATIVE, 1.0),
    (DIST, "gamma", NOT_NEGATIVE, 1.0),
    (DIST, "temperature", POSITIVE, 1.0),
    (StandardizedKD, "temperature", POSITIVE, 2.0),
    (StandardizedKD, "eps", POSITIVE, 1e-7),
    (StandardizedDKD, "alpha", NOT_NEGATIVE, 1.0),
    (StandardizedDKD, "beta", NOT_NEGATIVE, 9.0),
    (StandardizedDKD, "temperature", POSITIVE, 4.0),
    (StandardizedDKD, "eps", POSITIVE, 1e-7),
    (LumiNet, "temperature", POSITIVE, 4.0),
    (RKD, "distance_weight", NOT_NEGATIVE, 25.0),
    (RKD, "angle_weight", NOT_NEGATIVE, 50.0),
    (CorrelationCongruence, "gamma", POSITIVE, 0.4),
    (CrossCorrelation, "kappa", NOT_NEGATIVE, 0.01),
    (TokenRelations, "temperature", POSITIVE, 0.07),
    (TeacherHead, "features", NOT_NEGATIVE, 1.0),
]
CHOICES: list[tuple[type[nn.Module], str, str, tuple[str, ...]]] = [
    (MapLoss, "transform", "linear", ("attention", "similarity")),
    (MapLoss, "normalize", "none", ("channel", "unit")),
    (BlockGuidance, "normalize", "none", ("channel", "unit")),
    (Hint, "regressor", "linear", ("norm", "none")),
    (KD, "mean", "batch", ("elements",)),
    (DeiTSoft, "mean", "batch", ("elements",)),
    (DenseKD, "target", "hard", ("soft",)),
    (DenseKD, "course", "linear", ("square", "cosine", "local", "global")),
    (TeacherHead, "projector", "norm", ("linear",)),
]
OF_LOGITS = (KD, DeiTSoft, DeiTHard, DKD, DIST, StandardizedKD, StandardizedDKD, LumiNet)
OF_EMBEDDINGS = (RKD, CorrelationCongruence, CrossCorrelation, TeacherHead)


def found(loss: nn.Module, option: str) -> Any:
    """An option's value, also where the loss stands on another."""
    return getattr(loss, option) if hasattr(loss, option) else getattr(loss.inner, option)


@pytest.mark.parametrize(("kind", "option", "bound", "default"), NUMBERS)
def test_an_option_that_is_a_number_has_a_default_and_a_bound(
    kind: type[nn.Module], option: str, bound: str, default: float
) -> None:
    assert found(kind(), option) == default
    assert isinstance(found(kind(**{option: 3}), option), float)
    small = 0.0 if bound == NOT_NEGATIVE else 1e-9
    assert found(kind(**{option: small}), option) == small
    for bad in (-1e-9, -1, math.inf, math.nan, True, "1", None, *([0, 0.0] if bound == POSITIVE else [])):
        with pytest.raises(InputError) as caught:
            kind(**{option: bad})
        # The upper bound is the recipe's: tests/config/test_declarations.py compares them.
        expected = re.escape(f"{kind.__name__}: {option} is {bad!r}, expected a number {bound}")
        assert re.fullmatch(rf"{expected} and <= [\de+]+", str(caught.value))


@pytest.mark.parametrize(("kind", "option", "default", "others"), CHOICES)
def test_an_option_that_is_a_choice_has_a_default_and_tells_the_closest(
    kind: type[nn.Module], option: str, default: str, others: tuple[str, ...]
) -> None:
    assert getattr(kind(), option) == default
    for choice in (default, *others):
        assert getattr(kind(**{option: choice}), option) == choice
    with pytest.raises(InputError) as caught:
        kind(**{option: default + "x"})
    assert str(caught.value).startswith(
        f"{kind.__name__}: unknown {option} {default + 'x'!r}; did you mean {default!r}"
    )
    with pytest.raises(InputError) as caught:
        kind(**{option: 12345})
    assert (
        str(caught.value) == f"{kind.__name__}: unknown {option} 12345; known: {', '.join(sorted([default, *others]))}"
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: CorrelationCongruence(order=0),
            "CorrelationCongruence: order is 0, expected a whole number >= 1 and <= 10",
        ),
        (
            lambda: CorrelationCongruence(order=1.0),
            "CorrelationCongruence: order is 1.0, expected a whole number >= 1 and <= 10",
        ),
        (
            lambda: CorrelationCongruence(order=True),
            "CorrelationCongruence: order is True, expected a whole number >= 1 and <= 10",
        ),
        (
            lambda: CrossCorrelation(expansion=0),
            "CrossCorrelation: expansion is 0, expected a whole number >= 1 and <= 64",
        ),
        (
            lambda: CrossCorrelation(expansion=2.0),
            "CrossCorrelation: expansion is 2.0, expected a whole number >= 1 and <= 64",
        ),
        (
            lambda: CrossCorrelation(expansion=True),
            "CrossCorrelation: expansion is True, expected a whole number >= 1 and <= 64",
        ),
        (
            lambda: MapLoss("attention", normalize="unit"),
            "MapLoss: normalize is 'unit' and transform 'attention'; leave normalize at 'none', or set transform to "
            "'linear'",
        ),
        (
            lambda: MapLoss()([normal(2, 3, 4, 4)], [normal(2, 5, 2, 2)]),
            "MapLoss('linear') has 0 projections for 1 student maps; call build(student_shapes, teacher_shapes) "
            "first, or pass it to a Guide",
        ),
        (
            lambda: Hint()([normal(2, 3, 4, 4)], [normal(2, 5, 2, 2)]),
            "Hint was built for 0 pairs and given 1 student maps; call build(student_shapes, teacher_shapes) "
            "first, or pass it to a Guide",
        ),
        (
            lambda: ReviewKD()([normal(2, 3, 4, 4)], [normal(2, 5, 2, 2)]),
            "ReviewKD was built for 0 pairs and given 1 student maps; call build(student_shapes, teacher_shapes) "
            "first, or pass it to a Guide",
        ),
        (
            lambda: BlockGuidance()([normal(2, 3, 4, 4)], [normal(2, 5, 2, 2)]),
            "BlockGuidance was built for 0 student and 0 teacher maps and given 1 and 1, or maps of other shapes; call "
            "build with the shapes of all blocks first, or pass it to a Guide",
        ),
        (
            lambda: CrossCorrelation()(normal(4, 3), normal(4, 3)),
            "CrossCorrelation has no projection; call build(student_width, teacher_width) first",
        ),
        (
            lambda: built(CrossCorrelation())(normal(1, 3), normal(1, 5)),
            "CrossCorrelation: a batch of one has no correlations; use batches of 2 or more",
        ),
        (
            lambda: TeacherHead()(normal(4, 3), normal(4, 5)),
            "TeacherHead has no projection; call build(student_width, teacher_width, matrix) first, or pass it to a "
            "Guide",
        ),
        (
            lambda: built(TeacherHead())(normal(1, 3), normal(1, 5)),
            "TeacherHead normalises by the batch, and got a batch of one; use batches of 2 or more, or the projector "
            "linear",
        ),
        (
            lambda: DenseKD(temperature=2.0),
            "DenseKD: temperature is 2.0 and target 'hard'; leave temperature at 1.0, or set target to 'soft'",
        ),
        (
            lambda: DenseKD()(normal(2, 3, 4, 4), normal(2, 5, 2, 2), normal(2, 5)),
            "DenseKD: the student's dense logits are (2, 3, 4, 4), the teacher's (2, 5, 2, 2) and its logits (2, 5); "
            "they must be (B,K,h,w), (B,K,h',w') and (B,K), of the same images and classes; of a map, call "
            "build(student_shape, teacher_shape, classified=False) first",
        ),
        (
            lambda: TokenRelations(grid=1),
            "TokenRelations: grid is 1, expected a whole number >= 2 and <= 64",
        ),
        (
            lambda: DKD()(normal(4, 1), normal(4, 1), torch.zeros(4, dtype=torch.int64)),
            "DKD compares the classes other than the target, got a single class; use KD",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_these_words(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value) == said


@pytest.mark.parametrize("kind", [MapLoss, Hint, ReviewKD, BlockGuidance, CrossCorrelation, DenseKD, TeacherHead])
def test_a_loss_is_built_once(kind: type[nn.Module]) -> None:
    loss = built(kind())
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    with pytest.raises(InputError) as caught:
        built(loss)
    assert str(caught.value) == (
        f"this {kind.__name__} already has projections: a loss serves one guide; create a new one for each"
    )
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


@pytest.mark.parametrize("kind", OF_LOGITS)
@pytest.mark.parametrize("shapes", [((4, 5), (4, 6)), ((4, 5), (3, 5)), ((4, 5, 1), (4, 5, 1)), ((5,), (5,))])
def test_logits_of_two_kinds_are_refused_with_both_shapes(kind: type[nn.Module], shapes: Any) -> None:
    with pytest.raises(InputError) as caught:
        kind()(normal(*shapes[0]), normal(*shapes[1]), torch.zeros(4, dtype=torch.int64))
    assert str(caught.value) == (
        f"{kind.__name__}: the student's logits are {shapes[0]} and the teacher's {shapes[1]}; both must be (B,K), of "
        "the same images and classes"
    )


@pytest.mark.parametrize("kind", OF_EMBEDDINGS)
@pytest.mark.parametrize("shapes", [((4, 3), (5, 5)), ((4, 3), (4, 5, 1)), ((4, 3), (4,))])
def test_embeddings_of_two_batches_are_refused_with_both_shapes(kind: type[nn.Module], shapes: Any) -> None:
    with pytest.raises(InputError) as caught:
        built(kind())(normal(*shapes[0]), normal(*shapes[1]))
    ours = (4, 5) if kind in (CrossCorrelation, TeacherHead) else shapes[0]  # behind its projection
    assert str(caught.value) == (
        f"{kind.__name__}: the student's embedding is {ours} and the teacher's {shapes[1]}; they must be (B,D) and "
        "(B,C), pooled features of the same images"
    )


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (MapLoss, {}, "'linear'"),
        (MapLoss, {"normalize": "unit"}, "'linear', normalize='unit'"),
        (MapLoss, {"transform": "attention"}, "'attention'"),
        (BlockGuidance, {}, ""),
        (BlockGuidance, {"normalize": "unit"}, "normalize='unit'"),
        (Hint, {"regressor": "norm"}, "'norm'"),
        (AttentionTransfer, {"p": 1.5}, "p=1.5"),
        (KD, {}, "temperature=4, mean='batch'"),
        (DeiTSoft, {"mean": "elements"}, "temperature=3, mean='elements'"),
        (DKD, {}, "alpha=1, beta=8, temperature=4"),
        (DIST, {"gamma": 0.5}, "beta=1, gamma=0.5, temperature=1"),
        (StandardizedKD, {}, "eps=1e-07"),
        (StandardizedDKD, {"eps": 0.01}, "eps=0.01"),
        (LumiNet, {}, "temperature=4"),
        (RKD, {}, "distance_weight=25, angle_weight=50"),
        (CorrelationCongruence, {}, "gamma=0.4, order=2"),
        (CrossCorrelation, {}, "kappa=0.01, expansion=4"),
        (DenseKD, {}, "target='hard', course='linear'"),
        (
            DenseKD,
            {"target": "soft", "temperature": 2, "course": "local"},
            "target='soft', temperature=2, course='local'",
        ),
        (TokenRelations, {"grid": 8}, "temperature=0.07, grid=8"),
        (TeacherHead, {}, "features=1, projector='norm'"),
    ],
)
def test_a_loss_that_is_printed_says_its_options(kind: type[nn.Module], options: dict[str, Any], said: str) -> None:
    loss = kind(**options)
    assert loss.extra_repr() == said
    assert repr(loss).startswith(f"{kind.__name__}(") and said in repr(loss)


@pytest.mark.parametrize("kind", OF_LOGITS)
def test_logits_of_a_few_classes_and_of_half_precision_are_taken(kind: type[nn.Module]) -> None:
    labels = torch.tensor([0, 1, 1, 0])
    loss = kind()(normal(4, 2), normal(4, 2, seed=1), labels)
    assert loss.shape == () and loss.isfinite()
    half = kind()(normal(4, 2).bfloat16(), normal(4, 2, seed=1).bfloat16(), labels)
    assert half.dtype == torch.float32
    double = kind()(normal(4, 2).double(), normal(4, 2, seed=1).double(), labels)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), loss, rtol=1e-4, atol=1e-6)
