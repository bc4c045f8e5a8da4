"""The training loop, its schedule, its optimiser groups and its meters."""

import math

import pytest
import torch
from timm.scheduler import CosineLRScheduler
from torch import nn

from lgkd.config import Ema, Optimizer, Schedule
from lgkd.distillation.tasks import Batch, Step, Supervised
from lgkd.errors import InputError, NonFiniteError
from lgkd.training.callbacks import EpochRow
from lgkd.training.loop import fit
from lgkd.training.metrics import RunningMean
from lgkd.training.optim import make_optimizer, parameter_groups
from lgkd.training.precision import choose_device, choose_precision
from tests.support.fixed_batches import ADAMW, Images, make_plan, make_student

SGD = Optimizer("sgd", lr=0.1, weight_decay=5e-4)


class Recorder:
    def __init__(self) -> None:
        self.rows: list[EpochRow] = []
        self.started = None

    def on_start(self, epochs, steps_per_epoch):
        self.started = (epochs, steps_per_epoch)

    def on_step(self, epoch, step, parts, images_per_second):
        pass

    def on_epoch(self, row):
        self.rows.append(row)


def test_rates_by_epoch_equal_timms_cosine_schedule():
    plan = Schedule(epochs=300, warmup_epochs=20, warmup_factor=1e-3, min_lr=5e-6)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=5e-4)
    theirs = CosineLRScheduler(optimizer, t_initial=300, lr_min=5e-6, warmup_t=20, warmup_lr_init=5e-7)
    for epoch in range(300):
        theirs.step(epoch)
        ours = plan.rate(5e-4, epoch * 7 + 3, steps_per_epoch=7)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def test_a_schedule_stepped_by_step_passes_the_epochs_values_and_falls_in_between():
    by_epoch, by_step = (Schedule(10, stepped=stepped) for stepped in ("epoch", "step"))
    for epoch in range(10):
        assert by_step.rate(1.0, epoch * 4, 4) == pytest.approx(by_epoch.rate(1.0, epoch * 4, 4))
    assert by_step.rate(1.0, 6, 4) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.15)))


def test_half_way_through_a_cosine_without_warmup_the_rate_is_half_way_down():
    assert Schedule(100, min_lr=0.2).rate(1.0, 50, 1) == pytest.approx(0.6)


def test_biases_vectors_and_tokens_do_not_decay():
    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
            self.pos_embed = nn.Parameter(torch.zeros(1, 5, 4))
            self.norm = nn.LayerNorm(4)
            self.head = nn.Linear(4, 2)
            self.table = nn.Parameter(torch.zeros(3, 3))
            self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)

        def no_weight_decay(self):
            return {"table"}

    model = Tiny()
    decayed, kept = parameter_groups(model, 0.05)
    assert decayed["weight_decay"] == 0.05
    assert [id(p) for p in decayed["params"]] == [id(model.head.weight)]
    assert kept["weight_decay"] == 0.0
    names = {name for name, p in model.named_parameters() if any(p is k for k in kept["params"])}
    assert names == {"cls_token", "pos_embed", "norm.weight", "norm.bias", "head.bias", "table"}


