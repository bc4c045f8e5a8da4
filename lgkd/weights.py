"""Weights as safetensors files: plain tensors, no code."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from lgkd.errors import InputError
from lgkd.files import write_whole


def save_weights(tensors: Mapping[str, Tensor], path: Path) -> str:
    """Write the tensors, whole or not at all; return the file's SHA-256 in hex digits."""
    # Copies, because safetensors refuses tensors that share memory (tied weights).
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = save(plain)
    write_whole(path, data)
    return hashlib.sha256(data).hexdigest()


def load_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        InputError: the file cannot be read or is none.
    """
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected weights in safetensors format") from None
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a safetensors file ({error}); it is damaged or something else") from None


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
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise InputError(f"{origin} does not fit {type(model).__name__}: {'; '.join(problems)}")
    model.load_state_dict(dict(tensors))
