"""Print the scores of images with several labels, for `lgkd evaluate`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lgkd.cli.display import console, show_pairs, show_table
from lgkd.runs.class_results import ClassResults, about_never_predicted, in_words, never_predicted
from lgkd.runs.statistics import in_percent

if TYPE_CHECKING:
    from lgkd.training.label_scores import MultiLabelScores


def labels_json(scores: "MultiLabelScores", classes: Sequence[str]) -> dict[str, Any]:
    """Return the JSON values of scores, those of classes by name."""
    by_class = _by_class(scores, classes)
    return {
        "images": scores.images,
        **scores.flat(),
        "classes": by_class,
        "classes_without_images": [classes[place] for place in scores.unseen],
        "never_predicted": never_predicted(by_class),
    }


def _by_class(scores: "MultiLabelScores", classes: Sequence[str]) -> ClassResults:
    return {name: one.as_dict() for name, one in zip(classes, scores.by_class, strict=True)}


def show_label_scores(
    scores: "MultiLabelScores", classes: Sequence[str], scored: str, agreement: Mapping[str, str], *, rows: int
) -> None:
    """Print the scores.

    Args:
        scores: to print.
        classes: names.
        scored: the evaluated images, in words.
        agreement: with a teacher, in words; empty without one.
        rows: largest number of classes that are listed.
    """
    by_class = _by_class(scores, classes)
    never = about_never_predicted(by_class)
    unseen = [classes[place] for place in scores.unseen]
    over = f", over {len(classes) - len(unseen)} of {len(classes)} classes; no images of {', '.join(unseen[:5])}"
    ranked = sorted((one["ap"], name) for name, one in by_class.items() if one["ap"] is not None)
    show_pairs(
        {
            "scored": scored,
            "test images": f"{scores.images:,}",
            "mAP": f"{in_percent(scores.map)}%{over if unseen else ''}",
            "micro F1": f"{in_percent(scores.micro_f1)}%",
            "macro F1": f"{in_percent(scores.macro_f1)}%",
            "exact match": f"{in_percent(scores.exact_match)}%",
            "AUROC": in_words("auroc", scores.auroc),
            "binary cross entropy": f"{scores.loss:.4f}",
            **agreement,
            "hardest classes": ", ".join(f"{name} {value:.0%}" for value, name in ranked[:3]),
            "easiest classes": ", ".join(f"{name} {value:.0%}" for value, name in ranked[:-4:-1]),
            **({} if never is None else {"remark": never}),
        }
    )
    if len(classes) <= rows:
        console().print("")
        show_table(
            "scores by class, in %; AP: average precision",
            ("class", "images", "predicted", "AP", "precision", "recall", "F1", "AUROC"),
            (
                (
                    name,
                    f"{one['count']:,}",
                    f"{one['predicted']:,}",
                    *("-" if one[key] is None else in_percent(one[key]) for key in ("ap", "precision", "recall", "f1")),
                    "-" if one["auroc"] is None else in_words("auroc", one["auroc"]),
                )
                for name, one in by_class.items()
            ),
            right=range(1, 8),
        )
