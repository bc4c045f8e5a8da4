"""Find the student to predict with. No torch in here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lgkd.data.sources.download import is_offline
from lgkd.errors import InputError
from lgkd.runs.folder import STUDENT, STUDENT_WEIGHTS, read_student
from lgkd.runs.hub import is_hub, pull

ONNX: Literal["onnx"] = "onnx"
SAFETENSORS: Literal["safetensors"] = "safetensors"
STUDENT_ONNX, STUDENT_PROGRAM = "student.onnx", "student.pt2"


@dataclass(frozen=True)
class Place:
    """Hold the location of a student.

    Attributes:
        folder: of a run or an export.
        name: of the file that holds the weights.
        file: its format.
    """

    folder: Path
    name: str
    file: Literal["onnx", "safetensors"]


def find_source(source: str | Path, *, offline: bool = False) -> Place:
    """Find a run's folder, an exported folder, a file in one of these, or a repository of the hub.

    In a folder with several formats, safetensors is taken where its student can be made by its name.

    Args:
        source: a path, or hf:OWNER/NAME.
        offline: open no connection; LGKD_OFFLINE=1 in the environment does the same.

    Raises:
        InputError: nothing of the kind is there, or it is a file of torch.export.
        MissingError: the repository cannot be downloaded.
    """
    if is_hub(source):
        return _in_folder(pull(source, offline=is_offline(offline)))
    path = Path(source).expanduser()
    if path.suffix == ".pt2":
        raise InputError(
            f"{path} is a program of torch.export, which only torch's own reader opens, and that one runs pickles; "
            "lgkd does not read them: name the student.safetensors or the student.onnx of the same export"
        )
    if path.is_dir():
        return _in_folder(path)
    if not path.exists():
        raise InputError(f"there is no {path}; expected the folder of a finished run or an export, or an ONNX file")
    if path.suffix == ".onnx":
        return Place(path.parent, path.name, ONNX)
    if path.name == STUDENT_WEIGHTS:
        read_student(path.parent)
        return Place(path.parent, path.name, SAFETENSORS)
    raise InputError(
        f"{path} is neither a folder nor an ONNX file nor a {STUDENT_WEIGHTS}; expected the folder of a finished run "
        "or of an export, or one of these files in it"
    )


def _in_folder(folder: Path) -> Place:
    has_onnx = (folder / STUDENT_ONNX).is_file()
    about = read_student(folder)
    if (folder / STUDENT_WEIGHTS).is_file() and (about["name"] is not None or not has_onnx):
        return Place(folder, STUDENT_WEIGHTS, SAFETENSORS)
    if has_onnx:
        return Place(folder, STUDENT_ONNX, ONNX)
    raise InputError(
        f"{folder} has a {STUDENT}, but neither a {STUDENT_WEIGHTS} nor a {STUDENT_ONNX}; export it with one of them: "
        "lgkd export RUN --format safetensors"
    )
