"""Probe runs: classify images by the frozen features of their students."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lgkd.analysis.probe.classifiers import linear_probe, neighbour_votes
from lgkd.analysis.probe.options import NEIGHBOURS, TEMPERATURE, VAL_FRACTION, check_options
from lgkd.data.dataset import DataSet, Images
from lgkd.data.greys import read_greys
from lgkd.data.groups import Groups
from lgkd.data.load import load_dataset
from lgkd.data.loader import EvalLoader
from lgkd.data.names import Subset
from lgkd.data.prepare import Data, make_test_batches, prepare_data
from lgkd.distillation.features import FeatureReader, FeatureSpec
from lgkd.errors import InputError
from lgkd.models.sdpa import quick_attention
from lgkd.runner.run import Run
from lgkd.runs.folder import STUDENT, describe, read_run, read_student
from lgkd.runs.load_student import data_of, load_student
from lgkd.training.precision import choose_device


@dataclass(frozen=True)
class ProbeScores:
    """Hold the accuracies of classifiers on the frozen features of one run's student, 0 to 1.

    Attributes:
        folder: of the run.
        label: the run in a few words.
        dataset: that was probed.
        train_images, test_images: numbers of images; held-out ones are training images.
        width: of the features.
        knn: top-1 of the weighted k-nearest neighbours; `knn_balanced` its mean over the classes that have images.
        knn_plain: top-1 of the same neighbours with equal votes; `knn_plain_balanced` likewise.
        linear: top-1 of the linear probe; `linear_balanced` likewise.
        neighbours, temperature: of the search.
        strength: of the linear probe's L2 penalty; `held_out_top1` its accuracy on the held-out images, by which it was
            chosen; None where none were held out.
        converged: whether the linear probe's solver converged.
        seed: of the run.
    """

    folder: Path
    label: str
    dataset: str
    train_images: int
    test_images: int
    width: int
    knn: float
    knn_balanced: float
    knn_plain: float
    knn_plain_balanced: float
    linear: float
    linear_balanced: float
    neighbours: int
    temperature: float
    strength: float
    held_out_top1: float | None
    converged: bool
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings."""
        return {**asdict(self), "folder": str(self.folder)}


def probe(
    runs: str | Path | Run | Sequence[str | Path | Run],
    *,
    dataset: str | Path | DataSet | None = None,
    data_dir: str | Path | None = None,
    fraction: float | None = None,
    images_per_class: int | None = None,
    subset_seed: int = 0,
    val_fraction: float | None = None,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    device: str | None = None,
    offline: bool = False,
    model: nn.Module | None = None,
    say: Callable[[str], None] | None = None,
) -> list[ProbeScores]:
    """Probe the frozen features of trained students: k-nearest neighbours and a linear classifier.

    Features are the inputs of a student's classifier, in fp32, of whole images as in evaluation. The probes are fitted
    to the training split and scored on the test split, which chooses nothing.

    Args:
        runs: finished runs or their folders; all are probed on the same images.
        dataset: the images, of any classes; by default those that the first run was trained on, and its test split.
        data_dir: folder of a named data set.
        fraction, images_per_class, subset_seed: as in a training: the part of the training images to use.
        val_fraction: share of the training images on which the linear probe's regularisation is chosen; by default the
            split `val` of the data set, else 0.2. With 0 it is not chosen.
        neighbours, temperature: of the weighted k-nearest neighbours.
        device: "cpu", "cuda" or "cuda:N".
        offline: download nothing.
        model: as for `load_student`, for a single run of a module made in Python.
        say: called with messages for the user.

    Returns:
        The accuracies of every run, in the order of `runs`.

    Raises:
        InputError: there is no finished run, the images have several labels each, or a run has other images than the
            first; or an option is out of range.
        DataError: a class has too few images to hold some out.
        MissingError: the data set is not where it was.
        TapError: a student has no classifier with a vector as its input.
    """
    check_options(neighbours, temperature, val_fraction)
    notify = say or (lambda _: None)
    listed = [runs] if isinstance(runs, str | Path | Run) else list(runs)
    found: list[ProbeScores] = []
    first: Data | None = None
    for run in listed:
        folder = run.folder if isinstance(run, Run) else Path(run)
        info, about = read_run(folder), read_student(folder)
        own = dataset is None
        source = data_of(info, folder) if dataset is None else dataset
        place = data_dir or (info["dataset"]["data_dir"] if own else None)
        part, groups = (
            _part(info, fraction, images_per_class, subset_seed)
            if own
            else (Subset(fraction, images_per_class, subset_seed), None)
        )
        data = _load(source, about, folder, place, part, groups, val_fraction, offline=offline)
        if first is None:
            for note in data.notes:
                notify(note)
        elif _names(data) != _names(first):
            raise InputError(
                f"{folder} was trained on other images than {found[0].folder}, and all runs are probed on the same; "
                "name them with --dataset"
            )
        first = first or data
        student = run.student if isinstance(run, Run) else load_student(folder, model=model)
        chosen = choose_device(device)
        try:
            one = _probed(student.to(chosen), about, data, chosen, neighbours, temperature)
        finally:
            student.to("cpu")
        found.append(replace(one, folder=folder, label=describe(info), seed=int(info["seed"])))
        if not one.converged:
            notify(f"the linear probe of {folder} did not converge; its accuracy may be a little higher")
    return found


