"""Convert a student's ONNX file to fewer bits: fp16, or int8 calibrated on training images (ONNX Runtime's tools).

Letters in shapes: B batch.
"""

import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from lgkd.deploy.formats import INPUT, Copy, as_file, export_errors
from lgkd.deploy.subject import Subject

CALIBRATION = 256
"""Largest number of training images that the ranges of int8 activations are measured on."""

_QUANTISED = ("Conv", "MatMul", "Gemm")
"""Operators in int8. Normalisation, softmax and GELU stay in fp32, and so do products of two activations."""


def as_fp16(data: bytes, subject: Subject) -> Copy:
    """Convert an ONNX file to fp16; images and logits stay fp32.

    Args:
        data: of the fp32 file.
        subject: its student.

    Raises:
        ModelError: ONNX Runtime's converter fails.
    """
    import onnx

    with export_errors(subject, "ONNX in fp16"), _tools():
        from onnxruntime.transformers.float16 import convert_float_to_float16

        model = convert_float_to_float16(onnx.load_model_from_string(data), keep_io_types=True)
        _sort(model.graph)
        return as_file(model, subject)


def as_int8(data: bytes, subject: Subject, images: Iterable[Tensor]) -> Copy:
    """Quantise an ONNX file statically to int8, in QDQ form, with one scale for each output channel of a weight.

    Weights of convolutions and linear layers and their inputs are int8, and so are the outputs of convolutions; their
    ranges are the smallest and largest values on `images`.

    Args:
        data: of the fp32 file.
        subject: its student.
        images: batches of normalised training images, float32 (B,3,H,W).

    Raises:
        ModelError: ONNX Runtime's quantisation fails.
    """
    import onnx

    with export_errors(subject, "ONNX in int8"), _tools(), tempfile.TemporaryDirectory() as scratch:
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        whole, folded, written = (Path(scratch) / f"{name}.onnx" for name in ("whole", "folded", "int8"))
        whole.write_bytes(data)
        # Constants are folded and shapes inferred first: a transposed weight is a weight only then.
        quant_pre_process(str(whole), str(folded), skip_symbolic_shape=True)
        model = onnx.load_model(folded)
        left_out = _of_two_activations(model)
        onnx.save_model(model, folded)
        quantize_static(
            folded,
            written,
            _Reader(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTISED),
            nodes_to_exclude=left_out,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
        )
        return as_file(onnx.load_model(written), subject)


def _of_two_activations(model: Any) -> list[str]:
    """List ONNX matrix products of two activations; nodes without a name get one."""
    weights = {one.name for one in model.graph.initializer}
    for place, node in enumerate(model.graph.node):
        node.name = node.name or f"node{place}"
    return [
        node.name for node in model.graph.node if node.op_type in ("MatMul", "Gemm") and node.input[1] not in weights
    ]


def _sort(graph: Any) -> None:
    """Order the nodes of a graph topologically, as ONNX requires: the converter appends the casts of the input."""
    nodes = [type(node).FromString(node.SerializeToString()) for node in graph.node]
    makers = {name: place for place, node in enumerate(nodes) for name in node.output}
    added, ordered = set[int](), []

    def add(place: int) -> None:
        if place in added:
            return
        added.add(place)
        for name in nodes[place].input:
            if name in makers:
                add(makers[name])
        ordered.append(nodes[place])

    for place in range(len(nodes)):
        add(place)
    del graph.node[:]
    graph.node.extend(ordered)


class _Reader:
    """Yield calibration batches, as ONNX Runtime's `CalibrationDataReader` does."""

    def __init__(self, batches: Iterable[Tensor]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch by the name of the input; None after the last."""
        found = next(self._batches, None)
        return None if found is None else {INPUT: found.numpy()}


@contextmanager
def _tools() -> Iterator[None]:
    """Let modules of ONNX Runtime's tools find each other: in their own folder, which they add to the import path."""
    before = list(sys.path)
    try:
        import onnxruntime.transformers

        sys.path.append(str(Path(onnxruntime.transformers.__file__).parent))  # again, if it was imported before
        yield
    finally:
        sys.path[:] = before
