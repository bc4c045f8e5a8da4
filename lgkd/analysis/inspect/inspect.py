"""Inspect finished runs and write the results to a folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lgkd._internal.atomic_io import write_json
from lgkd.analysis.inspect.attention_capture import looked_at
from lgkd.analysis.inspect.corruptions import STRENGTHS
from lgkd.analysis.inspect.measure import BATCH, Measured, measure
from lgkd.analysis.inspect.output import ABOUT, begin, check_folder
from lgkd.analysis.inspect.tables import (
    draw_attention,
    draw_features,
    tell_corruptions,
    tell_distances,
    tell_similarities,
)
from lgkd.data.dataset import DataSet
from lgkd.errors import InputError
from lgkd.models.teacher import Teacher
from lgkd.runner.build import load_trained_teacher
from lgkd.runner.loaded_run import Opened, open_run, teacher_at_hand
from lgkd.runs.folder import RUN, describe, read_student
from lgkd.runs.load_student import load_student

_SHOWN = 4


@dataclass(frozen=True)
class Inspection:
    """Hold the results of an inspection; the same is in its folder.

    Attributes:
        folder: with pictures, tables and `inspect.json`.
        students: measurements of each.
        images: number of test images that were measured on.
        accuracies: of each student on the original images, 0 to 1.
        corrupted: for each kind of corruption, for each student its accuracies at severities 1 to 5.
        remarks: sentences on omitted parts, with the reason.
    """

    folder: Path
    students: tuple[Measured, ...]
    images: int
    accuracies: dict[str, float]
    corrupted: dict[str, dict[str, list[float]]]
    remarks: tuple[str, ...]


def inspect_run(
    run: str | Path,
    baseline: str | Path | None = None,
    *,
    out: str | Path,
    teacher: str | Path | None = None,
    images: Sequence[int] | None = None,
    most: int = 512,
    dataset: str | Path | DataSet | None = None,
    data_dir: str | Path | None = None,
    device: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Inspection:
    """Inspect a trained student, and optionally an unguided one beside it.

    Args:
        run: a finished run's folder.
        baseline: that of an unguided run on the same data.
        out: a folder that is new or empty, or holds an older inspection.
        teacher: whose stages the blocks are compared with: a name in the store, or a run's folder; by default the one
            that guided the run.
        images: indices in the test split of the images whose maps are drawn; four by default.
        most: number of test images that are measured on, evenly spread over the split.
        dataset, data_dir, device: as for `evaluate`.
        say: called with each message for the user.

    Raises:
        InputError: no finished run is there, or invalid choices.
        MissingError: the data set or the teacher is missing.
        TakenError: `out` holds something else.
    """
    folder = check_folder(Path(out))
    if most < BATCH:
        raise InputError(f"{most} images were asked for to measure on, expected {BATCH} or more")
    opened = open_run(run, dataset=dataset, data_dir=data_dir, device=device)
    if opened.data.multi_label:
        raise InputError(
            f"{run} gives several labels an image, and an inspection measures one; expected a run of one label: use "
            "`lgkd evaluate` and `lgkd report`"
        )
    notify = say or (lambda _: None)
    if dataset is not None:
        notify(f"measured on {opened.scored}")
    first = "guided" if opened.info["kind"] == "distill" else "this run"
    students = [Measured(first, opened, looked_at(opened.student))]
    if baseline is not None:
        data = opened.data
        same = DataSet(data.key, data.classes, data.train, data.test, data.fingerprint, ())
        other = open_run(baseline, dataset=same, device=device)
        students.append(Measured("baseline", other, looked_at(other.student)))
    guide = find_teacher(teacher, opened)
    test = opened.data.test
    shown = _checked(images, len(test))
    part = test.take(_spread(len(test), most))
    begin(folder)
    for student in students:
        measure(student, part, guide)
    remarks = tell_distances(folder, students)
    if guide is not None:
        tell_similarities(folder, students, guide)
    else:
        remarks.append("the teacher is missing, so nothing is compared with its stages; name one by --teacher")
    clean, corrupted = tell_corruptions(folder, students, part)
    chosen = test.take(torch.tensor(shown))
    draw_attention(folder, students, chosen)
    remarks += draw_features(folder, students, chosen, guide)
    about = {
        "format": 1,
        "runs": {one.who: {"folder": str(one.opened.folder), "is": describe(one.opened.info)} for one in students},
        "teacher": (guide.card.name if guide.card else type(guide.model).__name__) if guide is not None else None,
        "measured_on": {"test_images": len(part), "of": len(test), "scored": opened.scored},
        "shown": [test.names[place] for place in shown],
        "strengths": {kind: list(values) for kind, values in STRENGTHS.items()},
        "remarks": remarks,
    }
    write_json(folder / ABOUT, about)
    for remark in remarks:
        notify(remark)
    return Inspection(folder, tuple(students), len(part), clean, corrupted, tuple(remarks))


def find_teacher(named: str | Path | None, opened: Opened) -> Teacher | None:
    """Find the requested teacher, by a name of the store or a run's folder; else the one that guided the run."""
    if named is None:
        return teacher_at_hand(opened)
    place = Path(named)
    if (place / RUN).is_file():
        about = read_student(place)
        height, width = about["image_size"]
        model = load_student(place)
        return Teacher(model, image_size=(height, width), mean=about["mean"], std=about["std"]).to(opened.device)
    return load_trained_teacher(str(named), opened.info["dataset"]["name"]).to(opened.device)


def _checked(images: Sequence[int] | None, count: int) -> list[int]:
    """Return indices in the test split, given or evenly spread."""
    places = list(images) if images is not None else [int(place) for place in _spread(count, _SHOWN)]
    wrong = [place for place in places if not 0 <= place < count]
    if wrong:
        raise InputError(f"the test split has no image {wrong[0]}; give places from 0 to {count - 1}")
    return places


def _spread(count: int, most: int) -> Tensor:
    """Return at most `most` evenly spread indices."""
    return torch.arange(count) if count <= most else torch.linspace(0, count - 1, most).round().long()
