"""Binary cross entropy, distillation by class and mixed targets of several labels an image, against other sources."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.distributions import Bernoulli, kl_divergence

from lgkd.config import Mix, Optimizer, Recipe, Schedule
from lgkd.data.batch import Batch
from lgkd.data.multi_label_balance import label_balance
from lgkd.data.transforms.mixup import Mixing
from lgkd.distillation.classification import ClassificationLoss, MultiLabelLoss
from lgkd.distillation.tasks import Supervised
from lgkd.distillation.terms import for_several_labels
from lgkd.errors import DataError, InputError
from lgkd.losses import DKD, KD, DeiTHard, DeiTSoft, MapLoss
from lgkd.losses.binary_kd import BinaryKD
from tests.support.labels import draw_labels

CLASSES = ("a", "b", "c")


def some(count: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.from_numpy(draw_labels(count, 5)).float()
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(0)), labels


def recipe(**changes: object) -> Recipe:
    return Recipe(
        about="x", trains="student", optimizer=Optimizer(name="sgd", lr=0.1, weight_decay=0.0),
        schedule=Schedule(epochs=1), batch_size=4, **changes,
    )  # fmt: skip


def test_the_loss_is_that_of_torch_in_full_precision() -> None:
    logits, labels = some()
    weights = torch.tensor([2.0, 1.0, 0.5])
    batch = Batch(torch.zeros(12, 3, 2, 2), labels)
    assert torch.equal(MultiLabelLoss(weights)(logits, batch), nn.BCEWithLogitsLoss(pos_weight=weights)(logits, labels))
    half = MultiLabelLoss()(logits.bfloat16(), batch)
    assert half.dtype == torch.float32
    assert torch.equal(half, nn.BCEWithLogitsLoss()(logits.bfloat16().float(), labels))


def test_training_accuracy_is_the_share_of_right_labels() -> None:
    logits, targets = torch.tensor([[1.0, -1, 2], [3, 3, -1]]), torch.tensor([[1.0, 0, 0.2], [0.9, 1, 0]])
    assert MultiLabelLoss().correct(logits, targets) == pytest.approx(2 / 3 + 1)
    assert Supervised(nn.Flatten(), MultiLabelLoss()).correct(logits, targets) == pytest.approx(2 / 3 + 1)
    assert ClassificationLoss().correct(logits, torch.tensor([2, 2])) == 1
    assert ClassificationLoss().correct(logits, torch.tensor([[0, 0.1, 0.9], [0.2, 0.8, 0]])) == 1


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_binary_kd_is_the_divergence_of_bernoulli_variables(temperature: float) -> None:
    (student, labels), teacher = some(), torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    gaps = kl_divergence(Bernoulli(logits=teacher / temperature), Bernoulli(logits=student / temperature))
    expected = temperature**2 * gaps
    assert BinaryKD(temperature)(student, teacher, labels) == pytest.approx(expected.mean().item(), rel=1e-5)
    assert BinaryKD(temperature)(teacher, teacher, labels) == 0
    sure = BinaryKD(temperature)(torch.full((2, 3), -500.0), torch.full((2, 3), 500.0), labels)
    assert bool(sure.isfinite())


def test_one_class_is_distilled_as_two_exclusive_ones() -> None:
    student, teacher = torch.tensor([[0.3], [-2.0]]), torch.tensor([[1.1], [0.4]])
    both = [torch.cat([torch.zeros_like(part), part], dim=1) for part in (student, teacher)]
    assert BinaryKD(2.0)(student, teacher, student) == pytest.approx(KD(2.0)(*both, student).item(), rel=1e-5)


def test_terms_take_the_form_by_class_or_are_refused() -> None:
    own = MapLoss()
    assert for_several_labels(own, "guidance") is own
    binary = BinaryKD()
    assert for_several_labels(binary, "mine") is binary
    found = for_several_labels(KD(3.0), "kd")
    assert isinstance(found, BinaryKD) and found.temperature == 3.0 and found.reads == "logits"
    token = for_several_labels(DeiTSoft(2.0), "deit_soft")
    assert isinstance(token, BinaryKD) and token.temperature == 2.0 and token.reads == "distillation"
    for loss in (DKD(), DeiTHard()):
        with pytest.raises(InputError, match="the term x compares probabilities of classes that exclude each other"):
            for_several_labels(loss, "x")

    class Own(nn.Module):
        reads = "logits"
        multi_label = True

    assert isinstance(for_several_labels(Own(), "x"), Own)


def test_balanced_weights_make_up_for_the_images_without_a_class() -> None:
    labels = torch.from_numpy(draw_labels(200, 3)).float()
    found = label_balance(recipe(class_weights="balanced"), labels, CLASSES)
    for place in range(3):
        zero, one = compute_class_weight("balanced", classes=np.array([0, 1]), y=labels[:, place].numpy().astype(int))
        assert found.weights[place] == pytest.approx(one / zero, rel=1e-6)
    assert label_balance(recipe(), labels, CLASSES).weights is None
    named = label_balance(recipe(class_weights={"b": 3.0}), labels, CLASSES)
    assert named.weights.tolist() == [1.0, 3.0, 1.0] and named.multi_label
    labels[:, 1] = 1
    with pytest.raises(DataError, match="of b there are none"):
        label_balance(recipe(class_weights="balanced"), labels, CLASSES)
    with pytest.raises(InputError, match=r"sampler: balanced and logit_adjustment: 0\.5: for images of one class each"):
        label_balance(recipe(sampler="balanced", logit_adjustment=0.5), labels, CLASSES)


def test_mixed_targets_are_the_linear_combination_of_both_label_sets() -> None:
    images, labels = torch.rand(12, 3, 8, 8), some()[1]
    mixing = Mixing(Mix(mixup=0.8, cutmix=1.0), classes=3, smoothing=0.1, seed=0)
    index = torch.arange(12)
    mixed, targets = mixing(images, labels, index, 0)
    share = torch.from_numpy(mixing.shares(index, 0, (8, 8))[0]).float()[:, None]
    smooth = labels * 0.9 + 0.05
    expected = smooth * share + smooth[mixing.partners(index, 0)] * (1 - share)
    assert torch.allclose(targets, expected, atol=1e-6)
    # The images are those that one label an image gives.
    plain, _ = mixing(images, torch.zeros(12, dtype=torch.int64), index, 0)
    assert torch.equal(mixed, plain)
    with pytest.raises(InputError, match=r"expected \(B, 3, H, W\), \(B,\) or \(B, 3\), and \(B,\)"):
        mixing(images, labels[:, :2], index, 0)


def test_smoothing_spreads_over_yes_and_no() -> None:
    mixing = Mixing(Mix(), classes=2, smoothing=0.2, seed=0)
    _, targets = mixing(torch.rand(1, 3, 4, 4), torch.tensor([[1.0, 0.0]]), torch.arange(1), 0)
    assert targets[0].tolist() == pytest.approx([0.9, 0.1])
