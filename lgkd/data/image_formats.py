"""List the image formats that Pillow reads, alone or with a package beside it, and the files to pass over.

AVIF is read where Pillow was built with it, HEIC where the package pillow-heif is installed. lgkd does not require that
one: its wheels hold code under the GPL.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.util import find_spec

from lgkd._internal.out_of_memory import raise_if_out_of_memory

_ALWAYS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm"),
}
_AVIF, _HEIC = "AVIF", "HEIF"
_SOMETIMES = {_AVIF: (".avif",), _HEIC: (".heic", ".heif", ".hif")}

ALWAYS_READ = frozenset(ending for endings in _ALWAYS.values() for ending in endings)
"""Endings of image files that are read everywhere, in lower case; the case of a file's ending does not matter."""

_REMEDIES = {
    _AVIF: "AVIF is read by a Pillow that was built with it: pip install --upgrade pillow",
    _HEIC: "HEIC is read where pillow-heif is installed: pip install pillow-heif",
}
_BRANDS = {_AVIF: (b"avif", b"avis"), _HEIC: (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")}

_SYSTEM_FOLDERS = frozenset({
    "@eadir", "#recycle", "#snapshot",  # Synology
    "@__thumb", "@recycle", "@recently-snapshot", "@transcode",  # QNAP
    "$recycle.bin", "system volume information", "lost+found",
    "__macosx",
})  # fmt: skip
_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})


@cache
def read_formats() -> tuple[str, ...]:
    """List the formats that are read here, by Pillow's names; HEIC's reader is made known to Pillow for that."""
    from PIL import features

    formats = [*_ALWAYS]
    if features.check("avif"):
        formats.append(_AVIF)
    if find_spec("pillow_heif") is not None:
        try:
            import pillow_heif

            pillow_heif.register_heif_opener()
            formats.append(_HEIC)
        except Exception as error:  # its library does not load, or it is of a version without that function
            raise_if_out_of_memory(error)
            return tuple(formats)
    return tuple(formats)


@cache
def read_endings() -> frozenset[str]:
    """List the endings of image files that are read here, in lower case."""
    known = {**_ALWAYS, **_SOMETIMES}
    return frozenset(ending for name in read_formats() for ending in known[name])


def is_read(ending: str) -> bool:
    """Return True for endings of files that are read here; Pillow is asked only for those that it may lack."""
    may_lack = any(ending in endings for endings in _SOMETIMES.values())
    return ending in ALWAYS_READ or (may_lack and ending in read_endings())


def is_passed_over(name: str, *, folder: bool) -> bool:
    """Return True for hidden files and folders, and those that systems make: thumbnails, waste baskets."""
    return name.startswith(".") or name.casefold() in (_SYSTEM_FOLDERS if folder else _SYSTEM_FILES)


def remedy_of(head: bytes) -> str | None:
    """Return the way to read a file whose first twelve bytes are of a format that is not read here."""
    if head[4:8] == b"ftyp":
        for name, brands in _BRANDS.items():
            if head[8:12] in brands and name not in read_formats():
                return _REMEDIES[name]
    return None


def remedies_for(endings: Iterable[str]) -> list[str]:
    """Return the ways to read files of those endings that are not read here."""
    some = set(endings)
    return [_REMEDIES[name] for name, known in _SOMETIMES.items() if some & {*known} and name not in read_formats()]


def about_unused(where: object, endings: Mapping[str, int], folders: Mapping[str, int]) -> tuple[str, ...]:
    """Write the line on files of a folder that are not used; none where all are.

    Args:
        where: the folder.
        endings: number of files of each ending that are not read as images.
        folders: number of folders that systems make, by name, which were passed over.
    """
    parts = []
    if files := sum(endings.values()):
        parts.append(
            f"{files:,} {'file that is' if files == 1 else 'files that are'} not read as "
            f"{'an image' if files == 1 else 'images'} ({'; '.join([_counted(endings), *remedies_for(endings)])})"
        )
    if number := sum(folders.values()):
        parts.append(f"{number:,} {'folder' if number == 1 else 'folders'} of thumbnails or the like "
                     f"({_counted(folders)})")  # fmt: skip
    return (f"not used in {where}: {' and '.join(parts)}",) if parts else ()


def _counted(numbers: Mapping[str, int]) -> str:
    most = Counter(numbers).most_common()
    shown = ", ".join(f"{name} {number:,}" for name, number in most[:8])
    return f"{shown}, ..." if len(most) > 8 else shown
