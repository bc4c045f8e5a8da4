"""Optimisers by name: timm's equal timm's own, Muon takes what it is made for, and all of them resume to the bit."""

from collections.abc import Iterator

import pytest
import timm
import timm.optim
import torch
from torch import nn

from lgkd.config import Optimizer
from lgkd.distillation.tasks import Supervised
from lgkd.errors import InputError
from lgkd.models.factory import create_model
from lgkd.training.nonfinite import masked_step
from lgkd.training.optim import hidden_matrices, make_optimizer, parameter_groups
from lgkd.training.state import optimizer_tensors, restore_optimizer

TIMMS = ("muon", "lion", "nadamw")


def plan(name: str) -> Optimizer:
    return Optimizer(name, lr=3e-3, weight_decay=0.05, betas=(0.9, 0.98))  # type: ignore[arg-type]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    blocks = nn.Sequential(nn.Linear(12, 12), nn.GELU(), nn.LayerNorm(12))
    return nn.Sequential(nn.Linear(8, 12), blocks, nn.Linear(12, 3))


def descend(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        loss = model(torch.randn(16, 8, generator=draw)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["adamw", "sgd", *TIMMS])
def test_state_put_into_a_new_optimiser_goes_on_to_the_bit(name: str) -> None:
    model = network()
    optimizer = make_optimizer(model, plan(name))
    descend(model, optimizer, range(3))
    saved = {key: value.clone() for key, value in optimizer_tensors(model, optimizer).items()}
    twin = network()
    twin.load_state_dict(model.state_dict())
    again = make_optimizer(twin, plan(name))
    restore_optimizer(twin, again, saved)
    descend(model, optimizer, range(3, 6))
    descend(twin, again, range(3, 6))
    for (name_of, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs), name_of


@pytest.mark.parametrize("name", ["lion", "nadamw"])
def test_the_timm_ones_step_as_timms_own(name: str) -> None:
    ours, theirs = network(), network()
    groups = [
        {"params": [weight for weight in theirs.parameters() if (weight.ndim > 1) == wide], "weight_decay": decay}
        for wide, decay in ((True, 0.05), (False, 0.0))
    ]
    kinds = {"lion": timm.optim.Lion, "nadamw": timm.optim.NAdamW}  # type: ignore[attr-defined]
    descend(ours, make_optimizer(ours, plan(name)), range(4))
    descend(theirs, kinds[name](groups, lr=3e-3, betas=(0.9, 0.98)), range(4))
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_muon_steps_alike_in_strong_and_faint_directions_of_a_matrix_and_leaves_the_rest_to_nadamw() -> None:
    """The singular values of a step are about 0.2 sqrt(12) times the rate; those of its gradient are far apart."""
    ours, theirs = network(), network()
    before = ours[1][0].weight.detach().clone()
    descend(ours, make_optimizer(ours, plan("muon")), range(1))
    step = (ours[1][0].weight.detach() - before * (1 - 3e-3 * 0.05)) / 3e-3
    sizes = torch.linalg.svdvals(step) / (0.2 * 12**0.5)
    given = torch.linalg.svdvals(ours[1][0].weight.grad)
    assert given[0] > 20 * given[8]
    assert 0.7 < sizes[8] < sizes[0] < 1.2  # five iterations do not lift the faintest three
    descend(theirs, make_optimizer(theirs, plan("nadamw")), range(1))
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other) == (name != "1.0.weight"), name


@pytest.mark.parametrize(
    ("model", "inside", "outside"),
    [
        (
            lambda: create_model("deit_tiny", num_classes=5, image_size=32, options={"patch_size": 8, "depth": 2}),
            {"blocks.0.attn.qkv.weight", "blocks.0.attn.proj.weight", "blocks.1.mlp.fc1.weight"},
            {"head.weight", "patch_embed.proj.weight", "pos_embed", "cls_token", "blocks.0.attn.qkv.bias"},
        ),
        (
            lambda: create_model("dhvt_tiny", num_classes=5, image_size=32),
            {"blocks.0.attn.qkv.weight"},
            {"head.weight"},
        ),
        (
            lambda: create_model("pvt_v2_b0", num_classes=5, image_size=64),
            {"stages.0.blocks.0.attn.q.weight", "stages.1.blocks.0.mlp.fc1.weight"},
            {"head.weight", "stages.0.blocks.0.mlp.dwconv.weight", "patch_embed.proj.weight"},
        ),
        (
            lambda: create_model("resnet20", num_classes=5, image_size=32),
            {"stage1.0.conv1.weight"},
            {"conv.weight", "fc.weight"},
        ),
    ],
    ids=["deit", "dhvt", "pvt", "resnet"],
)
def test_the_hidden_matrices_of_known_models_are_these(model, inside: set[str], outside: set[str]) -> None:
    student = model()
    hidden = hidden_matrices(Supervised(student))
    names = {name for name, weight in student.named_parameters() if id(weight) in hidden}
    known = {name for name, _ in student.named_parameters()}
    assert inside <= names
    assert outside <= known
    assert not outside & names


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        (
            "swin_tiny_patch4_window7_224",
            "layers.0.blocks.0.attn.qkv.weight",
            "layers.0.blocks.0.attn.relative_position_bias_table",
        ),
        ("densenet121", "features.denseblock1.denselayer1.conv1.weight", "features.conv0.weight"),
        ("levit_128s", "stages.0.blocks.0.attn.qkv.linear.weight", "stages.0.blocks.0.attn.attention_biases"),
        ("deit_tiny_distilled_patch16_224", "blocks.0.mlp.fc1.weight", "head_dist.weight"),
    ],
)
def test_tables_heads_and_what_reads_pixels_are_no_hidden_matrices_in_timms_models(name, inside, outside) -> None:
    with torch.device("meta"):
        student = timm.create_model(name, num_classes=7)
    weights = dict(student.named_parameters())
    hidden = hidden_matrices(student)
    assert id(weights[inside]) in hidden
    assert id(weights[outside]) not in hidden


