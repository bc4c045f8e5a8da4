"""No operation that torch refuses on a GPU under `--deterministic`, in training, evaluation and every term."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Batch, Guided
from lgkd.losses import TERMS
from lgkd.losses.base import averaged
from lgkd.models.factory import create_student
from lgkd.models.teacher import Teacher
from lgkd.training.evaluate import BINS, _by_group, score
from lgkd.training.metrics import RunningMean
from lgkd.training.train_step import Engine
from tests.support.losses import OF_ATTENTION, attention_guide
from tests.support.training import make_images, make_loader, make_plan, make_task

# The operations behind the second list in the documentation of `torch.use_deterministic_algorithms` (2.14): those that
# raise on CUDA. `upsample_bilinear2d_backward` is not among them: `F.interpolate` replaces it there.
REFUSED = {
    "avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward",
    "adaptive_max_pool2d_backward", "adaptive_max_pool3d_backward", "fractional_max_pool2d_backward",
    "fractional_max_pool3d_backward", "max_unpool2d", "max_unpool3d", "upsample_linear1d_backward",
    "upsample_bicubic2d_backward", "upsample_trilinear3d_backward", "_upsample_bilinear2d_aa_backward",
    "_upsample_bicubic2d_aa_backward", "reflection_pad1d_backward", "reflection_pad2d_backward",
    "reflection_pad3d_backward", "nll_loss2d_forward", "nll_loss2d_backward", "_ctc_loss_backward", "put_", "put",
    "histc", "kthvalue", "grid_sampler_2d_backward", "grid_sampler_3d_backward",
}  # fmt: skip


class AsOnCuda(TorchDispatchMode):
    """Refuses what a GPU would."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        weighted = name == "bincount" and (len(args) > 1 or (kwargs or {}).get("weights") is not None)
        if name in REFUSED or weighted or (name == "median" and func._overloadname == "dim"):
            raise RuntimeError(f"{name} does not have a deterministic implementation")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def strict() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        with AsOnCuda():
            yield
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_mode_refuses_what_a_gpu_refuses(strict: None) -> None:
    map_BChw = torch.randn(2, 3, 6, 6, requires_grad=True)
    with pytest.raises(RuntimeError, match="_adaptive_avg_pool2d_backward does not"):
        F.adaptive_avg_pool2d(map_BChw, (4, 4)).sum().backward()
    with pytest.raises(RuntimeError, match="bincount does not"):
        torch.bincount(torch.tensor([0, 1]), weights=torch.ones(2))
    torch.bincount(torch.tensor([0, 1]))


def test_training_and_evaluation_use_nothing_that_a_gpu_refuses(strict: None) -> None:
    engine, meters = Engine(make_task(), make_plan(), names=lambda index: []), RunningMean()
    batches = list(make_loader(make_images()).epoch(0))
    for place, batch in enumerate(batches):
        engine.step(batch, 0, place, meters)
    scored = [(batch.images, batch.targets.argmax(dim=1)) for batch in batches]
    found = score(engine.eval_model, scored, other=engine.task.student)
    assert found.images == sum(len(images) for images, _ in scored) and found.agreement is not None


@pytest.mark.parametrize("kind", TERMS)
def test_no_term_uses_what_a_gpu_refuses(
    kind: str, strict: None, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    torch.manual_seed(1)
    # 16 x 16 tokens: finer than the teacher's last map, coarser than its first.
    options = {"patch_size": 2, "depth": 3, "embed_dim": 24, "num_heads": 2}
    student: nn.Module = create_student("deit_tiny", num_classes=5, image_size=32, **options)
    if TERMS[kind].reads == "distillation":
        student = create_student("timm:deit_tiny_distilled_patch16_224", num_classes=5, image_size=32, **options)
    if kind in OF_ATTENTION:
        guide = attention_guide(student, kind, size=32, classes=5, patch_size=4)
    else:
        terms, labels = [Term(TERMS[kind](), name=kind)], torch.arange(9) % 5
        guide = Guide(student, teacher, image_size=32, terms=terms, labels=labels)
    task = Guided(student, guide).train()
    step = task(replace(make_batch(32, count=6), index=torch.arange(6)))
    step.loss.backward()
    assert step.parts[kind].isfinite()


@pytest.mark.parametrize(
    ("size", "grid"), [((8, 8), (4, 4)), ((7, 5), (3, 2)), ((14, 14), (4, 4)), ((6, 9), (1, 1)), ((5, 5), (5, 4))]
)
def test_the_deterministic_average_equals_torchs_pooling(size: tuple[int, int], grid: tuple[int, int]) -> None:
    given = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plain, exact = given.clone().requires_grad_(), given.clone().requires_grad_()
    weights = torch.randn(2, 3, *grid, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = F.adaptive_avg_pool2d(plain, grid)
    assert torch.equal(averaged(given, grid), expected), "without the mode it is torch's own"
    torch.use_deterministic_algorithms(True)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = averaged(exact, grid)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    slopes = [torch.autograd.grad((one * weights).sum(), leaf)[0] for one, leaf in ((expected, plain), (found, exact))]
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-13, atol=1e-13)


def test_sums_by_group_are_those_of_a_weighted_bincount_to_the_bit() -> None:
    chance = torch.Generator().manual_seed(3)
    groups = torch.randint(0, BINS - 1, (4000,), generator=chance)  # the last one stays empty
    confidence = torch.rand(4000, generator=chance).double()
    right = torch.rand(4000, generator=chance) < 0.5
    assert torch.equal(_by_group(groups, BINS, confidence), torch.bincount(groups, weights=confidence, minlength=BINS))
    assert torch.equal(
        _by_group(groups, BINS, right).double(), torch.bincount(groups, weights=right.double(), minlength=BINS)
    )
    assert torch.equal(_by_group(groups, BINS, torch.ones_like(groups)), torch.bincount(groups, minlength=BINS))
    confidence[groups == 2] = torch.nan
    assert _by_group(groups, BINS, confidence).isnan().tolist() == [place == 2 for place in range(BINS)]
