"""Numbers of a report: confusion, classes, calibration, curves, corrected mistakes."""

from pathlib import Path

import pytest
import torch
from sklearn.metrics import confusion_matrix
from torch import nn

from lgkd.analysis.report.metrics import (
    Confused,
    calibration_error,
    confusion,
    curve_of,
    most_confused,
    put_right,
    reliability,
    spread,
    surest_mistakes,
)
from lgkd.runs.compare.find import Finished
from lgkd.training.evaluate import Answers, answer, score


def answers(labels: list[int], guesses: list[int], *, confidences=None, chances=None) -> Answers:
    count = len(labels)
    return Answers(
        torch.tensor(labels),
        torch.tensor(guesses),
        torch.tensor(confidences or [0.5] * count),
        torch.tensor(chances or [0.5] * count),
    )


def some(count: int = 200, classes: int = 5) -> list[tuple[torch.Tensor, torch.Tensor]]:
    chance = torch.Generator().manual_seed(1)
    return [
        (torch.randn(count // 4, 3, 2, 2, generator=chance), torch.randint(0, classes, (count // 4,), generator=chance))
        for _ in range(4)
    ]


def model(classes: int = 5) -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, classes), nn.Dropout(0.5))


def test_answers_image_by_image_add_up_to_the_scores() -> None:
    scores, said = score(model(), some()), answer(model(), some())
    assert float(said.right.double().mean()) == pytest.approx(scores.top1)
    assert -float(said.chances.double().log().mean()) == pytest.approx(scores.loss, rel=1e-5)
    assert calibration_error(reliability(said)) == pytest.approx(scores.ece, abs=1e-7)
    assert [one.recall for one in said.by_class(5)] == pytest.approx(list(scores.per_class))


def test_answering_leaves_training_flags_as_they_were() -> None:
    net = model().train()
    net[2].eval()
    answer(net, some())
    assert net[0].training and not net[2].training


def test_the_confusion_matrix_is_that_of_scikit_learn() -> None:
    said = answer(model(), some())
    assert confusion(said, 5).tolist() == confusion_matrix(said.labels, said.guesses, labels=range(5)).tolist()


def test_the_most_confused_pairs_are_those_counted_by_hand() -> None:
    said = answers([0, 0, 0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 1, 0, 2, 2])
    assert most_confused(confusion(said, 3), 2) == [Confused(0, 1, 2, 0.5), Confused(0, 2, 1, 0.25)]
    assert len(most_confused(confusion(said, 3), 9)) == 3


def test_a_class_without_images_has_no_accuracy() -> None:
    assert [one.recall for one in answers([0, 0, 2], [0, 1, 2]).by_class(4)] == [0.5, None, 1.0, None]


def test_calibration_is_worked_out_by_hand() -> None:
    # Two images at 0.9, one of them right, and two at 0.5, both right: |0.9 - 0.5| / 2 + |0.5 - 1| / 2.
    said = answers([0, 0, 0, 0], [0, 1, 0, 0], confidences=[0.9, 0.9, 0.5, 0.5])
    bins = reliability(said)
    assert calibration_error(bins) == pytest.approx(0.45)
    assert [one.images for one in bins if one.images] == [2, 2]
    assert bins[0].accuracy is None


def test_a_band_spans_the_seeds_where_all_were_measured() -> None:
    def run(seed: int, values: dict[int, float]) -> Finished:
        return Finished(Path(str(seed)), {"seed": seed}, [{"epoch": e, "test_top1": v} for e, v in values.items()], {})

    curve = curve_of([run(0, {1: 0.1, 2: 0.3, 4: 0.5}), run(1, {2: 0.5, 4: 0.6})])
    assert curve is not None
    assert (curve.epochs, curve.low, curve.high, curve.seeds) == ((2, 4), (0.3, 0.5), (0.5, 0.6), 2)
    assert curve.mean == pytest.approx((0.4, 0.55))
    assert curve_of([run(0, {1: 0.1}), run(1, {2: 0.1})]) is None


def test_what_was_put_right_comes_by_how_much_chance_it_gained() -> None:
    before = answers([0, 0, 0, 0], [1, 1, 0, 1], chances=[0.4, 0.1, 0.9, 0.2])
    after = answers([0, 0, 0, 0], [0, 0, 1, 1], chances=[0.6, 0.8, 0.1, 0.3])
    assert put_right(before, after, 9) == [1, 0]
    assert put_right(before, after, 1) == [1]
    assert put_right(after, before, 9) == [2]


def test_mistakes_are_spread_over_the_classes_the_surest_of_each_first() -> None:
    labels = [0, 0, 0, 1, 2, 2, 1]
    said = answers(labels, [1, 1, 1, 0, 2, 0, 1], confidences=[0.9, 0.95, 0.8, 0.5, 0.99, 0.6, 0.7])
    # Wrong by confidence: 1 (0.95, class 0), 0 (0.9, 0), 2 (0.8, 0), 5 (0.6, 2), 3 (0.5, 1).
    assert surest_mistakes(said, 9) == [1, 5, 3, 0, 2]
    assert surest_mistakes(said, 2) == [1, 5]
    assert surest_mistakes(answers([0, 1], [0, 1]), 9) == []


def test_no_class_is_shown_twice_before_every_class_was_shown_once() -> None:
    chance = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 7, (60,), generator=chance)
    order = torch.randperm(60, generator=chance)
    shown = spread(order, labels, 60)
    assert sorted(shown) == list(range(60))
    assert len({int(labels[place]) for place in shown[: len(labels.unique())]}) == len(labels.unique())
    # Within a class the order stays.
    for label in range(7):
        assert [p for p in shown if labels[p] == label] == [p for p in order.tolist() if labels[p] == label]
