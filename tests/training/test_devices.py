"""What devices, memory, compilers and signals decide for a training."""

import ctypes
import os
import signal
import sys
import threading
import time
from typing import Any

import pytest
import torch

from lgkd._internal import distributed
from lgkd._internal.hardware import resident
from lgkd.errors import InputError, Interrupted, Paused
from lgkd.training import memory, signals
from lgkd.training.compile import choose_compile, compile_task
from lgkd.training.memory import highest_memory, keep_freed_memory
from lgkd.training.precision import choose_device, choose_precision, has_native_bf16, remark
from lgkd.training.signals import StopCondition
from lgkd.training.train_step import Engine
from tests.support.training import make_plan, make_task


@pytest.mark.parametrize(
    ("wanted", "device", "images", "graphs", "found"),
    [
        (None, "cpu", 10**9, False, False),
        (None, "cuda", 3_999_999, False, False),
        (None, "cuda", 4_000_000, False, True),
        (True, "cpu", 0, False, True),
        (False, "cuda:1", 10**9, False, False),
        (None, "cuda", 0, True, True),
        (True, "cuda", 0, True, True),
    ],
)
def test_compiling_is_chosen_where_it_pays_or_is_asked_for(
    wanted: bool | None, device: str, images: int, graphs: bool, found: bool
) -> None:
    assert choose_compile(wanted, device, images, cuda_graphs=graphs) is found


@pytest.mark.parametrize(
    ("wanted", "device", "reason"),
    [(None, "cpu", "the device is cpu"), (False, "cuda", r"the step is not compiled \(--no-compile\)")],
)
def test_recordings_need_a_compiled_step_on_a_gpu(wanted: bool | None, device: str, reason: str) -> None:
    with pytest.raises(InputError, match=rf"--cuda-graphs replays the compiled step .*, but {reason}; leave one"):
        choose_compile(wanted, device, 0, cuda_graphs=True)


@pytest.mark.parametrize(
    ("graphs", "words"), [(False, {"dynamic": False}), (True, {"dynamic": False, "mode": "reduce-overhead"})]
)
def test_an_engine_compiles_its_task_in_place(
    monkeypatch: pytest.MonkeyPatch, graphs: bool, words: dict[str, Any]
) -> None:
    called: list[dict[str, Any]] = []
    task = make_task()
    monkeypatch.setattr(task, "compile", lambda **given: called.append(given))
    compile_task(task, cuda_graphs=graphs)
    Engine(task, make_plan(compile=True, cuda_graphs=graphs), names=lambda index: [])
    assert called == [words, words]


def test_the_device_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert choose_device() == choose_device("auto") == device
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [choose_device(name) for name in ("cpu", "cpu:0", "cuda", "cuda:1")] == ["cpu", "cpu", "cuda", "cuda:1"]
    for name, said in {
        "cuda:2": r"device 'cuda:2' is not here \(2 CUDA devices found\)",
        "meta": "device 'meta' is not supported",
        "toaster": "no device is called 'toaster'",
    }.items():
        with pytest.raises(InputError, match=said):
            choose_device(name)


def test_half_precision_is_chosen_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, native in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert has_native_bf16("cuda") is native
        assert choose_precision("auto", "cuda") == ("bf16" if native else "fp32")
    for first, second in ((False, False), (True, False), (False, True)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda found=first: found, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda found=second: found, raising=False)
        assert has_native_bf16("cpu") is (first or second)
    assert choose_precision("fp16", "cuda") == "fp16"


@pytest.mark.parametrize(
    ("wanted", "device", "capability", "said"),
    [
        ("auto", "cuda", (7, 5), "no bfloat16 hardware, so the training computes in fp32; --precision fp16 is faster"),
        ("auto", "cuda:1", (6, 1), "no bfloat16 hardware, so the training computes in fp32; --precision fp16 saves"),
        ("bf16", "cuda", (7, 5), "no bfloat16 hardware and emulates it, slower than fp32; --precision fp16 is faster"),
        ("fp16", "cuda", (7, 5), None),
        ("fp32", "cuda", (7, 5), None),
        ("auto", "cuda", (8, 0), None),
        ("bf16", "cuda", (9, 0), None),
        ("auto", "cpu", (7, 5), None),
    ],
)
def test_a_gpu_without_bfloat16_is_told_of_fp16(
    monkeypatch: pytest.MonkeyPatch, wanted: str, device: str, capability: tuple[int, int], said: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    found = remark(wanted, device)
    assert found is None if said is None else said in str(found)


def test_memory_is_kept_where_the_c_library_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []

    class Library:
        def __init__(self, answers: bool) -> None:
            self.answers = answers

        def mallopt(self, option: int, value: int) -> int:
            told.append((option, value))
            return int(self.answers)

    monkeypatch.setattr(sys, "platform", "linux")
    for answers in (True, False):
        monkeypatch.setattr(ctypes, "CDLL", lambda _, answers=answers: Library(answers))
        assert keep_freed_memory() is answers
    # <malloc.h>: M_TRIM_THRESHOLD is -1, M_TOP_PAD -2, M_MMAP_THRESHOLD -3.
    assert dict(told) == {-3: 32 * 2**20, -1: 2**30, -2: 64 * 2**20} and len(told) == 6
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())  # musl has no mallopt
    assert keep_freed_memory() is False
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)
    assert keep_freed_memory() is False


def test_the_highest_memory_is_that_of_the_process_or_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    now, peak = resident()
    before = highest_memory("cpu")
    more = 64 << 20
    block = torch.ones(max(peak, before) - now + more, dtype=torch.uint8)
    grown = highest_memory("cpu")
    assert before + more / 2 < grown < before + 2 * more
    del block
    assert highest_memory("cpu") >= grown, "the most so far, whatever was freed"
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: {"cuda:1": 123}[str(device)])
    assert highest_memory("cuda:1") == 123


def test_the_highest_memory_does_not_fall_where_the_kernels_count_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_highest_read", 0)
    counts = iter([(50, 100), (50, 96), (40, 104), (40, 103)])
    monkeypatch.setattr(memory, "resident", lambda: next(counts))
    assert [highest_memory("cpu") for _ in range(4)] == [100, 100, 104, 104]


# Signals


def test_outside_the_main_thread_only_the_time_limit_holds() -> None:
    before = [signal.getsignal(number) for number in signals._SIGNALS]
    found: list[Any] = []

    def inside() -> None:
        with StopCondition(0.0) as stop:
            found.append([signal.getsignal(number) for number in signals._SIGNALS])
            found.append(stop.reason())

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found[0] == before and isinstance(found[1], Paused)


@pytest.mark.parametrize(("rank", "speaks"), [(0, True), (1, False)])
def test_the_first_signal_is_taken_and_the_second_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], rank: int, speaks: bool
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(signals, "place", lambda: distributed.Place(rank, 2, rank))
    before = signal.getsignal(signal.SIGTERM)
    with StopCondition(began=time.monotonic()) as stop:
        assert stop.reason() is None
        os.kill(os.getpid(), signal.SIGTERM)
        reason = stop.reason()
        assert isinstance(reason, Interrupted) and reason.exit_code == 143 and not ended
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)
    assert ended == [130]
    assert signal.getsignal(signal.SIGTERM) is before
    assert ("finishing the step and saving" in capfd.readouterr().err) is speaks