def read_embeddings(
    model: nn.Module, batches: EvalLoader, *, image_size: tuple[int, int], channels: int = 3
) -> tuple[Tensor, Tensor]:
    """Read the classifier's inputs of every image, (N,D) in fp32 on the CPU, and the class numbers (N,).

    Raises:
        TapError: the model has no classifier with a vector as its input.
    """
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    reader = FeatureReader(model, [], FeatureSpec(embedding=True), image_size, channels)
    taps = reader.attach(model)
    features, labels = [], []
    try:
        for images, truth in batches:
            with torch.no_grad(), quick_attention(model, images.device, "fp32"):
                _, seen = taps.capture(model, images)
            features.append(seen[0].float().cpu())
            labels.append(truth.cpu())
    finally:
        taps.remove()
        for module, training in flags:
            module.training = training
    return torch.cat(features), torch.cat(labels)


def _part(
    info: dict[str, Any], fraction: float | None, per_class: int | None, seed: int
) -> tuple[Subset, Groups | None]:
    """Return the training images of a run, or the requested part of them, and the groups that divided them."""
    text = info["dataset"].get("subset")
    part = (Subset.parse(text) if isinstance(text, str) else None) or Subset()
    if fraction is not None or per_class is not None:
        # The folds are drawn by the seed, too, and the test split has to stay the run's.
        seed = seed if part.folds is None else part.seed
        part = replace(part, fraction=fraction, per_class=per_class, seed=seed)
    return part, Groups.of_run(info["dataset"].get("groups"))


def _load(
    source: str | Path | DataSet,
    about: dict[str, Any],
    folder: Path,
    data_dir: str | Path | None,
    part: Subset,
    groups: Groups | None,
    val_fraction: float | None,
    *,
    offline: bool,
) -> Data:
    """Load a data set as a student sees it, with images to choose the regularisation on."""
    greys = read_greys(about, folder / STUDENT)
    if not isinstance(source, DataSet):
        loaded = load_dataset(
            source, data_dir=data_dir, offline=offline, greys=greys, groups=groups if part.folds is None else None
        )
    else:
        loaded = source
    if loaded.multi_label:
        raise InputError(
            f"{loaded.name} has several labels an image, and a probe tells classes apart; expected one label an image: "
            "use `lgkd evaluate`"
        )
    if val_fraction is None and loaded.val is None:
        val_fraction = VAL_FRACTION
    held_out = loaded.flat or part.folds is not None or bool(val_fraction)
    data = prepare_data(
        loaded, normalize="imagenet", subset=part, val_fraction=val_fraction, groups=groups if held_out else None
    )
    return replace(data, notes=loaded.notes)


def _names(data: Data) -> tuple[Any, ...]:
    val = () if data.val is None else data.val.names
    return data.classes, data.train.names, val, data.test.names


def _probed(
    student: nn.Module, about: dict[str, Any], data: Data, device: str, neighbours: int, temperature: float
) -> ProbeScores:
    """Read the features of all splits and score the classifiers; the fields of the run are left empty."""
    height, width = about["image_size"]

    def read(images: Images) -> tuple[Tensor, Tensor]:
        batches = make_test_batches(
            images,
            image_size=(height, width),
            mean=tuple(about["mean"]),
            std=tuple(about["std"]),
            interpolation=about["interpolation"],
            device=device,
        )
        return read_embeddings(student, batches, image_size=(height, width), channels=len(about["mean"]))

    train, test = read(data.train), read(data.test)
    held_out = None if data.val is None else read(data.val)
    features, labels = train if held_out is None else (torch.cat(pair) for pair in zip(train, held_out, strict=True))
    weighted, equal = neighbour_votes(
        features, labels, test[0], classes=len(data.classes), neighbours=neighbours, temperature=temperature
    )
    linear = linear_probe(train, held_out, test[0])
    scores = [_accuracies(predicted, test[1]) for predicted in (weighted, equal, linear.predicted)]
    return ProbeScores(
        Path(), "", data.key, len(features), len(test[1]), features.shape[1], *scores[0], *scores[1], *scores[2],
        min(neighbours, len(features)), temperature, linear.strength, linear.held_out_top1, linear.converged, 0,
    )  # fmt: skip


def _accuracies(predicted_M: Tensor, labels_M: Tensor) -> tuple[float, float]:
    """Return top-1 accuracy, and its mean over the classes that have images."""
    right = (predicted_M == labels_M).double()
    by_class = [float(right[labels_M == label].mean()) for label in torch.unique(labels_M).tolist()]
    return float(right.mean()), sum(by_class) / len(by_class)
