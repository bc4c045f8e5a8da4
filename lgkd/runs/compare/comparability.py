"""Check that compared runs are comparable, and list what else differs between them."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lgkd.errors import InputError
from lgkd.runs.compare.groups import Group, without_guide
from lgkd.runs.early_stop import stopped_early
from lgkd.runs.ended_terms import ended_terms
from lgkd.runs.equal_length import equal_minutes, follows_from_length

# If one of these differs, the accuracies are of different things.
_MEASURED_ON = ("dataset.fingerprint", "dataset.classes", "dataset.test_images")
# Differences that may be intended, but have to be reported.
_TRAINED_ON = (
    "dataset.subset",
    "dataset.train_images",
    "dataset.val_images",
    "dataset.extra.fingerprint",
    "dataset.extra.share",
    "epochs",
    "student.image_size",
)
# Reported already, or derived from another.
_REPORTED = ("student.", "dataset.", "epochs", "steps_per_epoch", "recipe.schedule.epochs", "recipe.view.image_size")
_MOST_FIELDS = 5


def check_comparable(groups: Sequence[Group]) -> None:
    """Refuse runs that were measured on different images.

    Raises:
        InputError: they were; the message names the fields and each group's value.
    """
    extra = any(group.runs[0].info["dataset"].get("extra") for group in groups)
    # The fingerprint is of all images that a run saw; with extra ones it differs though the test split is the same.
    fields = [field for field in _MEASURED_ON if not (extra and field == "dataset.fingerprint")]
    apart = [field for field in fields if _differs(groups, field)]
    if apart:
        names = "; ".join(_field_values(groups, field) for field in ["dataset.name", *apart])
        raise InputError(
            f"these runs were measured on different images, so their accuracies cannot be compared ({names}); compare "
            "runs on one data set at a time"
        )


def remarks_on(groups: Sequence[Group]) -> Iterator[str]:
    """Yield a sentence for each difference in the training data or the training length."""
    apart = [field for field in _TRAINED_ON if _differs(groups, field)]
    # The number of images follows from the subset.
    if "dataset.subset" in apart and "dataset.train_images" in apart:
        apart.remove("dataset.train_images")
    for field in apart:
        yield f"the runs differ in {_field_values(groups, field)}"


def ended_on_the_way(groups: Sequence[Group]) -> Iterator[str]:
    """Yield a sentence for each guide term that ended before its training did, seed by seed."""
    for group in groups:
        for run in group.runs:
            for one in ended_terms(run.info, run.rows):
                yield f"in {group.letter}, seed {run.seed}, {one}"


def stopped_on_the_way(groups: Sequence[Group]) -> Iterator[str]:
    """Yield a sentence for each run that was stopped early, seed by seed."""
    for group in groups:
        for run in group.runs:
            if (found := stopped_early(run.info)) is not None:
                yield f"{group.letter}, seed {run.seed}, {found}"


def remarks_on_pair(reference: Group, group: Group) -> Iterator[str]:
    """Yield a sentence on settings in which two groups differ besides their guides, students and data."""
    one, other = (without_guide(part.runs[0].identity) for part in (reference, group))
    if equal_minutes(reference.runs[0].info, group.runs[0].info) is not None:
        # Their numbers of steps are reported as such.
        parts = (one, other)
        one, other = ({key: part[key] for key in part if not follows_from_length(key)} for part in parts)
    apart = [
        key
        for key in dict.fromkeys([*one, *other])
        if one.get(key) != other.get(key) and not any(key == said or key.startswith(said) for said in _REPORTED)
    ]
    if apart:
        shown = "; ".join(_field_values((reference, group), key) for key in apart[:_MOST_FIELDS])
        more = f"; and {len(apart) - _MOST_FIELDS} more" if len(apart) > _MOST_FIELDS else ""
        yield f"{reference.letter} and {group.letter} also differ in {shown}{more}"


def _differs(groups: Iterable[Group], field: str) -> bool:
    return len({json.dumps(_value(group, field)) for group in groups}) > 1


def _field_values(groups: Iterable[Group], field: str) -> str:
    """Format the groups' values of a field, as in "epochs: 10 (A, C), 20 (B)"."""
    by_value: dict[str, list[str]] = {}
    for group in groups:
        by_value.setdefault(_in_words(_value(group, field)), []).append(group.letter)
    values = ", ".join(f"{value} ({', '.join(letters)})" for value, letters in by_value.items())
    return f"{field.removeprefix('recipe.')}: {values}"


def _in_words(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def _value(group: Group, field: str) -> Any:
    """Return a field of a group's identity, in which a missing section has no keys."""
    if field == "dataset.subset":
        return group.runs[0].identity.get(field) or "all"
    return group.runs[0].identity.get(field)
