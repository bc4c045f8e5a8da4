"""Divide a data set into folds, of which one is tested on."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

import torch
from torch import Tensor

from lgkd._internal.rng import permutation, seed_of
from lgkd.data.dataset import DataSet, Images
from lgkd.data.grouped_split import split_by_groups
from lgkd.data.groups import Groups
from lgkd.data.multi_label_split import stratified_parts
from lgkd.data.names import Subset
from lgkd.data.subsets import class_names
from lgkd.errors import DataError


def fold_of(dataset: DataSet, subset: Subset, groups: Groups | None = None) -> DataSet:
    """Return a data set whose test split is one fold, and whose training split are the others.

    Folds are of all images where the test split was held out of one folder (`DataSet.flat`); a test split of its own is
    left out. They are a function of the images' order, labels and groups, the number of folds, and the subset's seed.

    Args:
        dataset: whole.
        subset: with `folds` and `fold`.
        groups: that are not divided.

    Raises:
        DataError: a class has one image or is in one group alone, or there are fewer groups than folds.
    """
    assert subset.folds is not None and subset.fold is not None
    pool = (dataset.train, dataset.test) if dataset.flat else (dataset.train,)
    labels = torch.cat([part.labels for part in pool])
    names = [name for part in pool for name in part.names]
    of = None if groups is None else groups.of(names, class_names(labels, dataset.classes))
    part = fold_places(labels, subset.folds, subset.seed, dataset.classes, of)
    tested = part == subset.fold - 1
    train, test = (_take(pool, chosen.nonzero().flatten()) for chosen in (~tested, tested))
    said = f"fold {subset.fold} of {subset.folds}: tested on {len(test):,} of {len(labels):,} images"
    if of is not None:
        held = {group for group, chosen in zip(of, tested.tolist(), strict=True) if chosen}
        said += f", {len(held)} of {len(set(of))} groups"
    if not dataset.flat:
        said += f"; the {len(dataset.test):,} images of the test split are not used"
    # The first note on a flat folder is that a part is held out.
    notes = dataset.notes[1:] if dataset.flat else dataset.notes
    # What is found out about its images is stored under its own fingerprint.
    own = sha256(f"{dataset.fingerprint} {replace(subset, fraction=None, per_class=None)}".encode()).hexdigest()
    return replace(dataset, train=train, test=test, fingerprint=own, notes=(*notes, said))


def fold_places(
    labels: Tensor, folds: int, seed: int, classes: Sequence[str], groups: Sequence[str] | None = None
) -> Tensor:
    """Return the fold of every image, from 0: int64 (N,).

    Without groups every class is shuffled and dealt in turn, and the next class begins where the last one ended, so
    that folds differ by one image at most, also within a class. Several labels an image are divided by
    `stratified_parts`.

    Raises:
        DataError: as for `fold_of`.
    """
    if groups is not None:
        return split_by_groups(labels, groups, [1 / folds] * folds, seed_of(seed, "folds"), classes=classes)
    if len(labels) < folds:
        raise DataError(f"{len(labels)} images cannot be divided into {folds} folds; expected an image for each")
    if labels.ndim == 2:
        return stratified_parts(labels, [1 / folds] * folds, seed_of(seed, "folds"))
    part, dealt = torch.zeros(len(labels), dtype=torch.int64), 0
    for label, name in enumerate(classes):
        members = (labels == label).nonzero().flatten()
        if len(members) == 1:
            raise DataError(
                f"the class {name!r} has 1 image, so that nothing of it is trained on where that is tested; expected "
                "at least 2 for folds: add images or leave the class out"
            )
        order = members[permutation(seed_of(seed, "folds", label), len(members))]
        part[order] = (dealt + torch.arange(len(members))) % folds
        dealt += len(members)
    return part


def _take(pool: Sequence[Images], index: Tensor) -> Images:
    """Copy the images at ascending places of several splits, counted one after the other."""
    taken, first = [], 0
    for part in pool:
        taken.append(part.take(index[(index >= first) & (index < first + len(part))] - first))
        first += len(part)
    return Images(
        torch.cat([part.pixels for part in taken]),
        torch.cat([part.sizes for part in taken]),
        torch.cat([part.labels for part in taken]),
        tuple(name for part in taken for name in part.names),
    )
