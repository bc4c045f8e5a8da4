"""Find near duplicates: images saved again, at lower quality, in another size or a little changed."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lgkd.data.checks.duplicates import LISTED, Pair, Pairs
from lgkd.data.dataset import DataSet, Images
from lgkd.data.perceptual_hash import SIDE, Trace, trace_of

MOST_BITS = 10
"""Bits of 64 by which the hashes of near copies may differ."""
LEAST_LIKENESS = 0.95
"""Correlation that the small pictures of near copies have at least."""

_NONE = Pairs()
_ROWS = 16
_NEAREST = 32
_CHUNK = 64

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class NearCopies:
    """Hold the near copies of a data set, which are not equal pixel for pixel; an image once, with its nearest."""

    leaks: Pairs = _NONE
    """Test images that are nearly a training image."""
    train: Pairs = _NONE
    """Training images that are nearly an earlier one."""
    test: Pairs = _NONE
    """Test images that are nearly an earlier one."""


class Traced(NamedTuple):
    """Hold one split, with the trace of every image."""

    names: Sequence[str]
    traces: Sequence[Trace | None]
    """None: of an image that cannot be compared."""
    digests: Sequence[bytes] | None = None
    """Equal for equal images, which are copies and not near copies; None: these are found as well."""


def find_near_copies(train: Traced, test: Traced) -> NearCopies:
    """Compare every image with every other."""
    parts = (_Part(train), _Part(test))
    return NearCopies(
        leaks=_pairs(test, train, _nearest(parts[1], parts[0], earlier=False)),
        train=_pairs(train, train, _nearest(parts[0], parts[0], earlier=True)),
        test=_pairs(test, test, _nearest(parts[1], parts[1], earlier=True)),
    )


def near_copies_of(dataset: DataSet, digests: Sequence[Sequence[bytes]] | None = None) -> NearCopies:
    """Compare the images of a decoded data set.

    Args:
        dataset: decoded.
        digests: of the training and the test images, equal for equal ones.
    """
    splits = (dataset.train, dataset.test)
    known = digests if digests is not None else (None, None)
    return find_near_copies(
        *(Traced(split.names, traces_of(split), some) for split, some in zip(splits, known, strict=True))
    )


def places_of_copies(train: Images, test: Images) -> tuple[list[int], list[int]]:
    """Return the places in `train` of near or exact copies of test images, and of earlier training images."""
    parts = [_Part(Traced(split.names, traces_of(split))) for split in (train, test)]
    of_test = sorted(_nearest(parts[0], parts[1], earlier=False))
    leaking = set(of_test)
    of_train = [place for place in sorted(_nearest(parts[0], parts[0], earlier=True)) if place not in leaking]
    return of_test, of_train


def traces_of(images: Images) -> list[Trace | None]:
    """Compute the trace of every decoded image, on all cores."""
    pixels, sizes = images.pixels.numpy(), images.sizes.tolist()

    def some(start: int) -> list[Trace | None]:
        return [
            trace_of(pixels[place, :, : sizes[place][0], : sizes[place][1]].transpose(1, 2, 0))
            for place in range(start, min(start + _CHUNK, len(images)))
        ]

    with ThreadPoolExecutor() as pool:
        return [trace for found in pool.map(some, range(0, len(images), _CHUNK)) for trace in found]


class _Part:
    """Hold the comparable images of a split, as arrays."""

    def __init__(self, traced: Traced) -> None:
        whole = [(place, trace) for place, trace in enumerate(traced.traces) if trace is not None]
        self.places = np.array([place for place, _ in whole], np.int64)
        self.hashes = np.array([trace.phash for _, trace in whole], np.uint64)
        pictures = np.frombuffer(b"".join(trace.picture for _, trace in whole), np.uint8)
        self.pictures = pictures.reshape(len(whole), 3 * SIDE * SIDE)
        self.digests = [traced.digests[place] for place, _ in whole] if traced.digests is not None else None


def _nearest(part: _Part, others: _Part, *, earlier: bool) -> dict[int, int]:
    """Find every image that is a near copy of another one, with the place of the one that it is most like.

    Args:
        part: with the images.
        others: to search in.
        earlier: search only those before it.
    """
    found: dict[int, int] = {}
    for start in range(0, len(part.hashes), _ROWS):
        rows = part.hashes[start : start + _ROWS]
        columns = others.hashes[: start + len(rows)] if earlier else others.hashes
        bits = np.bitwise_count(rows[:, None] ^ columns[None, :])
        near = bits <= MOST_BITS
        if earlier:
            near &= np.arange(len(columns))[None, :] < start + np.arange(len(rows))[:, None]
        for row in np.flatnonzero(near.any(axis=1)):
            candidates = np.flatnonzero(near[row])
            if len(candidates) > _NEAREST:
                candidates = candidates[np.argsort(bits[row, candidates], kind="stable")[:_NEAREST]]
            place = start + int(row)
            if _has_equal(part, place, others, candidates):
                continue
            likeness = _likeness(part.pictures[place], others.pictures[candidates])
            best = int(likeness.argmax())
            if likeness[best] >= LEAST_LIKENESS:
                found[int(part.places[place])] = int(others.places[candidates[best]])
    return found


def _has_equal(part: _Part, place: int, others: _Part, candidates: NDArray[np.int64]) -> bool:
    """Return True for a copy that is equal pixel for pixel, which is listed elsewhere."""
    if part.digests is None or others.digests is None:
        return False
    return any(others.digests[other] == part.digests[place] for other in candidates.tolist())


def _likeness(picture: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Compute Pearson's correlation of a picture with each of others, over all pixels and colours."""
    one, many = picture.astype(np.float64), others.astype(np.float64)
    one -= one.mean()
    many -= many.mean(axis=1, keepdims=True)
    likeness: NDArray[np.float64] = (many @ one) / (np.linalg.norm(many, axis=1) * np.linalg.norm(one) + 1e-9)
    return likeness


def _pairs(part: Traced, others: Traced, nearest: dict[int, int]) -> Pairs:
    listed = [Pair(part.names[place], others.names[nearest[place]]) for place in sorted(nearest)[:LISTED]]
    return Pairs(len(nearest), tuple(listed))
