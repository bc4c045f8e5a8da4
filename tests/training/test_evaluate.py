"""Scores against hand-worked values, loops and scikit-learn."""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    log_loss,
    recall_score,
    top_k_accuracy_score,
)
from torch import Tensor, nn

from lgkd.errors import DataError
from lgkd.training.evaluate import Scores, score


class Answers(nn.Module):
    """A classifier whose logits are the first pixels of its images."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.norm = nn.BatchNorm1d(classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        logits = images.flatten(1)[:, : self.classes]
        self.norm(logits)
        return self.dropout(logits)


def as_images(logits: Tensor) -> Tensor:
    return torch.cat([logits, torch.zeros(len(logits), 48 - logits.shape[1])], 1).view(-1, 3, 4, 4)


def batches(logits: Tensor, labels: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(as_images(logits).split(size), labels.split(size), strict=True))


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The definition of Guo et al., bin by bin, image by image."""
    total = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        inside = [
            (row.max(), row.argmax() == label)
            for row, label in zip(probabilities, labels, strict=True)
            if low < row.max() <= high
        ]
        if inside:
            confidence = sum(value for value, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            total += len(inside) / len(labels) * abs(confidence - accuracy)
    return total


@pytest.mark.parametrize("size", [7, 64, 200])
def test_scores_are_those_of_scikit_learn_and_of_the_definition(size: int) -> None:
    chance = torch.Generator().manual_seed(0)
    logits = torch.randn(101, 9, generator=chance) * 2
    labels = torch.randint(0, 8, (101,), generator=chance)  # the last class has no images
    found = score(Answers(9), batches(logits, labels, size))
    probabilities = logits.double().softmax(1).numpy()
    true = labels.numpy()
    guesses = probabilities.argmax(1)
    assert found.images == 101
    assert found.top1 == pytest.approx(accuracy_score(true, guesses), rel=1e-12)
    assert found.top5 == pytest.approx(top_k_accuracy_score(true, probabilities, k=5, labels=range(9)), rel=1e-12)
    assert found.loss == pytest.approx(log_loss(true, probabilities, labels=range(9)), rel=1e-6)
    assert found.ece == pytest.approx(calibration_error(probabilities, true), rel=1e-6)
    assert found.per_class[8] is None
    recalls = recall_score(true, guesses, labels=range(8), average=None)
    assert found.per_class[:8] == pytest.approx(tuple(recalls), rel=1e-12)
    assert found.agreement is None
    with warnings.catch_warnings():
        # It leaves out a class without images, as here, and warns of guesses that are of one.
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
        assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(true, guesses), rel=1e-12)
    assert found.unseen == [8] and found.largest_class == np.bincount(true).max() / 101


def test_always_naming_the_largest_class_is_worth_a_guess_in_balanced_accuracy() -> None:
    # Seven of ten images are of class 0, and it is what is always said; class 3 has no images.
    labels = torch.tensor([0] * 7 + [1, 1, 2])
    found = score(Answers(4), batches(torch.tensor([[5.0, 1, 0, 0]]).repeat(10, 1), labels, 4))
    assert found.top1 == 0.7 and found.largest_class == 0.7
    assert found.balanced_accuracy == pytest.approx((1 + 0 + 0) / 3, rel=1e-12) and found.unseen == [3]
    # Half of class 0, one of the two of class 1, and the only one of class 2: (4/8 + 1/2 + 1) / 3.
    guesses = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 1, 0, 2])
    labels = torch.tensor([0] * 8 + [1, 1, 2])
    found = score(Answers(4), batches(torch.eye(4)[guesses], labels, 11))
    assert found.balanced_accuracy == pytest.approx((0.5 + 0.5 + 1) / 3, rel=1e-12)
    assert found.flat()["balanced_accuracy"] == found.balanced_accuracy and "largest_class" not in found.flat()


def test_four_images_worked_out_by_hand() -> None:
    # Two classes with confidences 0.8, 0.8, 0.6, 0.9; right, wrong, right, right.
    odds = torch.tensor([0.8, 0.8, 0.6, 0.9])
    logits = torch.stack([(odds / (1 - odds)).log(), torch.zeros(4)], 1)
    labels = torch.tensor([0, 1, 0, 0])
    found = score(Answers(2), batches(logits, labels, 3))
    assert found.top1 == 0.75 and found.top5 == 1.0
    assert found.per_class == (1.0, 0.0) and found.balanced_accuracy == 0.5
    # The bins hold {0.8, 0.8}, {0.6} and {0.9}: gaps |0.8 - 0.5|, |0.6 - 1| and |0.9 - 1|.
    assert found.ece == pytest.approx((2 * 0.3 + 0.4 + 0.1) / 4, rel=1e-5)
    expected = -(math.log(0.8) + math.log(0.2) + math.log(0.6) + math.log(0.9)) / 4
    assert found.loss == pytest.approx(expected, rel=1e-5)


