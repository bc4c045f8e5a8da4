"""Import published weights as a teacher: read, measured on the test split, stored with a card."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

import torch

from lgkd._internal.paths import home
from lgkd.data.dataset import DataSet
from lgkd.data.prepare import Channels, make_test_batches, prepare_data
from lgkd.data.sources.download import fetch
from lgkd.errors import InputError
from lgkd.models.default_taps import default_taps
from lgkd.models.factory import ImageSize, create_model, default_image_size, pair
from lgkd.models.memory_format import prefers_channels_last
from lgkd.models.pretrained import MAX_BYTES, fill_foreign, read_foreign
from lgkd.models.registry import canonical, find
from lgkd.models.teacher_card import Accuracy, TeacherCard, card_size
from lgkd.models.teacher_store import find_card
from lgkd.models.trust import trust
from lgkd.runner.find_teacher import free_place
from lgkd.runner.resolve import check_dataset
from lgkd.runner.store_teacher import keep_teacher
from lgkd.runs.folder import make_folder
from lgkd.training.evaluate import score
from lgkd.training.precision import choose_device

Normalize = Literal["imagenet", "dataset"]

_TOLERANCE = 0.005
"""Largest accepted difference of measured and published accuracy; rounding and other decoders change a few images."""

_HARDLY = 0.05
"""Margin over chance below which an accuracy is remarked on."""


def import_teacher(
    architecture: str,
    weights: str | Path,
    dataset: str | Path | DataSet = "cifar100",
    *,
    sha256: str,
    normalize: Normalize | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: ImageSize | None = None,
    options: Mapping[str, bool | int | float | str] | None = None,
    name: str | None = None,
    expect: float | None = None,
    epochs: int = 0,
    data_dir: str | Path | None = None,
    device: str | None = None,
    offline: bool = False,
    replace: bool = False,
    progress: Callable[[int, int], None] | None = None,
    downloading: Callable[[str, int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[TeacherCard, Path]:
    """Import published weights as a teacher into the user's store, with a card of the accuracy measured here.

    The weights must classify the data set's classes in the order of its names (of CIFAR, the publisher's order). No
    code in the file is run, and none of its publisher's claims is recorded as a fact: accuracy is measured on the
    test split, and the card's recipe names the file and its SHA-256.

    Args:
        architecture: as `lgkd teachers` lists them, `timm:NAME` or `package.module:factory`.
        weights: a file, see `lgkd.models.pretrained.load_foreign`; `fetch_weights` downloads one.
        dataset: the data set of their training: a name, a folder of images, or a loaded `DataSet`.
        sha256: of the file, in hex digits.
        normalize: "imagenet" or "dataset" (of its training images), if they were trained with that;
        mean, std: else the three means and standard deviations, for values 0 to 1. One of the two must be given:
            a teacher with another normalisation than in training is silently worse.
        image_size: pixels of its images, one number or (height, width); None for the architecture's own.
        options: passed to the constructor.
        name: of the teacher in the store; by default its architecture.
        expect: the published top-1 accuracy on the test split, as a share of 1; a measured one that is further than
            half a point from it is refused.
        epochs: of the training, where known; 0 where not.
        data_dir, device, offline: as for `train_teacher`.
        replace: replace a teacher of that name in the store.
        progress: called with (done, total) images while they are read.
        downloading: called with (name, done, total) bytes while the data set is downloaded.
        say: called with messages for the user.

    Returns:
        The card and the teacher's folder.

    Raises:
        InputError: a file that cannot be read, is another one, or holds more than tensors; an option out of range; an
            accuracy that is not the published one.
        ModelError: the weights are those of another model or of other classes.
        TakenError: the store has a teacher of that name, and `replace` is False.
    """
    if expect is not None and not 0 <= expect <= 1:
        raise InputError(f"the expected accuracy is {expect:g}, expected a share of 1, such as 0.7263")
    if epochs < 0:
        raise InputError(f"epochs are {epochs}, expected 0 (not known) or more")
    stated = _stated(normalize, mean, std)
    scalars = _scalars(options)
    find(architecture)
    trust(architecture)
    if not isinstance(dataset, DataSet):
        check_dataset(dataset, data_dir)
    source = dataset.name if isinstance(dataset, DataSet) else dataset
    place = free_place(name or architecture, source, None, replace=replace)
    chosen = choose_device(device)
    origin = Path(weights).expanduser()
    tensors = read_foreign(origin, sha256=sha256)
    data = prepare_data(
        dataset,
        normalize=normalize or "imagenet",
        data_dir=data_dir,
        offline=offline,
        progress=progress,
        downloading=downloading,
    )
    if data.multi_label:
        raise InputError(
            f"{source} has several labels an image, and imported weights are measured on one; expected a folder of "
            "classes: train a teacher by `lgkd train-teacher`, with --init for these weights"
        )
    notify = say or (lambda _: None)
    for note in data.notes:
        notify(note)
    classes, size = len(data.classes), pair(image_size or default_image_size(architecture))
    with torch.random.fork_rng(devices=[]):
        model = create_model(architecture, num_classes=classes, image_size=size, options=scalars)
    fill_foreign(model, tensors, name=architecture, origin=str(origin), num_classes=classes)
    default_taps(model)  # a model without layers to guide by is refused before it is measured
    means, deviations = stated or (data.mean, data.std)
    batches = make_test_batches(
        data.test, image_size=size, mean=means, std=deviations, interpolation="bicubic", device=chosen
    )
    scores = score(model.eval().to(chosen), batches, channels_last=prefers_channels_last(model, chosen))
    model.to("cpu")
    measured = f"{origin.name} reaches {scores.top1:.2%} top-1 on the {len(data.test):,} test images of {source}"
    if expect is not None and abs(scores.top1 - expect) > _TOLERANCE:
        raise InputError(
            f"{measured}, expected {expect:.2%}: normalisation, image size or the order of classes differs from its "
            "training, or it was trained on other images; it was not stored"
        )
    notify(measured)
    balanced = scores.balanced_accuracy or 0.0
    if expect is None and balanced < 1 / (classes - len(scores.unseen)) + _HARDLY:
        notify("that is hardly better than chance: give the normalisation and the image size of its training")
    make_folder(place.parent)
    keep_teacher(
        place,
        model,
        {
            "architecture": canonical(architecture),
            "options": scalars,
            "fingerprint": data.fingerprint,
            "classes": data.classes,
            "images": len(data.train),
            "subset": None,
            "image_size": card_size(size),
            "mean": means,
            "std": deviations,
            "accuracy": Accuracy(
                top1=scores.top1,
                balanced_accuracy=scores.balanced_accuracy,
                seen_classes=data.test.seen_classes,
                largest_class=data.test.largest_class,
                split="test",
                epoch=epochs,
                epochs=epochs,
                selected_on="not known: imported",
            ),
            "recipe": f"imported from {origin.name}, SHA-256 {sha256.strip().lower()}",
            "seed": 0,
        },
        replace=replace,
        folder=origin,
    )
    return find_card(place.name, place.parent.name)


def fetch_weights(
    address: str,
    *,
    sha256: str,
    size: int,
    downloading: Callable[[str, int, int], None] | None = None,
    offline: bool = False,
) -> Path:
    """Download a published file of weights into the user's store, unless it is there already.

    Args:
        address: https; it may redirect to other https addresses.
        sha256: in hex digits; a file with another one is not stored.
        size: bytes, exactly, as the server reports (`curl -sIL ADDRESS`): not one more is read.
        downloading: called with (name, done, total) bytes.
        offline: open no connection.

    Raises:
        InputError: the address is not https, or the size is out of range.
        MissingError: the file is not here and could not be downloaded.
        DataError: the downloaded file is another one.
    """
    if not 0 < size <= MAX_BYTES:
        raise InputError(f"weights of {size:,} bytes were announced, expected 1 to {MAX_BYTES:,}")
    title = PurePosixPath(urlsplit(address).path).name or "weights"
    wanted = sha256.strip().lower()
    if len(wanted) != 64 or not set(wanted) <= set("0123456789abcdef"):
        raise InputError(f"{sha256!r} is not a SHA-256, expected 64 hex digits")
    target = home() / "cache" / "weights" / f"{wanted}{PurePosixPath(title).suffix}"
    report = (lambda done, total: downloading(title, done, total)) if downloading is not None else None
    return fetch(address, target, size=size, sha256=wanted, progress=report, offline=offline)


def _stated(
    normalize: str | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Channels, Channels] | None:
    """Return given means and standard deviations; None where they are determined by `normalize`."""
    if normalize is not None:
        if normalize not in ("imagenet", "dataset"):
            raise InputError(f"normalize is {normalize!r}, expected imagenet or dataset, or give mean and std")
        if mean is not None or std is not None:
            raise InputError(f"both normalize={normalize} and mean or std were given; choose one")
        return None
    if mean is None or std is None:
        raise InputError(
            "give the normalisation of the weights' training: its mean and std (three numbers each, for "
            "values 0 to 1), or normalize imagenet or dataset"
        )
    if len(mean) != 3 or len(std) != 3 or not all(-10 < value < 10 for value in (*mean, *std)) or min(std) <= 0:
        raise InputError(
            f"mean {tuple(mean)} and std {tuple(std)}: expected three numbers each, for values 0 to 1, and every std "
            "above 0"
        )
    return (float(mean[0]), float(mean[1]), float(mean[2])), (float(std[0]), float(std[1]), float(std[2]))


def _scalars(options: Mapping[str, Any] | None) -> dict[str, bool | int | float | str]:
    """Return the options after checking that a card can store them."""
    given = dict(options or {})
    for key, value in given.items():
        if not isinstance(value, bool | int | float | str):
            raise InputError(f"teacher options: {key} is {value!r}, expected a number, a word, true or false")
    return given
