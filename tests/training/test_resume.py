"""A training that is stopped anywhere goes on as if it had not been."""

import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lgkd.config import Optimizer
from lgkd.errors import Interrupted, NonFiniteError, Paused
from lgkd.training import train_step as engine_module
from lgkd.training.checkpoint import FAULT_VARIABLE, load_newest, save_checkpoint
from lgkd.training.signals import StopCondition
from tests import CHECKOUT
from tests.support.forking import Forked, Nursery
from tests.support.training import EPOCHS, STEPS, StopAfter, digest, train, without_times

WORLD = CHECKOUT / "tests" / "support" / "training.py"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    task, rows = train(root)
    return digest(root), task.state_dict(), without_times(rows)


@pytest.mark.parametrize("steps", [1, 2, STEPS, STEPS + 1, 3 * STEPS - 1])
def test_a_training_stopped_anywhere_and_resumed_equals_the_undisturbed_one_to_the_bit(tmp_path, undisturbed, steps):
    with pytest.raises(Paused):
        train(tmp_path, stop=StopAfter(steps), every=1e9)
    assert load_newest(tmp_path).step == steps
    task, rows = train(tmp_path, every=1e9)
    assert digest(tmp_path) == undisturbed[0]
    assert without_times(rows) == undisturbed[2]
    assert [list(row.train) for row in rows] == [["loss", "accuracy", "classification", "guidance_linear"]] * EPOCHS
    for name, value in task.state_dict().items():
        assert torch.equal(value, undisturbed[1][name]), name


def test_many_short_jobs_equal_one_long_one(tmp_path, undisturbed):
    jobs = 0
    while True:
        jobs += 1
        try:
            train(tmp_path, stop=StopAfter(4), every=1e9)
        except Paused:
            continue
        break
    assert jobs == EPOCHS * STEPS // 4
    assert digest(tmp_path) == undisturbed[0]


def test_without_checkpoints_the_training_is_the_same(undisturbed):
    task, rows = train(None)
    assert without_times(rows) == undisturbed[2]
    assert all(torch.equal(value, undisturbed[1][name]) for name, value in task.state_dict().items())


@pytest.mark.parametrize("name", ["sgd", "muon", "lion", "nadamw"])
def test_every_other_optimiser_resumes_to_the_bit(tmp_path, name):
    changed = {"optimizer": Optimizer(name, lr=0.01, weight_decay=1e-3), "ema": None}
    train(tmp_path / "whole", every=1e9, **changed)
    with pytest.raises(Paused):
        train(tmp_path / "parts", stop=StopAfter(7), every=1e9, **changed)
    train(tmp_path / "parts", every=1e9, **changed)
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")


def test_a_finished_training_is_not_trained_again(tmp_path, undisturbed):
    train(tmp_path, every=1e9)
    seen = []

    class Spy:
        def on_start(self, epochs, steps_per_epoch): ...
        def on_step(self, *args): ...
        def on_epoch(self, row):
            seen.append(row.epoch)

    class Knowing(Spy):
        def on_epoch(self, row):
            raise AssertionError("an earlier epoch was told as a new one")

        def on_earlier(self, rows):
            earlier.extend(row.epoch for row in rows)

    said, earlier = [], []
    task, rows = train(tmp_path, say=said.append, callbacks=(Spy(), Knowing()))
    assert seen == earlier == [1, 2, 3, 4]
    assert said == ["resuming from epoch 5, step 0"]
    assert without_times(rows) == undisturbed[2]
    assert all(torch.equal(value, undisturbed[1][name]) for name, value in task.state_dict().items())


def test_a_damaged_checkpoint_is_named_and_the_one_before_gives_the_same_end(tmp_path, undisturbed):
    with pytest.raises(Paused):
        train(tmp_path, stop=StopAfter(8), every=0.0)
    newest = max(tmp_path.glob("step-*"))
    path = newest / "optimizer.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    said = []
    train(tmp_path, every=1e9, say=said.append)
    assert "skipped a corrupt checkpoint" in said[0]
    assert str(path) in said[0]
    assert "resuming from step-00000007" in said[0]
    assert digest(tmp_path) == undisturbed[0]


def test_another_number_of_threads_is_said(tmp_path):
    with pytest.raises(Paused):
        train(tmp_path, stop=StopAfter(2), every=1e9)
    newest = max(tmp_path.glob("step-*"))
    found = load_newest(tmp_path)
    save_checkpoint(tmp_path, 3, found.tensors, {**found.state, "threads": 64})
    assert newest.exists()
    said = []
    train(tmp_path, every=1e9, say=said.append)
    assert said[0].startswith("the checkpoint was made with 64 threads, now there are 1")


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_no_weight_and_names_part_and_samples(tmp_path, monkeypatch, what):
    real = engine_module.Engine._gradients
    calls = []
    before = {}

    def poisoned(self, batch):
        calls.append(1)
        if len(calls) == 7:
            before.update({k: v.clone() for k, v in self.task.named_parameters()})
            if what == "loss":
                images = batch.images.clone()
                images[3] = float("nan")
                batch = replace(batch, images=images)
        made = real(self, batch)
        if len(calls) == 7 and what == "gradient":
            next(iter(self.task.parameters())).grad[0] = float("inf")
        self.seen_task = self.task
        poisoned.task = self.task
        return made

    monkeypatch.setattr(engine_module.Engine, "_gradients", poisoned)
    with pytest.raises(NonFiniteError) as caught:
        train(tmp_path)
    message = str(caught.value)
    assert "epoch 2, step 2" in message
    if what == "loss":
        assert "classification, guidance_linear not finite; samples image" in message
    else:
        assert "the gradient not finite" in message
    for name, value in poisoned.task.named_parameters():
        assert torch.equal(value, before[name]), name
    assert len(calls) == 7
    assert load_newest(tmp_path).step == 6


