"""Read and write weights as safetensors files: plain tensors, no code."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from lgkd._internal.atomic_io import write_atomic
from lgkd._internal.out_of_memory import raise_if_out_of_memory
from lgkd._internal.text import safe_text
from lgkd.errors import InputError

# Errors for bytes that are not a safetensors file, or one of impossible sizes.
UNREADABLE = (SafetensorError, ValueError, KeyError, TypeError, RuntimeError)

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def save_weights(tensors: Mapping[str, Tensor], path: Path) -> str:
    """Write the tensors atomically; return the file's SHA-256 in hex digits."""
    # Copies, because safetensors refuses tensors that share memory (tied weights).
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = save(plain)
    write_atomic(path, data)
    return hashlib.sha256(data).hexdigest()


def load_weights(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Load the tensors of a safetensors file, on the CPU.

    Args:
        path: the file.
        sha256: expected SHA-256 of the file, in hex digits; None: not checked.

    Raises:
        InputError: the file cannot be read, is not a safetensors file, or has another SHA-256.
    """
    try:
        data = path.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if sha256 is not None and found != sha256:
            raise InputError(
                f"{path}: has SHA-256 {found}, expected {sha256}; it is damaged or another file, "
                "take it from a copy or train again"
            )
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected weights in safetensors format") from None
    return parse_weights(data, path)


def parse_weights(data: bytes, origin: Path) -> dict[str, Tensor]:
    """Parse the tensors of a safetensors file's content; `origin` for messages.

    Raises:
        InputError: it is not a safetensors file.
    """
    try:
        return load(data)
    except UNREADABLE as error:
        raise_if_out_of_memory(error)
        reason = safe_text(str(error), 200)  # it contains names of tensors, which are untrusted
        raise InputError(f"{origin}: not a safetensors file ({reason}); it is damaged or a different file") from None


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(safe_text(name, 200) for name in names[:3])}{', ...' if len(names) > 3 else ''}"


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _of_one_kind(found: Tensor, wanted: Tensor) -> bool:
    """Check if a tensor may be cast to another's type: floating point to floating point, all else to itself."""
    return found.dtype == wanted.dtype or (found.dtype in _FLOATS and wanted.dtype in _FLOATS)


def _is_finite(found: Tensor, untrained: Tensor | None) -> bool:
    """Return true if every number is finite, or equals an untrained buffer's number in that position."""
    if not (found.is_floating_point() or found.is_complex()):
        return True
    wild = ~torch.isfinite(found)
    if not wild.any():
        return True
    return untrained is not None and torch.equal(found[wild].float(), untrained.cpu()[wild].float())


def fill(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Load tensors into a model; every name, shape and kind of number must fit, and every number be finite.

    Floating-point numbers of another width are accepted (shipped teachers are in half precision). A buffer may hold
    non-finite numbers where the untrained model's holds the same.

    Raises:
        InputError: missing or unexpected names, other shapes or kinds, or non-finite numbers;
            the model is unchanged.
    """
    have = model.state_dict()
    missing = sorted(have.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - have.keys())
    both = sorted(have.keys() & tensors.keys())
    shapes = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(have[name].shape)}"
        for name in both
        if tensors[name].shape != have[name].shape
    ]
    kinds = [
        f"{name} {_kind(tensors[name])} instead of {_kind(have[name])}"
        for name in both
        if not _of_one_kind(tensors[name], have[name])
    ]
    problems = [
        f"{len(names)} {what} ({_some(names)})"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
            ("of another kind of number", kinds),
        )
        if names
    ]
    if problems:
        raise InputError(
            f"{origin} does not fit {type(model).__name__}: {'; '.join(problems)}. Make the model with the options "
            "that it was trained with"
        )
    learned = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    wild = [name for name in both if not _is_finite(tensors[name], None if name in learned else have[name])]
    if wild:
        raise InputError(
            f"{origin} holds numbers that are not finite ({_some(wild)}); its training diverged or it was changed, "
            "train again or take it from a copy"
        )
    model.load_state_dict(dict(tensors))
