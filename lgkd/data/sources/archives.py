"""Read the members of tar and zip archives into memory. Nothing is ever extracted to a path that an archive names.

A tar archive is read once, from its beginning to its end; of a zip archive any member is read when it is asked for.
Either may unpack to more than its size suggests, name places outside of its folder, or hold links and devices: all of
that is refused.
"""

import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lgkd.errors import DataError

_GZIP = b"\x1f\x8b"


def read_tar(
    path: Path, wanted: Mapping[str, int], *, max_bytes: int, max_members: int = 10_000
) -> Iterator[tuple[str, bytes]]:
    """Yield the wanted members of a tar archive (plain or gzip), with their content, in the archive's order.

    Other regular files and folders are passed over.

    Args:
        path: the archive.
        wanted: the largest size in bytes, for every name that must be there.
        max_bytes: largest total size, unpacked, with headers and members that are passed over.
        max_members: largest number of members.

    Raises:
        DataError: a member is a link or a device, names a place outside, or is too large; there are too many; a
            wanted one is missing or there twice; the archive is cut, broken or holds too much.
    """
    lacking = set(wanted)
    with _opened(path, max_bytes) as archive:
        for number, member in enumerate(_members(path, archive)):
            if number >= max_members:
                raise DataError(f"{path} has more than {max_members:,} members: it is not the published archive")
            name = _plain_name(path, member)
            if name not in wanted or member.isdir():
                continue
            if name not in lacking:
                raise DataError(f"{path} has {name} twice: it is not the published archive")
            if member.size > wanted[name]:
                raise DataError(
                    f"{name} in {path} has {member.size:,} bytes, expected at most {wanted[name]:,}: "
                    f"it is not the published archive"
                )
            lacking.remove(name)
            yield name, _content(path, archive, member)
    if lacking:
        some = sorted(lacking)
        more = f" and {len(some) - 5} more" if len(some) > 5 else ""
        raise DataError(f"{path} lacks {', '.join(some[:5])}{more}: it is not the published archive")


class ZipMembers:
    """Read the plain files of an opened zip archive."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> None:
        self._path = path
        self._archive = archive
        self._members = members

    @property
    def sizes(self) -> dict[str, int]:
        """Return the bytes of every file, unpacked, by its name without a leading './'."""
        return {name: member.file_size for name, member in self._members.items()}

    def read(self, name: str) -> bytes:
        """Read the content of a file.

        Raises:
            DataError: it is cut, broken, or not of the size that the archive records.
        """
        member = self._members[name]
        with _as_data_error(self._path, "a zip"), self._archive.open(member) as stream:
            data = stream.read(member.file_size + 1)
        if len(data) != member.file_size:
            raise DataError(f"{self._path} is cut in {name}: remove it, or put the whole one")
        return data


@contextmanager
def opened_zip(path: Path, *, max_bytes: int, max_members: int) -> Iterator[ZipMembers]:
    """Open the files of a zip archive.

    Args:
        path: the archive.
        max_bytes: largest total size of its members, unpacked.
        max_members: largest number of members, folders included.

    Raises:
        DataError: a member is a link, a device or encrypted, names a place outside, or is there twice; there are too
            many; they hold too much; it is not a zip archive.
    """
    with _as_data_error(path, "a zip"):
        archive = zipfile.ZipFile(path)
    with archive:
        found = archive.infolist()
        if len(found) > max_members:
            raise DataError(f"{path} has more than {max_members:,} members: it is not the published archive")
        # No member can hold more than its recorded size, so that these can be added up before one is read.
        if sum(member.file_size for member in found) > max_bytes:
            raise DataError(f"{path} holds more than {max_bytes:,} bytes: it is not the published archive")
        members: dict[str, zipfile.ZipInfo] = {}
        for member in found:
            name = _inside(path, member.orig_filename)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                what = "a link" if kind == stat.S_IFLNK else "no plain file"
                raise DataError(f"{path} has a member {name!r} that is {what}: it is not the published archive")
            if member.flag_bits & 1:
                raise DataError(f"{path} has a member {name!r} that is encrypted: it is not the published archive")
            if member.is_dir():
                continue
            if name in members:
                raise DataError(f"{path} has {name} twice: it is not the published archive")
            members[name] = member
        yield ZipMembers(path, archive, members)


class _Capped:
    """Read a stream up to a number of bytes."""

    def __init__(self, stream: IO[bytes], path: Path, limit: int) -> None:
        self.stream = stream
        self.path = path
        self.limit = limit
        self.left = limit

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise DataError(f"{self.path} holds more than {self.limit:,} bytes: it is not the published archive")
        return data


@contextmanager
def _opened(path: Path, max_bytes: int) -> Iterator[tarfile.TarFile]:
    with _as_data_error(path):
        plain = path.open("rb")
    with plain:
        with _as_data_error(path):
            packed = plain.read(2) == _GZIP
            plain.seek(0)
            stream: IO[bytes] = gzip.GzipFile(fileobj=plain, mode="rb") if packed else plain  # type: ignore[assignment]
            # A stream is read forwards only, so that the cap counts every byte and sparse offsets have no effect.
            archive = tarfile.open(fileobj=_Capped(stream, path, max_bytes), mode="r|")  # type: ignore[call-overload]  # noqa: SIM115
        with archive:
            yield archive


def _members(path: Path, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while True:
        with _as_data_error(path):
            member = archive.next()
        if member is None:
            return
        yield member


def _content(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    with _as_data_error(path):
        stream = archive.extractfile(member)
        data = stream.read() if stream is not None else b""
    if len(data) != member.size:
        raise DataError(f"{path} is cut in {member.name}: remove it, or put the whole one")
    return data


def _plain_name(path: Path, member: tarfile.TarInfo) -> str:
    """Return the member's name without a leading './'."""
    name = _inside(path, member.name)
    if not (member.isdir() or member.isreg()) or member.issparse():
        kind = "a link" if member.issym() or member.islnk() else "a device" if member.isdev() else "no plain file"
        raise DataError(f"{path} has a member {name!r} that is {kind}: it is not the published archive")
    return name


def _inside(path: Path, name: str) -> str:
    """Return a member's name without a leading './'; refuse one that points outside."""
    if not is_inside(name):
        raise DataError(f"{path} has a member {name!r}, which points outside: it is not the published archive")
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def is_inside(name: str) -> bool:
    """Return True for a name with forward slashes that stays below its folder, on every system."""
    parts = name.split("/")
    return not (name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0] or "\0" in name)


_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    NotImplementedError,  # an unknown compression method
)


@contextmanager
def _as_data_error(path: Path, kind: str = "a tar") -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataError(
            f"{path} cannot be read as {kind} archive ({reason}): remove it, or put the whole one"
        ) from error
