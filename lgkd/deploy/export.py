"""Export a finished run to a folder that needs no lgkd: complete and compared with the student, or absent.

Letters in shapes: N images, K classes.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lgkd._internal.atomic_io import write_atomic, write_json
from lgkd._internal.manifest import write_manifest
from lgkd.data.dataset import Images
from lgkd.data.sources.arrange import whole
from lgkd.deploy import formats
from lgkd.deploy.accuracy import Accuracy, LabelAccuracy, check_drop, logits_of, measure
from lgkd.deploy.few_bits import CALIBRATION, as_fp16, as_int8
from lgkd.deploy.formats import Copy, Logits
from lgkd.deploy.inference.load import plain_of
from lgkd.deploy.model_card import model_card
from lgkd.deploy.options import (
    CARD,
    FEWER_BITS,
    FORMATS,
    MAX_DROP,
    check_max_drop,
    check_opset,
    choose_formats,
    export_folder,
)
from lgkd.deploy.subject import (
    Splits,
    Subject,
    calibration_batches,
    environment_of,
    read_subject,
    real_images,
    run_splits,
)
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
        accuracies: on the test split, of the files for which it was measured, and of the student as "student".
        tested: number of images of that split.
        calibrated: number of training images that int8 was calibrated on.
    """

    folder: Path
    differences: Mapping[str, float]
    images: int
    source: str
    largest_logit: float
    needs_lgkd: bool
    accuracies: Mapping[str, Accuracy | LabelAccuracy] = field(default_factory=dict)
    tested: int = 0
    calibrated: int = 0


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
    opset: int | None = None,
    verify: bool = False,
    max_drop: float = MAX_DROP,
    force: bool = False,
) -> Exported:
    """Export a run, see `lgkd.export`."""
    check_max_drop(max_drop)
    chosen = choose_formats(wanted, say)
    check_opset(opset, chosen)
    folder = export_folder(run, out)
    subject = read_subject(run, model)
    fewer = {FORMATS[name] for name in chosen if name in FEWER_BITS}
    splits = run_splits(subject, data_dir=data_dir, progress=progress) if verify or fewer else None
    shown, source = real_images(subject, images, data_dir=data_dir, say=say, progress=progress)
    with torch.no_grad():
        expected = subject.student(shown)
        call = _timm_call(subject)
        copies = _copies(subject, chosen, call, opset, splits)
        differences = {file: largest_difference(copy.logits, shown, expected) for file, copy in copies.items()}
    for file, difference in differences.items():
        limit = float("inf") if file in fewer else LIMIT  # fewer bits are judged by their accuracy
        if not difference <= limit or difference == float("inf"):  # nor where it is not a number
            raise ModelError(
                f"{file} differs from the student by {difference:.1e} in a logit on {len(shown)} images of {source}, "
                f"expected at most {LIMIT:.0e}; nothing was written. Leave that format out with --format"
            )
    accuracies = {} if splits is None else _accuracies(subject, copies if verify else fewer, copies, splits.test)
    for file in fewer:
        check_drop(file, accuracies[file], accuracies["student"], max_drop=max_drop, force=force, say=say)
    made = Exported(
        folder, differences, len(shown), source, float(expected.abs().max()), call is None, accuracies,
        0 if splits is None else len(splits.test),
        min(CALIBRATION, len(splits.train)) if splits is not None and FORMATS["onnx-int8"] in copies else 0,
    )  # fmt: skip
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


def _accuracies(
    subject: Subject, files: Collection[str], copies: Mapping[str, Copy], images: Images
) -> dict[str, Accuracy | LabelAccuracy]:
    """Measure the accuracy of the student, in fp32, and of some of its files."""
    plain = plain_of(subject.about)
    student = logits_of(subject.student, images, plain)
    found = {"student": measure(student, images.labels, student)}
    for file, copy in copies.items():
        if file in files:
            found[file] = measure(logits_of(copy.logits, images, plain), images.labels, student)
    return found


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


def _copies(
    subject: Subject, chosen: Sequence[str], call: TimmCall | None, opset: int | None, splits: Splits | None
) -> dict[str, Copy]:
    """Yield the student in every format, by the name of the file."""
    copies: dict[str, Copy] = {}
    # In the order of `FORMATS`, in which the program of torch.export comes last: it loses its origin there.
    program = formats.follow(subject) if set(chosen) - {"safetensors"} else None
    whole: Copy | None = None
    if program is not None and any(name.startswith("onnx") for name in chosen):
        whole = formats.as_onnx(subject, program, opset)
    for name in chosen:
        if program is None or name == "safetensors":
            copies[FORMATS[name]] = formats.as_safetensors(subject, call)
        elif whole is not None and name == "onnx":
            copies[FORMATS[name]] = whole
        elif whole is not None and name == "onnx-fp16":
            copies[FORMATS[name]] = as_fp16(whole.data, subject)
        elif whole is not None and splits is not None and name == "onnx-int8":
            images = calibration_batches(splits.train, plain_of(subject.about), CALIBRATION)
            copies[FORMATS[name]] = as_int8(whole.data, subject, images)
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
            **({"test": asdict(made.accuracies[file])} if file in made.accuracies else {}),
        }
        for file, copy in copies.items()
    }
    onnx = next((FORMATS[name] for name in FORMATS if name.startswith("onnx") and FORMATS[name] in copies), None)
    student = made.accuracies.get("student")
    measured = {"images": made.tested, "student": asdict(student)} if student is not None else None
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
        "onnx_opset": formats.opset_of(copies[onnx].data) if onnx is not None else None,
        **({"test": measured} if measured is not None else {}),
        **({"calibrated_on": made.calibrated} if made.calibrated else {}),
    }
