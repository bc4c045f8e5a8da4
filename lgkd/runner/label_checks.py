"""Check the settings of a training against the labels of its images: one an image, or several."""

from lgkd._internal.metric_rules import SELECT_BY, SELECT_LABELS_BY
from lgkd.config import Recipe
from lgkd.data.multi_label_balance import check_recipe
from lgkd.data.prepare import Data
from lgkd.errors import InputError
from lgkd.models.teacher import Teacher

_KINDS = ("one label an image", "several labels an image")


def check_labels(recipe: Recipe, select_by: str | None, *, multi_label: bool) -> None:
    """Refuse settings that are not defined for the labels of a data set.

    Raises:
        InputError: a key of the recipe, or the metric that selects the epoch.
    """
    if multi_label:
        check_recipe(recipe)
    known = SELECT_LABELS_BY if multi_label else SELECT_BY
    if select_by is not None and select_by not in known:
        raise InputError(
            f"--select-by {select_by} is not defined for {_KINDS[multi_label]}, expected one of {', '.join(known)}"
        )


def check_teacher_labels(teacher: Teacher, data: Data) -> None:
    """Refuse a teacher of one label an image for a student of several, and the other way round.

    Raises:
        InputError: they differ.
    """
    card = teacher.card
    if card is None or card.multi_label == data.multi_label:
        return
    raise InputError(
        f"the teacher {card.name} was trained on {_KINDS[card.multi_label]}, and {data.source} has "
        f"{_KINDS[data.multi_label]}, so that their logits do not compare; train one on this data set: "
        f"lgkd train-teacher {card.architecture} {data.source}"
    )
