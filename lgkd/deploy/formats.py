"""Convert a student to bytes of a format that needs no lgkd, and load these bytes as a function.

Letters in shapes: B batch, K classes.
"""

import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.nn.attention import SDPBackend, sdpa_kernel

from lgkd._internal.safetensors_io import fill, parse_weights
from lgkd.deploy.inference.onnx import ABOUT, OnnxStudent
from lgkd.deploy.subject import Subject
from lgkd.errors import ModelError
from lgkd.models.timm_interop import TimmCall
from lgkd.runs.folder import STUDENT_WEIGHTS

Logits = Callable[[Tensor], Tensor]

INPUT, OUTPUT, BATCH = "images", "logits", "batch"


@dataclass(frozen=True)
class Copy:
    """Hold a student in one format.

    Attributes:
        data: the content of its file.
        logits: function that the file computes: images (B,3,H,W) -> (B,K).
    """

    data: bytes
    logits: Logits


def as_safetensors(subject: Subject, call: TimmCall | None) -> Copy:
    """Write the run's weights, and put them into a model that timm alone makes, where it can."""
    data = (subject.folder / STUDENT_WEIGHTS).read_bytes()
    model = copy.deepcopy(subject.student) if call is None else call.make()
    fill(model, parse_weights(data, subject.folder / STUDENT_WEIGHTS), str(subject.folder / STUDENT_WEIGHTS))
    return Copy(data, model.eval())


def follow(subject: Subject) -> ExportedProgram:
    """Trace the student as a graph of torch.export, for any number of images.

    Raises:
        ModelError: it cannot be traced.
    """
    example = torch.zeros(2, subject.channels, *subject.image_size)
    with export_errors(subject, "torch.export"):
        return torch.export.export(subject.student, (example,), dynamic_shapes=({0: Dim(BATCH)},))


def as_program(subject: Subject, program: ExportedProgram) -> Copy:
    """Write a file of torch.export, which torch alone loads; records of its origin are removed."""
    # The source lines of layers are of no use to others, and name folders of this machine.
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
                    node.meta.pop(key, None)
    program.example_inputs = None  # which would be written as a pickle
    written = io.BytesIO()
    with export_errors(subject, "torch.export"):
        torch.export.save(program, written)
        # torch's reader may unpickle: it is given the bytes that were written here, and never a file.
        loaded = torch.export.load(io.BytesIO(written.getvalue()))
    return Copy(written.getvalue(), loaded.module())


def as_onnx(subject: Subject, program: ExportedProgram, opset: int | None = None) -> Copy:
    """Write an ONNX file that holds its weights, its classes and its preprocessing.

    Args:
        subject: the student.
        program: its graph.
        opset: version of ONNX's operators; None: that of torch's exporter.

    Raises:
        ModelError: the student cannot be written as ONNX, or not in that version.
    """
    with export_errors(subject, "ONNX"):
        try:
            model = _protobuf(program, opset)
        except Exception:  # torch's exporter knows its fused attention in the commonest form only
            with sdpa_kernel(SDPBackend.MATH):  # as two matrix products with a softmax between them
                model = _protobuf(program.run_decompositions(), opset)
    made = as_file(model, subject)
    if opset is not None and (found := opset_of(made.data)) != opset:
        raise ModelError(
            f"the student cannot be written in ONNX opset {opset}: torch's exporter gave opset {found}; leave --opset "
            f"out, or give --opset {found}"
        )
    return made


def as_file(model: Any, subject: Subject) -> Copy:
    """Complete an ONNX model with its classes and preprocessing, and load it as a function.

    Args:
        model: a protobuf message of ONNX, which is changed.
        subject: its student.
    """
    _strip(model)
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    entry = model.metadata_props.add()
    entry.key, entry.value = ABOUT, json.dumps(subject.about)
    data: bytes = model.SerializeToString()
    return Copy(data, OnnxStudent(data, Path("student.onnx")))


def _protobuf(program: ExportedProgram, opset: int | None) -> Any:
    made: Any = torch.onnx.export(
        program, dynamo=True, verbose=False, input_names=[INPUT], output_names=[OUTPUT], external_data=False,
        opset_version=opset,
    )  # fmt: skip
    return made.model_proto


def opset_of(data: bytes) -> int | None:
    """Return the version of ONNX's own operators that a file asks for."""
    import onnx

    model = onnx.load_model_from_string(data)
    return next((int(used.version) for used in model.opset_import if used.domain in ("", "ai.onnx")), None)


def _strip(message: Any) -> None:
    """Remove the exporter's notes on itself from a protobuf message, at any depth."""
    for field, value in message.ListFields():
        if field.name == "metadata_props":
            message.ClearField("metadata_props")
        elif field.message_type is not None and field.message_type.name != "TensorProto":
            for one in [value] if hasattr(value, "ListFields") else value:
                _strip(one)


@contextmanager
def export_errors(subject: Subject, target: str) -> Iterator[None]:
    """Report errors of torch's exporters in one line, and none of their warnings and remarks."""
    loggers = {logger: logger.level for logger in map(logging.getLogger, ("onnxscript", "onnx_ir", "torch.onnx"))}
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # the exporters raise anything
        first = error
        while isinstance(first.__cause__, Exception):  # the wrapped error has the cause
            first = first.__cause__
        text = next((line.strip() for line in str(first).splitlines() if line.strip()), type(first).__name__)
        name = subject.about["name"] or type(subject.student).__name__
        raise ModelError(
            f"{name} cannot be written as {target} for any number of images ({text[:200]}); "
            "choose another --format: safetensors takes every student"
        ) from error
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)
