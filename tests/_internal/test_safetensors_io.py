"""Files are whole or not there, readable under the umask; weights are plain tensors that must fit."""

import hashlib
import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lgkd._internal import atomic_io
from lgkd._internal.atomic_io import sha256_of, write_atomic, write_json
from lgkd._internal.safetensors_io import fill, load_weights, save_weights
from lgkd.errors import InputError


def test_a_file_is_written_whole_and_nothing_else_stays(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"one")
    write_atomic(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "a", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_io.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_umask_says_who_may_read(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode


def test_json_is_indented_utf_8_and_has_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "Äpfel", "values": [1, 2.5, None]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"name": "Äpfel", "values": [1, 2.5, None]}
    assert "Äpfel" in text
    assert text.endswith("}\n")
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "b.json", {"loss": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_a_hash_is_sha_256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # From FIPS 180-2, appendix B.1.
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_weights_come_back_bit_by_bit(tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(3, 4).bfloat16(),
        "count": torch.tensor(7),
        "turned": torch.randn(4, 5).T,
        "part": torch.randn(10)[::2],
        "last": torch.randn(1, 3, 4, 4).contiguous(memory_format=torch.channels_last),
    }
    digest = save_weights(tensors, tmp_path / "w.safetensors")
    assert digest == hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    for found in (load_weights(tmp_path / "w.safetensors", digest), load_file(tmp_path / "w.safetensors")):
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)
        assert all(found[name].dtype == tensors[name].dtype for name in tensors)


def test_tied_weights_are_saved_twice(tmp_path: Path) -> None:
    shared = torch.randn(3)
    save_weights({"a": shared, "b": shared}, tmp_path / "w.safetensors")
    found = load_weights(tmp_path / "w.safetensors")
    assert torch.equal(found["a"], shared)
    assert torch.equal(found["b"], shared)


def test_weights_with_another_hash_are_refused_with_both(tmp_path: Path) -> None:
    digest = save_weights({"a": torch.zeros(2)}, tmp_path / "w.safetensors")
    told = (
        f"w.safetensors: has SHA-256 {digest}, expected {'0' * 64}; it is damaged or another file, take it from a copy"
    )
    with pytest.raises(InputError, match=re.escape(told)):
        load_weights(tmp_path / "w.safetensors", "0" * 64)


@pytest.mark.parametrize("content", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", b"\x80\x04K\x01.", b"x" * 200])
def test_what_is_no_safetensors_file_is_refused_or_empty(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    try:
        assert load_weights(tmp_path / "w.safetensors") == {}
    except InputError as error:
        assert "w.safetensors: not a safetensors file" in str(error)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"w.safetensors: cannot be read \(No such file"):
        load_weights(tmp_path / "w.safetensors")


def test_weights_that_do_not_fit_name_what_is_wrong_and_change_nothing() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tensors = {**{name: torch.zeros_like(value) for name, value in before.items()}, "0.bias": torch.zeros(4)}
    del tensors["1.bias"]
    tensors["projection.weight"] = torch.zeros(1)
    with pytest.raises(InputError) as caught:
        fill(model, tensors, "some.safetensors")
    message = str(caught.value)
    assert message.startswith("some.safetensors does not fit Sequential: ")
    assert "1 missing (1.bias)" in message
    assert "1 unexpected (projection.weight)" in message
    assert "0.bias (4,) instead of (3,)" in message
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_weights_that_fit_are_taken() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    fill(model, {name: torch.ones_like(value) for name, value in model.state_dict().items()}, "here")
    assert all(bool((value == 1).all()) for value in model.state_dict().values())
