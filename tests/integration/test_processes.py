"""Several processes train one model as one process would, end as one would, and leave one folder."""

import json
from pathlib import Path

import pytest
import torch

from lgkd._internal import launch, locks
from lgkd._internal.distributed import EXPECTED, agree, all_reduce_sum, gather, join, place
from lgkd._internal.safetensors_io import load_weights
from lgkd.cli import run
from lgkd.data.loader import EvalLoader
from lgkd.data.transforms.augment import Plain
from lgkd.distillation.tasks import Batch, Step
from lgkd.errors import InputError, NonFiniteError
from lgkd.runs.folder import read_metrics
from lgkd.runs.identity import lock_run
from lgkd.training import train_step as engine_module
from lgkd.training.checkpoint import load_newest, save_best, save_checkpoint
from lgkd.training.checkpointer import Checkpointer
from lgkd.training.evaluate import score
from lgkd.training.metrics import RunningMean
from lgkd.training.nonfinite import NonFiniteGuard
from lgkd.training.precision import choose_device
from tests import CHECKOUT
from tests.support import processes as worker
from tests.support.forking import Nursery
from tests.support.launching import guided, lgkd, torchrun
from tests.support.small import World, one_thread
from tests.support.training import make_images, make_loader, make_plan, make_task, train

SCRIPT = CHECKOUT / "tests" / "support" / "processes.py"


def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "SLURM_STEP_NUM_TASKS", EXPECTED):
        monkeypatch.delenv(name, raising=False)


