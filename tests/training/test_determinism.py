"""Deterministic algorithms where they are asked for, for as long as the run; threads that change no byte."""

import json
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lgkd.cli import run
from lgkd.data import decode as decode_module
from lgkd.errors import InputError
from lgkd.training.determinism import WORKSPACE, exactly, fastest_convolutions, remark
from lgkd.training.train_step import Engine
from tests.support.small import DISTILL, World, pause_after
from tests.support.training import make_plan, make_task

cudnn = torch.backends.cudnn


def settings() -> tuple:
    return torch.are_deterministic_algorithms_enabled(), cudnn.benchmark, cudnn.deterministic, os.environ.get(WORKSPACE)


def test_for_as_long_as_it_is_entered_torch_is_deterministic_and_then_as_it_was(monkeypatch) -> None:
    monkeypatch.delenv(WORKSPACE, raising=False)
    monkeypatch.setattr(cudnn, "benchmark", True)
    before = settings()
    with exactly("cuda:0", deterministic=True):
        assert settings() == (True, False, True, ":4096:8")
    assert settings() == before
    with pytest.raises(ZeroDivisionError), exactly("cuda", deterministic=True):
        raise ZeroDivisionError
    assert settings() == before


@pytest.mark.parametrize(("device", "wanted"), [("cpu", True), ("cuda", False)])
def test_on_a_cpu_and_where_it_is_not_wanted_nothing_is_changed(monkeypatch, device: str, wanted: bool) -> None:
    before = settings()
    with exactly(device, deterministic=wanted):
        assert settings() == before


def test_a_workspace_that_the_user_has_set_is_left_alone(monkeypatch) -> None:
    monkeypatch.setenv(WORKSPACE, ":16:8")
    with exactly("cuda", deterministic=True):
        assert os.environ[WORKSPACE] == ":16:8"
    assert os.environ[WORKSPACE] == ":16:8"


def test_an_operation_without_a_deterministic_algorithm_is_named() -> None:
    # As torch says it; the operation itself would need a GPU.
    torch_says = "adaptive_max_pool2d_backward_cuda does not have a deterministic implementation, but you set"
    with (
        pytest.raises(InputError, match=r"--deterministic: adaptive_max_pool2d_backward_cuda does not have .*; leave"),
        exactly("cuda", deterministic=True),
    ):
        raise RuntimeError(torch_says)
    with pytest.raises(RuntimeError, match="another"), exactly("cuda", deterministic=True):
        raise RuntimeError("another fault")


def test_a_process_that_has_used_cublas_before_is_told_what_to_set() -> None:
    # As torch says it at the next product.
    torch_says = (
        "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)` or "
        "`at::Context::setDeterministicAlgorithms(true)`, but this operation is not deterministic because it uses "
        "CuBLAS and you have CUDA >= 10.2. To enable deterministic behavior in this case, you must set an environment "
        "variable before running your PyTorch application: CUBLAS_WORKSPACE_CONFIG=:4096:8"
    )
    wanted = r"cuBLAS was used in this process before, .*; set CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment"
    with pytest.raises(InputError, match=wanted), exactly("cuda", deterministic=True):
        raise RuntimeError(torch_says)


def test_cudnn_searches_the_fastest_convolution_unless_determinism_is_wanted(monkeypatch) -> None:
    monkeypatch.setattr(cudnn, "benchmark", False)
    gpu = torch.device("cuda", 0)
    with fastest_convolutions(gpu):
        assert cudnn.benchmark is True
    assert cudnn.benchmark is False
    with fastest_convolutions(torch.device("cpu")):
        assert cudnn.benchmark is False
    with exactly("cuda", deterministic=True), fastest_convolutions(gpu):
        assert (cudnn.benchmark, cudnn.deterministic) == (False, True)
    monkeypatch.setattr(cudnn, "deterministic", True)  # the user's own choice
    with fastest_convolutions(gpu):
        assert cudnn.benchmark is False


