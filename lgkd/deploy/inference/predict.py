"""Predict classes and confidences of image files.

Letters in shapes: B batch, K classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lgkd._internal.metric_rules import THRESHOLD
from lgkd.data.decode import decode_readable
from lgkd.deploy.inference.load import Source
from lgkd.errors import InputError

_BYTES = 2**26
_MOST = 256
"""Images that are decoded at once: as many as fit into so many bytes, and no more than this."""


@dataclass(frozen=True)
class Prediction:
    """Hold a student's prediction for one image.

    Attributes:
        image: the file.
        classes: the most likely ones, most likely first; empty where the image cannot be read. Of several labels an
            image all classes, most likely first.
        confidences: softmax of the logits for each of `classes`, 0 to 1; of several labels an image their sigmoids.
        error: reason why the image cannot be read; None where it can.
        truth: its true class, by its folder in a labelled one; None where that is not known.
        labels: of several labels an image those whose confidence is above the threshold, most likely first; None for
            one label an image.
        truths: its true labels, where a table with them is named; None where they are not known.
    """

    image: Path
    classes: tuple[str, ...] = ()
    confidences: tuple[float, ...] = ()
    error: str | None = None
    # Known by the folder and not by the student: its answers to a file are equal however the file was named.
    truth: str | None = field(default=None, compare=False)
    labels: tuple[str, ...] | None = None
    truths: tuple[str, ...] | None = field(default=None, compare=False)


def predict_images(
    source: Source,
    images: Sequence[Path],
    *,
    top_k: int,
    truths: Sequence[str | None] | None = None,
    label_sets: Mapping[Path, Sequence[str]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """Predict the class of every image, in order; unreadable images are reported and do not stop the others.

    Args:
        source: the student.
        images: files.
        top_k: classes per image; of several labels an image all are returned.
        truths: the true class of each image, as of `true_classes`; by default they are not known.
        label_sets: of several labels an image the true ones of files that are known.
        progress: called with (done, total) images.

    Raises:
        InputError: `top_k` is below 1, or the student cannot take the images.
    """
    if top_k < 1:
        raise InputError(f"top_k is {top_k}, expected at least 1 class an image")
    most = len(source.classes) if source.multi_label else min(top_k, len(source.classes))
    known = {} if label_sets is None else label_sets
    labels = iter(truths if truths is not None else [None] * len(images))
    predictions: list[Prediction] = []
    for paths, logits, broken in read_logits(source, images):
        shares = logits.double().sigmoid() if source.multi_label else logits.double().softmax(dim=1)
        confidences, places = shares.topk(most, dim=1)
        rows = iter(zip(confidences.tolist(), places.tolist(), strict=True))
        for number, (path, truth) in enumerate(zip(paths, labels, strict=False)):
            if number in broken:
                predictions.append(Prediction(path, error=broken[number], truth=truth))
                continue
            some, which = next(rows)
            named = tuple(source.classes[place] for place in which)
            if source.multi_label:
                above = tuple(name for name, share in zip(named, some, strict=True) if share > THRESHOLD)
                true = None if path not in known else tuple(known[path])
                predictions.append(Prediction(path, named, tuple(some), labels=above, truths=true))
                continue
            predictions.append(Prediction(path, named, tuple(some), truth=truth))
        if progress is not None:
            progress(len(predictions), len(images))
    return predictions


def read_logits(source: Source, images: Sequence[Path]) -> Iterator[tuple[Sequence[Path], Tensor, dict[int, str]]]:
    """Yield for some images at a time: their files, logits (B,K) of the readable ones, and reasons for the others."""
    at_once = max(1, min(_MOST, _BYTES // (3 * source.longest_side**2)))
    for start in range(0, len(images), at_once):
        paths = images[start : start + at_once]
        pixels, sizes, broken = decode_readable(paths, max_side=source.longest_side, greys=source.greys)
        if not len(pixels):
            yield paths, torch.empty(0, len(source.classes)), broken
            continue
        ready = source.plain(torch.from_numpy(pixels).to(source.device), torch.from_numpy(sizes))
        yield paths, source.logits(ready), broken
