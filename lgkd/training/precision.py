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


def has_native_bf16(device: str) -> bool:
    """Return True if the device multiplies bfloat16 in hardware; emulation is slower than fp32."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if torch.device(device).type != "cpu":
        return False
    # These probes of torch are private; without them False is returned.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)
