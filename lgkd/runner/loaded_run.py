"""Open a finished run for analysis: its student, evaluation images, and teacher."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lgkd._internal.text import safe_text
from lgkd.data.dataset import DataSet, Images
from lgkd.data.extra import fingerprint_with
from lgkd.data.greys import read_greys
from lgkd.data.groups import Groups
from lgkd.data.labelled import load_labelled
from lgkd.data.loader import EvalLoader
from lgkd.data.names import Subset
from lgkd.data.prepare import Channels, Data, make_test_batches, prepare_data
from lgkd.data.sources.source import find_source
from lgkd.errors import InputError, LgkdError
from lgkd.models.memory_format import prefers_channels_last
from lgkd.models.teacher import Teacher
from lgkd.models.teacher_store import list_cards
from lgkd.runner.build import load_kept_teacher
from lgkd.runner.find_teacher import find_trained_teacher
from lgkd.runner.run import Run
from lgkd.runs.folder import STUDENT, read_run, read_student
from lgkd.runs.load_student import data_of, load_student
from lgkd.training.evaluate import Scores, score_split
from lgkd.training.label_scores import MultiLabelScores
from lgkd.training.precision import choose_device

_NAMED = 10


@dataclass(frozen=True)
class Opened:
    """Hold a finished run, its student on a device, and its data set.

    Attributes:
        folder: the run's.
        info: run.json.
        about: student.json.
        student: trained, in eval mode.
        data: evaluation data, of the same classes.
        device: where the student is.
        scored: the evaluated images, as text.
        precision: the number format of the training where the device is of the same kind, else "fp32": with it
            results equal those of run.json.
    """

    folder: Path
    info: dict[str, Any]
    about: dict[str, Any]
    student: nn.Module
    data: Data
    device: str
    precision: str
    scored: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, in the order of the logits."""
        return self.data.classes

    @property
    def image_size(self) -> tuple[int, int]:
        """Return (height, width) of the student's images, in pixels."""
        height, width = self.about["image_size"]
        return height, width

    @property
    def normalisation(self) -> tuple[Channels, Channels]:
        """Return mean and standard deviation of the student's images."""
        return tuple(self.about["mean"]), tuple(self.about["std"])

    @property
    def channels_last(self) -> bool:
        """Return whether the student reads its images in the channels-last format, as in training."""
        return prefers_channels_last(self.student, self.device)

    def batches(self, images: Images | None = None) -> EvalLoader:
        """Return the student's input batches, each image once, with labels; the test split if none are given."""
        mean, std = self.normalisation
        return make_test_batches(
            self.data.test if images is None else images,
            image_size=self.image_size,
            mean=mean,
            std=std,
            interpolation=self.about["interpolation"],
            device=self.device,
        )


def open_run(
    run: str | Path | Run,
    *,
    dataset: str | Path | DataSet | None = None,
    data_dir: str | Path | None = None,
    device: str | None = None,
    model: nn.Module | None = None,
) -> Opened:
    """Read a finished run's folder and load its student and evaluation data.

    Args:
        run: a run or its folder.
        dataset: another data set, of the student's classes or of some of them, by name: of a folder all labelled images
            (see `load_labelled`), else the test split; by default the test split of the one it was trained on.
        data_dir: folder of a named data set.
        device: "cpu", "cuda" or "cuda:N".
        model: as for `load_student`.

    Raises:
        InputError: there is no finished run, or the data set has other classes.
        DataError: the folder has classes that the student does not know.
        MissingError: its data set is not where it was.
    """
    folder = run.folder if isinstance(run, Run) else Path(run)
    info, about = read_run(folder), read_student(folder)
    by_name = dataset is not None
    if dataset is None:
        dataset, data_dir = data_of(info, folder), data_dir or info["dataset"]["data_dir"]
    scored, greys = "", read_greys(about, folder / STUDENT)
    fold, groups = _test_split(info)
    if by_name and not isinstance(dataset, DataSet) and (source := find_source(dataset)).place is not None:
        known = tuple(about["classes"])
        tested = info["dataset"].get("test_images", 0)
        found = load_labelled(source, known, held_out=tested, trained_on=lambda seen: _is_of(info, seen), greys=greys,
                              part=fold, groups=groups)  # fmt: skip
        dataset, scored = found.data, found.scored
    part, of = (Subset(), None) if by_name else (fold, groups)
    data = prepare_data(
        dataset, normalize="imagenet", data_dir=data_dir, greys=greys, subset=part, groups=of, val_fraction=0
    )
    _check_kind(folder, about, data)
    if by_name:
        data = _by_name(data, about["classes"])
    if list(data.classes) != about["classes"]:
        raise InputError(
            f"{folder} knows {len(about['classes'])} classes, {data.source} has {len(data.classes)} and they differ; "
            "evaluate on a data set with the same classes"
        )
    chosen = choose_device(device)
    scored = scored or f"the {len(data.test):,} test images of {safe_text(data.source, 300)}"
    student = (run.student if isinstance(run, Run) else load_student(folder, model=model)).to(chosen)
    same_device = torch.device(chosen).type == info["device"].partition(":")[0]
    return Opened(folder, info, about, student, data, chosen, info["precision"] if same_device else "fp32", scored)


