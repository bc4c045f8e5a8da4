"""Read an exported ONNX file: its metadata, and its logits by ONNX Runtime (extra `onnx`)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lgkd._internal.out_of_memory import raise_if_out_of_memory
from lgkd._internal.text import first_line
from lgkd.deploy.requirements import check_onnx_is_here
from lgkd.errors import InputError
from lgkd.runs.folder import parse_student

ABOUT = "lgkd"
"""The entry of an ONNX file's metadata that holds the student's student.json."""


class OnnxStudent:
    """Run a student in an ONNX file, as a function from images to logits, on the CPU.

    Args:
        data: the content of the file.
        origin: of that content, for messages.

    Raises:
        MissingError: the extra is not installed.
        InputError: it is not an ONNX file, not one of lgkd's, asks for other files, or cannot be run.
    """

    def __init__(self, data: bytes, origin: Path) -> None:
        check_onnx_is_here()
        import onnxruntime

        self.origin = origin
        self.about = _about(data, origin)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors; they come as exceptions
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has a separate class for every cause
            raise_if_out_of_memory(error)
            raise InputError(f"{origin} cannot be run by ONNX Runtime ({first_line(error)}); export it again") from None
        self._input = self._session.get_inputs()[0].name

    def __call__(self, images: Tensor) -> Tensor:
        """Compute logits float32 (B,K) of normalised images float32 (B,3,H,W).

        Raises:
            InputError: ONNX Runtime fails, or its result is not (B,K).
        """
        try:
            found = self._session.run(None, {self._input: np.ascontiguousarray(images.cpu().numpy())})[0]
        except Exception as error:
            raise_if_out_of_memory(error)
            raise InputError(f"{self.origin} fails on images of {tuple(images.shape)} ({first_line(error)})") from None
        expected = (len(images), self.about["num_classes"])
        if np.shape(found) != expected:
            raise InputError(f"{self.origin} returns {np.shape(found)} for {len(images)} images, expected {expected}")
        return torch.from_numpy(found)


def _about(data: bytes, origin: Path) -> dict[str, Any]:
    import onnx

    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own, which moves from version to version
        raise_if_out_of_memory(error)
        raise InputError(
            f"{origin} is not an ONNX file ({first_line(error)}); it is damaged or something else"
        ) from None
    outside = next((tensor.name for tensor in _tensors(model) if onnx.external_data_helper.uses_external_data(tensor)),
                   None)  # fmt: skip
    if outside is not None:
        raise InputError(f"{origin} asks for another file that holds {outside!r}; an export of lgkd is in one file")
    texts = [entry.value for entry in model.metadata_props if entry.key == ABOUT]
    if len(texts) != 1:
        raise InputError(
            f"{origin} has no classes and preprocessing, so it is not an export of lgkd; make one with: "
            "lgkd export RUN --format onnx"
        )
    return parse_student(texts[0], origin)


def _tensors(message: Any) -> Iterator[Any]:
    """Yield every tensor of a protobuf message, at any depth: weights, constants, inner graphs and functions."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for one in [value] if hasattr(value, "ListFields") else value:
            if field.message_type.name == "TensorProto":
                yield one
            else:
                yield from _tensors(one)
