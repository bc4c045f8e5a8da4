"""Implement `lgkd predict`."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lgkd._internal.atomic_io import write_atomic
from lgkd._internal.csv_tables import table
from lgkd._internal.text import counted
from lgkd.cli import completion
from lgkd.cli import options as o
from lgkd.cli.display import Display, console, show_json, show_table
from lgkd.cli.predict_labels import labels_accuracy, labels_csv, labels_dict, show_labels
from lgkd.deploy.inference.image_files import find_images
from lgkd.deploy.inference.locate import find_source
from lgkd.deploy.options import check_new_or_empty
from lgkd.errors import DataError, InputError, TakenError
from lgkd.runs.statistics import in_percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lgkd.deploy.inference.predict import Prediction

_NAMED = 5


def predict(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="The folder of a finished run or of an export, a student.onnx, or hf:OWNER/NAME.",
            autocompletion=completion.runs,
        ),
    ],
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Files, folders, tables, or patterns in quotes.")
    ],
    top_k: Annotated[int, typer.Option("--top-k", metavar="K", help="Classes per image, the most likely first.")] = 3,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write one row per image, instead of the table.")
    ] = None,
    explain: Annotated[
        Path | None,
        typer.Option("--explain", metavar="DIR", help="Draw what each class was read from, a PNG per image."),
    ] = None,
    device: o.Device = None,
    offline: o.Offline = False,
    use: o.Use = None,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Classify images with a trained student.

    Images are resized and normalised as in evaluation. A folder whose sub-folders are named as the student's classes is
    labelled: the true class is listed, and the accuracy follows. A student of several labels an image names all above a
    probability of 0.5; the images of a table of such labels, named as IMAGE, are listed with their true ones. Images
    that cannot be read are named and skipped; the command then ends with code 2.

    Example: lgkd predict runs/mine photos/ 'more/*.jpg' --top-k 5 --json
    """
    if top_k < 1:
        raise InputError(f"--top-k is {top_k}, expected at least 1 class per image")
    if csv_file is not None and csv_file.exists():
        raise TakenError(f"{csv_file} exists already; nothing was touched. Choose another --csv")
    if explain is not None:
        explain = explain.expanduser()
        check_new_or_empty(explain, "--explain", "to draw to")
    o.bring_in(use)
    place = find_source(source, offline=offline)
    display = Display("predict", quiet=quiet or as_json)
    files = find_images(images, fault=display.say)
    from lgkd.deploy.inference.classify import classify
    from lgkd.deploy.inference.load import open_source
    from lgkd.training.precision import choose_device

    opened = open_source(place, device=choose_device(device))
    several = opened.multi_label
    found = classify(
        opened, images, files, top_k=top_k, explain=explain, say=display.say, progress=display.predicted,
        explained=display.explained,
    )  # fmt: skip
    if csv_file is not None:
        write_atomic(csv_file, labels_csv(found, opened.classes) if several else _as_csv(found))
    if as_json:
        show_json([labels_dict(one) if several else _as_dict(one) for one in found])
    elif csv_file is None:
        (show_labels if several else _show)(found)
    else:
        console().print(f"{len(found):,} images in {csv_file}")
    if explain is not None and not (as_json or quiet):
        console().print(f"{counted(sum(one.explanation is not None for one in found), 'overlay')} in {explain}")
    accuracy = labels_accuracy(found) if several else _accuracy(found)
    if accuracy is not None and not (as_json and quiet):
        console(errors=as_json).print(accuracy)
    _tell_of_the_broken(found)


def _show(found: "Sequence[Prediction]") -> None:
    read = [one for one in found if one.error is None]
    if not read:
        return
    several, labelled = any(len(one.classes) > 1 for one in read), _is_labelled(found)
    show_table(
        "",
        ("image", *(("truth",) if labelled else ()), "class", "sure", *(("or",) if several else ())),
        (
            (
                one.image,
                *((one.truth or "",) if labelled else ()),
                one.classes[0],
                f"{one.confidences[0]:.1%}",
                *((_others(one),) if several else ()),
            )
            for one in read
        ),
        right=(3,) if labelled else (2,),
    )


def _is_labelled(found: "Sequence[Prediction]") -> bool:
    return any(one.truth is not None for one in found)


def _accuracy(found: "Sequence[Prediction]") -> str | None:
    """Describe the accuracy on the images whose class is known; None where there are none."""
    pairs = [(one.truth, one.classes[0]) for one in found if one.truth is not None and one.error is None]
    if not pairs:
        return None
    from lgkd.training.class_scores import class_scores, macro

    present = sorted({truth for truth, _ in pairs})
    named = [
        [truth for truth, _ in pairs],
        [guess for _, guess in pairs],
        [one for one, guess in pairs if one == guess],
    ]
    scores = class_scores(*([Counter(part)[name] for name in present] for part in named))
    accuracy, balanced = len(named[2]) / len(pairs), macro([one.recall for one in scores]) or 0.0
    return (
        f"accuracy {in_percent(accuracy)}% of {counted(len(pairs), 'labelled image')}, balanced accuracy "
        f"{in_percent(balanced)}% over {counted(len(present), 'class')}"
    )


def _others(one: "Prediction") -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in _pairs(one)[1:])


def _as_dict(one: "Prediction") -> dict[str, object]:
    known = {"image": str(one.image), **({} if one.truth is None else {"truth": one.truth})}
    if one.error is not None:
        return {**known, "error": one.error}
    return {
        **known,
        "classes": [{"class": name, "confidence": share} for name, share in _pairs(one)],
        **({} if one.explanation is None else {"explanation": str(one.explanation)}),
    }


def _as_csv(found: "Sequence[Prediction]") -> bytes:
    """Format one row per image: its classes and confidences in turn, and why it could not be read."""
    most = max(len(one.classes) for one in found)
    heads = [f"{what}_{place}" for place in range(1, most + 1) for what in ("class", "confidence")]
    truth = ["truth"] if _is_labelled(found) else []
    drawn = ["explanation"] if any(one.explanation is not None for one in found) else []
    rows = []
    for one in found:
        cells = (cell for pair in _pairs(one) for cell in pair)
        known = {"image": one.image, **dict.fromkeys(truth, one.truth or "")}
        pictures = dict.fromkeys(drawn, one.explanation or "")
        rows.append({**known, **dict(zip(heads, cells, strict=False)), **pictures, "error": one.error or ""})
    return table(["image", *truth, *heads, *drawn, "error"], rows)


def _pairs(one: "Prediction") -> list[tuple[str, float]]:
    return list(zip(one.classes, one.confidences, strict=True))


def _tell_of_the_broken(found: "Sequence[Prediction]") -> None:
    broken = [one for one in found if one.error is not None]
    if not broken:
        return
    named = "; ".join(f"{one.image} ({one.error})" for one in broken[:_NAMED])
    more = f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    if len(broken) == len(found):
        raise DataError(f"no image could be read: {named}{more}")
    counts = f"{len(broken)} of {len(found)} images could not be read and were skipped"
    raise DataError(f"{counts}: {named}{more}; the others were classified")