def _check_kind(folder: Path, about: Mapping[str, Any], data: Data) -> None:
    """Refuse images of one label each for a student of several, and the other way round.

    Raises:
        InputError: they differ.
    """
    several = bool(about.get("multi_label"))
    if several != data.test.multi_label:
        kinds = ("one label an image", "several labels an image")
        raise InputError(
            f"{folder} gives {kinds[several]}, and {data.source} has {kinds[not several]}; evaluate on "
            f"{'a table of images with several labels' if several else 'a folder of classes'}"
        )


def _test_split(info: Mapping[str, Any]) -> tuple[Subset, Groups | None]:
    """Return the fold that a run was tested on, and the groups of which its test split was held out."""
    about, text = info["dataset"].get("groups"), info["dataset"].get("subset")
    part = Subset.parse(text) if isinstance(text, str) else None
    fold = Subset(seed=part.seed, folds=part.folds, fold=part.fold) if part is not None and part.fold else Subset()
    divided = about and (about.get("of_the_test_split") or (fold.fold and part is not None and part.groups))
    return fold, Groups.of_run(about) if divided else None


def _is_of(info: Mapping[str, Any], fingerprint: str) -> bool:
    """Return whether a run was trained on the data set of a fingerprint, with extra images or without."""
    about = info["dataset"]
    extra = (about.get("extra") or {}).get("fingerprint")
    return bool(
        about.get("fingerprint") == (fingerprint if extra is None else fingerprint_with(fingerprint, str(extra)))
    )


def _by_name(data: Data, known: Sequence[str]) -> Data:
    """Map the labels of the test split to the student's classes.

    Raises:
        InputError: it has classes that the student does not know.
    """
    foreign = sorted(set(data.classes) - set(known))
    if foreign:
        more = f", ... ({len(foreign)} in all)" if len(foreign) > _NAMED else ""
        raise InputError(
            f"{data.source} has classes that the student does not know: "
            f"{', '.join(safe_text(name) for name in foreign[:_NAMED])}{more}; evaluate on a data set of its "
            f"{len(known)} classes, or of some of them"
        )
    places = torch.tensor([known.index(name) for name in data.classes])
    labels = data.test.labels
    if data.multi_label:
        own = labels
        labels = torch.zeros(len(own), len(known))
        labels[:, places] = own
    else:
        labels = places[labels]
    return replace(data, classes=tuple(known), test=replace(data.test, labels=labels))


def evaluate(
    run: str | Path | Run,
    *,
    dataset: str | Path | DataSet | None = None,
    data_dir: str | Path | None = None,
    device: str | None = None,
    model: nn.Module | None = None,
    say: Callable[[str], None] | None = None,
) -> Scores | MultiLabelScores:
    """Evaluate a trained student: accuracy, calibration, agreement with its teacher.

    Args:
        run: a run or its folder.
        dataset: the images to evaluate on; by default the test split of the data set it was trained on. Of a folder all
            labelled images: of its `test` split where it has one, else every image, except where it is the data set
            that the run was trained on, of which the held-out images are scored. It may have some of the student's
            classes; labels go by their names. Of a named or loaded data set the test split.
        data_dir: folder of a named data set.
        device: "cpu", "cuda" or "cuda:N".
        model: as for `load_student`.
        say: called with messages: first the evaluated images, then other remarks for the user.

    Returns:
        The scores; of several labels an image those of `lgkd.training.label_scores`.

    Raises:
        InputError: there is no finished run, its loss is not finite, or the data set has classes that the student does
            not know.
        DataError: the folder has such classes, or is not a folder of classes.
        MissingError: its data set is not where it was.
    """
    opened = open_run(run, dataset=dataset, data_dir=data_dir, device=device, model=model)
    for sentence in (opened.scored, *opened.data.notes):
        (say or (lambda _: None))(sentence)
    try:
        scores = score_split(
            opened.student,
            opened.batches(),
            precision=opened.precision,
            channels_last=opened.channels_last,
            other=teacher_of(opened),
        )
    finally:
        opened.student.to("cpu")
    check_finite(opened, scores.loss)
    return scores


def check_finite(opened: Opened, loss: float) -> None:
    """Refuse a loss that is not finite: no result of that run is meaningful.

    Raises:
        InputError: it is not.
    """
    if not math.isfinite(loss):
        raise InputError(
            f"{opened.folder} has outputs that are not finite on {opened.data.source}; no result of it is meaningful"
        )


def teacher_at_hand(opened: Opened) -> Teacher | None:
    """Return the teacher that guided a run, if it is still in the store, or in the folder of its own run."""
    about = opened.info.get("teacher") or {}
    if not about.get("name"):
        return None
    try:
        stored = [(card, folder) for card, folder in list_cards()[0] if card.weights_sha256 == about["sha256"]]
        if not stored and about.get("run"):
            stored = [find_trained_teacher(str(about["run"]), opened.info["dataset"]["name"])]
        if not stored or stored[0][0].weights_sha256 != about["sha256"]:
            return None
        return load_kept_teacher(*stored[0]).to(opened.device)
    except LgkdError:
        return None


def teacher_of(opened: Opened) -> Callable[[Tensor], Tensor] | None:
    """Return a run's teacher as a function of the student's images, if it is still in the store."""
    teacher = teacher_at_hand(opened)
    if teacher is None:
        return None
    mean, std = (torch.tensor(values, device=opened.device).view(-1, 1, 1) for values in opened.normalisation)
    return lambda images: teacher(teacher.view(images, mean, std))
