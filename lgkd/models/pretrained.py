"""Load published weights without running any code of their files.

A file of torch is a program for the unpickling machine; of that program only the parts that build tensors may run
(`weights_only=True`, set in the only call there is, and never retried without it). That lowers the risk and
does not remove it, so a file is opened only if it has the SHA-256 that the caller states. Safetensors files hold
no program at all.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lgkd._internal.safetensors_io import load_weights
from lgkd.errors import InputError, ModelError, TapError
from lgkd.models.default_taps import classifier_name
from lgkd.models.factory import ImageSize, create_model
from lgkd.models.pretrained_keys import layouts_of

MAX_BYTES = 2**32
"""Bytes of a file that is read; the largest known teacher with its optimiser state has less than a tenth of it."""

_CONTAINERS = ("state_dict", "model_state_dict", "model_state", "model", "net")
"""Keys under which checkpoints store the model's state."""

_PREFIXES = ("module.", "_orig_mod.", "teacher_model.", "student_model.", "student.", "backbone.", "model.")
"""Prefixes that DataParallel, the compiler, and wrappers put before every name."""

_COUNTER = "num_batches_tracked"
"""Counter of BatchNorm; torch before 0.4.1 did not have it, and no computation of lgkd reads it."""

_LISTED = 10


def load_foreign(
    name: str,
    path: str | Path,
    *,
    num_classes: int,
    sha256: str,
    image_size: ImageSize | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a model with published weights, in eval mode, on the CPU.

    Args:
        name: as `lgkd teachers` lists them, `timm:NAME` or `package.module:factory`.
        path: a safetensors file (its name ends in .safetensors), or one saved by torch, under any name.
        num_classes: width of the logits, which must be that of the weights.
        sha256: of the file, in hex digits: as its publisher states it, or as `sha256sum` computes it for a copy that
            you trust.
        image_size: pixels, one number or (height, width); None for the model's own.
        options: passed to the constructor.

    Raises:
        InputError: the file cannot be read, is a different one, or holds more than tensors.
        ModelError: the model cannot be built, or the weights belong to another one.
    """
    tensors = read_foreign(path, sha256=sha256)
    with torch.random.fork_rng(devices=[]):
        model = create_model(name, num_classes=num_classes, image_size=image_size, options=options)
    fill_foreign(model, tensors, name=name, origin=str(path), num_classes=num_classes)
    return model.eval()


def read_foreign(path: str | Path, *, sha256: str) -> dict[str, Tensor]:
    """Read the named tensors of a file, from any known checkpoint layout, under their publisher's names.

    Raises:
        InputError: the file cannot be read, does not have that SHA-256, or holds more than tensors.
    """
    place, wanted = Path(path).expanduser(), sha256.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", wanted):
        raise InputError(
            f"{sha256!r} is not a SHA-256, expected 64 hex digits: as the publisher of {place.name} states them, or as "
            "`sha256sum` computes them for a copy that you trust"
        )
    if place.suffix.lower() == ".safetensors":
        return _plain(_unwrapped(load_weights(place, wanted), place), place)
    return _plain(_unwrapped(_load(_bytes(place, wanted), place), place), place)


def fill_foreign(model: nn.Module, tensors: Mapping[str, Tensor], *, name: str, origin: str, num_classes: int) -> None:
    """Load published weights into a model, by its own names or by those of a known layout; all must fit.

    Args:
        model: takes the weights; it is unchanged where they do not fit.
        tensors: under their publisher's names.
        name: the model's name in messages.
        origin: where the tensors come from, in messages.
        num_classes: width of the model's logits.

    Raises:
        ModelError: missing or unexpected names, different shapes, another number of classes, or values
            that are not finite.
    """
    have = model.state_dict()
    stripped = _without_prefixes(tensors, have.keys())
    layout = max(layouts_of(model), key=lambda known: sum(known(key) in have for key in stripped))
    theirs = {layout(key): key for key in stripped}
    if len(theirs) != len(stripped):
        raise ModelError(f"{origin} does not fit {name}: two of its tensors map to the same tensor of the model")
    found = {key: stripped[theirs[key]] for key in theirs}
    _check_classes(model, found, name=name, origin=origin, num_classes=num_classes)
    shared = sorted(have.keys() & found.keys())
    problems = {
        "missing": sorted(key for key in have.keys() - found.keys() if not key.endswith(_COUNTER)),
        "unexpected": sorted(theirs[key] for key in found.keys() - have.keys()),
        "of another shape or kind": [
            f"{key} {_kind(found[key])} instead of {_kind(have[key])}"
            for key in shared
            if _kind(found[key]) != _kind(have[key])
        ],
    }
    if not any(problems.values()):
        kept = {key: found[key].to(have[key].dtype) for key in shared}
        problems["not finite"] = [key for key, value in kept.items() if not torch.isfinite(value).all()]
    parts = [f"{len(keys)} {what} ({_listed(keys)})" for what, keys in problems.items() if keys]
    if parts:
        raise ModelError(f"{origin} does not fit {name}: {'; '.join(parts)}")
    model.load_state_dict({key: found.get(key, value) for key, value in have.items()})


# Files


def _bytes(place: Path, sha256: str) -> bytes:
    """Read the file once, so that the bytes that were hashed are those that are opened."""
    try:
        size = place.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{place} has {size:,} bytes, expected weights of at most {MAX_BYTES:,}")
        data = place.read_bytes()
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror}); expected a file of weights") from None
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise InputError(
            f"{place} has SHA-256 {found}, expected {sha256}: it is damaged or another file, and was not opened"
        )
    return data


def _load(data: bytes, place: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about storages and formats, of use only to torch's developers
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # an untrusted file may make torch fail in any way
        if type(error).__name__ == "UnpicklingError":
            # torch's own message explains how to open it anyway, which would be unsafe.
            named = re.search(r"GLOBAL ([\w.]+)", str(error))
            what = f" ({named.group(1)})" if named else ""
            raise InputError(
                f"{place} holds more than tensors{what}, or was not saved by torch; opening such a file could run "
                "code, so it was refused. Have the state dict alone saved by its publisher, preferably as safetensors"
            ) from None
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{place}: not a file that torch has saved ({lines[0][:120]}); it is damaged or a different file"
        ) from None


def _unwrapped(loaded: Any, place: Path) -> dict[str, Any]:
    """Return the state dict inside a checkpoint."""
    for _ in range(len(_CONTAINERS)):
        if isinstance(loaded, dict) and loaded and all(isinstance(value, Tensor) for value in loaded.values()):
            return loaded
        if not isinstance(loaded, dict):
            break
        inside = [key for key in _CONTAINERS if isinstance(loaded.get(key), dict)]
        if len(inside) != 1:
            break
        loaded = loaded[inside[0]]
    seen = f"a {type(loaded).__name__}"
    if isinstance(loaded, dict):
        seen = f"the keys {_listed(map(str, loaded))}" if loaded else "nothing"
    raise InputError(
        f"{place} holds {seen}; expected named tensors, or one dictionary of them under "
        f"{', '.join(_CONTAINERS[:-1])} or {_CONTAINERS[-1]}"
    )


def _plain(state: Mapping[Any, Tensor], place: Path) -> dict[str, Tensor]:
    odd = [
        str(key)
        for key, value in state.items()
        if not isinstance(key, str)
        or type(value) not in (Tensor, nn.Parameter)
        or value.layout != torch.strided
        or value.device.type != "cpu"
        or value.is_complex()
    ]
    if odd:
        raise InputError(f"{place} holds tensors that are not plain numbers ({_listed(odd)}); expected dense real ones")
    return {key: value.detach() for key, value in state.items()}


# Names


def _without_prefixes(tensors: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    known, stripped = set(wanted), dict(tensors)
    while not known & stripped.keys():
        prefix = next((each for each in _PREFIXES if all(key.startswith(each) for key in stripped)), None)
        if prefix is None:
            break
        stripped = {key.removeprefix(prefix): value for key, value in stripped.items()}
    return stripped


def _check_classes(
    model: nn.Module, tensors: Mapping[str, Tensor], *, name: str, origin: str, num_classes: int
) -> None:
    try:
        weight = tensors.get(f"{classifier_name(model)}.weight")
    except TapError:
        return
    if weight is not None and weight.ndim > 0 and weight.shape[0] != num_classes:
        raise ModelError(
            f"{origin} distinguishes {weight.shape[0]} classes, {name} needs {num_classes}; use weights that were "
            "trained on the same data set"
        )


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)}{'' if tensor.is_floating_point() else ' of whole numbers'}"


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    text = ", ".join(listed[:_LISTED]) + more
    # Names come from an untrusted file: none may move the cursor or fill the screen.
    return "".join(sign if sign.isprintable() else "?" for sign in text)[:1500]
