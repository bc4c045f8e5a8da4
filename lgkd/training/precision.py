"""Choose the device, and its fastest precision without loss of accuracy."""

from typing import Literal

import torch

from lgkd._internal.text import did_you_mean
from lgkd.errors import InputError

Precision = Literal["fp32", "bf16", "fp16"]


def choose_device(name: str | None = None) -> str:
    """Choose the device to train on: the named one, else a GPU if available, else the CPU.

    Raises:
        InputError: the device is unknown to torch or not available.
    """
    if name is None or name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"no device is called {name!r}; expected cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {name!r} is not here ({torch.cuda.device_count()} CUDA devices found); use --device cpu"
        )
    if device.type == "mps":
        raise InputError("device 'mps' is not supported: lgkd trains on the CPU of a Mac; use --device cpu")
    if device.type not in ("cpu", "cuda") and not is_registered_backend(device):
        raise InputError(f"device {name!r} is not supported; expected cpu, cuda or cuda:N")
    # "cpu:0" is the CPU as well.
    return "cpu" if device.type == "cpu" else str(device)


def is_registered_backend(device: torch.device) -> bool:
    """Return True for a device of a backend that registered itself with torch (PrivateUse1) in this process.

    Import it before lgkd is used; https://docs.pytorch.org/tutorials/advanced/privateuseone.html.
    """
    if device.type != torch._C._get_privateuse1_backend_name() or not hasattr(torch, device.type):
        return False
    module = torch.get_device_module(device)
    return bool(module.is_available()) and (device.index or 0) < module.device_count()


def choose_precision(wanted: str, device: str) -> Precision:
    """Resolve "auto" to bf16 if the hardware computes in it, else to fp32."""
    if wanted == "auto":
        return "bf16" if has_native_bf16(device) else "fp32"
    if wanted not in ("fp32", "bf16", "fp16"):
        raise InputError(f"precision is {wanted!r}; {did_you_mean(wanted, ['auto', 'fp32', 'bf16', 'fp16'])}")
    return wanted  # type: ignore[return-value]


def remark(wanted: str, device: str) -> str | None:
    """Return a message for the user on a GPU without bfloat16 hardware (before Ampere, as a T4), or None."""
    if torch.device(device).type != "cuda" or wanted not in ("auto", "bf16") or has_native_bf16(device):
        return None
    fp16 = "--precision fp16 is faster" if has_tensor_cores(device) else "--precision fp16 saves memory"
    if wanted == "auto":
        return f"this GPU has no bfloat16 hardware, so the training computes in fp32; {fp16}"
    return f"this GPU has no bfloat16 hardware and emulates it, slower than fp32; {fp16}"


def has_tensor_cores(device: str) -> bool:
    """Return True if a CUDA device multiplies float16 matrices in special hardware (Volta and later)."""
    return torch.cuda.get_device_capability(device) >= (7, 0)


def has_native_bf16(device: str) -> bool:
    """Return True if the device multiplies bfloat16 in hardware; emulation is slower than fp32."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if torch.device(device).type != "cpu":
        return False
    # These probes of torch are private; without them False is returned.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)
