"""One compiled block serves all: the step equals the eager one, graphs are bounded, and the model stays plain."""

import copy
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Batch, Guided
from lgkd.errors import InputError
from lgkd.losses import MapLoss
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.teacher import Teacher
from lgkd.training import train_step
from lgkd.training.compile import choose_compile, hide_missing_runtime
from lgkd.training.compile_blocks import CompiledBlocks, SharedDropPath, repeated_blocks
from lgkd.training.metrics import RunningMean
from lgkd.training.train_step import Engine
from tests.support.training import TinyViT, make_images, make_loader, make_plan


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def gradients(task: Guided, batch: Batch) -> tuple[Any, list[torch.Tensor | None]]:
    task.zero_grad(set_to_none=True)
    step = task(batch)
    step.loss.backward()
    return step, [weight.grad for weight in task.parameters()]


@pytest.mark.parametrize(
    ("name", "options", "graphs"),
    [
        ("deit_tiny", {"depth": 5}, 1),
        ("convit_tiny", {"depth": 5, "local_up_to_layer": 3}, 2),
        ("pvt_v2_b0", {"depths": (2, 2, 2, 2)}, 2),
        ("pit_ti", {"depth": (1, 2, 1)}, 1),
    ],
)
def test_a_guided_step_with_compiled_blocks_equals_the_eager_one(
    name: str, options: dict[str, Any], graphs: int, small_student: Callable[..., tuple[nn.Module, int]],
    teacher: Teacher, make_batch: Callable[..., Batch],
) -> None:  # fmt: skip
    student, size = small_student(name, **options)
    terms = [Term(MapLoss("linear"), 2.5), Term(MapLoss("attention"), 100.0)]
    task = Guided(student, Guide(student, teacher, image_size=size, terms=terms)).train()
    batch = make_batch(size)
    eager, expected = gradients(task, batch)
    keys, counter = list(task.state_dict()), CompileCounterWithBackend("eager")
    blocks = CompiledBlocks(student, backend=counter)
    for _ in range(2):
        with blocks.running():
            step, found = gradients(task, batch)
            assert list(task.state_dict()) == keys
    assert counter.frame_count == blocks.kinds == graphs, "blocks share code, and the second step compiles nothing"
    torch.testing.assert_close(step.loss, eager.loss, rtol=1e-6, atol=1e-6)
    for part in eager.parts:
        torch.testing.assert_close(step.parts[part], eager.parts[part], rtol=1e-5, atol=1e-7)
    for gradient, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)


def test_blocks_with_other_rates_of_stochastic_depth_share_code(
    small_student: Callable[..., tuple[nn.Module, int]],
) -> None:
    student, size = small_student("deit_tiny", depth=6, drop_path_rate=0.3)
    own = dict(student.named_modules())
    counter = CompileCounterWithBackend("eager")
    blocks = CompiledBlocks(student.train(), backend=counter)
    with blocks.running():
        student(torch.zeros(4, 3, size, size)).sum().backward()
        rates = [1 - float(module.kept) for module in student.modules() if isinstance(module, SharedDropPath)]
    assert counter.frame_count == 1
    assert rates == pytest.approx([rate for place in range(6) for rate in [0.3 * place / 5] * 2], abs=1e-6)
    assert dict(student.named_modules()) == own and not any("forward" in vars(block) for block in student.modules())


def test_stochastic_depth_drops_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    branch = torch.randn(2000, 3, 2)
    drop = SharedDropPath(0.25, scale=True, device=torch.device("cpu"))
    found = drop(branch) / branch
    factors = found[:, 0, 0]
    torch.testing.assert_close(found, factors[:, None, None].expand_as(found))
    assert {round(factor, 4) for factor in factors.tolist()} == {0.0, 1.3333}
    assert (factors > 0).float().mean().item() == pytest.approx(0.75, abs=0.04)
    assert torch.equal(drop.eval()(branch), branch)
    assert torch.equal(SharedDropPath(0.0, scale=True, device=torch.device("cpu"))(branch), branch)
    assert not SharedDropPath(1.0, scale=True, device=torch.device("cpu"))(branch).any()
    unscaled = SharedDropPath(0.25, scale=False, device=torch.device("cpu"))(branch) / branch
    assert set(unscaled.unique().tolist()) == {0.0, 1.0}


