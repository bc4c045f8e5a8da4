"""Find images with exactly the same content, within a split and across both; keep the result in the user's store."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import torch

from lgkd._internal.atomic_io import write_json
from lgkd._internal.paths import home
from lgkd.data.dataset import DataSet, Images

FORMAT = 1
"""Version of the stored result and of the search; counted up with every change."""

LISTED = 10_000
"""Pairs of one sort that are listed; all are counted."""

_SAMPLE = 4096


@dataclass(frozen=True)
class Pair:
    """Hold two images with the same pixels."""

    image: str
    same_as: str
    """The first one of that content, by the order of the files."""


@dataclass(frozen=True)
class Pairs:
    """Hold images that equal an earlier one."""

    count: int = 0
    listed: tuple[Pair, ...] = ()
    """The first `LISTED`."""

    def example(self, sign: str = "=") -> str:
        """Return the first one in words, with a sign for "the same as"."""
        pair = self.listed[0]
        return f"{'namely' if self.count == 1 else 'such as'} {pair.image} {sign} {pair.same_as}"


@dataclass(frozen=True)
class Copies:
    """Hold the images that a data set has more than once, pixel for pixel.

    Every image after the first of its content counts once: as a copy where an earlier one has its class, else as a
    contradiction. A test image that a training image equals is a leak in any case.
    """

    train_copies: Pairs = Pairs()
    train_contradictions: Pairs = Pairs()
    """The same pixels under two classes."""
    test_copies: Pairs = Pairs()
    test_contradictions: Pairs = Pairs()
    leaks: Pairs = Pairs()
    leaks_of_other_class: int = 0
    """Leaks whose content no training image of their own class has."""


class Part(NamedTuple):
    """Hold one split, with a digest of every image."""

    names: Sequence[str]
    labels: Sequence[Any]
    """Class numbers, or other hashable values that are equal for equal labels."""
    digests: Sequence[bytes]


def compare(train: Part, test: Part) -> Copies:
    """Find the images whose digests are equal."""
    in_train = _grouped(train)
    in_test = _grouped(test)
    leaks: list[Pair] = []
    other_class = 0
    for digest, places in in_test.items():
        trained = in_train.get(digest, [])
        first = _first_of_each_class(train, trained)
        for place in places if trained else ():
            label = test.labels[place]
            other_class += label not in first
            leaks.append(Pair(test.names[place], train.names[first.get(label, trained[0])]))
    return Copies(*_within(train, in_train), *_within(test, in_test), _pairs(leaks), other_class)


def copies_of(dataset: DataSet) -> Copies:
    """Find duplicates in a decoded data set; read from the store where its images were compared before."""
    known = _read(dataset)
    if known is not None:
        return known
    splits = (dataset.train, dataset.test)
    parts = [
        Part(split.names, split.label_keys, found) for split, found in zip(splits, digests_of(*splits), strict=True)
    ]
    copies = compare(*parts)
    _keep(dataset, copies)
    return copies


def digests_of(*splits: Images) -> list[list[bytes]]:
    """Compute a digest of every image of every split; equal only for equal images of equal canvas and size.

    Of large images only the middle is read, unless another image has the same middle.
    """
    found = [list(_digests(split, range(len(split)), _SAMPLE)) for split in splits]
    often = Counter(digest for digests in found for digest in digests)
    for split, digests in zip(splits, found, strict=True):
        if split.pixels[:1].numel() > _SAMPLE:
            places = [place for place, digest in enumerate(digests) if often[digest] > 1]
            for place, digest in zip(places, _digests(split, places, None), strict=True):
                digests[place] = digest
    return found


def _digests(images: Images, places: Iterable[int], most: int | None) -> Iterator[bytes]:
    """Compute digests over the size and the middle `most` bytes of images."""
    pixels = images.pixels.contiguous().numpy().reshape(-1).data
    sizes = images.sizes.contiguous().numpy().tobytes()
    length = images.pixels[:1].numel()
    skipped = 0 if most is None or length <= most else (length - most) // 2
    places = list(places)
    if not skipped:  # where parts are compared, comparing whole blocks would read all images
        images.check(torch.tensor(places, dtype=torch.int64))
    for place in places:
        digest = blake2b(sizes[8 * place : 8 * place + 8], digest_size=16)
        digest.update(pixels[place * length + skipped : (place + 1) * length - skipped])
        yield digest.digest()


def _grouped(part: Part) -> dict[bytes, list[int]]:
    """Group the places of equal content, in order."""
    groups: dict[bytes, list[int]] = {}
    for place, digest in enumerate(part.digests):
        groups.setdefault(digest, []).append(place)
    return groups


def _first_of_each_class(part: Part, places: Sequence[int]) -> dict[Any, int]:
    """Return the first of `places` with each label."""
    return {part.labels[place]: place for place in reversed(places)}


def _within(part: Part, groups: Mapping[bytes, Sequence[int]]) -> tuple[Pairs, Pairs]:
    """Find copies and contradictions of one split."""
    copies, contradictions = [], []
    for places in groups.values():
        if len(places) == 1:
            continue
        first = _first_of_each_class(part, places)
        for place in places[1:]:
            earlier = first[part.labels[place]]
            if earlier < place:
                copies.append(Pair(part.names[place], part.names[earlier]))
            else:
                contradictions.append(Pair(part.names[place], part.names[places[0]]))
    return _pairs(copies), _pairs(contradictions)


def _pairs(found: Sequence[Pair]) -> Pairs:
    return Pairs(len(found), tuple(found[:LISTED]))


def _about(dataset: DataSet) -> dict[str, Any]:
    """Return the facts that identify a stored result's data set: a fingerprint made in Python may be anything."""
    return {
        "format": FORMAT,
        "fingerprint": dataset.fingerprint,
        "classes": len(dataset.classes),
        "train": len(dataset.train),
        "test": len(dataset.test),
    }


def _read(dataset: DataSet) -> Copies | None:
    """Read the stored result; None where it is missing, damaged or of something else."""
    place = home() / "cache" / "checks" / f"{dataset.fingerprint}.json"
    if not _has_a_place(dataset):
        return None
    try:
        record = json.loads(place.read_text("utf-8"))
        if {key: record[key] for key in _about(dataset)} != _about(dataset):
            return None
        content = record["copies"]
        other = content.pop("leaks_of_other_class")
        pairs = {
            sort: Pairs(int(value["count"]), tuple(Pair(str(p["image"]), str(p["same_as"])) for p in value["listed"]))
            for sort, value in content.items()
        }
        return Copies(**pairs, leaks_of_other_class=int(other))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _keep(dataset: DataSet, copies: Copies) -> None:
    if not _has_a_place(dataset):
        return
    place = home() / "cache" / "checks" / f"{dataset.fingerprint}.json"
    # A store that cannot be written, or a file name that is not text, only costs time at the next training.
    with suppress(OSError, ValueError):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, _about(dataset) | {"copies": asdict(copies)})


def _has_a_place(dataset: DataSet) -> bool:
    return re.fullmatch("[0-9a-f]{64}", dataset.fingerprint) is not None
