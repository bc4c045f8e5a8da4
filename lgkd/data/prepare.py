"""Prepare a data set for a training: splits, augmentation, mixing and loaders from a recipe."""

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from lgkd._internal.text import counted, listed
from lgkd.config import Recipe
from lgkd.data.channels import imagenet_normalisation
from lgkd.data.checks.leave_out import without_near_copies
from lgkd.data.checks.quick_check import held_out_remarks
from lgkd.data.class_balance import ClassBalance, class_balance, class_shares
from lgkd.data.dataset import DataSet, Images, fingerprint_of
from lgkd.data.extra import Extra, fingerprint_with, load_extra
from lgkd.data.folds import fold_of
from lgkd.data.greys import UNKNOWN, Greys
from lgkd.data.groups import Groups
from lgkd.data.load import load_dataset
from lgkd.data.loader import EvalLoader, TrainLoader
from lgkd.data.multi_label_balance import label_balance
from lgkd.data.names import Subset, dataset_key
from lgkd.data.sampler import Sampler
from lgkd.data.stored_side import reduce_images
from lgkd.data.subsets import class_names, hold_out, select_subset
from lgkd.data.transforms.augment import Augment, Plain
from lgkd.data.transforms.mixup import Mixing
from lgkd.errors import InputError

Channels = tuple[float, ...]
"""A number for red, green and blue each, or one for grey levels."""
_Split = TypeVar("_Split", bound=Sized)

_EXTRA_SHARE = 0.5
_ALL_IMAGES = Subset()


@dataclass(frozen=True)
class Data:
    """Hold the images of one training.

    Attributes:
        key: name for teachers trained on it: of a named set, else of the folder.
        source: as given by the user.
        train, test: decoded splits; `train` is the chosen subset without the held-out images.
        val: images on which the best epoch is chosen, a given split or held-out training images; None: none are.
        subset: the chosen part of the training split, in words; None for all of it.
        extra: more training images, which make up a share of every batch; None: there are none.
        fingerprint: of the whole data set, of which one fold is tested on, and the extra images.
        mean, std: normalisation of the student's images, a number for each of their channels.
        notes: for the user.
        greys: scale of greys of more than 8 bits.
        left_out: number of training images left out as near copies; None: not requested.
        own_fingerprint: of the data set without the extra images.
        stored_side: shorter side in pixels to which training images were reduced; None: they are as decoded.
        groups: of which whole ones were held out; None: images were.
        flat: whether the test split was held out, too.
        val_fingerprint: of a given split; None where `val` was held out from the training images.
    """

    key: str
    source: str
    classes: tuple[str, ...]
    train: Images
    test: Images
    val: Images | None
    subset: str | None
    fingerprint: str
    mean: Channels
    std: Channels
    notes: tuple[str, ...] = ()
    extra: Extra | None = None
    greys: Greys = UNKNOWN
    left_out: int | None = None
    own_fingerprint: str = ""
    stored_side: int | None = None
    groups: Groups | None = None
    flat: bool = False
    val_fingerprint: str | None = None

    @property
    def multi_label(self) -> bool:
        """Return true if an image may have several labels."""
        return self.train.multi_label