def test_a_block_with_a_tap_inside_is_left_out_and_the_tap_is_read(
    small_student: Callable[..., tuple[nn.Module, int]], teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    student, size = small_student("deit_tiny", depth=5)
    taps = ["blocks.0", "blocks.2.mlp", "blocks.4"]
    guide = Guide(student, teacher, image_size=size, terms=[Term(MapLoss("linear"), 2.5)], taps=taps)
    task = Guided(student, guide).train()
    eager, _ = gradients(task, make_batch(size))
    blocks = CompiledBlocks(student, backend="eager")
    assert blocks.blocks == ["blocks.0", "blocks.1", "blocks.3", "blocks.4"]
    with blocks.running():
        step, _ = gradients(task, make_batch(size))
    torch.testing.assert_close(step.parts["guidance_linear"], eager.parts["guidance_linear"])


def small_task() -> Guided:
    torch.manual_seed(1)
    student = TinyViT()
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    teacher = Teacher(CifarResNet(8, 3), image_size=8)
    taps = ["blocks.0", "blocks.1", "blocks.2"]
    return Guided(student, Guide(student, teacher, image_size=8, terms=[Term(MapLoss("linear"), 2.5)], taps=taps))


@pytest.mark.parametrize(("accumulate", "graphs"), [(1, {8: 1}), (3, {2: 1, 3: 1})], ids=["whole", "uneven"])
def test_a_training_compiles_its_blocks_once_a_size_and_nothing_for_short_batches_and_evaluation(
    monkeypatch: pytest.MonkeyPatch, accumulate: int, graphs: dict[int, int]
) -> None:
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr(train_step, "CompiledBlocks", lambda model: CompiledBlocks(model, backend=counter))
    learned = []
    for what in ("blocks", False):
        plan = make_plan(accumulate=accumulate, compile=what, steps_per_epoch=6)
        engine = Engine(small_task(), plan, names=lambda index: [])
        loader, meters = make_loader(make_images(), drop_last=False), RunningMean()
        engine.task.train()
        for epoch in range(2):
            for place, batch in enumerate(loader.epoch(epoch)):
                engine.step(batch, epoch, place, meters)
            with torch.no_grad():
                engine.eval_model.eval()(torch.zeros(5, 3, 8, 8))
                copy.deepcopy(engine.task.student)(torch.zeros(7, 3, 8, 8))
            engine.task.train()
        if what:
            assert engine.compiled is not None
            assert engine.compiled.graphs == {(images, ("block 0",)) for images in graphs}
            assert counter.frame_count == sum(graphs.values())
        learned.append(engine.task.state_dict())
        engine.close()
    assert learned[0].keys() == learned[1].keys() and not any("_orig_mod" in key for key in learned[0])
    for name, value in learned[1].items():
        torch.testing.assert_close(learned[0][name], value, rtol=1e-4, atol=1e-5)


def test_a_model_without_two_equal_blocks_has_none_to_compile() -> None:
    assert repeated_blocks(CifarResNet(8, 3)) == []
    model = TinyViT()
    model.blocks = model.blocks[:1]
    assert repeated_blocks(model) == []
    with pytest.raises(InputError, match=r"--compile blocks compiles one transformer block .* use --compile whole"):
        choose_compile("blocks", "cpu", 1)


@pytest.mark.parametrize(
    ("wanted", "device", "images", "has_blocks", "expected"),
    [
        (None, "cuda", 999_999, True, False),
        (None, "cuda", 1_000_000, True, "blocks"),
        (None, "cuda", 1_000_000, False, False),
        (None, "cuda", 4_000_000, True, True),
        (None, "cpu", 10**9, True, False),
        ("blocks", "cpu", 1, True, "blocks"),
        (True, "cpu", 1, True, True),
        (False, "cuda", 10**9, True, False),
    ],
)
def test_the_length_decides_what_is_compiled(
    wanted: Any, device: str, images: int, has_blocks: bool, expected: object
) -> None:
    assert choose_compile(wanted, device, images, has_blocks=has_blocks) is expected


def test_blocks_are_not_recorded() -> None:
    with pytest.raises(InputError, match=r"--cuda-graphs .* only blocks are compiled \(--compile blocks\); leave one"):
        choose_compile("blocks", "cuda", 1, cuda_graphs=True, has_blocks=True)


def test_only_torchs_line_on_a_missing_cuda_runtime_is_hidden(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("torch.utils.cpp_extension")
    before, spread = list(log.filters), log.propagate
    log.filters, log.propagate = [], True
    try:
        log.warning("No CUDA runtime is found, using CUDA_HOME='%s'", "/usr/local")
        for _ in range(2):
            hide_missing_runtime()
        log.warning("No CUDA runtime is found, using CUDA_HOME='%s'", "/usr/local")
        log.warning("another")
        assert len(log.filters) == 1
    finally:
        log.filters, log.propagate = before, spread
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        "No CUDA runtime is found",
        "another",
    ]
