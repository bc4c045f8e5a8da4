"""Scores by class against scikit-learn's: ties, classes without images, classes that are never predicted."""

import math
import warnings
from collections.abc import Iterator
from itertools import cycle

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_recall_fscore_support, roc_auc_score
from torch import Tensor, nn

from lgkd._internal.metric_rules import are_unequal, is_unequal, shows_top5
from lgkd.training.class_scores import ClassScores, auroc_by_class, class_scores, macro
from lgkd.training.evaluate import Scores, answer, score


class Shown(nn.Module):
    """A classifier whose logits are the first pixels of its images."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, : self.classes]


def batches(logits: Tensor, labels: Tensor, size: int = 32) -> list[tuple[Tensor, Tensor]]:
    images = torch.cat([logits, torch.zeros(len(logits), 48 - logits.shape[1])], 1).view(-1, 3, 4, 4)
    return list(zip(images.split(size), labels.split(size), strict=True))


def made(kind: str) -> tuple[Tensor, Tensor]:
    """Logits and labels of a split of six classes of unequal size."""
    chance = torch.Generator().manual_seed(3)
    labels = torch.multinomial(torch.tensor([0.5, 0.2, 0.15, 0.1, 0.03, 0.02]), 300, True, generator=chance)
    logits = torch.randn(300, 6, generator=chance)
    logits[range(300), labels] += 1.0
    if kind == "ties":
        logits = logits.round()
    elif kind == "absent":  # classes 2 and 4 have no images; class 2 is predicted, class 4 is not
        labels[labels == 2] = 0
        labels[labels == 4] = 1
        logits[:, 4] -= 50
    elif kind == "never predicted":
        logits[:, 3] -= 50
        logits[:, 5] -= 50
    elif kind == "one prediction":
        logits = torch.eye(6)[0].repeat(300, 1)
    elif kind == "sure":  # in single precision all of these are ties at 1
        logits = 20 + logits / 4
        logits[:, 0] += 30
    return logits, labels


KINDS = ("plain", "ties", "absent", "never predicted", "one prediction", "sure")


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest) -> Iterator[tuple[Tensor, Tensor, Scores]]:
    logits, labels = made(request.param)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="sklearn")  # it warns of what is undefined
        yield logits, labels, score(Shown(6), batches(logits, labels))


def test_scores_by_class_and_their_means_are_those_of_scikit_learn(case: tuple[Tensor, Tensor, Scores]) -> None:
    logits, labels, found = case
    true, guesses = labels.numpy(), logits.argmax(1).numpy()
    expected = precision_recall_fscore_support(true, guesses, labels=range(6), zero_division=np.nan)
    for place, (one, precision, recall, f1, count) in enumerate(zip(found.by_class, *expected, strict=True)):
        assert (one.count, one.predicted) == (count, (guesses == place).sum())
        assert one.recall == (None if math.isnan(recall) else pytest.approx(recall, rel=1e-12))
        assert one.f1 == (None if math.isnan(f1) else pytest.approx(f1, rel=1e-12))
        if count and math.isnan(precision):  # never predicted: scikit-learn's default is 0
            assert one.precision == 0 == precision_recall_fscore_support(true, guesses, labels=[place])[0][0]
        else:
            assert one.precision == (None if math.isnan(precision) else pytest.approx(precision, rel=1e-12))
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(true, guesses), rel=1e-12)
    assert found.macro_f1 == pytest.approx(f1_score(true, guesses, average="macro"), rel=1e-12)


def test_the_area_of_every_class_is_that_of_scikit_learn(case: tuple[Tensor, Tensor, Scores]) -> None:
    logits, labels, found = case
    probabilities = logits.double().softmax(1).numpy()
    present = sorted(set(labels.tolist()))
    expected = {place: roc_auc_score(labels.numpy() == place, probabilities[:, place]) for place in present}
    for place, one in enumerate(found.by_class):
        assert one.auroc == (pytest.approx(expected[place], rel=1e-12) if place in expected else None)
    assert found.auroc == pytest.approx(np.mean(list(expected.values())), rel=1e-12)
    if len(present) == 6:
        whole = roc_auc_score(labels.numpy(), probabilities, multi_class="ovr", average="macro")
        assert found.auroc == pytest.approx(whole, rel=1e-12)


def test_the_area_is_the_share_of_pairs_in_order_counted_one_by_one() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.5, 0.5], [0.2, 0.8], [0.7, 0.3]])
    labels = torch.tensor([0, 0, 1, 1, 1])
    # Of class 0: 0.9 is above 0.5, 0.2 and 0.7; 0.5 ties with 0.5, is above 0.2 and below 0.7: 4.5 of 6 pairs.
    assert auroc_by_class(probabilities, labels) == [0.75, 0.75]


def test_an_area_is_undefined_where_all_images_are_of_one_class_and_nan_where_a_probability_is() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.5, 0.5]])
    assert auroc_by_class(probabilities, torch.tensor([0, 0])) == [None, None]
    assert all(map(math.isnan, auroc_by_class(probabilities * float("nan"), torch.tensor([0, 1]))))  # type: ignore[arg-type]
    found = score(Shown(2), batches(torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([0, 0])))
    assert found.auroc is None and "auroc" not in found.flat() and found.flat()["macro_f1"] == found.macro_f1


def test_four_classes_worked_out_by_hand() -> None:
    # Class 0: 3 images, 2 right, predicted 3 times; 1: 1 image, never predicted; 2: none, predicted once; 3: neither.
    found = class_scores([3, 1, 0, 0], [3, 0, 1, 0], [2, 0, 0, 0])
    assert found == (
        ClassScores(3, 3, 2 / 3, 2 / 3, 2 / 3),
        ClassScores(1, 0, 0.0, 0.0, 0.0),
        ClassScores(0, 1, 0.0, None, 0.0),
        ClassScores(0, 0, None, None, None),
    )
    assert macro([one.f1 for one in found]) == pytest.approx(2 / 9, rel=1e-12)
    assert macro([None]) is None


def test_predictions_image_by_image_have_the_scores_of_the_evaluation(case: tuple[Tensor, Tensor, Scores]) -> None:
    logits, labels, found = case
    assert answer(Shown(6), batches(logits, labels, 77)).by_class(6) == found.by_class


def test_shares_of_several_processes_have_the_scores_of_the_whole_and_no_area_without_all_images() -> None:
    logits, labels = made("ties")
    whole = score(Shown(6), batches(logits, labels))
    sums: list[Tensor] = []
    columns: list[list[Tensor]] = [[], []]
    shares = [batches(logits[rank::3], labels[rank::3]) for rank in range(3)]
    turn = cycle(columns)

    def keep(store: list[Tensor], value: Tensor) -> Tensor:
        store.append(value)
        return value

    for share in shares:
        alone = score(
            Shown(6), share, all_reduce_sum=lambda one: keep(sums, one), gather=lambda one: [keep(next(turn), one)]
        )
        assert alone.images == 100
    found = score(Shown(6), shares[0], all_reduce_sum=lambda _: torch.stack(sums).sum(0), gather=lambda _: next(turn))
    assert found.by_class == whole.by_class and found.auroc == whole.auroc
    blind = score(Shown(6), shares[0], all_reduce_sum=lambda _: torch.stack(sums).sum(0))
    assert blind.auroc is None and blind.macro_f1 == whole.macro_f1


def test_which_metrics_are_shown_is_one_rule() -> None:
    assert not shows_top5(6) and not shows_top5(10) and shows_top5(11)
    assert not is_unequal(1 / 3, 3) and is_unequal(0.4, 3)
    assert (
        are_unequal([4, 1, 1]) and not are_unequal([4, 4, 0]) and not are_unequal([36, 35, 37]) and not are_unequal([])
    )
