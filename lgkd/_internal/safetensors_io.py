"""Weights as safetensors files: plain tensors, no code."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from lgkd._internal.atomic_io import write_whole
from lgkd._internal.text import safe_text
from lgkd.errors import InputError

# What reading bytes that are no safetensors file, or one of impossible sizes, may raise.
UNREADABLE = (SafetensorError, ValueError, KeyError, TypeError, RuntimeError)


def save_weights(tensors: Mapping[str, Tensor], path: Path) -> str:
    """Write the tensors, whole or not at all; return the file's SHA-256 in hex digits."""
    # Copies, because safetensors refuses tensors that share memory (tied weights).
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = save(plain)
    write_whole(path, data)
    return hashlib.sha256(data).hexdigest()


def load_weights(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Args:
        path: the file.
        sha256: what the file's SHA-256 must be, in hex digits; None: anything goes.

    Raises:
        InputError: the file cannot be read, is none, or is not the one that was written.
    """
    try:
        data = path.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if sha256 is not None and found != sha256:
            raise InputError(
                f"{path}: has SHA-256 {found[:12]}..., expected {sha256[:12]}...; it is damaged or another's, "
                "take it from a copy or train again"
            )
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected weights in safetensors format") from None
    return parse_weights(data, path)


def parse_weights(data: bytes, origin: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file's content; `origin` for messages.

    Raises:
        InputError: it is none.
    """
    try:
        return load(data)
    except UNREADABLE as error:
        reason = safe_text(str(error), 200)  # it names tensors, and these may be called anything
        raise InputError(f"{origin}: not a safetensors file ({reason}); it is damaged or something else") from None


def fill(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Put tensors into a model; every name and shape must fit.

    Raises:
        InputError: names that are missing or unexpected, or shapes that differ; the model is as it was.
    """
    have = model.state_dict()
    missing = sorted(have.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - have.keys())
    shapes = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(have[name].shape)}"
        for name in sorted(have.keys() & tensors.keys())
        if tensors[name].shape != have[name].shape
    ]
    problems = [
        f"{len(names)} {what} ({', '.join(safe_text(name, 200) for name in names[:3])}"
        f"{', ...' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise InputError(
            f"{origin} does not fit {type(model).__name__}: {'; '.join(problems)}. Make the model with the options "
            "that it was trained with"
        )
    model.load_state_dict(dict(tensors))
