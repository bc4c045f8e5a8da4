"""Archives that want out of their folder, or grow: nothing of them is written, and little of them is read."""

import gzip
import io
import random
import resource
import shutil
import stat
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lgkd.data.catalogue import PUBLISHED
from lgkd.data.load import load_dataset
from lgkd.data.sources.archives import opened_zip, read_tar
from lgkd.errors import DataError
from tests.support.arranging import make_given
from tests.support.published import as_published, make_cifar, make_flowers
from tools.torture.arena import Arena
from tools.torture.inside import command, expect_words, surroundings
from tools.torture.parts import Trials, expect, part

WITHIN, MOST_MEMORY = 10.0, 200 << 20
MEGA = 1 << 20


@part("archives", "R11", "members that lead outside, links, devices and bombs: refused, nothing written, < 200 MB", 300)
def archives(arena: Arena, trials: Trials) -> None:
    for reader in READERS:
        # Else a refusal would show nothing.
        place = arena.new("archive").resolve()
        place.mkdir()
        with trials.judging(f"an honest archive for {reader}"), pytest.MonkeyPatch.context() as patch:
            READERS[reader](place, HONEST, trials.draw, patch)()
    while trials.left():
        reader = trials.draw.choice(list(READERS))
        kind = trials.draw.choice(list(ZIP if reader in ("zip", "arrange") else TAR))
        place = arena.new("archive").resolve()
        place.mkdir()
        (place / "outside").mkdir()
        (place / "outside" / "kept").write_text("kept")
        with trials.one(f"{kind} for {reader}, trial {trials.made}"):
            trials.seen[kind] += 1
            peak, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
            before = None
            with pytest.MonkeyPatch.context() as patch:
                # As it is when the hostile archive is there, and nobody has read it yet.
                read = READERS[reader](place, kind, trials.draw, patch)
                before = _listing(place)
                try:
                    read()
                except DataError as error:
                    expect("\n" not in str(error) and str(error).isprintable(), f"no sentence: {str(error)[:300]!r}")
                else:
                    expect(False, "it was taken")
            after = _listing(place)
            expect(after == before, f"written: {sorted(after.items() - before.items())[:5]}")
            grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
            expect(grown < MOST_MEMORY, f"{grown / MEGA:.0f} MiB more memory")
            expect(time.monotonic() - begun < WITHIN, f"{time.monotonic() - begun:.1f} s")
        shutil.rmtree(place)


def _listing(place: Path) -> dict[str, bytes]:
    """Every file and link below a folder, with what it holds or where it leads."""
    return {
        str(path): str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        for path in place.rglob("*")
        if path.is_symlink() or path.is_file()
    }


# Hostile members

Tar = Callable[[tarfile.TarFile, Path, random.Random], None]
Zip = Callable[[zipfile.ZipFile, Path, random.Random], None]


def _outside(place: Path, draw: random.Random) -> str:
    """A name that would be written outside."""
    evil = str(place / "outside" / "evil")
    ways = (
        evil, f"/{evil}", f"./{'../' * 30}{evil.lstrip('/')}", "../evil", "a/../../evil", "..", "./..//../evil",
        "..\\evil", "a\\..\\..\\evil", "C:/evil", "C:evil", "\\\\host\\share\\evil",
    )  # fmt: skip
    return draw.choice(ways)


