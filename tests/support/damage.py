"""What can happen to the bytes of a folder's files."""

import random
from collections.abc import Iterator
from pathlib import Path


def corruptions(folder: Path, seed: int, flips: int, cuts: int) -> Iterator[tuple[Path, bytes]]:
    """(file name, changed bytes): flipped bytes, cut tails, empty files, a zeroed head, an added tail."""
    draw = random.Random(seed)
    files = sorted(folder.iterdir())
    for _ in range(flips):
        path = draw.choice(files)
        data = bytearray(path.read_bytes())
        place = draw.randrange(len(data))
        data[place] ^= 1 << draw.randrange(8)
        yield path, bytes(data)
    for _ in range(cuts):
        path = draw.choice(files)
        data = path.read_bytes()
        yield path, data[: draw.randrange(len(data))]
    for path in files:
        data = path.read_bytes()
        yield path, b""
        yield path, bytes(8) + data[8:]
        yield path, data + b"\n"
