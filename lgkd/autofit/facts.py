"""Gather the facts about images and machine that the choices of a fit depend on."""

from statistics import median

import torch

from lgkd._internal.hardware import side_by_side
from lgkd.autofit.plan import Facts
from lgkd.autofit.request import Request
from lgkd.data.checks.report import check_dataset_images
from lgkd.data.load import load_dataset
from lgkd.data.names import Subset
from lgkd.data.sources.source import find_source
from lgkd.runner.dry_run.dataset_outline import count, outline
from lgkd.training.precision import choose_device


def gather_facts(request: Request) -> Facts:
    """Gather them from the files' names and a sample of the images; of the hub's data sets after their download.

    Raises:
        InputError, DataError: the folder is not a data set, or the subset is impossible.
        MissingError: the named data set is not here.
    """
    options = request.options
    offline = bool(options.get("offline"))
    found = outline(request.dataset, data_dir=options.get("data_dir"), offline=offline, downloads=True)
    subset = Subset.from_options(options)
    counts = count(found, subset, val_fraction=options.get("val_fraction"), extra=options.get("extra"))
    device = torch.device(choose_device(options.get("device")))
    return Facts(
        name=found.name,
        classes=len(found.classes),
        train=counts.images,
        fewest=min(counts.train),
        median=float(median(counts.train)),
        most=max(counts.train),
        test=found.test,
        test_is_made=found.flat,
        held_out=counts.held_out,
        val_is_given=found.val > 0,
        reduces=True,
        short_side=found.short_side,
        grey=found.grey,
        threads=side_by_side(),
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        several_labels=found.train.ndim == 2,
    )


def check_images(request: Request) -> list[str]:
    """Return the remarks on images that are not a named data set, which are decoded for the trainings meanwhile.

    A named data set is not checked: its files are verified when they are read.

    Raises:
        DataError: an image is broken; the message names it.
    """
    options = request.options
    if find_source(request.dataset).place is None:
        return []
    dataset = load_dataset(request.dataset, data_dir=options.get("data_dir"), progress=options.get("progress"))
    return list(check_dataset_images(dataset).remarks)
