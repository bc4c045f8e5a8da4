"""The loop that lgkd is compared with is an honest one: it descends the same loss on images of the same kind."""

import json
import math
import multiprocessing
from dataclasses import replace

import pytest
import torch

from lgkd.benchmark.baseline_loop import Plain
from lgkd.benchmark.baseline_process import Rival
from lgkd.benchmark.options import Choices
from lgkd.benchmark.subject import Subject, load_data
from lgkd.benchmark.timm_pipeline import timm_transform
from lgkd.cli import run
from lgkd.distillation.tasks import Batch
from lgkd.errors import ModelError
from tests.support.bench import GUIDED, TEACHER, TYPED, UNGUIDED
from tests.support.bench import small_products as small_products

EXACT = ("drop_path=0",)
PYRAMID = replace(GUIDED, student="pvt_v2_b0", student_options={"depths": [1, 1, 1, 1]}, image_size=64)


def both(choices: Choices) -> tuple[torch.Tensor, torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Our loss and the plain loop's on the same batch and weights, and both students' gradients."""
    subject, plain = Subject(choices), Plain(choices)
    try:
        if subject.guide is not None:
            (ours,) = subject.guide.losses.values()
            plain.projections.load_state_dict(ours.projections.state_dict())
        batch = subject.fixed()
        images, targets = batch.images, batch.targets
        our_loss = subject.engine.task(Batch(images, targets)).loss
        plain_loss = plain.loss(images, targets)
        our_loss.backward()
        plain_loss.backward()
        theirs = dict(plain.student.named_parameters())
        gradients = [(p.grad, theirs[name].grad) for name, p in subject.model.named_parameters() if p.grad is not None]
        return our_loss.detach(), plain_loss.detach(), gradients
    finally:
        subject.close()


@pytest.mark.parametrize(
    "choices",
    [
        replace(GUIDED, overrides=EXACT),
        replace(PYRAMID, overrides=EXACT),
        replace(GUIDED, overrides=(*EXACT, "guide.teacher_bn=batch")),
        replace(UNGUIDED, overrides=EXACT),
        TEACHER,
        replace(TEACHER, overrides=("label_smoothing=0.1",)),
    ],
    ids=["tokens", "pyramid", "teacher by batch", "unguided", "teacher", "smoothed"],
)
def test_the_plain_loop_descends_the_same_loss(choices: Choices) -> None:
    ours, plain, gradients = both(choices)
    assert plain.item() == pytest.approx(ours.item(), rel=1e-5)
    assert len(gradients) > 5
    for our_gradient, plain_gradient in gradients:
        torch.testing.assert_close(plain_gradient, our_gradient, rtol=1e-3, atol=1e-5)


def test_guidance_is_a_part_of_that_loss() -> None:
    guided, unguided = (both(replace(choices, overrides=EXACT))[1] for choices in (GUIDED, UNGUIDED))
    assert guided > unguided + 0.1


def test_a_plain_step_learns_and_leaves_the_teacher_as_it_was() -> None:
    plain = Plain(GUIDED)
    assert plain.teacher is not None
    before = {name: value.clone() for name, value in plain.teacher.state_dict().items()}
    weights = [parameter.detach().clone() for parameter in plain.student.parameters()]
    projections = [parameter.detach().clone() for parameter in plain.projections.parameters()]
    with plain.pipeline.opened(0) as draw:
        plain.step(*draw(), "bf16")
    assert all(torch.equal(value, before[name]) for name, value in plain.teacher.state_dict().items())
    assert any(not torch.equal(a, b) for a, b in zip(weights, plain.student.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(projections, plain.projections.parameters(), strict=True))


def test_mixed_labels_are_mixed_by_timm() -> None:
    plain = Plain(replace(UNGUIDED, overrides=("mix.mixup=0.8",)))
    seen: list[torch.Tensor] = []
    loss = plain.loss
    plain.loss = lambda images, targets: seen.append(targets) or loss(images, targets)  # type: ignore[func-returns-value]
    with plain.pipeline.opened(0) as draw:
        plain.step(*draw(), "fp32")
    assert seen[0].shape == (4, 100)
    torch.testing.assert_close(seen[0].sum(dim=1), torch.ones(4))


def test_the_plain_pipeline_is_the_recipe_in_timms_words() -> None:
    data = load_data(GUIDED)
    text = str(timm_transform(GUIDED.resolved, (32, 32), data))
    for words in (
        "scale=(0.08, 1.0)",
        "interpolation=bicubic",
        "RandAugment(n=2",
        "m=9, mstd=0.5",
        "p=0.25, mode=pixel",
    ):
        assert words in text


def test_posterize_keeps_a_bit_where_timm_draws_none() -> None:
    data = load_data(GUIDED)
    transform = timm_transform(replace(GUIDED, overrides=("view.rand_augment=rand-m10-inc1",)).resolved, (32, 32), data)
    operations = [one for step in transform.transforms for one in getattr(step, "ops", ())]
    (posterize,) = [one for one in operations if one.name.startswith("Posterize")]
    posterize.prob = 1.0
    plain = Plain(GUIDED)
    image = torch.arange(3 * 8 * 8, dtype=torch.uint8).view(8, 8, 3).numpy()
    from torchvision.transforms.functional import to_pil_image

    kept = set(posterize(to_pil_image(image)).tobytes())
    assert kept <= {0, 128}
    assert plain.batch_size == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_the_plain_pipeline_are_whole_and_its_workers_end_with_it(workers: int) -> None:
    plain = Plain(UNGUIDED)
    before = set(multiprocessing.active_children())
    with plain.pipeline.opened(workers) as draw:
        assert len(set(multiprocessing.active_children()) - before) == workers
        for _ in range(7):  # more than an epoch of five
            images, labels = draw()
            assert images.shape == (4, 3, 32, 32)
            assert images.dtype == torch.float32
            assert labels.shape == (4,)
    assert set(multiprocessing.active_children()) <= before


def test_the_fewest_seconds_decide_on_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Plain(UNGUIDED)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(
        plain, "_run", lambda kind, precision, steps, workers: asked.append((steps, workers)) or float(3 - workers)
    )
    assert plain.lap("whole", "fp32", 10) == 2.0
    assert plain.lap("whole", "fp32", 10) == 2.0
    assert asked == [(2, 0), (2, 1), (10, 1), (10, 1)]
    assert plain.workers() == {"whole fp32": 1}


@pytest.mark.slow
def test_the_command_compares_with_a_plain_loop_in_another_process(capsys) -> None:
    assert run([*TYPED, "--precision", "bf16", "--against", "plain", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    plain = json.loads(out)["against"]["plain"]
    assert set(plain["parts"]) == set(plain["times_as_fast"]) == {"data", "whole fp32", "whole bf16"}
    assert set(plain["workers"]) == {"data", "whole fp32", "whole bf16"}
    assert plain["peak_memory_bytes"] > 0
    for ratio in plain["times_as_fast"].values():
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"] < math.inf


@pytest.mark.slow
def test_what_goes_wrong_in_the_other_process_is_raised_here() -> None:
    with pytest.raises(ModelError, match="efficientformer_l1 cannot take images of 32 x 32"):
        Rival(replace(UNGUIDED, student="timm:efficientformer_l1", student_options={}))