def test_a_last_smaller_batch_counts_by_its_images() -> None:
    logits = torch.tensor([[9.0, 0.0]] * 4 + [[0.0, 9.0]])
    labels = torch.zeros(5, dtype=torch.long)
    found = score(Answers(2), batches(logits, labels, 4))
    assert found.top1 == pytest.approx(0.8) and found.images == 5


def test_full_confidence_falls_into_the_last_bin() -> None:
    logits = torch.tensor([[500.0, 0.0], [500.0, 0.0]])
    found = score(Answers(2), batches(logits, torch.tensor([0, 1]), 2))
    assert found.ece == pytest.approx(0.5)


def test_agreement_counts_where_two_classifiers_say_the_same_right_or_wrong() -> None:
    logits = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]])
    labels = torch.tensor([0, 0, 0, 0])

    def second(images: Tensor) -> Tensor:
        return torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]])[: len(images)]

    found = score(Answers(3), batches(logits, labels, 4), other=second)
    assert found.agreement == 0.5
    itself = Answers(3)
    assert score(itself, batches(logits, labels, 3), other=itself).agreement == 1.0


def test_scoring_is_in_eval_mode_and_leaves_both_classifiers_as_they_were() -> None:
    model, other = Answers(3).train(), Answers(3).train()
    model.dropout.eval()
    logits, labels = torch.randn(20, 3) + 3, torch.zeros(20, dtype=torch.long)
    states = [{key: value.clone() for key, value in each.state_dict().items()} for each in (model, other)]
    found = score(model, batches(logits, labels, 8), other=other)
    assert found.agreement == 1.0, "a dropout was on"
    assert [module.training for module in model.modules()] == [True, True, False]
    assert all(module.training for module in other.modules())
    for each, state in zip((model, other), states, strict=True):
        assert all(torch.equal(state[key], value) for key, value in each.state_dict().items())


def test_flags_are_put_back_after_an_error_too() -> None:
    model = Answers(3).train()
    with pytest.raises(IndexError):
        score(model, batches(torch.randn(2, 3), torch.tensor([0, 7]), 2))
    assert all(module.training for module in model.modules())


def test_no_images_are_refused_in_words() -> None:
    with pytest.raises(DataError, match="there are no images to score"):
        score(Answers(3), [])


def test_a_classifier_without_parameters_can_be_scored() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert score(model, [(torch.eye(3).view(3, 3, 1, 1), torch.arange(3))]).top1 == 1.0


def test_logits_that_are_no_numbers_show_in_the_loss_instead_of_breaking() -> None:
    logits = torch.tensor([[float("nan"), 0.0], [1.0, 0.0]])
    found = score(Answers(2), batches(logits, torch.tensor([0, 0]), 2))
    assert math.isnan(found.loss) and math.isnan(found.ece)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_and_memory_layout_change_the_scores_only_by_rounding(precision: str, channels_last: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    data = [(torch.randn(16, 3, 8, 8), torch.randint(0, 4, (16,)))]
    plain = score(model, data)
    found = score(model, data, precision=precision, channels_last=channels_last)
    assert found.loss == pytest.approx(plain.loss, rel=1e-2 if precision == "bf16" else 1e-5)


def test_gradients_are_not_kept() -> None:
    seen = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    model[1].register_forward_hook(lambda _m, _a, output: seen.append(output.requires_grad))
    score(model, [(torch.ones(1, 3, 1, 1), torch.zeros(1, dtype=torch.long))])
    assert seen == [False]


def test_the_flat_form_holds_the_single_numbers_only() -> None:
    scores = Scores(top1=0.5, top5=1.0, loss=0.7, ece=0.1, per_class=(1.0, None), images=2)
    assert scores.flat() == {"top1": 0.5, "top5": 1.0, "loss": 0.7, "ece": 0.1}
    with_other = Scores(top1=0.5, top5=1.0, loss=0.7, ece=0.1, per_class=(), images=2, agreement=0.25)
    assert with_other.flat()["agreement"] == 0.25
