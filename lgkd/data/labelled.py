"""Load all labelled images of a source to score a classifier on: there is no training, so nothing is held out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lgkd._internal.text import safe_text
from lgkd.data.dataset import DataSet, fingerprint_of
from lgkd.data.decode import Progress
from lgkd.data.folds import fold_of
from lgkd.data.greys import Greys
from lgkd.data.groups import Groups
from lgkd.data.listing import Listing
from lgkd.data.load import both_splits, decode_to_score
from lgkd.data.names import Subset
from lgkd.data.sources.source import Source
from lgkd.errors import DataError

_SHOWN = 300


@dataclass(frozen=True, eq=False)
class Labelled:
    """Hold images to score.

    Attributes:
        data: its `test` holds them, its `train` nothing; its classes are those of the classifier.
        scored: description of the images, in words.
    """

    data: DataSet
    scored: str


def load_labelled(
    source: Source,
    known: tuple[str, ...],
    *,
    held_out: int = 0,
    trained_on: Callable[[str], bool] = lambda _: False,
    progress: Progress | None = None,
    greys: Greys | None = None,
    part: Subset | None = None,
    groups: Groups | None = None,
) -> Labelled:
    """Load all images of a source whose classes are named as (some of) a classifier's classes.

    Args:
        source: of the images; which of its splits is scored: see `Source.labelled`.
        known: the classifier's classes, in the order of its logits.
        held_out, trained_on: number of images the classifier was tested on, and whether a data set of a fingerprint is
            the one that it was trained on. Where this is that one, and has no test split, the images that were
            held out from the training are scored, and not those that were trained on.
        progress: called with (done, total) images while they are decoded.
        greys: the scale of deep greys of the classifier's training images; None: their own.
        part: with the fold that the classifier was tested on; None: it has a test split.
        groups: of which whole ones were held out from the training.

    Raises:
        DataError: there are no class folders, one is not known, or one holds no images.
    """
    listing, split = source.labelled(known)
    data = decode_to_score(source.name, listing, progress=progress, greys=greys)
    place = Path(source.text)
    present = data.test.seen_classes
    if present == len(known) and (own := _as_trained_on(listing, data, held_out, trained_on, part, groups)) is not None:
        scored = f"the {len(own.test):,} images of {_quoted(place)} that were held out from the training of this run"
        return Labelled(own, scored)
    of_all = f", {present} of the {len(known)} classes" if present < len(known) else ""
    return Labelled(data, f"all {len(data.test):,} labelled images of {_quoted(place / split)}{of_all}")


def _as_trained_on(
    listing: Listing,
    data: DataSet,
    held_out: int,
    trained_on: Callable[[str], bool],
    part: Subset | None,
    groups: Groups | None,
) -> DataSet | None:
    """Return the images that a training on these would have held out."""
    folded = part is not None and part.fold is not None
    try:
        whole = replace(listing, train=listing.test or (), test=None, notes=())
        train, test, _ = both_splits(whole, None if folded or groups is None else groups.of_images(listing.groups))
    except DataError:  # a class of one image, or an image without a group: nothing was trained on this
        return None
    if len(test) != held_out and not folded:
        return None
    places = {name: place for place, name in enumerate(data.test.names)}
    rest, held = (data.test.take(torch.tensor([places[file.path] for file in some])) for some in (train, test))
    fingerprint = fingerprint_of(data.classes, rest, held)
    if not trained_on(fingerprint):
        return None
    if part is not None and folded:
        groups = groups.of_images(listing.groups) if groups is not None else None
        held = fold_of(DataSet(data.name, data.classes, rest, held, fingerprint, (), flat=True), part, groups).test
    return replace(data, test=held)


def _quoted(place: Path) -> str:
    return safe_text(str(place), _SHOWN)