def test_muon_without_a_matrix_to_turn_is_refused() -> None:
    with pytest.raises(InputError, match="between input and output, and a Sequential has none; use adamw"):
        make_optimizer(nn.Sequential(nn.Linear(8, 12), nn.Linear(12, 3)), plan("muon"))


def test_a_guides_projections_are_no_hidden_matrices() -> None:
    task = nn.ModuleDict({"student": network(), "guides": nn.ModuleList([nn.Conv2d(4, 4, 1)])})
    assert hidden_matrices(task) == {id(task["student"][1][0].weight)}


@pytest.mark.parametrize("name", ["adamw", "sgd", *TIMMS])
def test_a_step_that_went_bad_moves_nothing(name: str) -> None:
    model = network()
    optimizer = make_optimizer(model, plan(name))
    descend(model, optimizer, range(2))
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    state = {key: value.clone() for key, value in optimizer_tensors(model, optimizer).items()}
    model(torch.full((4, 8), float("nan"))).mean().backward()
    masked_step(optimizer, torch.tensor(1.0))
    assert all(torch.equal(now, before[key]) for key, now in model.named_parameters())
    assert all(torch.equal(value, state[key]) for key, value in optimizer_tensors(model, optimizer).items())
    model.zero_grad()
    model(torch.ones(4, 8)).square().mean().backward()
    masked_step(optimizer, torch.tensor(0.0))
    assert not any(torch.equal(now, before[key]) for key, now in model.named_parameters() if key.endswith("weight"))


@pytest.mark.parametrize("name", ["adamw", "sgd", *TIMMS])
def test_a_change_of_the_rate_reaches_every_weight(name: str) -> None:
    """Older timms kept the first rate for what Muon leaves to AdamW."""
    moved = {}
    for rate in (1e-3, 1e-4):
        model = network()
        optimizer = make_optimizer(model, plan(name))
        for group in optimizer.param_groups:
            group["lr"] = rate
        before = {key: value.detach().clone() for key, value in model.named_parameters()}
        descend(model, optimizer, range(1))
        moved[rate] = {key: (value.detach() - before[key]).norm() for key, value in model.named_parameters()}
    for key, much in moved[1e-3].items():
        assert float(much / moved[1e-4][key]) == pytest.approx(10, rel=0.02), key


@pytest.fixture
def unwritten_is_nan() -> Iterator[None]:
    """Memory that is allocated and not written holds NaN, instead of whatever was there."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


def sgd(nesterov: bool) -> Optimizer:
    return Optimizer("sgd", lr=0.1, weight_decay=0.01, momentum=0.9, nesterov=nesterov)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_starts_at_zero_though_the_first_step_is_skipped(unwritten_is_nan: None, nesterov: bool) -> None:
    """As fp16 begins: the first scale is too large, its gradients overflow, and the scaler skips the update."""
    plain, scaled = network(), network()
    expected, found = make_optimizer(plain, sgd(nesterov)), make_optimizer(scaled, sgd(nesterov))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    seen = []
    for step in range(6):
        draw = torch.Generator().manual_seed(step)
        found.zero_grad()
        loss = scaled(torch.randn(16, 8, generator=draw)).square().mean()
        scaler.scale(4 * loss if step == 0 else loss / 16).backward()
        before = scaler.get_scale()
        scaler.step(found)
        scaler.update(None if step == 0 else 2.0**10)
        seen.append(scaler.get_scale() < before and step == 0)
        if step:
            expected.zero_grad()
            (plain(torch.randn(16, 8, generator=torch.Generator().manual_seed(step))).square().mean() / 16).backward()
            expected.step()
    assert seen[0], "the first step must have overflowed"
    for ours, theirs in zip(scaled.parameters(), plain.parameters(), strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("nesterov", [False, True])
def test_zeroed_momentum_changes_no_bit_of_torchs_sgd(nesterov: bool) -> None:
    ours, theirs = network(), network()
    groups = parameter_groups(theirs, 0.01)
    torchs = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=nesterov, fused=True)
    descend(ours, make_optimizer(ours, sgd(nesterov)), range(5))
    descend(theirs, torchs, range(5))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_weight_whose_gradient_comes_later_has_momentum_then() -> None:
    """Torch's fused SGD alone refuses that: a list of buffers with a hole."""
    model = network()
    optimizer = make_optimizer(model, sgd(False))
    model[2].requires_grad_(False)
    descend(model, optimizer, range(2))
    model[2].requires_grad_(True)
    before = model[2].weight.clone()
    descend(model, optimizer, range(2, 4))
    assert not torch.equal(model[2].weight, before) and model[2].weight.isfinite().all()
