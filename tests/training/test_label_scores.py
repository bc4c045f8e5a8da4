"""Scores of several labels an image against scikit-learn's, and their independence of how images are shared."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    classification_report,
    f1_score,
    log_loss,
    roc_auc_score,
)
from torch import Tensor, nn

from lgkd.errors import DataError
from lgkd.training.evaluate import Scores, score_split
from lgkd.training.label_scores import average_precision, score_labels
from tests.support.labels import draw_labels

SHARES = (0.5, 0.3, 0.1, 0.02, 0.9)


class Shown(nn.Module):
    """Takes images that hold their logits."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0, 0]


def some(seed: int, count: int = 400) -> tuple[Tensor, Tensor]:
    """Logits and labels of rare and of common classes; some logits are equal, as of a student that is sure."""
    labels = torch.from_numpy(draw_labels(count, seed, SHARES)).float()
    logits = torch.randn(count, len(SHARES), generator=torch.Generator().manual_seed(seed)) + 1.5 * labels - 1
    return (logits * 4).round() / 4, labels


def batches(logits: Tensor, labels: Tensor, size: int = 64) -> list[tuple[Tensor, Tensor]]:
    images = logits[:, None, None, :].expand(-1, 3, 1, -1)
    return list(zip(images.split(size), labels.split(size), strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_scikit_learn(seed: int) -> None:
    logits, labels = some(seed)
    found = score_split(Shown(), batches(logits, labels))
    assert not isinstance(found, Scores)
    true, chances = labels.numpy().astype(int), logits.double().sigmoid().numpy()
    named = (chances > 0.5).astype(int)
    assert found.map == pytest.approx(average_precision_score(true, chances, average="macro"), rel=1e-12)
    assert found.auroc == pytest.approx(roc_auc_score(true, chances, average="macro"), rel=1e-12)
    assert found.micro_f1 == pytest.approx(f1_score(true, named, average="micro"), rel=1e-12)
    assert found.macro_f1 == pytest.approx(f1_score(true, named, average="macro"), rel=1e-12)
    assert found.exact_match == pytest.approx(accuracy_score(true, named), rel=1e-12)
    loss = np.mean([log_loss(true[:, k], chances[:, k]) for k in range(len(SHARES))])
    assert found.loss == pytest.approx(loss, rel=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = classification_report(true, named, output_dict=True)
    assert found.images == len(true)
    for place, one in enumerate(found.by_class):
        theirs = report[str(place)]
        assert one.count == theirs["support"] and one.predicted == int(named[:, place].sum())
        assert one.precision == pytest.approx(theirs["precision"], rel=1e-12)
        assert one.recall == pytest.approx(theirs["recall"], rel=1e-12)
        assert one.f1 == pytest.approx(theirs["f1-score"], rel=1e-12)
        assert one.ap == pytest.approx(average_precision_score(true[:, place], chances[:, place]), rel=1e-12)
        assert one.auroc == pytest.approx(roc_auc_score(true[:, place], chances[:, place]), rel=1e-12)


def test_a_class_without_images_is_left_out_of_the_means() -> None:
    logits, labels = some(1)
    labels[:, 3] = 0
    found = score_split(Shown(), batches(logits, labels))
    assert not isinstance(found, Scores)
    rest = [0, 1, 2, 4]
    true, chances = labels.numpy()[:, rest], logits.double().sigmoid().numpy()[:, rest]
    assert found.map == pytest.approx(average_precision_score(true, chances, average="macro"), rel=1e-12)
    assert found.unseen == [3] and found.by_class[3].ap is None and found.by_class[3].auroc is None


def test_scores_of_shares_are_those_of_the_whole_to_the_bit() -> None:
    logits, labels = some(2)
    whole = score_split(Shown(), batches(logits, labels, 100))
    columns = iter([[part[:150], part[150:]] for part in (logits, labels)])
    shared = score_split(
        Shown(),
        batches(logits[:150], labels[:150], 7),
        all_reduce_sum=lambda sums: sums,
        gather=lambda _: next(columns),
    )
    assert shared == whole


def test_agreement_counts_labels_of_both_classifiers() -> None:
    logits, labels = some(3, 50)
    signs = torch.tensor([1.0, -1, 1, 1, 1])
    found = score_split(Shown(), batches(logits, labels), other=lambda images: images[:, 0, 0] * signs)
    assert found.agreement == pytest.approx(((logits > 0) == (logits * signs > 0)).double().mean().item())


def test_average_precision_by_hand() -> None:
    # Ranked: hit, miss and hit together, miss, hit.
    chances = torch.tensor([0.9, 0.5, 0.5, 0.4, 0.1])
    hits = torch.tensor([True, False, True, False, True])
    assert average_precision(chances, hits) == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3 + 1 / 3 * 3 / 5)
    assert average_precision(chances, torch.zeros(5, dtype=torch.bool)) is None
    assert np.isnan(average_precision(torch.tensor([float("nan"), 1.0]), torch.tensor([True, False])) or 0)


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(DataError, match="there are no images to score"):
        score_labels([])
    with pytest.raises(DataError, match="no image to score has a label"):
        score_labels([(torch.zeros(4, 2), torch.zeros(4, 2), None)])


def test_one_label_an_image_is_scored_as_before() -> None:
    logits = torch.eye(5)
    found = score_split(Shown(), batches(logits, torch.arange(5), 2))
    assert isinstance(found, Scores) and found.top1 == 1.0
