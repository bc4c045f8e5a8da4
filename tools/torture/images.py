"""Broken and odd images in a folder: every broken one is named before the first epoch, every odd one is taken."""

import io
import json
import os
import random
import shutil
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

from PIL import Image

from tests.support.small import TRAIN
from tools.torture.arena import Arena
from tools.torture.inside import command, expect_words
from tools.torture.parts import Trials, expect, part

Plant = Callable[[Path, random.Random], Path]
"""Puts a file into a folder, under a name without an ending; returns it."""


@part(
    "images", "R6", "a broken image is counted and named, code 2, before anything is written; an odd one is taken", 120
)
def images(arena: Arena, trials: Trials) -> None:
    while trials.left():
        broken = trials.draw.choices(list(BROKEN), k=trials.draw.randrange(4))
        odd = trials.draw.choices(list(ODD), k=trials.draw.randrange(1, 5))
        with trials.one(f"broken: {', '.join(broken) or 'none'}; odd: {', '.join(odd)}"):
            place = arena.new("images")
            # Links are planted, and a link that leads elsewhere must be resolvable from where it lies.
            shutil.copytree(arena.world.pictures, place / "pictures")
            classes = sorted((place / "pictures").glob("*/*"))
            kinds: Counter[str] = Counter()
            wrong: list[str] = []
            for number, kind in enumerate([*broken, *odd]):
                name = trials.draw.choice(classes) / f"planted{number}"
                planted = (BROKEN[kind] if kind in BROKEN else ODD[kind][0])(name, trials.draw)
                if kind in BROKEN:
                    wrong.append(planted.relative_to(place / "pictures").as_posix())
                else:
                    kinds.update(ODD[kind][1])
                trials.seen[kind] += 1
            _looked_through(arena, place, wrong, kinds)
            _trained_on(arena, place, wrong, train=bool(wrong) or trials.made % 2 == 0)
            shutil.rmtree(place)


def _looked_through(arena: Arena, place: Path, wrong: list[str], kinds: Counter[str]) -> None:
    """`lgkd check` names every broken file and counts every odd one."""
    store = str(arena.root / "images-home")
    looked = command(["check", str(place / "pictures"), "--json"], LGKD_HOME=store)
    expect_words(looked.code, looked.said, [2] if wrong else [0])
    report = json.loads(looked.out)
    unnamed = [name for name in wrong if not any(Path(name).name in problem for problem in report["problems"])]
    listed = {one["name"] for one in report["broken"]}
    unnamed = [name for name in unnamed if name not in listed]
    expect(not unnamed, f"check does not name {unnamed}: {report['problems']}")
    expect(listed <= set(wrong), f"check takes whole images for broken: {listed - set(wrong)}")
    found = {kind["name"]: kind["images"] for kind in report["kinds"]}
    expect(found == dict(kinds), f"check counts {found}, planted were {dict(kinds)}")


def _trained_on(arena: Arena, place: Path, wrong: list[str], *, train: bool) -> None:
    """A training ends before anything is written, and names one at least; without broken ones it comes to its end."""
    if not train:
        return
    out, store = place / "run", arena.root / "images-home"
    words = [*TRAIN, "--dataset", str(place / "pictures"), "--out", str(out), "--epochs", "1"]
    before = _files(store)
    made = command(words, LGKD_HOME=str(store))
    expect_words(made.code, made.said, [2] if wrong else [0])
    if wrong:
        expect(any(Path(name).name in made.said for name in wrong), f"none is named: {made.said}")
        expect(not out.exists(), "a run's folder was made")
        expect(_files(store) == before, "something was put into the store")
    else:
        expect((out / "student.safetensors").is_file(), "no student came of it")


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if not path.is_dir()}


# Broken files


