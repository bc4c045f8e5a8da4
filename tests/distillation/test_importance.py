"""Importance of heads and units: against finite differences of the loss, image by image, with the guide's terms."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lgkd._internal.rng import seed_generators
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.importance import measure_importance, most_important
from lgkd.distillation.tasks import Batch, Guided, Step, Supervised, Task
from lgkd.errors import InputError
from lgkd.losses import KD, MapLoss, MaskedImages
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.factory import create_student
from lgkd.models.pruned_student import prunable_parts
from lgkd.models.teacher import Teacher


def student() -> nn.Module:
    torch.manual_seed(0)
    options = {"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "mlp_ratio": 0.5, "drop_path_rate": 0.2}
    model = create_student("deit_tiny", num_classes=4, image_size=32, **options).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def guided() -> Task:
    model = student()
    teacher = Teacher(CifarResNet(8, num_classes=4).double().eval(), image_size=32)
    terms = [Term(MapLoss("linear"), weight=2.5), Term(KD(), weight=1.0)]
    return Guided(model, Guide(model, teacher, image_size=32, terms=terms).double()).double()


def batch(count: int = 3) -> Batch:
    draw = torch.Generator().manual_seed(1)
    return Batch(torch.randn(count, 3, 32, 32, generator=draw, dtype=torch.float64), torch.arange(count) % 4)


def derivative(task: Task, one: Batch, layer: nn.Module, columns: slice, step: float = 1e-4) -> float:
    """The derivative of the loss by a factor before some of a layer's inputs, by central differences."""

    def loss(factor: float) -> float:
        def scale(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            scaled = given[0].clone()
            scaled[..., columns] *= factor
            return (scaled,)

        hook = layer.register_forward_pre_hook(scale)
        with torch.no_grad():
            found = float(task(one).loss)
        hook.remove()
        return found

    return (loss(1 + step) - loss(1 - step)) / (2 * step)


@pytest.mark.parametrize("make", [lambda: Supervised(student()), guided], ids=["labels", "guide"])
def test_importance_is_the_mean_absolute_derivative_of_every_image(make: Callable[[], Task]) -> None:
    task = make()
    images = batch()
    singles = [Batch(images.images[[place]], images.targets[[place]]) for place in range(3)]
    # Of a guided task the images are given one by one, as terms need not be means over images.
    found = measure_importance(task, [images] if isinstance(task, Supervised) else singles)
    assert found.images == 3 and all(parameter.grad is None for parameter in task.student.parameters())
    task.student.eval()
    for place, part in enumerate(prunable_parts(task.student)):
        for head in range(part.heads):
            columns = slice(head * 8, head * 8 + 8)
            expected = sum(abs(derivative(task, one, part.attention.proj, columns)) for one in singles) / 3
            assert float(found.heads[place][head]) == pytest.approx(expected, rel=1e-4, abs=1e-7)
        for unit in (0, 5):
            columns = slice(unit, unit + 1)
            expected = sum(abs(derivative(task, one, part.mlp.fc2, columns)) for one in singles) / 3
            assert float(found.units[place][unit]) == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_importance_counts_both_passes_of_masked_images_and_their_draws_are_the_same_each_time() -> None:
    model = student()
    task = Guided(model, Guide(model, None, image_size=32, terms=[Term(MaskedImages(), weight=1.0)]).double()).double()
    images = batch()
    singles = [Batch(images.images[[place]], images.targets[[place]]) for place in range(3)]
    found, again = (measure_importance(task, singles) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(found.heads, again.heads, strict=True))
    task.student.eval()

    def drawing(place: int) -> Callable[[Batch], Step]:
        def step(one: Batch) -> Step:
            seed_generators(place, torch.device("cpu"))
            return task(one)  # type: ignore[no-any-return]

        return step

    for place, part in enumerate(prunable_parts(task.student)):
        columns = slice(8, 16)
        several = [
            abs(derivative(drawing(number), one, part.attention.proj, columns))  # type: ignore[arg-type]
            for number, one in enumerate(singles)
        ]
        assert float(found.heads[place][1]) == pytest.approx(sum(several) / 3, rel=1e-4, abs=1e-7)


def test_the_guide_changes_the_ranking_and_modes_stay() -> None:
    task = guided().train()
    own = measure_importance(Supervised(task.student), [batch()])
    all_terms = measure_importance(task, [batch()])
    assert not torch.allclose(own.heads[0], all_terms.heads[0], rtol=0.05)
    assert task.student.training and all(block.training for block in task.student.blocks)
    assert not any(part.attention.proj._forward_pre_hooks for part in prunable_parts(task.student))


def test_batches_are_averaged_by_their_images() -> None:
    task = Supervised(student())
    images = batch(5)
    parts = [Batch(images.images[some], images.targets[some]) for some in (slice(0, 4), slice(4, 5))]
    whole, divided = measure_importance(task, [images]), measure_importance(task, parts)
    for one, other in zip((*whole.heads, *whole.units), (*divided.heads, *divided.units), strict=True):
        assert torch.allclose(one, other, rtol=1e-9)


def test_the_best_of_all_blocks_are_kept_and_one_of_each() -> None:
    # Divided by their norms 5, 1 and 13: 0.6 and 0.8; 1 and 0; 5/13, 12/13 and 0.
    scores = [torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0]), torch.tensor([5.0, 12.0, 0.0])]
    assert most_important(scores, 4 / 7) == [[0, 1], [0], [1]]
    assert most_important(scores, 5 / 7) == [[0, 1], [0], [0, 1]]
    assert most_important(scores, 0.1) == [[1], [0], [1]]
    assert most_important(scores, 1) == [[0, 1], [0, 1], [0, 1, 2]]
    assert most_important([torch.zeros(3), torch.ones(2)], 0.6) == [[0], [0, 1]]  # ties: the first


def test_no_images_and_losses_that_are_not_finite_are_refused() -> None:
    task = Supervised(student())
    with pytest.raises(InputError, match="there are no training images to measure importance on"):
        measure_importance(task, [])
    with pytest.raises(InputError, match="the loss of 1 training images is nan, expected a finite number"):
        measure_importance(task, [Batch(torch.full((1, 3, 32, 32), torch.nan).double(), torch.tensor([0]))])