def test_a_weight_that_is_not_finite_is_never_saved(tmp_path, monkeypatch):
    real = engine_module.masked_step

    def spoil(optimizer, bad):
        real(optimizer, bad)
        parameter = optimizer.param_groups[0]["params"][0]
        if len(list(tmp_path.glob("step-*"))) == 2:
            parameter.data[0] = float("nan")

    monkeypatch.setattr(engine_module, "masked_step", spoil)
    with pytest.raises(NonFiniteError, match=r"a weight is not finite.*was not saved"):
        train(tmp_path)
    found = load_newest(tmp_path)
    assert found.step == 2
    assert all(torch.isfinite(value).all() for value in found.tensors["student"].values())


def test_when_memory_runs_out_the_micro_batch_halves_and_the_training_stays_the_same(tmp_path, monkeypatch):
    # AdamW would blow up rounding in gradients that are zero in theory (the key biases).
    plain = {"accumulate": 1, "ema": None, "optimizer": Optimizer("sgd", lr=0.05, weight_decay=1e-3)}

    def norm_free(root):
        return train(root, every=1e9, **plain)

    monkeypatch.setattr("tests.support.training.nn.BatchNorm2d", lambda width: torch.nn.Identity())
    monkeypatch.setattr("tests.support.training.TinyViT.forward", _without_dropout)
    expected, expected_rows = norm_free(tmp_path / "roomy")
    real = engine_module.Engine._gradients

    def cramped(self, batch):
        if len(batch.images) / self.accumulate > 2:
            raise torch.OutOfMemoryError("CUDA out of memory (made up)")
        return real(self, batch)

    monkeypatch.setattr(engine_module.Engine, "_gradients", cramped)
    task, rows = norm_free(tmp_path / "cramped")
    assert load_newest(tmp_path / "cramped").state["progress"]["accumulate"] == 4
    for ours, theirs in zip(rows, expected_rows, strict=True):
        assert ours.train["loss"] == pytest.approx(theirs.train["loss"], rel=1e-5)
    for ours, theirs in zip(task.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def _without_dropout(self, images):
    tokens = self.norm(self.patch(images)).flatten(2).transpose(1, 2)
    for block in self.blocks:
        block.eval()
        tokens = block(tokens)
    return self.head(tokens.mean(1))


def start(nursery: Nursery, root: Path, every: float = 0.0, **environment: str) -> Forked:
    return nursery.start([str(WORLD), str(root), str(every)], **environment)


def wait_for_steps(root: Path, process: Forked, steps: int = 1) -> None:
    for _ in range(6000):
        if process.poll() is not None or any(int(p.name[5:13]) >= steps for p in root.glob("step-????????")):
            return
        time.sleep(0.005)
    raise AssertionError("no checkpoint came")


def test_a_training_killed_again_and_again_ends_as_the_undisturbed_one(tmp_path, undisturbed, nursery):
    draw = random.Random(0)
    kills = 0
    for _ in range(40):
        process = start(nursery, tmp_path)
        done = len(list(tmp_path.glob("step-*")))
        if kills < 4:
            reached = max((int(p.name[5:13]) for p in tmp_path.glob("step-????????")), default=0)
            wait_for_steps(tmp_path, process, reached + draw.randrange(1, 5))
            process.send_signal(signal.SIGKILL)
        out, error = process.communicate()
        if process.returncode == -signal.SIGKILL:
            kills += 1
            continue
        assert process.returncode == 0, error
        assert done is not None
        assert out.strip() == undisturbed[0]
        break
    assert kills == 4


@pytest.mark.parametrize("point", ["written-student.safetensors", "synced-state.json", "before-rename", "after-rename"])
def test_a_training_that_dies_inside_a_save_loses_nothing(tmp_path, undisturbed, nursery, point):
    with pytest.raises(Paused):
        train(tmp_path, stop=StopAfter(7), every=1e9)
    process = start(nursery, tmp_path, **{FAULT_VARIABLE: point})
    process.communicate()
    assert process.returncode == 70
    process = start(nursery, tmp_path)
    out, error = process.communicate()
    assert process.returncode == 0, error
    assert out.strip() == undisturbed[0]


def test_a_signal_lets_the_step_end_and_says_which(tmp_path):
    with StopCondition() as stop:
        assert stop.reason() is None
        signal.raise_signal(signal.SIGTERM)
        reason = stop.reason()
    assert isinstance(reason, Interrupted)
    assert reason.exit_code == 143
    assert "SIGTERM" in str(reason)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(("number", "kind", "code"), [(signal.SIGINT, Interrupted, 130), (signal.SIGUSR1, Paused, 75)])
def test_each_signal_has_its_exit_code(number, kind, code):
    with StopCondition() as stop:
        signal.raise_signal(number)
        reason = stop.reason()
    assert isinstance(reason, kind)
    assert reason.exit_code == code


def test_the_time_limit_pauses():
    assert StopCondition(1e6).reason() is None
    reason = StopCondition(0.0).reason()
    assert isinstance(reason, Paused)
    assert reason.exit_code == 75
    assert "paused after 0 seconds" in str(reason)
