"""Check devices, precision and threads, and the correctness of a computation."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from lgkd._internal.hardware import cores
from lgkd.cli.doctor_checks.finding import Finding, size
from lgkd.runs.folder import environment
from lgkd.training.precision import choose_device, choose_precision, has_tensor_cores

_TOO_FAR = 1e-3
"""Largest accepted relative error of a product of two small matrices, against double precision."""


def look_at_devices() -> Iterator[Finding]:
    """Check the processor and GPUs, the precision that `auto` selects there, and a product."""
    chosen = choose_device()
    about = environment("cpu")
    yield Finding("processor", "ok", f"{about['processor'] or 'unknown'}, {about['platform']}")
    yield from _look_at_gpus()
    where = "a GPU" if torch.device(chosen).type == "cuda" else "the CPU"
    yield Finding("device", "ok", f"trainings run on {where} ({chosen}) unless --device is given")
    for device in dict.fromkeys((chosen, "cpu")):
        yield precision_on(device)
        yield multiplies(device)


def _look_at_gpus() -> Iterator[Finding]:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        has_driver = shutil.which("nvidia-smi") is not None or Path("/dev/nvidiactl").exists()
        if torch.backends.mps.is_available():
            yield Finding("GPU", "ok", "this Mac's GPU is not used: lgkd trains on its CPU")
        elif not has_driver:
            yield Finding("GPU", "ok", "none; small images and small students also train on a CPU")
        elif torch.version.cuda is None:
            yield Finding(
                "GPU", "warning", "there is an NVIDIA driver, but this torch is built for CPUs",
                "install a torch with CUDA, see https://pytorch.org/get-started/locally/",
            )  # fmt: skip
        else:
            yield Finding(
                "GPU", "warning", f"there is an NVIDIA driver, but torch (CUDA {torch.version.cuda}) finds no GPU",
                "see the output of nvidia-smi, and whether CUDA_VISIBLE_DEVICES hides it",
            )  # fmt: skip
    for number in range(count):
        major, minor = torch.cuda.get_device_capability(number)
        free, total = torch.cuda.mem_get_info(number)
        found = f"{torch.cuda.get_device_name(number)}, {size(free)} of {size(total)} free, capability {major}.{minor}"
        if free < total / 2:
            yield Finding(f"GPU {number}", "warning", found, "another process uses it; see nvidia-smi")
        else:
            yield Finding(f"GPU {number}", "ok", found)


def precision_on(device: str) -> Finding:
    """Return the precision that `--precision auto` selects on a device, and the reason."""
    chosen = choose_precision("auto", device)
    kind = "GPU" if torch.device(device).type == "cuda" else "CPU"
    if chosen == "bf16":
        why = f"this {kind} multiplies bfloat16 in hardware, which is faster and as accurate here"
    else:
        why = f"this {kind} has no bfloat16 in hardware, and emulating it is slower"
        if kind == "GPU" and has_tensor_cores(device):
            why += "; --precision fp16 is faster"
    return Finding(f"precision, {kind}", "ok", f"auto selects {chosen}: {why}")


def multiplies(device: str) -> Finding:
    """Compare a matrix product and its gradient with double precision on the CPU."""
    chance = torch.Generator().manual_seed(0)
    left, right = (torch.randn(64, 64, generator=chance, dtype=torch.float64) for _ in range(2))
    wanted = left @ right, right.sum(1)
    try:
        mine = left.to(device, torch.float32).requires_grad_()
        product = mine @ right.to(device, torch.float32)
        (slope,) = torch.autograd.grad(product.sum(), mine)
        found = product.detach().cpu().double(), slope[0].cpu().double()
    except RuntimeError as error:
        text = " ".join(str(error).split())[:150]
        return Finding(
            f"torch on {device}", "problem", f"does not compute: {text}", "use --device cpu, or repair the driver"
        )
    far = max(float((a - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True))
    if far > _TOO_FAR:
        return Finding(f"torch on {device}", "problem", f"computes incorrectly, error {far:.1g}", "install torch again")
    return Finding(f"torch on {device}", "ok", f"a product and its gradient are right to {far:.0e}")


def look_at_threads() -> Iterator[Finding]:
    """Compare the number of torch's threads with the cores that this process may use."""
    count, have = torch.get_num_threads(), cores()
    found = f"torch computes with {count}, this process may use {have} core{'' if have == 1 else 's'}"
    if count > have:
        yield Finding(
            "threads", "warning", found, f"more threads than cores slow each other: set OMP_NUM_THREADS={have}"
        )
    elif 2 * count < have or (count < have and "OMP_NUM_THREADS" in os.environ):
        # By default torch uses half of the logical cores where there are two per core.
        set_to = f" (OMP_NUM_THREADS is {os.environ['OMP_NUM_THREADS']})" if "OMP_NUM_THREADS" in os.environ else ""
        yield Finding("threads", "warning", found + set_to, f"set OMP_NUM_THREADS={have} to use all of them")
    else:
        yield Finding("threads", "ok", found)
