"""Load and decode a data set by its name or folder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lgkd.data.dataset import DataSet, fingerprint_of
from lgkd.data.decode import Allocate, Progress, decode, in_memory
from lgkd.data.decoded_cache import Stored, cache_key, kept, published_key
from lgkd.data.greys import Greys, Scale, read_greys
from lgkd.data.groups import COLUMN, Groups
from lgkd.data.listing import File, Listing
from lgkd.data.locations import Downloading
from lgkd.data.sources.source import find_source
from lgkd.data.splits import cut_splits, guarded
from lgkd.data.subsets import class_names, held_out_groups, held_out_places
from lgkd.errors import InputError

_HELD_OUT = 0.2
_SEED = 0


def load_dataset(
    name: str | Path,
    *,
    data_dir: str | Path | None = None,
    max_side: int | None = None,
    use_cache: bool = True,
    progress: Progress | None = None,
    downloading: Downloading | None = None,
    offline: bool = False,
    greys: Greys | None = None,
    at_once: bool = True,
    groups: Groups | None = None,
) -> DataSet:
    """Load and decode the images of a named data set, a folder, a table, or a data set of Hugging Face.

    Args:
        name: a name of the catalogue, or a folder: FOLDER/train/CLASS/* with FOLDER/test/CLASS/* (`val`,
            `valid` or `validation` serve where `test` is absent, and select the epoch beside it), or FOLDER/CLASS/*; a
            CSV or Parquet file with the columns path and label, and perhaps split and group (or of several labels an
            image, see `lgkd.data.sources.label_sets`); a folder of the
            `save_to_disk` of Hugging Face's `datasets`, or hf:OWNER/NAME[:CONFIG] of the hub. Without a second split
            20 % of each class are held out (seed 0). A `Path` is never a name. `digits` is scikit-learn's:
            8 x 8, grey 0..16 scaled to 0..255, in a fixed stratified split: two thirds to train, one third
            to test.
        data_dir: folder of named sets: as data_dir/NAME/train/CLASS/* or data_dir/train/CLASS/*, or as the
            publisher's files in data_dir or data_dir/NAME (flowers102-trainval reads those of flowers102). By
            default ./data. After it `$LGKD_HOME/data` is searched, and missing files are downloaded there. CIFAR
            from the publisher's archive has, in each split, its images by class and, within a class, as in the
            archive.
        max_side: in pixels; images with a longer side are scaled down, see `lgkd.data.decode.decode`. None
            means 256 where sizes differ, and no limit where they do not.
        use_cache: keep the decoded images in the user's store, and read them from there the next time.
        progress: called with (done, total) images while they are decoded; never when they are in the store.
        downloading: called with (name, done, total) while a file is downloaded, in bytes.
        offline: open no connection; LGKD_OFFLINE=1 in the environment does the same.
        greys: scale of greys of more than 8 bits, as chosen by a student's training; by default it is chosen from the
            training images.
        at_once: as for `lgkd.data.decoded_cache.kept`, of a folder's images.
        groups: hold out whole groups where there is no second split; by default those of a table's column group.

    Raises:
        InputError: the name is neither in the catalogue nor a folder or file, or `max_side` is out of range.
        MissingError: a named set was not found and cannot be downloaded, or a package is not installed.
        DataError: the folder or table is not a data set, or images in it are broken, or a file is not the published
            one.
    """
    if max_side is not None and max_side < 1:
        raise InputError(f"max_side is {max_side}, expected at least 1 pixel")
    source = find_source(name, data_dir=data_dir, offline=offline, downloading=downloading)
    decoded = source.load(max_side, use_cache, progress)
    if decoded is not None:
        return decoded
    listing = source.listing()
    return _decoded(source.name, listing, max_side, use_cache, progress, greys, groups=groups, at_once=at_once)


def decode_to_score(
    name: str, listing: Listing, *, progress: Progress | None = None, greys: Greys | None = None
) -> DataSet:
    """Decode the images of a listing made for scoring, stored beside those of a training and not in their place."""
    place, content = (str(listing.root.resolve()), "") if listing.key is None else listing.key
    return _decoded(name, replace(listing, key=(f"to score: {place}", content)), None, True, progress, greys)


def _decoded(
    name: str,
    listing: Listing,
    max_side: int | None,
    use_cache: bool,
    progress: Progress | None,
    greys: Greys | None,
    groups: Groups | None = None,
    *,
    at_once: bool = True,
) -> DataSet:
    root, own = listing.root, groups_of(listing)
    train, test, notes = both_splits(listing, own if groups is None else groups.of_images(listing.groups))
    val = listing.val or ()
    files = train + test + val
    names = tuple(file.path for file in files)
    labels = labels_of(listing, files)
    cuts = (len(train), len(test), len(val))

    def make(allocate: Allocate, given: Greys | None = None) -> Stored:
        scale = Scale(len(train), given)
        pixels, sizes = decode(
            root, names, read=listing.read, max_side=max_side, allocate=allocate, progress=progress, scale=scale
        )
        # The split that selects the epoch is not trained on, so a teacher of these images fits with and without it.
        fingerprint = fingerprint_of(listing.classes, *cut_splits(pixels, sizes, labels, names, cuts)[:2])
        return Stored(pixels, sizes, fingerprint, scale.about())

    def read(given: Greys | None) -> Stored:
        if not use_cache:
            return make(in_memory, given)
        more = () if given is None else (given.kept(),)
        entry = cache_key(root, max_side, (train, test, *([val] if val else [])), *more)
        if listing.key is not None:
            place, content = listing.key
            entry = published_key(
                " ".join(map(str, (place, *([max_side] if max_side else []), *more))), [entry, content]
            )
        return kept(entry, len(names), lambda allocate: make(allocate, given), at_once=at_once)

    stored = read(None)
    about = stored.about or {}
    if greys is not None and about.get("deep") and read_greys(about, root) != greys:
        stored = read(greys)
        about = stored.about or {}
    used = greys if greys is not None else read_greys(about, root)
    said = (*notes, *about.get("said", ()))
    splits = guarded(cut_splits(stored.pixels, stored.sizes, labels, names, cuts), stored)
    return DataSet(
        name, listing.classes, splits[0], splits[1], stored.fingerprint, said, used, flat=listing.test is None,
        val=splits[2] if val else None, groups=own,
    )  # fmt: skip


def groups_of(listing: Listing) -> Groups | None:
    """Return the groups that a listing has itself."""
    groups = Groups.parse(COLUMN) if listing.groups is not None else None
    return None if groups is None else groups.of_images(listing.groups)


def labels_of(listing: Listing, files: Sequence[File]) -> Tensor:
    """Return the class numbers of files, int64 (N,); of several labels an image float32 (N,K), see `Images.labels`."""
    if listing.label_sets is None:
        return torch.tensor([file.label for file in files], dtype=torch.int64)
    labels = torch.zeros(len(files), len(listing.classes))
    for row, file in enumerate(files):
        labels[row, list(listing.label_sets[file.path])] = 1.0
    return labels


def both_splits(
    listing: Listing, groups: Groups | None = None
) -> tuple[tuple[File, ...], tuple[File, ...], tuple[str, ...]]:
    """Return the training files, the test files, and notes; a part is held out where there is no test split.

    Args:
        listing: of all images.
        groups: hold out whole groups.

    Raises:
        DataError: a class has too few images to hold one out, or the groups cannot be divided.
    """
    if listing.test is not None:
        return listing.train, listing.test, listing.notes
    labels = labels_of(listing, listing.train)
    if groups is not None:
        of = groups.of([file.path for file in listing.train], class_names(labels, listing.classes))
        places = held_out_groups(labels, of, _HELD_OUT, _SEED, listing.classes)
        train, test = (tuple(listing.train[at] for at in part.tolist()) for part in places)
        number = len({of[at] for at in places[1].tolist()})
        share = f"{len(test) / len(listing.train):.0%}".replace("%", " %")
        note = f"no test split found: {number} of {len(set(of))} groups held out, {share} of the images (seed {_SEED})"
        return train, test, (note, *listing.notes)
    rest, held = held_out_places(
        labels,
        _HELD_OUT,
        _SEED,
        lambda label, _: f"no test split found, and the class {listing.classes[label]!r}",
    )
    note = f"no test split found: {_HELD_OUT:.0%} of each class held out (seed {_SEED})".replace("%", " %")
    train, test = (tuple(listing.train[place] for place in part.tolist()) for part in (rest, held))
    return train, test, (note, *listing.notes)
