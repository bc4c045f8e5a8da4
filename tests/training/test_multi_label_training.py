"""The training loop on several labels an image: shares of processes, accuracy, and resuming to the bit."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lgkd.data.batch import Batch
from lgkd.distillation.classification import MultiLabelLoss
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Guided, Step
from lgkd.losses import MapLoss
from lgkd.losses.binary_kd import BinaryKD
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.teacher import Teacher
from lgkd.training.metrics import RunningMean
from tests.support.labels import draw_labels
from tests.support.training import TinyViT, make_images, make_loader


def some_images(count: int = 43):
    return replace(make_images(count), labels=torch.from_numpy(draw_labels(count)).float())


@pytest.mark.parametrize("processes", [2, 3])
def test_the_shares_of_a_batch_are_the_batch_with_mixed_label_sets(processes: int) -> None:
    whole = list(make_loader(some_images()).epoch(1))
    shares = [list(make_loader(some_images(), rank=rank, processes=processes).epoch(1)) for rank in range(processes)]
    for step, batch in enumerate(whole):
        assert batch.targets.shape == (8, 3) and batch.targets.dtype == torch.float32
        parts = [share[step] for share in shares]
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
        assert torch.equal(torch.cat([part.targets for part in parts]), batch.targets)
    assert any(bool(((batch.targets > 0.1) & (batch.targets < 0.9)).any()) for batch in whole), "nothing was mixed"


def test_a_guided_step_is_the_sum_of_both_losses() -> None:
    torch.manual_seed(1)
    student, teacher = TinyViT(), Teacher(CifarResNet(8, 3), image_size=8)
    terms = [Term(MapLoss("linear"), weight=2.5, name="maps"), Term(BinaryKD(2.0), weight=0.5, name="kd")]
    guide = Guide(student, teacher, image_size=8, terms=terms, taps=["blocks.0", "blocks.1", "blocks.2"])
    task = Guided(student, guide, classification=MultiLabelLoss(torch.tensor([1.0, 2.0, 1.0]))).eval()
    batch = next(iter(make_loader(some_images()).epoch(0)))
    step = task(batch)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        student(batch.images), batch.targets, pos_weight=torch.tensor([1.0, 2.0, 1.0])
    )
    assert step.parts["classification"] == pytest.approx(expected.item(), rel=1e-5)
    whole = step.parts["classification"] + 2.5 * step.parts["maps"] + 0.5 * step.parts["kd"]
    assert step.loss.item() == pytest.approx(whole.item(), rel=1e-6)
    # What labels an image has changes nothing in the terms on maps.
    other = task(replace(batch, targets=1 - batch.targets))
    assert torch.equal(other.parts["maps"], step.parts["maps"])


def test_the_accuracy_of_an_epoch_is_that_of_the_task() -> None:
    def halves(logits: Tensor, targets: Tensor) -> Tensor:
        return torch.tensor(len(targets) / 2)

    meters = RunningMean(halves)
    for count in (4, 2):
        meters.add(
            Step(torch.tensor(1.0), torch.zeros(count, 3)), Batch(torch.zeros(count, 3, 1, 1), torch.zeros(count, 3))
        )
    assert meters.read()["accuracy"] == 0.5
