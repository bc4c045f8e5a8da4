"""Read the files of a publisher from a zip archive or an unpacked folder, and check them against a layout."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lgkd.data.image_formats import ALWAYS_READ
from lgkd.data.sources.archives import ZipMembers, opened_zip
from lgkd.errors import DataError, InputError, MissingError

NOT_IT = "it is not the published archive"
_MOST_FILES = 250_000
_LARGEST = 2**26


class _Files(ABC):
    """Read the publisher's files, packed or not."""

    def __init__(self, where: Path, sizes: Mapping[str, int]) -> None:
        self.where = where
        self.sizes = sizes
        """Bytes of every file, by its name with forward slashes."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Read the content of a file."""

    def put(self, name: str, place: Path) -> None:
        """Write a file at its place in the tree."""
        place.write_bytes(self.read(name))


class _Folder(_Files):
    """Read an unpacked archive. Links are followed: the folder is the user's own."""

    def __init__(self, where: Path, *, link: bool) -> None:
        sizes: dict[str, int] = {}
        super().__init__(where, sizes)
        self._link = link
        for folder, _, names in os.walk(where, followlinks=True):
            for name in names:
                path = Path(folder) / name
                with _reading(path):
                    if path.exists():  # a broken link counts as missing
                        sizes[path.relative_to(where).as_posix()] = path.stat().st_size
            if len(sizes) > _MOST_FILES:
                raise DataError(f"{where} holds more than {_MOST_FILES:,} files: name the publisher's own folder")

    def read(self, name: str) -> bytes:
        with _reading(self.where / name):
            return (self.where / name).read_bytes()

    def put(self, name: str, place: Path) -> None:
        if not self._link:
            super().put(name, place)
            return
        try:
            place.hardlink_to((self.where / name).resolve())
        except OSError as error:
            raise InputError(
                f"{self.where / name} cannot be linked to {place.parent} ({error.strerror or error}): "
                f"leave out --link, and it is copied"
            ) from error


class _Packed(_Files):
    """Read a zip archive."""

    def __init__(self, where: Path, members: ZipMembers) -> None:
        super().__init__(where, members.sizes)
        self._members = members

    def read(self, name: str) -> bytes:
        return self._members.read(name)


class PublisherFiles:
    """Read the folder that holds the publisher's lists: the source itself, or one folder in it."""

    def __init__(self, source: _Files, lists: Sequence[str]) -> None:
        self._files = source
        found = sorted(
            (name for name in source.sizes if name.count("/") <= 1 and name.rpartition("/")[2] == lists[0]),
            key=lambda name: (name.count("/"), name),
        )
        self._prefix = found[0].removesuffix(lists[0]) if found else ""
        self.where = source.where / self._prefix
        self.sizes = {
            name.removeprefix(self._prefix): size
            for name, size in source.sizes.items()
            if name.startswith(self._prefix)
        }
        lacking = [name for name in lists if name not in self.sizes]
        if lacking:
            raise DataError(
                f"{source.where} lacks {' and '.join(lacking)}: expected the publisher's zip archive, or the folder "
                f"that it unpacks to"
            )

    def full(self, name: str) -> str:
        """Return the name in the source itself."""
        return self._prefix + name

    def text(self, name: str) -> str:
        """Read the text of a list.

        Raises:
            DataError: it is missing, too large, or not text.
        """
        if name not in self.sizes:
            raise DataError(f"{self.where} lacks {name}: put the whole of the publisher's files")
        if self.sizes[name] > _LARGEST:
            raise DataError(f"{self.where / name} has {self.sizes[name]:,} bytes: it is not the publisher's list")
        try:
            return self._files.read(self.full(name)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.where / name} is not text: it is not the publisher's list") from error

    def images(self, names: Sequence[str]) -> None:
        """Refuse images that are missing, empty or absurdly large."""
        for what, wrong in (
            ("lacks", [name for name in names if name not in self.sizes]),
            ("has empty files:", [name for name in names if not self.sizes.get(name, 1)]),
            (f"has files above {_LARGEST:,} bytes:", [name for name in names if self.sizes.get(name, 0) > _LARGEST]),
        ):
            if wrong:
                more = f" and {len(wrong) - 3:,} more" if len(wrong) > 3 else ""
                raise DataError(f"{self.where} {what} {', '.join(wrong[:3])}{more}: put the publisher's own")


def by_full_name(files: PublisherFiles, plan: Mapping[str, str]) -> dict[str, str]:
    """Return a layout by the source's own names, once all its images are known to be there."""
    files.images(list(plan))
    return {files.full(name): place for name, place in plan.items()}


def check_counts(files: PublisherFiles, split: str, found: Mapping[str, int], published: Mapping[str, int]) -> None:
    wrong = [name for name, count in published.items() if found.get(name, 0) != count]
    if wrong:
        first = wrong[0]
        more = f"; {len(wrong)} classes differ" if len(wrong) > 1 else ""
        raise DataError(
            f"{files.where} has other {split} images than were published: of the class {first} "
            f"{found.get(first, 0):,} instead of {published[first]:,}{more}: put the whole of the publisher's files"
        )


def is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in ALWAYS_READ


@contextmanager
def opened(source: Path, link: bool) -> Iterator[_Files]:
    if source.is_dir():
        yield _Folder(source, link=link)
        return
    if not source.exists():
        raise MissingError(f"{source} does not exist: expected the publisher's zip archive, or its folder")
    if link:
        raise InputError(f"{source} is an archive, from which nothing can be linked: leave out --link")
    # JPEGs do not shrink in an archive, so one that unpacks to much more than its size is not published.
    limit = 4 * source.stat().st_size + _LARGEST
    with opened_zip(source, max_bytes=limit, max_members=_MOST_FILES) as members:
        yield _Packed(source, members)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; check the folder and its links") from error