def test_an_engine_searches_until_it_is_closed(monkeypatch) -> None:
    entered: list[str] = []

    @contextmanager
    def watched(device: torch.device) -> Iterator[None]:
        entered.append(device.type)
        yield
        entered.append("left")

    monkeypatch.setattr("lgkd.training.train_step.fastest_convolutions", watched)
    engine = Engine(make_task(), make_plan(), names=lambda index: [])
    assert entered == ["cpu"]
    engine.close()
    assert entered == ["cpu", "left"]


def test_only_on_cuda_and_without_it_the_user_is_told() -> None:
    assert "not repeatable bit for bit; --deterministic" in str(remark("cuda:1", deterministic=False))
    assert remark("cuda", deterministic=True) is None
    assert remark("cpu", deterministic=False) is None


def test_it_is_written_down_and_going_on_without_it_is_refused(world: World, here: Path, monkeypatch, capsys) -> None:
    command = [*DISTILL, "--dataset", str(world.pictures), "--out", "mine"]
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert run([*command, "--deterministic"]) == 75
    assert json.loads(Path("mine/run.json").read_text())["deterministic"] is True
    capsys.readouterr()
    assert run(command) == 2
    assert "  deterministic: was true, now false" in capsys.readouterr().err
    assert run(["resume", "mine", "--quiet"]) == 0
    mine, its = (folder / "student.safetensors" for folder in (Path("mine"), world.guided_run))
    assert mine.read_bytes() == its.read_bytes(), "on a CPU it changes nothing"


def test_a_run_from_before_there_was_a_choice_goes_on(world: World, here: Path, monkeypatch, capsys) -> None:
    command = [*DISTILL, "--dataset", str(world.pictures), "--out", "mine"]
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert run(command) == 75
    info = json.loads(Path("mine/run.json").read_text())
    del info["deterministic"]
    Path("mine/run.json").write_text(json.dumps(info))
    assert run([*command, "--max-time", "0"]) == 75, capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_two_deterministic_runs_on_a_gpu_are_equal_to_the_bit(world: World, here: Path) -> None:
    words = [word if word != "cpu" else "cuda" for word in DISTILL]
    for name in ("one", "two"):
        assert run([*words, "--dataset", str(world.pictures), "--deterministic", "--out", name]) == 0
    assert Path("one/student.safetensors").read_bytes() == Path("two/student.safetensors").read_bytes()


# ------------------------------------------------------------------------------- decoding by threads


def test_how_many_threads_decode_does_not_change_a_byte(tmp_path: Path, monkeypatch) -> None:
    draw = random.Random(0)
    names = [f"{place}.{draw.choice(['png', 'jpg'])}" for place in range(150)]
    for name in names:
        height, width = draw.randrange(5, 40), draw.randrange(5, 40)
        Image.frombytes("RGB", (width, height), draw.randbytes(3 * width * height)).save(tmp_path / name)
    real = decode_module._pixels
    workers: list[int] = []

    def in_no_order(*arguments: Any):
        time.sleep(random.uniform(0, 2e-3))
        return real(*arguments)

    def spied(max_workers: int) -> ThreadPoolExecutor:
        workers.append(max_workers)
        return ThreadPoolExecutor(max_workers)

    monkeypatch.setattr(decode_module, "_CHUNK", 8)
    monkeypatch.setattr(decode_module, "_pixels", in_no_order)
    monkeypatch.setattr(decode_module, "ThreadPoolExecutor", spied)
    found = []
    for threads in (1, 2, 4):
        monkeypatch.setattr(os, "cpu_count", lambda threads=threads: threads)
        pixels, sizes = decode_module.decode(tmp_path, names, max_side=24)
        found.append((pixels.tobytes(), sizes.tobytes()))
    assert set(workers) == {1, 2, 4}
    assert found[0] == found[1] == found[2]
    # One by one, as a loop would: the content lies in the upper left corner, at its own size.
    for place in (0, 77, 149):
        alone, size = decode_module.decode(tmp_path, [names[place]], max_side=24)
        height, width = size[0]
        assert tuple(sizes[place]) == (height, width)
        assert (pixels[place, :, :height, :width] == alone[0, :, :height, :width]).all()
