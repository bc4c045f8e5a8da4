"""Explain predictions: one PNG per image, with the image, the overlay of its occlusion map, and the answer."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lgkd._internal.atomic_io import write_atomic
from lgkd.data.decode import decode_readable
from lgkd.data.encode import as_png
from lgkd.data.listing import Read
from lgkd.deploy.inference.load import Source
from lgkd.deploy.inference.occlusion import occlusion_map
from lgkd.deploy.inference.overlay import picture
from lgkd.deploy.inference.predict import Prediction
from lgkd.runs.folder import make_folder

LONGEST = 2048
"""Longest side of an image in the picture, in pixels; larger ones are scaled down to it."""


def explain_images(
    source: Source,
    predictions: Sequence[Prediction],
    folder: Path,
    *,
    read: Read | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """Write a picture for every prediction, one image in memory at a time.

    Args:
        source: the student.
        predictions: as of `predict_images`; those with an error stay as they are.
        folder: new or empty, as of `check_new_or_empty`.
        read: reads images that are not files, as of `reader_of`.
        progress: called with (done, total) images.

    Returns:
        The predictions with their files.

    Raises:
        OSError: a file cannot be written.
    """
    make_folder(folder)
    explained = []
    for number, one in enumerate(predictions, 1):
        shown = None if one.error is not None else _shown(source, one, read)
        if shown is None:
            explained.append(one)
        else:
            file = folder / file_name(number, one.image)
            write_atomic(file, as_png(shown, smallest=False))
            explained.append(replace(one, explanation=file))
        if progress is not None:
            progress(number, len(predictions))
    return explained


def map_of(source: Source, pixels: NDArray[np.uint8], sizes: NDArray[np.int32], name: str) -> Tensor:
    """Return the occlusion map (g,g) of one decoded image, (1,3,S,T) of the size (1,2), for the class of that name."""
    ready = source.plain(torch.from_numpy(pixels).to(source.device), torch.from_numpy(sizes))
    return occlusion_map(source.logits, ready, source.classes.index(name), independent=source.multi_label)


def _shown(source: Source, one: Prediction, read: Read | None) -> Tensor | None:
    """Return the picture of a prediction; None if its file can no longer be read."""
    pixels, sizes, _ = decode_readable([one.image], max_side=source.longest_side, greys=source.greys, read=read)
    whole, _, broken = decode_readable([one.image], max_side=LONGEST, greys=source.greys, read=read)
    if broken or not len(pixels):
        return None
    answer = f"{one.classes[0]}  {one.confidences[0]:.1%}"
    truth = one.truth if one.truths is None else ", ".join(one.truths) or "none"
    lines = [answer] if truth is None else [answer, f"truth: {truth}"]
    return picture(torch.from_numpy(whole)[0], map_of(source, pixels, sizes, one.classes[0]), lines)


def file_name(number: int, image: Path) -> str:
    """Name a picture by its number and its image's name, of letters, digits, dots, dashes and underscores alone."""
    stem = re.sub(r"[^\w.-]", "_", image.stem)[:40]
    return f"{number:05d}_{stem}.png"
