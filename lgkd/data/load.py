"""Load and decode a data set by its name or folder."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lgkd.data.catalogue import CATALOGUE, DataSetInfo, PublishedFile, bundled, published
from lgkd.data.dataset import DataSet, fingerprint_of
from lgkd.data.decode import Allocate, Progress, decode, in_memory
from lgkd.data.decoded_cache import Stored, cache_key, kept, published_key
from lgkd.data.greys import Greys, Scale, read_greys
from lgkd.data.groups import Groups
from lgkd.data.image_folder import Fault, File, Tree, read_tree, refuse
from lgkd.data.locations import Downloading, absent, known_or_folder, published_file, tree_folder
from lgkd.data.multi_label import is_table, read_table
from lgkd.data.sources.source import LoadRequest, source_of
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
    """Load and decode the images of a named data set or of a folder.

    Args:
        name: a name of the catalogue, or a folder: FOLDER/train/CLASS/* with FOLDER/test/CLASS/* (`val`,
            `valid` or `validation` serve where `test` is absent), or FOLDER/CLASS/*. Without a second split
            20 % of each class are held out (seed 0). A `Path` is never a name. A CSV file has several labels an image,
            see `lgkd.data.multi_label`. `digits` is scikit-learn's:
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
        groups: hold out whole groups where there is no second split.

    Raises:
        InputError: the name is neither in the catalogue nor a folder, or `max_side` is out of range.
        MissingError: a named set was not found and cannot be downloaded.
        DataError: the folder is not a data set, or images in it are broken, or a file is not the published one.
    """
    if max_side is not None and max_side < 1:
        raise InputError(f"max_side is {max_side}, expected at least 1 pixel")
    info = CATALOGUE.get(name) if isinstance(name, str) else None
    if info is not None and (bundled(info) or (tree_folder(info, data_dir) is None and published(info))):

        def find(file: PublishedFile) -> Path:
            return published_file(info, file, data_dir, offline=offline, downloading=downloading)

        decoded = source_of(info).load(info, LoadRequest(find, max_side, use_cache, progress))
        if decoded is not None:
            return decoded
    title, tree = find_tree(name, data_dir=data_dir)
    return _decoded(title, tree, max_side, use_cache, progress, greys, groups=groups, at_once=at_once)


def find_tree(name: str | Path, *, data_dir: str | Path | None = None, fault: Fault = refuse) -> tuple[str, Tree]:
    """Return the name and the listing of a data set of files; for `name` and `data_dir` see `load_dataset`.

    Args:
        name: not `digits`, which has no files; of a named set only an image tree is found.
        data_dir: folder of named sets.
        fault: as for `read_tree`; called for a wrong number of classes, too.
    """
    folder = known_or_folder(name)
    if folder is None:
        return str(name), _named_tree(CATALOGUE[str(name)], data_dir, fault)
    if is_table(folder):
        return folder.resolve().stem, read_table(folder, fault=fault)
    tree = read_tree(folder, fault=fault)
    return tree.root.resolve().name, tree


def _named_tree(info: DataSetInfo, data_dir: str | Path | None, fault: Fault) -> Tree:
    place = tree_folder(info, data_dir)
    if place is None:
        raise absent(info, data_dir, as_tree=True)
    tree = read_tree(place, trains_on=info.trains_on, fault=fault)
    if len(tree.classes) != info.classes:
        fault(
            f"{place} has {len(tree.classes)} classes, {info.name} has {info.classes}: "
            f"it is another data set, or a part of this one is missing"
        )
    return replace(tree, notes=(*tree.notes, *_part_of(info, tree)))


def _part_of(info: DataSetInfo, tree: Tree) -> list[str]:
    """Write notes where a tree holds another number of images than was published."""
    splits = (("training", len(tree.train), info.train), ("test", len(tree.test or ()), info.test))
    return [
        f"{found:,} {split} images found, {info.name} was published with {published:,}"
        for split, found, published in splits
        if found != published
    ]


def decode_to_score(name: str, tree: Tree, *, progress: Progress | None = None, greys: Greys | None = None) -> DataSet:
    """Decode the images of a listing made for scoring, stored beside those of a training and not in their place."""
    listing = partial(cache_key, tree.root, None, (tree.train, tree.test or ()))
    about = f"to score: {tree.root.resolve()}"
    return _decoded(name, tree, None, True, progress, greys, lambda *more: published_key(about, [listing(*more)]))


def _decoded(
    name: str,
    tree: Tree,
    max_side: int | None,
    use_cache: bool,
    progress: Progress | None,
    greys: Greys | None,
    key: Callable[..., str] | None = None,
    groups: Groups | None = None,
    *,
    at_once: bool = True,
) -> DataSet:
    train, test, notes = both_splits(tree, groups)
    names = tuple(file.path for file in train + test)
    labels = labels_of(tree, train + test)

    def make(allocate: Allocate, given: Greys | None = None) -> Stored:
        scale = Scale(len(train), given)
        pixels, sizes = decode(tree.root, names, max_side=max_side, allocate=allocate, progress=progress, scale=scale)
        fingerprint = fingerprint_of(tree.classes, *cut_splits(pixels, sizes, labels, names, len(train)))
        return Stored(pixels, sizes, fingerprint, scale.about())

    def read(given: Greys | None) -> Stored:
        if not use_cache:
            return make(in_memory, given)
        more: tuple[Any, ...] = () if given is None else (given.kept(),)
        if tree.label_sets is not None:  # a folder's labels are part of its paths
            more = (*more, sha256(json.dumps([tree.classes, labels.tolist()]).encode()).hexdigest())
        entry = cache_key(tree.root, max_side, (train, test), *more) if key is None else key(*more)
        return kept(entry, len(names), lambda allocate: make(allocate, given), at_once=at_once)

    stored = read(None)
    about = stored.about or {}
    if greys is not None and about.get("deep") and read_greys(about, tree.root) != greys:
        stored = read(greys)
        about = stored.about or {}
    parts = cut_splits(stored.pixels, stored.sizes, labels, names, len(train))
    used = greys if greys is not None else read_greys(about, tree.root)
    said = (*notes, *about.get("said", ()))
    splits = guarded(parts, stored)
    return DataSet(name, tree.classes, *splits, stored.fingerprint, said, used, flat=tree.test is None)


def labels_of(tree: Tree, files: Sequence[File]) -> Tensor:
    """Return the class numbers of files, int64 (N,); of several labels an image float32 (N,K), see `Images.labels`."""
    if tree.label_sets is None:
        return torch.tensor([file.label for file in files], dtype=torch.int64)
    labels = torch.zeros(len(files), len(tree.classes))
    for row, file in enumerate(files):
        labels[row, list(tree.label_sets[file.path])] = 1.0
    return labels


def both_splits(tree: Tree, groups: Groups | None = None) -> tuple[tuple[File, ...], tuple[File, ...], tuple[str, ...]]:
    """Return the training files, the test files, and notes; a part is held out where there is no test split.

    Args:
        tree: the listing.
        groups: hold out whole groups.

    Raises:
        DataError: a class has too few images to hold one out, or the groups cannot be divided.
    """
    if tree.test is not None:
        return tree.train, tree.test, tree.notes
    labels = labels_of(tree, tree.train)
    if groups is not None:
        of = groups.of([file.path for file in tree.train], class_names(labels, tree.classes))
        places = held_out_groups(labels, of, _HELD_OUT, _SEED, tree.classes)
        train, test = (tuple(tree.train[at] for at in part.tolist()) for part in places)
        number = len({of[at] for at in places[1].tolist()})
        share = f"{len(test) / len(tree.train):.0%}".replace("%", " %")
        note = f"no test split found: {number} of {len(set(of))} groups held out, {share} of the images (seed {_SEED})"
        return train, test, (note, *tree.notes)
    rest, held = held_out_places(
        labels,
        _HELD_OUT,
        _SEED,
        lambda label, _: f"no test split found, and the class {tree.classes[label]!r}",
    )
    note = f"no test split found: {_HELD_OUT:.0%} of each class held out (seed {_SEED})".replace("%", " %")
    train, test = (tuple(tree.train[place] for place in part.tolist()) for part in (rest, held))
    return train, test, (note, *tree.notes)