def prepare_data(
    source: str | Path | DataSet,
    *,
    normalize: str,
    channels: int = 3,
    data_dir: str | Path | None = None,
    subset: Subset = _ALL_IMAGES,
    val_fraction: float | None = None,
    groups: Groups | None = None,
    extra: str | Path | None = None,
    extra_share: float | None = None,
    offline: bool = False,
    progress: Callable[[int, int], None] | None = None,
    downloading: Callable[[str, int, int], None] | None = None,
    look: Callable[[DataSet], None] | None = None,
    greys: Greys | None = None,
    reduce_to: int | None = None,
) -> Data:
    """Load a data set and choose the subset to train on; `look` is called with the whole of it.

    With `greys`, those of a student, greys of more than 8 bits are scaled as in its training. With `reduce_to`, images
    to train on, held-out and extra ones are scaled down to that shorter side; test images are not. With `groups`, by
    default those of the data set, whole groups are held out. A split `val` of the data set selects the epoch, unless
    `val_fraction` is 0.
    With one of `channels` the images are shown as grey levels.

    Raises:
        InputError: `groups` are given, and nothing is held out; or a part is to be held out beside a split val.
    """
    if isinstance(source, DataSet):
        dataset, name = source, source.name
    else:
        dataset, name = (
            load_dataset(
                source,
                data_dir=data_dir,
                offline=offline,
                progress=progress,
                downloading=downloading,
                greys=greys,
                at_once=reduce_to is None,
                groups=groups if subset.folds is None else None,
            ),
            str(source),
        )
    val_fraction, given = chosen_val(val_fraction, dataset.val, name)
    divided = val_fraction is not None or dataset.flat or subset.folds is not None
    check_groups(groups, name, divided=divided)
    if groups is None or groups.kind == "column":
        groups = dataset.groups if divided else None
    own = dataset.fingerprint
    if subset.fold is not None:
        dataset = fold_of(dataset, subset, groups)
    if look is not None:
        look(dataset)
    train, notes, left_out = dataset.train, dataset.notes, None
    if subset.without_near_copies:
        train, left, said = without_near_copies(dataset)
        left_out, notes = len(left.of_test) + len(left.of_train), (*notes, said)
    chosen = select_subset(train, subset, classes=dataset.classes)
    val, val_fingerprint = None, None
    if given is not None:
        val, val_fingerprint = given, fingerprint_of(dataset.classes, given)
        notes = (*notes, *held_out_remarks(chosen, val), about_val(len(val)))
    elif val_fraction is not None:
        chosen, val = hold_out(chosen, val_fraction, subset.seed, classes=dataset.classes, groups=groups)
        notes = (*notes, *held_out_remarks(chosen, val), *_about_held_groups(chosen, val, dataset.classes, groups))
    more = None
    if extra is not None:
        if dataset.multi_label:
            raise InputError(
                f"--extra {extra} is a folder of classes, and the images of {name} have several labels each; add its "
                "images to the table, and leave --extra out"
            )
        share = _EXTRA_SHARE if extra_share is None else extra_share
        more = load_extra(extra, dataset, share=share, progress=progress)
    key = dataset_key(dataset.name if isinstance(source, DataSet) else source)
    fingerprint = own if more is None else fingerprint_with(own, more.fingerprint)
    is_reduced = False
    if reduce_to is not None:
        parts = [chosen, val, more.images if more is not None else None]
        smaller = [reduce_images(one, reduce_to, key=key, fingerprint=fingerprint) if one else one for one in parts]
        is_reduced = any(new is not old for new, old in zip(smaller, parts, strict=True))
        chosen, val = smaller[0] or chosen, smaller[1]
        more = replace(more, images=smaller[2]) if more is not None and smaller[2] is not None else more
    mean, std = dataset.statistics(channels) if normalize == "dataset" else imagenet_normalisation(channels)
    return Data(
        key=key,
        source=name,
        classes=dataset.classes,
        train=chosen,
        test=dataset.test,
        val=val,
        subset=subset.text,
        fingerprint=fingerprint,
        mean=mean,
        std=std,
        notes=notes if more is None else (*notes, *more.notes),
        extra=more,
        greys=dataset.greys,
        left_out=left_out,
        own_fingerprint=own,
        stored_side=reduce_to if is_reduced else None,
        groups=groups,
        flat=dataset.flat,
        val_fingerprint=val_fingerprint,
    )


def chosen_val(val_fraction: float | None, val: _Split | None, source: str) -> tuple[float | None, _Split | None]:
    """Return the share to hold out and the given split, of which one at most selects the epoch.

    Raises:
        InputError: both are asked for.
    """
    if val is None or val_fraction == 0:
        return val_fraction or None, None
    if val_fraction is not None:
        raise InputError(
            f"{source} has a split val of {counted(len(val), 'image')}, which selects the epoch, and --val-fraction "
            f"{val_fraction:g} was given; leave it out, or use --val-fraction 0 to select nothing"
        )
    return None, val


def about_val(images: int) -> str:
    """Return the note on a split that selects the epoch."""
    return f"the epoch is chosen on the {counted(images, 'image')} of val; --val-fraction 0 selects nothing"


def check_groups(groups: Groups | None, source: str, *, divided: bool) -> None:
    """Refuse groups where nothing is held out.

    Raises:
        InputError: there are groups, and `divided` is False.
    """
    if groups is not None and not divided:
        raise InputError(
            f"--groups {groups.name} has nothing to divide: the test split of {source} is given; add --val-fraction or "
            "--folds, or leave --groups out"
        )


