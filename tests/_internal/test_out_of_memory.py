"""A lack of memory while a file is read does not make it a broken or foreign file: it is raised as what it is."""

import errno
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lgkd._internal import safetensors_io
from lgkd.data import image_formats
from lgkd.data.decode import decode_readable, survey
from lgkd.data.sources import flowers
from lgkd.deploy.inference import onnx as onnx_reader
from lgkd.errors import InputError
from lgkd.training import checkpoint
from tests.support.data import noise, save

NUMPY = MemoryError("Unable to allocate 3 GiB")
SYSTEM = OSError(errno.ENOMEM, "Cannot allocate memory")
TORCH = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")


class OnnxError(Exception):
    """As ONNX Runtime's errors: of a class that is a plain Exception."""


OnnxError.__module__ = "onnxruntime.capi.onnxruntime_pybind11_state"


def raising(error: BaseException) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("error", [NUMPY, SYSTEM], ids=["numpy", "system"])
@pytest.mark.parametrize("name", ["open", "Image.load", "Image.getexif"])
def test_an_image_is_not_broken_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: Exception
) -> None:
    file = save(tmp_path / "x.png", noise(1))
    monkeypatch.setattr(f"PIL.Image.{name}", raising(error))
    with pytest.raises(MemoryError, match="allocate"):
        decode_readable([file], max_side=8)
    with pytest.raises(MemoryError, match="allocate"):
        survey(tmp_path, ["x.png"])


def test_its_frames_are_not_miscounted_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(noise(1)).save(tmp_path / "x.gif")
    monkeypatch.setattr("PIL.GifImagePlugin.GifImageFile.n_frames", property(raising(NUMPY)))
    with pytest.raises(MemoryError):
        survey(tmp_path, ["x.gif"])


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_other_errors_are_what_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    file = save(tmp_path / "x.png", noise(1))
    monkeypatch.setattr("PIL.Image.Image.load", raising(error))
    if isinstance(error, Exception):
        assert decode_readable([file], max_side=8)[2] == {0: "broken"}
        return
    with pytest.raises(KeyboardInterrupt):
        decode_readable([file], max_side=8)


def test_heic_is_not_taken_for_missing_because_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("pillow_heif")
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    monkeypatch.setattr("lgkd.data.image_formats.find_spec", lambda _: module)
    module.register_heif_opener = raising(ImportError("failed to map segment from shared object"))  # type: ignore[attr-defined]
    image_formats.read_formats.cache_clear()
    try:
        with pytest.raises(MemoryError):
            image_formats.read_formats()
        module.register_heif_opener = raising(ImportError("no such symbol"))  # type: ignore[attr-defined]
        assert "HEIF" not in image_formats.read_formats()
    finally:
        image_formats.read_formats.cache_clear()


def test_a_matlab_file_is_not_broken_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scipy.io.loadmat", raising(NUMPY))
    with pytest.raises(MemoryError):
        flowers._numbers(tmp_path / "x.mat", ("labels",))


def test_weights_are_not_broken_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.safetensors"
    safetensors_io.save_weights({"a": torch.ones(2)}, file)
    monkeypatch.setattr(safetensors_io, "load", raising(TORCH))
    with pytest.raises(MemoryError, match="DefaultCPUAllocator"):
        safetensors_io.load_weights(file)
    monkeypatch.setattr(safetensors_io, "load", raising(RuntimeError("something else")))
    with pytest.raises(InputError, match="not a safetensors file"):
        safetensors_io.load_weights(file)


def test_a_checkpoint_is_not_passed_over_because_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        checkpoint.save_checkpoint(tmp_path, step, {"student": {"a": torch.ones(2)}}, {})
    found = checkpoint.load_newest(tmp_path)
    assert found is not None and found.step == 2
    monkeypatch.setattr(checkpoint, "load", raising(TORCH))
    with pytest.raises(MemoryError):
        checkpoint.load_newest(tmp_path)


def test_an_onnx_file_is_not_broken_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = onnx_reader.OnnxStudent.__new__(onnx_reader.OnnxStudent)
    student.origin, student.about, student._input = tmp_path / "x.onnx", {"num_classes": 2}, "images"
    session = ModuleType("session")
    student._session = session
    session.run = raising(OnnxError("Failed to allocate memory for requested buffer of size 9"))  # type: ignore[attr-defined]
    with pytest.raises(MemoryError, match="requested buffer"):
        student(torch.zeros(1, 3, 4, 4))
    session.run = raising(OnnxError("Got invalid dimensions"))  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="fails on images of"):
        student(torch.zeros(1, 3, 4, 4))


def test_a_reason_that_a_file_has_put_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Pillow's decoders report impossible sizes in a file in the same words; the image is refused by name.
    file = save(tmp_path / "x.png", np.zeros((4, 4, 3), np.uint8))
    monkeypatch.setattr("PIL.Image.Image.load", raising(OSError("out of memory when reading image file")))
    assert decode_readable([file], max_side=8)[2] == {0: "out of memory when reading image file"}
