"""The classification loss, against torch's own and against values worked out by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lgkd.data.batch import Batch
from lgkd.data.class_balance import class_balance, class_shares
from lgkd.distillation.classification import ClassificationLoss
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Guided, Supervised
from lgkd.errors import DataError, InputError
from lgkd.losses import MapLoss
from lgkd.models.teacher import Teacher
from tests.support.loading import make_images, make_loader
from tests.support.training import TinyViT

WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 4.0])


def batch_of(targets: torch.Tensor, weight: torch.Tensor | None = None) -> Batch:
    return Batch(torch.zeros(len(targets), 3, 2, 2), targets, weight=weight)


def some_logits(count: int = 9, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)


LABELS = torch.tensor([0, 1, 1, 3, 2, 0, 0, 2, 3])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_weighted_labels_and_distributions_are_those_of_torch(dtype: torch.dtype):
    logits = some_logits(dtype=dtype)
    theirs = nn.CrossEntropyLoss(WEIGHTS.to(dtype))
    assert torch.equal(ClassificationLoss(WEIGHTS)(logits, batch_of(LABELS)), theirs(logits, LABELS))
    soft = torch.rand(9, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)
    soft /= soft.sum(1, keepdim=True)
    assert torch.equal(ClassificationLoss(WEIGHTS)(logits, batch_of(soft)), theirs(logits, soft))
    # A hand-written loop, since torch divides by the number of images here and not by the weights.
    log = logits.log_softmax(1)
    by_hand = sum(-WEIGHTS[k] * soft[i, k] * log[i, k] for i in range(9) for k in range(4)) / 9
    assert float(theirs(logits, soft)) == pytest.approx(float(by_hand), rel=1e-6)


def test_without_settings_it_is_plain_cross_entropy_never_in_half_precision():
    logits = some_logits()
    assert torch.equal(ClassificationLoss()(logits, batch_of(LABELS)), nn.CrossEntropyLoss()(logits, LABELS))
    for half in (torch.bfloat16, torch.float16):
        found = ClassificationLoss(WEIGHTS, WEIGHTS)(logits.to(half), batch_of(LABELS))
        assert found.dtype == torch.float32


def test_logit_adjustment_by_hand():
    # Two classes, three to one, logits 0 and 0, tau 1: they become log 3/4 and log 1/4, whose softmax is 3/4 and 1/4.
    shares = class_shares(torch.tensor([0, 0, 0, 1]), 2)
    assert shares == [0.75, 0.25]
    loss = ClassificationLoss(adjustment=class_balance("none", 1.0, shares, "ab").adjustment)
    logits = torch.zeros(1, 2)
    assert float(loss(logits, batch_of(torch.tensor([0])))) == pytest.approx(math.log(4 / 3), rel=1e-6)
    assert float(loss(logits, batch_of(torch.tensor([1])))) == pytest.approx(math.log(4), rel=1e-6)
    # Equation 10 of the paper, log(1 + sum over other classes of (pi_k / pi_y)^tau exp(z_k - z_y)), at tau 2.
    loss = ClassificationLoss(adjustment=class_balance("none", 2.0, shares, "ab").adjustment)
    expected = math.log(1 + 3**2 * math.exp(0.5 - 2.0))
    assert float(loss(torch.tensor([[0.5, 2.0]]), batch_of(torch.tensor([1])))) == pytest.approx(expected, rel=1e-6)


def test_balanced_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    labels = torch.tensor([0] * 40 + [1] * 3 + [2] * 17)
    found = class_balance("balanced", 0.0, class_shares(labels, 3), "abc").weights
    assert found is not None
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_extra_images_count_by_their_share_of_a_batch():
    real, extra = torch.tensor([0, 0, 0, 1]), torch.tensor([1, 1])
    assert class_shares(real, 2, extra, 0.5) == [0.375, 0.625]


def test_weights_by_name_leave_the_others_at_one_and_know_the_classes():
    found = class_balance({"b": 3.0}, 0.0, [0.5, 0.25, 0.25], ["a", "b", "c"]).weights
    assert found is not None and found.tolist() == [1.0, 3.0, 1.0]
    with pytest.raises(InputError) as caught:
        class_balance({"neutrophils": 2.0}, 0.0, [0.5, 0.5], ["monocyte", "neutrophil"])
    assert str(caught.value) == (
        "class_weights has a weight for 'neutrophils', expected classes of the data set (monocyte, neutrophil); did "
        "you mean 'neutrophil'?"
    )


@pytest.mark.parametrize(
    ("weights", "tau", "key"), [("balanced", 0.0, "class_weights: balanced"), ("none", 1.0, "logit_adjustment")]
)
def test_a_class_without_images_has_no_prior(weights: str, tau: float, key: str):
    with pytest.raises(
        DataError, match=f"^{key} is computed from the number of training images of every class, and b "
    ):
        class_balance(weights, tau, [1.0, 0.0], ["a", "b"])
    assert class_balance("none", 0.0, [1.0, 0.0], ["a", "b"]).weights is None


@pytest.mark.parametrize("processes", [2, 3])
def test_shares_and_micro_batches_weighted_by_their_images_are_the_loss_of_the_whole_batch(processes: int):
    images = make_images(40)
    settings = {"mixup": 0.0, "class_weights": WEIGHTS, "drop_last": False}
    loaders = [make_loader(images, rank=rank, processes=processes, **settings) for rank in range(processes)]
    for loader in loaders:
        loader._mixing.active = False  # the helper smooths labels; these are class numbers
    for parts in zip(*(loader.epoch(0) for loader in loaders), strict=True):
        labels = torch.cat([part.targets for part in parts])
        logits = some_logits(len(labels)).requires_grad_()
        whole = nn.CrossEntropyLoss(WEIGHTS.double())(logits, labels)
        loss = ClassificationLoss(WEIGHTS)
        split = [piece for part in parts for piece in part.split(2)]
        pieces = torch.split(logits, [len(piece.targets) for piece in split])
        ours = sum(loss(some, piece) * (len(some) / len(labels)) for some, piece in zip(pieces, split, strict=True))
        assert float(ours.detach()) == pytest.approx(float(whole.detach()), rel=1e-6)
        (one,), (other,) = torch.autograd.grad(ours, logits), torch.autograd.grad(whole, logits)
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-8)


def test_mixed_labels_need_no_mean_weight():
    loader = make_loader(make_images(40), class_weights=WEIGHTS)
    assert all(batch.weight is None and batch.targets.ndim == 2 for batch in loader.epoch(0))


def test_teachers_unguided_and_guided_students_take_it_and_the_terms_are_untouched():
    torch.manual_seed(0)
    student, teacher = TinyViT(4), Teacher(TinyViT(4), image_size=8, taps=["blocks.0", "blocks.1", "blocks.2"])
    student.eval()
    guide = Guide(student, teacher, image_size=8, terms=[Term(MapLoss("linear"), weight=2.5)],
                  taps=["blocks.0", "blocks.1", "blocks.2"])  # fmt: skip
    batch = Batch(torch.rand(9, 3, 8, 8), LABELS)
    own = ClassificationLoss(WEIGHTS, WEIGHTS.log())
    plain, changed = Guided(student, guide)(batch), Guided(student, guide, classification=own)(batch)
    expected = nn.CrossEntropyLoss(WEIGHTS)(plain.logits + WEIGHTS.log(), LABELS)
    assert torch.equal(changed.parts["guidance_linear"], plain.parts["guidance_linear"])
    assert torch.equal(changed.logits, plain.logits)
    assert float(changed.parts["classification"]) == pytest.approx(float(expected), rel=1e-6)
    assert float(changed.parts["classification"]) != pytest.approx(float(plain.parts["classification"]), rel=1e-3)
    assert torch.equal(Supervised(student, own)(batch).loss, changed.parts["classification"])
    guide.remove()


def test_weights_follow_the_task_and_stay_out_of_its_checkpoint():
    task = Supervised(TinyViT(4), ClassificationLoss(WEIGHTS))
    assert task.classification.weights is not None
    assert not any("classification" in name for name in task.state_dict())
    assert task.to(torch.float64).classification.weights.dtype == torch.float64