def _packed(form: str, draw: random.Random, side: int = 24, mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    channels = {"RGB": 3, "L": 1, "CMYK": 4, "RGBA": 4, "LA": 2}[mode]
    Image.frombytes(mode, (side, side), draw.randbytes(channels * side * side)).save(stream, form, **options)
    return stream.getvalue()


def _put(name: Path, ending: str, content: bytes) -> Path:
    path = name.with_suffix(ending)
    path.write_bytes(content)
    return path


def _cut(form: str, ending: str) -> Plant:
    def plant(name: Path, draw: random.Random) -> Path:
        whole = _packed(form, draw)
        return _put(name, ending, whole[: round(len(whole) * draw.uniform(0.2, 0.7))])

    return plant


@cache
def _bomb(side: int) -> bytes:
    """A black-and-white PNG of so many pixels a side: some kilobytes that would become gigabytes."""
    packed = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    data = b"".join(packed.compress(row) for _ in range(side)) + packed.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def _link(name: Path, to: Path) -> Path:
    path = name.with_suffix(".png")
    path.symlink_to(to)
    return path


def _pipe(name: Path, _: random.Random) -> Path:
    path = name.with_suffix(".png")
    os.mkfifo(path)
    return path


BROKEN: dict[str, Plant] = {
    **{f"cut {form}": _cut(form, ending) for form, ending in (
        ("PNG", ".png"), ("JPEG", ".jpg"), ("GIF", ".gif"), ("BMP", ".bmp"), ("TIFF", ".tif"), ("WEBP", ".webp"),
        ("PPM", ".ppm"),
    )},
    "empty": lambda name, _: _put(name, ".png", b""),
    "noise": lambda name, draw: _put(name, ".jpg", draw.randbytes(500)),
    "noise behind a signature": lambda name, draw: _put(name, ".png", b"\x89PNG\r\n\x1a\n" + draw.randbytes(500)),
    "a page": lambda name, _: _put(name, ".jpg", b"<html>404 not found</html>\n" * 9),
    "bomb": lambda name, _: _put(name, ".png", _bomb(20_000)),
    "a link that leads nowhere": lambda name, _: _link(name, name.with_name("nothing")),
    "a link to itself": lambda name, _: _link(name, name.with_suffix(".png")),
    "a link to a device": lambda name, _: _link(name, Path("/dev/zero")),
    "a pipe": _pipe,
}  # fmt: skip
"""What cannot be read as an image."""


# Odd files


def _as(form: str, ending: str, mode: str = "RGB", **options: object) -> Plant:
    return lambda name, draw: _put(name, ending, _packed(form, draw, mode=mode, **options))


def _grey16(name: Path, draw: random.Random) -> Path:
    stream = io.BytesIO()
    Image.frombytes("I;16", (24, 24), draw.randbytes(2 * 24 * 24)).save(stream, "PNG")
    return _put(name, ".png", stream.getvalue())


def _of_size(width: int, height: int) -> Plant:
    def plant(name: Path, draw: random.Random) -> Path:
        path = name.with_suffix(".png")
        Image.frombytes("RGB", (width, height), draw.randbytes(3 * width * height)).save(path)
        return path

    return plant


def _palette(name: Path, draw: random.Random) -> Path:
    path = name.with_suffix(".png")
    Image.frombytes("L", (24, 24), draw.randbytes(24 * 24)).quantize(16).save(path)
    return path


def _frames(name: Path, draw: random.Random) -> Path:
    path = name.with_suffix(".gif")
    first, *more = (Image.frombytes("RGB", (24, 24), draw.randbytes(3 * 24 * 24)).quantize(32) for _ in range(3))
    first.save(path, save_all=True, append_images=more)
    return path


def _turned(name: Path, draw: random.Random) -> Path:
    exif = Image.Exif()
    exif[0x0112] = draw.randrange(2, 9)
    return _put(name, ".jpg", _packed("JPEG", draw, exif=exif))


def _elsewhere(name: Path, draw: random.Random) -> Path:
    """A link to an image outside of the data set."""
    real = name.parents[3] / f"{name.name}-real.png"
    real.write_bytes(_packed("PNG", draw))
    return _link(name, real)


ODD: dict[str, tuple[Plant, tuple[str, ...]]] = {
    "CMYK": (_as("JPEG", ".jpg", "CMYK"), ("CMYK",)),
    "RGBA": (_as("PNG", ".png", "RGBA"), ("transparent",)),
    "grey and alpha": (_as("PNG", ".png", "LA"), ("grey", "transparent")),
    "grey": (_as("JPEG", ".jpeg", "L"), ("grey",)),
    "grey of 16 bits": (_grey16, ("grey", "16-bit")),
    "palette": (_palette, ("palette",)),
    "frames": (_frames, ("palette", "several frames")),
    "turned by EXIF": (_turned, ("turned by EXIF",)),
    "progressive": (_as("JPEG", ".jpg", progressive=True), ()),
    "1 x 1": (_of_size(1, 1), ()),
    "1 x 400": (_of_size(400, 1), ()),
    "large letters": (_as("PNG", ".PNG"), ()),
    "another ending than its form": (_as("PNG", ".jpg"), ()),
    "a link": (_elsewhere, ()),
}
"""What is an image all the same, and the kinds that `lgkd check` counts it under."""