def _file(archive: tarfile.TarFile, name: str, content: bytes = b"evil") -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def _special(archive: tarfile.TarFile, name: str, kind: bytes, target: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    archive.addfile(info)


def _linked(kind: bytes) -> Tar:
    """A link out, and a file that would be written through it."""

    def add(archive: tarfile.TarFile, place: Path, draw: random.Random) -> None:
        name = draw.choice(["jpg", "link", "cifar-100-binary", "a/b"])
        _special(archive, name, kind, draw.choice([str(place / "outside"), "../outside", "/etc", "/etc/passwd"]))
        _file(archive, f"{name}/evil")

    return add


def _of_kind(*kinds: bytes) -> Tar:
    return lambda archive, _, draw: _special(archive, draw.choice(["x", "jpg/x", "a/b/c"]), draw.choice(kinds))


def _long_name(archive: tarfile.TarFile, place: Path, _: random.Random) -> None:
    """A name that stands in a header of its own, where a careless look at the first one does not see it."""
    archive.format = tarfile.GNU_FORMAT
    _file(archive, "a/" * 60 + "../" * 90 + str(place / "outside" / "evil").lstrip("/"))


def _pax_name(archive: tarfile.TarFile, place: Path, _: random.Random) -> None:
    info = tarfile.TarInfo("harmless")
    info.size, info.pax_headers = 4, {"path": str(place / "outside" / "evil")}
    archive.format = tarfile.PAX_FORMAT
    archive.addfile(info, io.BytesIO(b"evil"))


def _bomb(archive: tarfile.TarFile, _: Path, draw: random.Random) -> None:
    info = tarfile.TarInfo(draw.choice(["zeros", "jpg/zeros.jpg", "cifar-100-binary/zeros"]))
    info.size = 400 * MEGA
    archive.addfile(info, _Zeros(info.size))


def _huge_header(archive: tarfile.TarFile, _: Path, draw: random.Random) -> None:
    """A header that says that the next name has gigabytes."""
    info = tarfile.TarInfo("x")
    info.type, info.size = draw.choice([tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME]), 1 << 38
    archive.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))  # type: ignore[union-attr]
    for _ in range(400):
        archive.fileobj.write(bytes(MEGA))  # type: ignore[union-attr]


def _many(archive: tarfile.TarFile, _: Path, __: random.Random) -> None:
    for number in range(20_000):
        archive.addfile(tarfile.TarInfo(f"f{number}"))


class _Zeros(io.RawIOBase):
    def __init__(self, left: int) -> None:
        self.left = left

    def read(self, size: int = -1) -> bytes:
        size = min(self.left, size)
        self.left -= size
        return bytes(size)


HONEST = "nothing"
"""The kind of an archive without anything hostile in it."""

TAR: dict[str, Tar] = {
    "a name outside": lambda archive, place, draw: _file(archive, _outside(place, draw)),
    "a long name outside": _long_name,
    "a second name outside": _pax_name,
    "a link, and a file through it": _linked(tarfile.SYMTYPE),
    "a hard link, and a file through it": _linked(tarfile.LNKTYPE),
    "a device": _of_kind(tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE),
    "a sparse file": _of_kind(tarfile.GNUTYPE_SPARSE),
    "a bomb": _bomb,
    "a bomb in a header": _huge_header,
    "too many members": _many,
}
"""What is put into a tar archive, each refused wherever it stands."""