# ---------------------------------------------------------------------------------------------- shares


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_the_shares_of_a_batch_put_together_are_the_batch_mixed_images_included(processes: int) -> None:
    whole = list(make_loader(make_images()).epoch(1))
    shares = [list(make_loader(make_images(), rank=rank, processes=processes).epoch(1)) for rank in range(processes)]
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
        assert torch.equal(torch.cat([part.targets for part in parts]), batch.targets)
        assert torch.equal(torch.cat([part.index for part in parts]), batch.index)
        assert {len(part.images) for part in parts} <= {8 // processes, -(-8 // processes)}


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_evaluation_shows_every_image_once_to_one_of_the_processes(processes: int) -> None:
    images = make_images(101)
    plain = Plain(8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    shares = [EvalLoader(images, plain, batch_size=16, rank=rank, processes=processes) for rank in range(processes)]
    assert sum(len(share) for share in shares) == 101
    seen = torch.cat([batch for share in shares for batch, _ in share])
    assert torch.equal(seen, torch.cat([batch for batch, _ in EvalLoader(images, plain, batch_size=101)]))


def test_scores_of_shares_added_up_are_those_of_the_whole() -> None:
    images = make_images(101)
    plain = Plain(8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    model = make_task().student
    expected = score(model, EvalLoader(images, plain, batch_size=16))
    vectors: list[torch.Tensor] = []
    for rank in range(3):
        share = EvalLoader(images, plain, batch_size=16, rank=rank, processes=3)
        score(model, share, all_reduce_sum=lambda vector: vectors.append(vector) or vector)
    found = score(model, share, all_reduce_sum=lambda _: torch.stack(vectors).sum(0))
    assert found.images == 101
    assert (found.top1, found.top5, found.per_class) == (expected.top1, expected.top5, expected.per_class)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert found.ece == pytest.approx(expected.ece, abs=1e-6)


def test_a_batch_or_a_split_that_is_too_small_to_be_shared_is_refused() -> None:
    with pytest.raises(InputError, match=r"a batch \(images: 8\) cannot be shared by 9 processes"):
        make_loader(make_images(), processes=9)
    with pytest.raises(InputError, match="a split of 2 images cannot be shared by 3 processes"):
        EvalLoader(make_images(2), Plain(8, mean=(0, 0, 0), std=(1, 1, 1)), batch_size=4, processes=3)


# -------------------------------------------------------------------------------------- who is who


def test_who_a_process_is_comes_from_torchrun_or_from_a_step_of_slurm() -> None:
    assert place({}) == place({"WORLD_SIZE": "1", "RANK": "0"})
    found = place({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"})
    assert (found.rank, found.count, found.local) == (5, 8, 1)
    slurm = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"}
    assert place(slurm).count == 1, "a batch script runs once and has these words, too"
    found = place({**slurm, "MASTER_ADDR": "first"})
    assert (found.rank, found.count, found.local) == (3, 4, 1)


def test_fewer_processes_than_asked_for_are_not_trained_in() -> None:
    with pytest.raises(InputError, match="--nproc asked for 4 processes, but 1 were started"):
        place({EXPECTED: "4"})
    with pytest.raises(InputError, match="RANK is 2 and WORLD_SIZE is 2"):
        place({"RANK": "2", "WORLD_SIZE": "2"})
    with pytest.raises(InputError, match="WORLD_SIZE is 'many' in the environment, expected a number"):
        place({"WORLD_SIZE": "many"})


def test_a_process_alone_agrees_with_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch)
    assert join("cuda:1")[1] == "cuda:1"
    assert agree("so") == "so"
    assert agree(None) is None
    assert gather(3) == [3]
    assert all_reduce_sum(torch.tensor([1.0])).item() == 1.0


# ----------------------------------------------------------------------------------------- starting


def test_nproc_is_taken_out_of_the_command_and_of_nothing_else() -> None:
    words = ["distill", "--nproc", "2", "--student", "pvtv2", "--nproc=3", "--seed", "2"]
    assert launch._without_nproc(words) == ["distill", "--student", "pvtv2", "--seed", "2"]


def test_a_number_of_processes_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch)
    assert launch.share(None, []) is None
    assert launch.share(1, []) is None
    with pytest.raises(InputError, match="--nproc is 0, expected at least 1"):
        launch.share(0, [])
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launch.share(2, []) is None
    with pytest.raises(InputError, match="--nproc is 3, but this is one of 2 processes"):
        launch.share(3, [])


# -------------------------------------------------------------- found while looking for such faults


def test_a_file_system_that_locks_no_folders_is_no_reason_to_refuse_a_run(tmp_path: Path, monkeypatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(9, "Bad file descriptor")  # what NFS says to a lock of a folder

    monkeypatch.setattr("fcntl.flock", flock)
    locks._warn_of_refusal.cache_clear()
    with pytest.warns(UserWarning, match="this file system has no locks"), lock_run(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_first_cpu_is_the_cpu() -> None:
    assert choose_device("cpu:0") == "cpu"


def test_a_numbered_gpu_is_made_the_current_one_for_the_loop_takes_that(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []

    def stop(device: object) -> None:
        chosen.append(str(device))
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.cuda, "set_device", stop)
    with pytest.raises(KeyboardInterrupt):
        engine_module.Engine(make_task(), make_plan(device="cuda:1"), names=lambda _: [])
    assert chosen == ["cuda:1"]


def test_the_best_student_is_found_where_a_death_between_two_renames_has_left_it(tmp_path: Path) -> None:
    save_best(tmp_path, {"student": {"weight": torch.ones(2)}}, {"best": {"epoch": 3, "score": 0.5}})
    (tmp_path / "best").rename(tmp_path / "best.old")
    weights, best = Checkpointer(tmp_path).load_best()
    assert best["epoch"] == 3
    assert weights["weight"].tolist() == [1.0, 1.0]


def test_sums_of_all_processes_are_taken_up_by_one_of_them(tmp_path: Path) -> None:
    meters = RunningMean()
    meters.load_state_dict({"loss": torch.tensor(6.0)}, 4, torch.device("cpu"))
    assert meters.state_dict(lambda value: 2 * value)["loss"].item() == 12.0


def test_sums_of_two_processes_are_the_same_to_the_bit_whether_the_run_was_stopped_or_not() -> None:
    draw = torch.Generator().manual_seed(0)
    losses = 3 * torch.rand(20, 2, generator=draw)
    images = torch.zeros(3, 3, 2, 2)

    def add(meters: RunningMean, loss: torch.Tensor) -> None:
        meters.add(Step(loss, torch.zeros(3, 3), {}), Batch(images, torch.zeros(3, dtype=torch.int64)))

    whole, first, stopped, second = (RunningMean() for _ in range(4))
    for step, (ours, theirs) in enumerate(losses):
        add(whole, ours)
        add(first, theirs)
        if step == 9:  # one of them goes on with the sums of both
            both = whole.state_dict(lambda value: value)
            sums = {name: both[name] + value for name, value in first.state_dict(lambda value: value).items()}
            stopped.load_state_dict(sums, whole.images + first.images, torch.device("cpu"))
        elif step > 9:
            add(stopped, ours)
            add(second, theirs)
    pairs = [(whole, first), (stopped, second)]
    ends = [one.read(lambda mine, other=other: mine + stacked(other, mine)) for one, other in pairs]
    assert ends[0] == ends[1]


def stacked(meters: RunningMean, like: torch.Tensor) -> torch.Tensor:
    """What a process would add to the sums of another: loss, accuracy, images."""
    sums = meters.state_dict(lambda value: value)
    return torch.stack([sums["loss"].double(), sums["accuracy"].double(), like.new_tensor(float(meters.images))])


def test_going_on_with_another_number_of_processes_is_said(tmp_path: Path) -> None:
    train(tmp_path, every=1e9)
    found = load_newest(tmp_path)
    save_checkpoint(tmp_path, found.step, found.tensors, {**found.state, "processes": 2})
    said: list[str] = []
    train(tmp_path, every=1e9, say=said.append)
    assert said[0].startswith("the checkpoint was made by 2 processes, now there are 1: the training is resumed")


def test_what_went_bad_in_another_process_is_named_by_all() -> None:
    fine = Step(torch.tensor(1.0), torch.zeros(2, 3), {"classification": torch.tensor(1.0)})
    told = iter([["guidance_linear"], ["image7.png"]])
    guard = NonFiniteGuard(lambda _: [], lambda own: [own, next(told)])
    with pytest.raises(NonFiniteError, match=r"step 3: guidance_linear not finite; samples image7\.png"):
        guard.watch(torch.tensor(1.0), fine, torch.arange(2), 0, 2)


def test_out_of_memory_in_one_of_several_ends_the_run_for_a_step_is_made_by_all(monkeypatch) -> None:
    def cramped(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory (made up)")

    engine = engine_module.Engine(make_task(), make_plan(accumulate=1), names=lambda _: [])
    monkeypatch.setattr(engine, "processes", 2)
    monkeypatch.setattr(engine, "_gradients", cramped)
    batch = next(make_loader(make_images()).epoch(0))
    with pytest.raises(InputError, match="a process ran out of memory; with several of them one cannot repeat"):
        engine.step(batch, 0, 0, RunningMean())
    assert engine.accumulate == 1


# ------------------------------------------------------------------------------- several processes


WAYS = [
    ("sgd",),
    ("adamw",),
    ("sgd", "batch=7", "accumulate=2", "norm=none"),
    ("adamw", "batch=7", "transform=similarity", "teacher_bn=batch"),
    ("sgd", "batch=7", "teacher_bn=batch", "rho=0.05"),
]


@pytest.fixture(scope="module")
def one_and_two(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], list[dict]]:
    """For each way to train: what one process made, and what each of two made; these begin once for all."""
    root = tmp_path_factory.mktemp("processes")
    words = []
    for number, way in enumerate(WAYS):
        for name in ("one", "two"):
            (root / name / str(number)).mkdir(parents=True)
        words += ["--", str(root / "two" / str(number)), *way]
    done = torchrun(nursery, 2, SCRIPT, *words[1:])
    _, problems = done.communicate(timeout=240)
    assert done.returncode == 0, problems[-3000:]
    with pytest.MonkeyPatch.context() as patch, one_thread():
        alone(patch)
        for number, (optimizer, *chosen) in enumerate(WAYS):
            worker.main(root / "one" / str(number), optimizer, **dict(word.split("=") for word in chosen))
    files = ("one/{}/0.pt", "two/{}/0.pt", "two/{}/1.pt")
    return {
        way: [torch.load(root / file.format(number), weights_only=True) for file in files]
        for number, way in enumerate(WAYS)
    }


def largest_difference(ours: dict, theirs: dict) -> float:
    """Over all tensors: the largest difference of an entry, relative to the tensor's largest entry."""
    return max(
        float((value.double() - theirs[name].double()).abs().max() / value.double().abs().max().clamp(min=1e-12))
        for name, value in ours.items()
    )


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_two_processes_end_where_one_does(one_and_two: dict, way: tuple[str, ...]) -> None:
    one, two, other = one_and_two[way]
    assert one["steps"] >= 50
    assert largest_difference(two["weights"], other["weights"]) == 0.0
    assert largest_difference(one["weights"], two["weights"]) < 1e-5
    assert one["counts"] == two["counts"] == other["counts"]
    assert one["counts"][-1][0] == 101
    for (ours, scores), (theirs, their_scores) in zip(one["rows"], two["rows"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
        assert scores == pytest.approx(their_scores, rel=1e-5)


@pytest.mark.slow
def test_a_run_of_two_processes_pauses_goes_on_and_leaves_one_folder(
    nursery: Nursery, world: World, tmp_path: Path, monkeypatch
) -> None:
    paused = lgkd(nursery, world, tmp_path, *guided(world, "--nproc", "2", "--max-time", "0"))
    _, error = paused.communicate()
    assert paused.returncode == 75, error
    assert error.count("paused after 0 seconds and saved") == 1, error
    assert "Traceback" not in error
    done = lgkd(nursery, world, tmp_path, "resume", "mine", "--nproc", "2", "--json")
    out, error = done.communicate()
    assert done.returncode == 0, error
    told = json.loads(out)
    assert told["processes"] == 2
    assert told["status"] == "finished"
    assert told["resumed"] == 1
    assert told["overrides"] == ["clip_norm=1.0"], "resume takes the complete recipe; what it was made from is kept"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    alone(monkeypatch)
    monkeypatch.setenv("LGKD_HOME", str(world.home))
    assert run(guided(world, "--out", str(tmp_path / "single"))) == 0
    ours, theirs = (load_weights(tmp_path / name / "student.safetensors") for name in ("mine", "single"))
    assert largest_difference(ours, theirs) < 1e-4
    mine, its = (read_metrics(tmp_path / name)[-1] for name in ("mine", "single"))
    assert mine["test_top1"] == its["test_top1"]
    assert mine["loss"] == pytest.approx(its["loss"], rel=1e-4)


@pytest.mark.slow
def test_bad_input_is_told_once_with_its_own_exit_code(nursery: Nursery, world: World, tmp_path: Path) -> None:
    done = lgkd(nursery, world, tmp_path, *guided(world, "--nproc", "2", "--taps", "blocks.0,blocks.1"))
    _, error = done.communicate()
    assert done.returncode == 2, error
    assert error.count("lgkd: ") == 1, error
    assert "2 student taps" in error


def test_nproc_is_refused_before_torch_is_there(world: World, tmp_path: Path, capsys, monkeypatch) -> None:
    alone(monkeypatch)
    monkeypatch.setenv("LGKD_HOME", str(world.home))
    monkeypatch.chdir(tmp_path)
    assert run(guided(world, "--nproc", "0")) == 2
    assert capsys.readouterr().err == "lgkd: --nproc is 0, expected at least 1\n"
    assert not list(tmp_path.iterdir())