def _about_held_groups(train: Images, held: Images, classes: Sequence[str], groups: Groups | None) -> list[str]:
    """Write the note on held-out groups, which rarely have exactly the requested share of the images."""
    if groups is None:
        return []
    rest, of = (len(set(groups.of(part.names, class_names(part.labels, classes)))) for part in (train, held))
    lacking = [name for label, name in enumerate(classes) if not bool((held.class_numbers == label).any())]
    images = len(train) + len(held)
    without = f"; none of them is of {listed(lacking)}" if lacking else ""
    return [
        f"held out to choose the epoch: {of} of {rest + of} groups ({groups.name}), {len(held):,} of {images:,} "
        f"images{without}"
    ]


def make_augment(recipe: Recipe, data: Data, *, image_size: tuple[int, int], seed: int) -> Augment:
    """Make the augmentation of the student's training images."""
    return Augment(recipe.view, image_size, mean=data.mean, std=data.std, seed=seed)


def make_mixing(recipe: Recipe, data: Data, *, seed: int) -> Mixing:
    """Make mixup, cutmix and label smoothing."""
    return Mixing(recipe.mix, classes=len(data.classes), smoothing=recipe.label_smoothing, seed=seed)


def make_class_balance(recipe: Recipe, data: Data) -> ClassBalance:
    """Compute class weights and logit adjustment from the images that are trained on.

    Raises:
        InputError: a weight is for an unknown class.
        DataError: a class has no images, and its weight or prior would be computed from their number.
    """
    if data.multi_label:
        return label_balance(recipe, data.train.labels, data.classes)
    extra = (data.extra.images.labels, data.extra.share) if data.extra is not None else ()
    shares = class_shares(data.train.labels, len(data.classes), *extra)
    return class_balance(recipe.class_weights, recipe.logit_adjustment, shares, data.classes)


def make_train_loader(
    recipe: Recipe,
    data: Data,
    *,
    image_size: tuple[int, int],
    seed: int,
    device: str,
    rank: int = 0,
    processes: int = 1,
    teacher_sizes: Sequence[tuple[int, int]] = (),
    class_weights: Tensor | None = None,
) -> TrainLoader:
    """Make the loader of training batches; of several processes each has its share.

    Where the recipe shows teachers the stored images, each batch has a view for each teacher, (height, width) of
    `teacher_sizes`; one of the student's size sees the student's images. `class_weights`, float (K,), are those of the
    classification loss.
    """
    drawn_anew = recipe.guide is not None and recipe.guide.view == "original"
    return TrainLoader(
        data.train,
        make_augment(recipe, data, image_size=image_size, seed=seed),
        make_mixing(recipe, data, seed=seed),
        batch_size=recipe.batch_size,
        seed=seed,
        drop_last=recipe.drop_last,
        device=device,
        rank=rank,
        processes=processes,
        repeats=recipe.view.repeats,
        extra=data.extra.images if data.extra is not None else None,
        extra_share=data.extra.share if data.extra is not None else 0.0,
        views=[
            make_augment(recipe, data, image_size=size, seed=seed) if size != image_size else None
            for size in (teacher_sizes if drawn_anew else ())
        ],
        balanced=recipe.sampler == "balanced",
        class_weights=None if data.multi_label else class_weights,
    )


def count_steps(recipe: Recipe, images: int, extra: int = 0, extra_share: float = 0.0) -> int:
    """Count the optimiser steps of an epoch, as the loader does.

    Args:
        recipe: of the training.
        images: training images.
        extra, extra_share: extra images, and their share of every batch.
    """
    order = Sampler(
        images,
        batch_size=recipe.batch_size,
        seed=0,
        drop_last=recipe.drop_last,
        repeats=recipe.view.repeats,
        extra=extra,
        extra_share=extra_share,
    )
    return order.steps


def make_test_batches(
    images: Images,
    *,
    image_size: tuple[int, int],
    mean: Channels,
    std: Channels,
    interpolation: str,
    device: str,
    rank: int = 0,
    processes: int = 1,
) -> EvalLoader:
    """Load a split for evaluation (or this process's share) in large batches, which are cheap without gradients."""
    pixels = image_size[0] * image_size[1]
    batch_size = max(16, min(512, 512 * 64 * 64 // pixels))
    plain = Plain(image_size, mean=mean, std=std, interpolation=interpolation)  # type: ignore[arg-type]
    return EvalLoader(images, plain, batch_size=batch_size, device=device, rank=rank, processes=processes)