def _zip_special(archive: zipfile.ZipFile, place: Path, draw: random.Random) -> None:
    kind = draw.choice([stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
    info = zipfile.ZipInfo(draw.choice(["link", "train", "chaoyang-data/train/link"]))
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    archive.writestr(info, str(place / "outside"))
    archive.writestr(f"{info.filename}/evil", b"evil")


def _zip_bomb(archive: zipfile.ZipFile, _: Path, draw: random.Random) -> None:
    with archive.open(draw.choice(["zeros", "chaoyang-data/train/zeros.JPG"]), "w") as stream:
        for _ in range(400):
            stream.write(bytes(MEGA))


def _zip_twice(archive: zipfile.ZipFile, _: Path, draw: random.Random) -> None:
    name = draw.choice(archive.namelist())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        archive.writestr(name, b"evil")


def _zip_locked(archive: zipfile.ZipFile, _: Path, draw: random.Random) -> None:
    archive.writestr("locked", b"evil")
    archive.infolist()[-1].flag_bits |= 1


def _zip_liar(archive: zipfile.ZipFile, _: Path, draw: random.Random) -> None:
    """A list of images that says that it is smaller than it is."""
    archive.infolist()[archive.namelist().index("chaoyang-data/train.json")].file_size = 20


ZIP: dict[str, Zip] = {
    "a name outside": lambda archive, place, draw: archive.writestr(_outside(place, draw), b"evil"),
    "no plain file": _zip_special,
    "a bomb": _zip_bomb,
    "a member twice": _zip_twice,
    "an encrypted member": _zip_locked,
    "a member that says less than it holds": _zip_liar,
}
"""What is put into a zip archive."""


# Readers

Reader = Callable[[Path, str, random.Random, pytest.MonkeyPatch], Callable[[], object]]


def _rewritten(path: Path, kind: str, place: Path, draw: random.Random) -> Path:
    """A tar archive with the hostile member at a random place among its own."""
    with tarfile.open(path) as given:
        members = [(member, given.extractfile(member).read()) for member in given]  # type: ignore[union-attr]
    cut = draw.randrange(len(members) + 1)
    packed = io.BytesIO()
    # By level 1, for most of it is zeros.
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as archive,
    ):
        for member, content in members[:cut]:
            archive.addfile(member, io.BytesIO(content))
        if kind != HONEST:
            TAR[kind](archive, place, draw)
        for member, content in members[cut:]:
            archive.addfile(member, io.BytesIO(content))
    path.write_bytes(packed.getvalue())
    return path


def _plain_tar(place: Path, kind: str, draw: random.Random, patch: pytest.MonkeyPatch) -> Callable[[], object]:
    path = place / "given.tar"
    with tarfile.open(path, "w") as archive:
        _file(archive, "x", b"one")
    _rewritten(path, kind, place, draw)
    if draw.random() < 0.3 and "bomb" not in kind:
        path.write_bytes(gzip.decompress(path.read_bytes()))
    return lambda: dict(read_tar(path, {"x": 10}, max_bytes=64 * MEGA, max_members=10_000))


def _published(name: str) -> Reader:
    """A hostile publisher: the checksum is right, and the archive evil."""

    def prepare(place: Path, kind: str, draw: random.Random, patch: pytest.MonkeyPatch) -> Callable[[], object]:
        make = make_flowers if name == "flowers102" else make_cifar
        folder = place / "data"
        folder.mkdir()
        make(folder, patch)
        first, *others = PUBLISHED[name]
        path = _rewritten(folder / first.name, kind, place, draw)
        patch.setitem(PUBLISHED, name, (as_published(path), *others))

        def read() -> object:
            with surroundings({"LGKD_HOME": str(place / "home")}, place):
                return load_dataset(name, data_dir=folder, offline=True)

        return read

    return prepare


def _given(place: Path, kind: str, draw: random.Random, patch: pytest.MonkeyPatch) -> Path:
    source = make_given(place, patch)("chaoyang", "zip")
    with zipfile.ZipFile(source, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        # What Python writes last it would write only if something was added.
        archive._didModify = True  # type: ignore[attr-defined]
        if kind != HONEST:
            ZIP[kind](archive, place, draw)
    return source


def _plain_zip(place: Path, kind: str, draw: random.Random, patch: pytest.MonkeyPatch) -> Callable[[], object]:
    source = _given(place, kind, draw, patch)

    def read() -> None:
        with opened_zip(source, max_bytes=64 * MEGA, max_members=10_000) as members:
            for name in members.sizes:
                members.read(name)

    return read


def _arranged(place: Path, kind: str, draw: random.Random, patch: pytest.MonkeyPatch) -> Callable[[], object]:
    source = _given(place, kind, draw, patch)

    def read() -> None:
        words = ["arrange", "chaoyang", str(source), "--data-dir", str(place / "data"), "--quiet"]
        ended = command(words, LGKD_HOME=str(place / "home"))
        expect_words(ended.code, ended.said, [0, 2], *([] if ended.code == 0 else [str(source)]))
        if ended.code:
            raise DataError(ended.said.strip())

    return read


READERS: dict[str, Reader] = {
    "tar": _plain_tar,
    "zip": _plain_zip,
    "arrange": _arranged,
    "cifar100": _published("cifar100"),
    "flowers102": _published("flowers102"),
}
"""Makes a hostile archive; returns what reads it by lgkd's own reader, by a command, or as a data set."""
