"""Export a finished run to a folder that needs no lgkd: complete and compared with the student, or absent.

Letters in shapes: N images, K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lgkd._internal.atomic_io import write_atomic, write_json
from lgkd._internal.manifest import write_manifest
from lgkd.data.sources.arrange import whole
from lgkd.deploy import formats
from lgkd.deploy.formats import Copy, Logits
from lgkd.deploy.model_card import model_card
from lgkd.deploy.options import CARD, FORMATS, choose_formats, export_folder
from lgkd.deploy.subject import Subject, environment_of, read_subject, real_images
from lgkd.errors import ModelError
from lgkd.models.timm_interop import TimmCall, timm_call
from lgkd.runs.folder import EXPORT, FORMAT, STUDENT, now, package_version

LIMIT = 1e-4
"""By how much a logit of a copy may differ from the student's, in fp32."""

BATCHES = (1, 7)
"""The numbers of images at once with which copies are tried."""

_VERSIONS = ("lgkd", "torch", "timm", "safetensors", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Exported:
    """Describe a finished export.

    Attributes:
        folder: of the exported files.
        differences: of every file, the largest difference of a logit from the student's.
        images: number of real images that these were measured on.
        source: origin of these images, in words.
        largest_logit: the student's largest on them, without its sign, to compare the differences with.
        needs_lgkd: the safetensors file can be put into a model only with lgkd (or with the code of the student).
    """

    folder: Path
    differences: Mapping[str, float]
    images: int
    source: str
    largest_logit: float
    needs_lgkd: bool


def export_run(
    run: Path,
    out: str | Path | None,
    *,
    wanted: Sequence[str] | None,
    images: Sequence[str | Path] | None,
    data_dir: str | Path | None,
    model: nn.Module | None,
    say: Callable[[str], None],
    progress: Callable[[int, int], None] | None,
) -> Exported:
    """Export a run, see `lgkd.export`."""
    chosen = choose_formats(wanted, say)
    folder = export_folder(run, out)
    subject = read_subject(run, model)
    shown, source = real_images(subject, images, data_dir=data_dir, say=say, progress=progress)
    with torch.no_grad():
        expected = subject.student(shown)
        call = _timm_call(subject)
        copies = _copies(subject, chosen, call)
        differences = {file: largest_difference(copy.logits, shown, expected) for file, copy in copies.items()}
    for file, difference in differences.items():
        if not difference <= LIMIT:  # nor where it is not a number
            raise ModelError(
                f"{file} differs from the student by {difference:.1e} in a logit on {len(shown)} images of {source}, "
                f"expected at most {LIMIT:.0e}; nothing was written. Leave that format out with --format"
            )
    made = Exported(folder, differences, len(shown), source, float(expected.abs().max()), call is None)
    about = _about(made, copies, call)
    with whole(folder, "choose another --out") as scratch:
        for file, copy in copies.items():
            write_atomic(scratch / file, copy.data)
        write_json(scratch / STUDENT, subject.about)
        write_json(scratch / EXPORT, about)
        card = model_card(subject, about, environment_of(run))
        write_atomic(scratch / CARD, card.encode())
        # Not the card, which people edit.
        write_manifest(scratch, (STUDENT, EXPORT, *copies))
    return made


def largest_difference(logits: Logits, images: Tensor, expected: Tensor) -> float:
    """Return the largest difference of a logit, in any of `BATCHES`; not a number where one of them is not."""
    differences = []
    for size in BATCHES:
        found = torch.cat([logits(some) for some in torch.split(images, size)])
        differences.append((found.double() - expected.double()).abs().max())
    return float(torch.stack(differences).max())


def _timm_call(subject: Subject) -> TimmCall | None:
    about = subject.about
    if about["name"] is None:
        return None
    return timm_call(
        about["name"],
        about["options"],
        num_classes=about["num_classes"],
        image_size=subject.image_size,
        channels=subject.channels,
    )


def _copies(subject: Subject, chosen: Sequence[str], call: TimmCall | None) -> dict[str, Copy]:
    """Yield the student in every format, by the name of the file."""
    copies: dict[str, Copy] = {}
    # In the order of `FORMATS`, in which the program of torch.export comes last: it loses its origin there.
    program = formats.follow(subject) if set(chosen) - {"safetensors"} else None
    for name in chosen:
        if program is None or name == "safetensors":
            copies[FORMATS[name]] = formats.as_safetensors(subject, call)
        elif name == "onnx":
            copies[FORMATS[name]] = formats.as_onnx(subject, program)
        else:
            copies[FORMATS[name]] = formats.as_program(subject, program)
    return copies


def _about(made: Exported, copies: Mapping[str, Copy], call: TimmCall | None) -> dict[str, Any]:
    """Return the content of export.json: the origin of the export, and its difference from the student."""
    files = {
        file: {
            "bytes": len(copy.data),
            "sha256": sha256(copy.data).hexdigest(),
            "largest_difference": made.differences[file],
        }
        for file, copy in copies.items()
    }
    onnx = FORMATS["onnx"]
    return {
        "format": FORMAT,
        "exported": now(),
        "files": files,
        "compared_on": {
            "images": made.images,
            "of": made.source,
            "batch_sizes": list(BATCHES),
            "largest_logit": made.largest_logit,
            "limit": LIMIT,
        },
        "timm": {"model": call.model, "arguments": dict(call.arguments)} if call is not None else None,
        "versions": {name: version for name in _VERSIONS if (version := package_version(name)) is not None},
        "onnx_opset": formats.opset_of(copies[onnx].data) if onnx in copies else None,
    }
