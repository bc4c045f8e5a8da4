"""Implement `lgkd evaluate` and `lgkd layers`."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lgkd._internal.metric_rules import shows_top5
from lgkd.cli import completion
from lgkd.cli import options as o
from lgkd.cli.display import console, say, show_json, show_pairs, show_table
from lgkd.cli.evaluate_labels import labels_json, show_label_scores
from lgkd.errors import InputError, TapError
from lgkd.models.registry import find
from lgkd.runner.resolve import check_dataset
from lgkd.runs.class_results import ClassResults, about_never_predicted, in_words, never_predicted
from lgkd.runs.folder import read_run, read_student
from lgkd.runs.statistics import in_percent

if TYPE_CHECKING:
    from lgkd.training.evaluate import Scores

_TEACHER = "resnet56"
_NAMED = 5
_MOST_ROWS = 20


def evaluate(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.", autocompletion=completion.runs)],
    dataset: o.TestImages = None,
    data_dir: o.DataDir = None,
    device: o.Device = None,
    use: o.Use = None,
    as_json: o.Json = False,
) -> None:
    """Evaluate a trained student on the test split, or on a folder of labelled images.

    Accuracy, balanced accuracy, macro F1, AUROC, calibration, agreement with its teacher; precision, recall, F1 and
    AUROC by class. Of a given folder all images are used (of its test split, if it has one); it may have some of the
    classes. Of several labels an image: mAP, F1, exact match and AUROC, and average precision by class.

    Example: lgkd evaluate runs/pvt_v2_b0_cifar100_by-resnet56_locality-guidance_seed0
    """
    o.bring_in(use)
    info = read_run(run)
    classes = read_student(run)["classes"]
    if dataset is not None:
        check_dataset(dataset, data_dir)
    from lgkd import api
    from lgkd.training.label_scores import MultiLabelScores

    said: list[str] = []
    scores = api.evaluate(run, dataset=dataset, data_dir=data_dir, device=device, say=said.append)
    scored, *notes = said
    for note in notes:
        say(note)
    if isinstance(scores, MultiLabelScores):
        if as_json:
            show_json({"folder": str(run), "scored": scored, **labels_json(scores, classes)})
        else:
            show_label_scores(scores, classes, scored, _agreement(info, scores.agreement), rows=_MOST_ROWS)
        return
    unseen = [classes[place] for place in scores.unseen]
    by_class = {name: one.as_dict() for name, one in zip(classes, scores.by_class, strict=True)}
    top5 = shows_top5(len(classes))
    if as_json:
        show_json(
            {
                "folder": str(run),
                "scored": scored,
                "images": scores.images,
                **{name: value for name, value in scores.flat().items() if name != "top5" or top5},
                "largest_class": scores.largest_class,
                "per_class": scores.per_class,
                "classes": by_class,
                "classes_without_images": unseen,
                "never_predicted": never_predicted(by_class),
            }
        )
        return
    never = about_never_predicted(by_class)
    known = sorted((value, name) for value, name in zip(scores.per_class, classes, strict=True) if value is not None)
    show_pairs(
        {
            "scored": scored,
            "test images": f"{scores.images:,}",
            "top-1": f"{in_percent(scores.top1)}%",
            **({"top-5": f"{in_percent(scores.top5)}%"} if top5 else {}),
            "balanced accuracy": _balanced(scores, unseen),
            "macro F1": in_words("macro_f1", scores.macro_f1),
            "one-vs-rest AUROC": _area(scores),
            "cross entropy": f"{scores.loss:.4f}",
            "calibration error": f"{in_percent(scores.ece)}%",
            **_agreement(info, scores.agreement),
            "hardest classes": ", ".join(f"{name} {value:.0%}" for value, name in known[:3]),
            "easiest classes": ", ".join(f"{name} {value:.0%}" for value, name in known[:-4:-1]),
            **({} if never is None else {"remark": never}),
        }
    )
    if len(classes) <= _MOST_ROWS:
        console().print("")
        _show_classes(by_class)


def _show_classes(by_class: ClassResults) -> None:
    """Print the scores of every class."""
    show_table(
        "scores by class, in %; AUROC: against all other classes",
        ("class", "images", "predicted", "precision", "recall", "F1", "AUROC"),
        (
            (
                name,
                f"{one['count']:,}",
                f"{one['predicted']:,}",
                *("-" if one[key] is None else in_percent(one[key]) for key in ("precision", "recall", "f1")),
                "-" if one["auroc"] is None else in_words("auroc", one["auroc"]),
            )
            for name, one in by_class.items()
        ),
        right=range(1, 7),
    )


def _balanced(scores: "Scores", unseen: list[str]) -> str:
    """Format the mean over classes, and which classes have no images."""
    value = f"{in_percent(scores.balanced_accuracy or 0.0)}%"
    if not unseen:
        return value
    shown = ", ".join(unseen[:_NAMED]) + (", ..." if len(unseen) > _NAMED else "")
    count = len(scores.per_class)
    return f"{value}, over {count - len(unseen)} of {count} classes; no images of {shown}"


def _area(scores: "Scores") -> str:
    """Format the mean area, and over how many classes it is one; for a class without images it is undefined."""
    defined = sum(1 for one in scores.by_class if one.auroc is not None)
    shown, count = in_words("auroc", scores.auroc), len(scores.by_class)
    return shown if defined in (0, count) else f"{shown}, over {defined} of {count} classes"


def _agreement(info: Mapping[str, Any], agreement: float | None) -> dict[str, str]:
    """Return no row where the run never had a teacher."""
    if agreement is None and not info.get("teacher"):
        return {}
    return {"agrees with teacher": "no teacher available" if agreement is None else f"{in_percent(agreement)}%"}


def layers(
    model: Annotated[
        str,
        typer.Argument(
            help="A student or teacher: a name, timm:NAME or module:factory.", autocompletion=completion.models
        ),
    ],
    image_size: o.ImageSize = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            "--student-option",
            "--teacher-option",
            metavar="KEY=VALUE",
            help="Passed to the model constructor, for a student or a teacher.",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            metavar="NAME",
            help=f"Show the taps for its stages; by default {_TEACHER}'s.",
            autocompletion=completion.teachers,
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every layer, not only blocks and stages.")] = False,
    as_json: o.Json = False,
) -> None:
    """List the layers of a model that can be tapped.

    With their output shapes, their depth in the model, and, for the default taps of a student, the stage of a teacher
    that each is paired with and the grid.

    Example: lgkd layers pvtv2
    """
    info = find(model)
    if teacher is not None:
        find(teacher)
    elif info is None or info.role != "teacher":
        teacher = _TEACHER
    options = o.key_values(option, "--option")
    if image_size is not None and min(pair := image_size if isinstance(image_size, tuple) else (image_size,)) < 1:
        raise InputError(f"--image-size is {'x'.join(map(str, pair))}, expected at least 1 pixel")
    from lgkd.distillation.layers import describe_layers, meet

    rows = describe_layers(model, image_size=image_size, options=options)
    unpaired = ""
    if teacher is not None:
        try:
            rows = meet(rows, teacher)
        except TapError as error:
            unpaired = str(error)
    if as_json:
        show_json([row.as_dict() for row in rows])
        return
    shown = [row for row in rows if everything or row.tapped or row.is_block]
    show_table(
        f"{model}: layers that can be tapped",
        ("layer", "puts out", "as a map (C,h,w)", "stride", "depth", "tap"),
        (
            (
                row.name,
                _shape(row.output),
                _shape(row.map) if row.map else row.problem or "",
                f"{row.stride:g}" if row.stride else "",
                f"{row.depth:.0%}",
                "default" if row.tapped else "",
            )
            for row in shown
        ),
        right=(3, 4),
    )
    if teacher is not None and not unpaired:
        show_table(
            f"default taps and stages of {teacher}",
            ("layer", "map", "teacher's", "map", "meet at"),
            (
                (row.name, _shape(row.map or ()), row.meets.layer, _shape(row.meets.map), _shape(row.meets.grid))
                for row in rows
                if row.meets
            ),
        )
    elif unpaired:
        console().print(unpaired, markup=False)
    if len(shown) < len(rows):
        console().print(f"{len(rows) - len(shown)} more layers with --all")


def _shape(numbers: Iterable[int]) -> str:
    return " x ".join(map(str, numbers))
