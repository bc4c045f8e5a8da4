"""Gather the facts about images and machine that the choices of a fit depend on."""

from statistics import median

import torch

from lgkd._internal.hardware import side_by_side
from lgkd.autofit.inputs import Facts
from lgkd.autofit.request import Request
from lgkd.data.checks.report import check_dataset_images
from lgkd.data.folds import fold_of
from lgkd.data.groups import Groups
from lgkd.data.load import load_dataset
from lgkd.data.names import Subset
from lgkd.data.sources.source import find_source
from lgkd.runner.dry_run.dataset_outline import outline_and_count
from lgkd.training.precision import choose_device


def gather_facts(request: Request) -> Facts:
    """Gather them from the files' names and a sample of the images; of the hub's data sets after their download.

    Numbers of images are those of the first fold, if there are several.

    Raises:
        InputError, DataError: the folder is not a data set, or the subset is impossible.
        MissingError: the named data set is not here.
    """
    options = request.options
    subset, groups = Subset.from_options(options), Groups.parse(options.get("groups"))
    subsets = [subset] if request.folds == (None,) else subset.each_fold
    found, counts = outline_and_count(request.dataset, subsets, options, groups=groups, downloads=True)
    device = torch.device(choose_device(options.get("device")))
    return Facts(
        name=found.name,
        classes=len(found.classes),
        train=counts.images,
        fewest=min(counts.train),
        median=float(median(counts.train)),
        most=max(counts.train),
        test=counts.test,
        test_is_made=found.flat,
        held_out=counts.held_out,
        val_is_given=found.val > 0,
        reduces=True,
        short_side=found.short_side,
        grey=found.grey,
        threads=side_by_side(),
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        several_labels=found.train.ndim == 2,
        folds=subset.folds or 0,
        fold=(subset.fold or 0) if len(request.folds) == 1 else 0,
        grouped=groups is not None or found.groups is not None,
    )


def check_images(request: Request) -> list[str]:
    """Return the remarks on images that are not a named data set, which are decoded for the trainings meanwhile.

    A named data set is not checked: its files are verified when they are read. Of several folds the first is.

    Raises:
        DataError: an image is broken; the message names it.
    """
    options, subset = request.options, Subset.from_options(request.options)
    if find_source(request.dataset).place is None:
        return []
    groups = Groups.parse(options.get("groups"))
    dataset = load_dataset(
        request.dataset, data_dir=options.get("data_dir"), progress=options.get("progress"),
        groups=groups if subset.folds is None else None,
    )  # fmt: skip
    if subset.folds is not None:
        if groups is None or groups.kind == "column":
            groups = dataset.groups
        name = groups.name if groups is not None else None
        fold = subset.fold or request.folds[0]
        dataset = fold_of(dataset, Subset(seed=subset.seed, folds=subset.folds, fold=fold, groups=name), groups)
    return list(check_dataset_images(dataset).remarks)
