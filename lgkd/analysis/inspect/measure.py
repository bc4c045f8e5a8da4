"""Measure each student: attention distances, and similarity to a teacher."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lgkd._internal.rng import permutation, seed_of
from lgkd.analysis.inspect.attention_capture import read
from lgkd.analysis.inspect.attention_distance import between_patches, even_distance, mean_distance
from lgkd.analysis.inspect.cka import Alignment
from lgkd.data.dataset import Images
from lgkd.errors import TapError
from lgkd.models.teacher import Teacher
from lgkd.runner.loaded_run import Opened

BATCH = 32
"""Batch size; the estimate of CKA needs equal batches."""


@dataclass
class Measured:
    """Hold one student and its measurements.

    Attributes:
        who: "guided", "this run" or "baseline".
        opened: its run.
        layers: that were read, in order.
        distances: of each layer whose attention can be read, the mean distance of every head, in pixels.
        even: of each of these, that of a head that attends to all patches equally.
        unseen: reason why the attention of another layer cannot be read.
        similarity: CKA of its layers (rows) with the teacher's taps (columns); None without a teacher.
    """

    who: str
    opened: Opened
    layers: list[str]
    distances: dict[str, list[float]] = field(default_factory=dict)
    even: dict[str, float] = field(default_factory=dict)
    unseen: dict[str, str] = field(default_factory=dict)
    similarity: Tensor | None = None


def measure(student: Measured, images: Images, teacher: Teacher | None) -> None:
    """Run over the images once, in an order that mixes the classes, and fill in the measurements."""
    opened = student.opened
    mixed = images.take(permutation(seed_of("inspect"), len(images)))
    mean, std = (torch.tensor(values, device=opened.device).view(-1, 1, 1) for values in opened.normalisation)
    found: dict[str, list[Tensor]] = {}
    alignment = Alignment()
    for pictures in _batches(opened, mixed):
        seen = read(opened.student, student.layers, pictures)
        for layer in student.layers:
            try:
                distance = _distance(student, layer, seen.weights.get(layer), seen.outputs.get(layer))
            except TapError as error:
                student.unseen[layer] = str(error)
            else:
                found.setdefault(layer, []).append(distance)
        if teacher is not None:
            theirs = read(teacher.model, teacher.taps, teacher.view(pictures, mean, std))
            ours = [seen.outputs[layer] for layer in student.layers]
            alignment.add(ours, [theirs.outputs[layer] for layer in teacher.taps])
    student.distances = {layer: torch.stack(batches).mean(dim=0).tolist() for layer, batches in found.items()}
    student.similarity = alignment.values() if teacher is not None else None


def _distance(student: Measured, layer: str, weights: Tensor | None, output: Tensor | None) -> Tensor:
    """Compute the distance of every head over one batch.

    Raises:
        TapError: there is none; the message says why.
    """
    if weights is None or output is None:
        raise TapError("it computes no attention weights, expected a softmax over tokens that can be read")
    size = student.opened.image_size
    hint = getattr(student.opened.student, "num_prefix_tokens", None)
    among = between_patches(weights, output, size, hint if isinstance(hint, int) else None)
    student.even[layer] = even_distance(among.grid, among.key_grid, size)
    return mean_distance(among, size)


def _batches(opened: Opened, images: Images) -> Iterator[Tensor]:
    """Yield equal batches of the student's images; a remainder is dropped."""
    size = min(BATCH, len(images))
    for start in range(0, len(images) - size + 1, size):
        some = images.take(torch.arange(start, start + size))
        yield torch.cat([pictures for pictures, _ in opened.batches(some)])