@pytest.mark.parametrize("plan", [ADAMW, SGD], ids=["adamw", "sgd"])
def test_the_loop_equals_a_plain_loop_written_out(plan):
    student, twin, loader = make_student(), make_student(), Images()
    fit(Supervised(student), loader, make_plan(epochs=2, optimizer=plan))
    groups = [
        {"params": [p for p in twin.parameters() if p.ndim > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in twin.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if plan.name == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=plan.lr)
    else:
        optimizer = torch.optim.SGD(groups, lr=plan.lr, momentum=0.9, nesterov=True)
    for epoch in range(2):
        for group in optimizer.param_groups:
            group["lr"] = plan.lr * 0.5 * (1 + math.cos(math.pi * epoch / 2))
        for images, targets in loader.batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(twin(images), targets).backward()
            optimizer.step()
    for ours, theirs in zip(student.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_accumulated_micro_batches_give_the_whole_batchs_gradient_even_when_they_are_unequal():
    whole, pieces, loader = make_student(), make_student(), Images(count=5)
    fit(Supervised(whole), loader, make_plan(optimizer=SGD))
    fit(Supervised(pieces), loader, make_plan(optimizer=SGD, accumulate=2))
    for one, other in zip(whole.parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_clipped_step_of_plain_sgd_is_no_longer_than_the_rate_times_the_norm():
    student, loader = make_student(), Images(batches=1)
    before = torch.cat([p.detach().flatten().clone() for p in student.parameters()])
    plain = Optimizer("sgd", lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False)
    fit(Supervised(student), loader, make_plan(epochs=1, steps_per_epoch=1, optimizer=plain, clip_norm=0.01))
    after = torch.cat([p.detach().flatten() for p in student.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_the_averaged_weights_are_evaluated_and_kept():
    loader, seen = Images(), []
    student, plain = make_student(), make_student()
    path: list[torch.Tensor] = []

    class Spy(Supervised):
        def forward(self, batch):
            path.append(self.student[1].weight.detach().clone())
            return super().forward(batch)

    fit(
        Spy(student),
        loader,
        make_plan(epochs=2, ema=Ema(0.5, warmup=False)),
        evaluate=lambda model: seen.append(model[1].weight.detach().clone()) or {},
    )
    fit(Supervised(plain), loader, make_plan(epochs=2))
    path.append(plain[1].weight.detach())
    # timm's average begins as a copy: the weights after the first two steps.
    average = path[2]
    for weight in path[3:]:
        average = 0.5 * average + 0.5 * weight
    torch.testing.assert_close(student[1].weight, average)
    torch.testing.assert_close(seen[-1], average)


def test_dropout_depends_on_the_step_and_not_on_what_was_drawn_before():
    one, other = make_student(dropout=0.5), make_student(dropout=0.5)
    fit(Supervised(one), Images(), make_plan())
    torch.rand(1234)
    fit(Supervised(other), Images(), make_plan(), evaluate=lambda model: {"x": float(torch.rand(3).sum())})
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_training_leaves_the_callers_random_state_alone():
    student, loader = make_student(dropout=0.5), Images()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    fit(Supervised(student), loader, make_plan())
    assert torch.equal(torch.rand(3), expected)


def test_a_trained_task_is_a_plain_module_again():
    task = Supervised(make_student())
    fit(task, Images(), make_plan())
    assert "forward" not in task.__dict__
    assert isinstance(task(Batch(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]))), Step)


def test_rows_hold_the_mean_loss_its_parts_and_the_accuracy():
    loader, recorder = Images(), Recorder()
    student = make_student()
    rows = fit(
        Supervised(student),
        loader,
        make_plan(epochs=1, optimizer=Optimizer("sgd", lr=1e-30, weight_decay=0.0)),
        evaluate=lambda model: {"top1": 0.25},
        callbacks=(recorder,),
    )
    images, targets = (torch.cat(parts) for parts in zip(*loader.batches, strict=True))
    logits = student(images)
    assert recorder.started == (1, 3)
    assert rows == recorder.rows
    row = rows[0]
    assert row.epoch == 1
    assert row.scores == {"top1": 0.25}
    assert row.train["loss"] == pytest.approx(nn.functional.cross_entropy(logits, targets).item(), rel=1e-5)
    assert row.train["classification"] == pytest.approx(row.train["loss"], rel=1e-6)
    assert row.train["accuracy"] == pytest.approx((logits.argmax(1) == targets).float().mean().item())


def test_evaluation_comes_when_it_is_due_and_after_the_last_epoch():
    rows = fit(
        Supervised(make_student()), Images(), make_plan(epochs=5, evaluate_every=2), evaluate=lambda m: {"top1": 0.0}
    )
    assert [row.epoch for row in rows if row.scores] == [2, 4, 5]


def test_a_loss_that_is_no_number_ends_the_training_and_names_the_part():
    loader = Images()
    loader.batches[1][0][0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"epoch 1, step 2: classification not finite; samples image6\. .*lr"):
        fit(Supervised(make_student()), loader, make_plan())


def test_two_trainings_of_different_precision_follow_each_other_in_one_process():
    fit(Supervised(make_student()), Images(), make_plan(precision="bf16"))
    student, twin = make_student(), make_student()
    fit(Supervised(student), Images(), make_plan())
    fit(Supervised(twin), Images(), make_plan())
    assert torch.equal(student[1].weight, twin[1].weight)


def test_bf16_changes_the_arithmetic_and_keeps_the_weights_single():
    student, twin = make_student(), make_student()
    fit(Supervised(student), Images(), make_plan(precision="bf16"))
    fit(Supervised(twin), Images(), make_plan())
    assert student[1].weight.dtype == torch.float32
    assert not torch.equal(student[1].weight, twin[1].weight)
    torch.testing.assert_close(student[1].weight, twin[1].weight, rtol=0, atol=0.05)


def test_meters_weigh_batches_by_their_images():
    meters = RunningMean()
    for count, loss in ((1, 4.0), (3, 0.0)):
        logits = torch.tensor([[1.0, 0.0]]).expand(count, 2)
        batch = Batch(torch.zeros(count, 3, 1, 1), torch.zeros(count, dtype=torch.int64))
        meters.add(Step(torch.tensor(loss), logits, {"part": torch.tensor(2 * loss)}), batch)
    assert meters.read() == {"loss": 1.0, "accuracy": 1.0, "part": 2.0}


def test_mixed_targets_count_as_right_where_the_larger_share_is_hit():
    meters = RunningMean()
    logits, targets = torch.eye(2), torch.tensor([[0.7, 0.3], [0.6, 0.4]])
    meters.add(Step(torch.tensor(0.0), logits), Batch(torch.zeros(2, 3, 1, 1), targets))
    assert meters.read()["accuracy"] == 0.5


def test_the_optimiser_takes_the_projections_too_and_never_a_frozen_weight():
    module = nn.ModuleDict({"student": nn.Linear(2, 2), "projection": nn.Conv2d(2, 2, 1)})
    module["student"].weight.requires_grad_(False)
    trained = {id(p) for group in make_optimizer(module, ADAMW).param_groups for p in group["params"]}
    assert trained == {id(p) for p in module.parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_plan(precision="fp16"), "fp16 needs a GPU"),
        (lambda: make_plan(steps_per_epoch=0), "0 steps"),
        (lambda: choose_precision("fp8", "cpu"), "'fp8'.*did you mean"),
        (lambda: choose_device("tpu3"), "'tpu3'"),
        (lambda: choose_device("cuda:99"), "not here.*--device cpu"),
        (lambda: choose_device("meta"), "expected cpu, cuda"),
    ],
)
def test_impossible_settings_are_refused_in_words(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_trains_in_every_precision(precision):
    student = make_student()
    before = student[1].weight.detach().clone()
    rows = fit(Supervised(student), Images(), make_plan(epochs=3, precision=precision, device="cuda"))
    assert rows[-1].train["loss"] < rows[0].train["loss"]
    assert not torch.equal(student[1].weight.cpu(), before)
