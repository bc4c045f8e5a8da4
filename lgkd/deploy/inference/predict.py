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
from lgkd.data.listing import Read
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
        explanation: the file with the overlay of what the class was read from; None where none was asked for.
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
    explanation: Path | None = field(default=None, compare=False)
    labels: tuple[str, ...] | None = None
    truths: tuple[str, ...] | None = field(default=None, compare=False)


def predict_images(
    source: Source,
    images: Sequence[Path],
    *,
    top_k: int,
    truths: Sequence[str | None] | None = None,
    read: Read | None = None,
    label_sets: Mapping[Path, Sequence[str]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """Predict the class of every image, in order; unreadable images are reported and do not stop the others.

    Args:
        source: the student.
        images: files.
        top_k: classes per image; of several labels an image all are returned.
        truths: the true class of each image, as of `true_classes`; by default they are not known.
        read: reads images that are not files, as of `reader_of`.
        label_sets: of several labels an image the true ones of files that are known.
        progress: called with (done, total) images.

    Raises:
        InputError: `top_k` is below 1, or the student cannot take the images.
    """
    if top_k < 1:
        raise InputError(f"top_k is {top_k}, expected at least 1 class an image")
    labels = iter(truths if truths is not None else [None] * len(images))
    predictions: list[Prediction] = []
    known = {} if label_sets is None else label_sets
    for paths, logits, broken in read_logits(source, images, read):
        rows = iter(most_likely(source, logits, len(source.classes) if source.multi_label else top_k))
        for number, (path, truth) in enumerate(zip(paths, labels, strict=False)):
            if number in broken:
                predictions.append(Prediction(path, error=broken[number], truth=truth))
                continue
            named, some = next(rows)
            if source.multi_label:
                true = None if path not in known else tuple(known[path])
                predictions.append(Prediction(path, named, some, labels=labels_above(named, some), truths=true))
                continue
            predictions.append(Prediction(path, named, some, truth=truth))
        if progress is not None:
            progress(len(predictions), len(images))
    return predictions


def most_likely(source: Source, logits_BK: Tensor, top_k: int) -> list[tuple[tuple[str, ...], tuple[float, ...]]]:
    """Return for each image the names and confidences of its most likely classes, at most all of them."""
    shares_BK = source.confidences(logits_BK.double())
    shares, places = shares_BK.topk(min(top_k, len(source.classes)), dim=1)
    return [
        (tuple(source.classes[place] for place in which), tuple(some))
        for some, which in zip(shares.tolist(), places.tolist(), strict=True)
    ]


def labels_above(classes: Sequence[str], confidences: Sequence[float]) -> tuple[str, ...]:
    """Return the labels of an image that may have several: the classes whose confidence is above the threshold."""
    return tuple(name for name, share in zip(classes, confidences, strict=True) if share > THRESHOLD)


def read_logits(
    source: Source, images: Sequence[Path], read: Read | None = None
) -> Iterator[tuple[Sequence[Path], Tensor, dict[int, str]]]:
    """Yield for some images at a time: their files, logits (B,K) of the readable ones, and reasons for the others."""
    at_once = max(1, min(_MOST, _BYTES // (3 * source.longest_side**2)))
    for start in range(0, len(images), at_once):
        paths = images[start : start + at_once]
        pixels, sizes, broken = decode_readable(paths, max_side=source.longest_side, greys=source.greys, read=read)
        if not len(pixels):
            yield paths, torch.empty(0, len(source.classes)), broken
            continue
        ready = source.plain(torch.from_numpy(pixels).to(source.device), torch.from_numpy(sizes))
        yield paths, source.logits(ready), broken
