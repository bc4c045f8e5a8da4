"""Print and write predictions of images with several labels, for `lgkd predict`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lgkd._internal.csv_tables import table
from lgkd._internal.text import counted
from lgkd.cli.display import show_table
from lgkd.runs.statistics import in_percent

if TYPE_CHECKING:
    from lgkd.deploy.inference.predict import Prediction

JOINED = ";"
"""Separates labels in a cell, as in the tables that lgkd reads."""


def show_labels(found: "Sequence[Prediction]") -> None:
    """Print a row for every image: its labels with their probabilities, or the most likely class that is not one."""
    read = [one for one in found if one.error is None]
    known = any(one.truths is not None for one in read)
    if not read:
        return
    show_table(
        "",
        ("image", *(("truth",) if known else ()), "labels", "next"),
        (
            (
                one.image,
                *((JOINED.join(one.truths or ()),) if known else ()),
                ", ".join(_shares(one)[: len(one.labels or ())]) or "none",
                next(iter(_shares(one)[len(one.labels or ()) :]), ""),
            )
            for one in read
        ),
    )


def _shares(one: "Prediction") -> list[str]:
    return [f"{name} {share:.1%}" for name, share in zip(one.classes, one.confidences, strict=True)]


def labels_dict(one: "Prediction") -> dict[str, Any]:
    """Return the JSON value of an image: its labels, and the probability of every class, most likely first."""
    known = {"image": str(one.image), **({} if one.truths is None else {"truth": list(one.truths)})}
    if one.error is not None:
        return {**known, "error": one.error}
    pairs = zip(one.classes, one.confidences, strict=True)
    return {
        **known,
        "labels": list(one.labels or ()),
        "classes": [{"class": name, "confidence": share} for name, share in pairs],
        **({} if one.explanation is None else {"explanation": str(one.explanation)}),
    }


def labels_csv(found: "Sequence[Prediction]", classes: Sequence[str]) -> bytes:
    """Format one row per image: its labels, the probability of every class, and why it could not be read."""
    heads = {name: f"p_{name}" for name in classes}
    truth = ["truth"] if any(one.truths is not None for one in found) else []
    drawn = ["explanation"] if any(one.explanation is not None for one in found) else []
    rows = [
        {
            "image": one.image,
            **dict.fromkeys(truth, JOINED.join(one.truths or ())),
            "labels": JOINED.join(one.labels or ()),
            **{heads[name]: share for name, share in zip(one.classes, one.confidences, strict=True)},
            **dict.fromkeys(drawn, one.explanation or ""),
            "error": one.error or "",
        }
        for one in found
    ]
    return table(["image", *truth, "labels", *heads.values(), *drawn, "error"], rows)


def labels_accuracy(found: "Sequence[Prediction]") -> str | None:
    """Describe exact match and micro F1 on the images whose labels are known; None where there are none."""
    pairs = [(set(one.truths), set(one.labels or ())) for one in found if one.truths is not None and one.error is None]
    if not pairs:
        return None
    exact = sum(true == named for true, named in pairs) / len(pairs)
    every = sum(len(true) + len(named) for true, named in pairs)
    correct = sum(len(true & named) for true, named in pairs)
    f1 = "undefined" if not every else f"{in_percent(2 * correct / every)}%"
    return f"all labels right for {in_percent(exact)}% of {counted(len(pairs), 'labelled image')}, micro F1 {f1}"
