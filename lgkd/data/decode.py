"""Decode image files into one array of pixels.

Every image becomes 8-bit RGB, upright (EXIF orientation applied). Transparent pixels show white, as on a
page; greys of more than 8 bits are scaled as `lgkd.data.greys` says; of an animation the first frame is taken; colour
profiles are not applied.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lgkd._internal.out_of_memory import raise_if_out_of_memory
from lgkd.data.greys import Greys, Range, as_eight_bits, has_deep_greys, is_deep, range_of
from lgkd.data.image_formats import read_formats, remedy_of
from lgkd.data.image_kinds import colours_of, has_frames
from lgkd.data.perceptual_hash import Trace, trace_of
from lgkd.errors import DataError

_T = TypeVar("_T")

File = Path | BytesIO
Progress = Callable[[int, int], None]
Allocate = Callable[[tuple[int, ...]], NDArray[np.uint8]]
Choose = Callable[[Mapping[int, Range]], Greys]
"""Called with the values in the images of more than 8 bits, by place; returns their scale."""

DEFAULT_SIDE = 256
"""The longest side, in pixels, of a canvas for images of different sizes."""

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)
_CHUNK = 32


class Canvas(NamedTuple):
    """Hold the canvas that every image is placed on."""

    height: int
    width: int
    longest: int
    """Images with a longer side are scaled down to this one."""


def in_memory(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Allocate an array in main memory.

    Raises:
        DataError: there is not enough memory.
    """
    try:
        return np.empty(shape, np.uint8)
    except MemoryError as error:
        size = np.prod(shape, dtype=np.float64) / 2**30
        raise DataError(
            f"the decoded images need {size:.0f} GiB of memory, more than there is: choose a smaller max_side"
        ) from error


def decode(
    root: Path,
    names: Sequence[str],
    *,
    max_side: int | None = None,
    allocate: Allocate = in_memory,
    progress: Progress | None = None,
    scale: Choose | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Read images onto one canvas.

    Images of one size, not above `max_side`, are kept as they are. Otherwise the canvas is square, images
    whose longer side exceeds `max_side` are scaled down (antialiased bicubic, aspect kept), and each is placed in
    the upper left corner; the rest of the canvas repeats its border.

    Args:
        root: the folder that `names` start from.
        names: relative paths.
        max_side: in pixels; None means 256 where sizes differ, and no limit where they do not.
        allocate: makes the array of pixels.
        progress: called in this thread with (done, total) images; measuring an image is half of the work.
        scale: of greys of more than 8 bits; None: from 0 to 65,535.

    Returns:
        pixels (N,3,S,T) and sizes (N,2), the height and width that each image fills.

    Raises:
        DataError: images are broken; counts all of them and names the first five.
    """
    job = _Job(root, names, progress)
    canvas = job.measure(max_side)
    if scale is not None:
        job.choose(scale)
    pixels = allocate((len(names), 3, canvas.height, canvas.width))
    sizes = np.empty((len(names), 2), np.int32)
    job.lay(canvas, pixels, sizes)
    if job.broken:
        raise job.failure()
    return pixels, sizes


def decode_readable(
    paths: Sequence[Path | bytes], *, max_side: int, greys: Greys | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int32], dict[int, str]]:
    """Read images as `decode` does, but continue after broken ones.

    The pixels of an image do not depend on the others: only the canvas does.

    Args:
        paths: of the files, or the content of files.
        max_side: images whose longer side exceeds it, in pixels, are scaled down to it.
        greys: the scale of greys of more than 8 bits; None: from 0 to 65,535.

    Returns:
        pixels (M,3,S,T) and sizes (M,2) of the M images that can be read, in order; and for each of the others the
        reason, by its place in `paths`.
    """
    job = _Job(Path(), [str(path) if isinstance(path, Path) else "" for path in paths], None)
    job.contents = {place: one for place, one in enumerate(paths) if isinstance(one, bytes)}
    job.greys = greys or job.greys
    try:
        canvas = job.measure(max_side)
    except DataError:  # not one has a size
        return np.empty((0, 3, 1, 1), np.uint8), np.empty((0, 2), np.int32), job.broken
    pixels = in_memory((len(paths), 3, canvas.height, canvas.width))
    sizes = np.empty((len(paths), 2), np.int32)
    job.lay(canvas, pixels, sizes)
    whole = [place for place in range(len(paths)) if place not in job.broken]
    return pixels[whole], sizes[whole], job.broken


class Look(NamedTuple):
    """Describe the content of one image file."""

    height: int
    """Height of the upright image, in pixels; `width` likewise."""
    width: int
    kinds: tuple[str, ...]
    """Its deviations from 8-bit RGB, of `KINDS`; empty for 8-bit RGB."""
    digest: bytes
    """16 bytes; equal for equal decoded pixels and size, at full resolution."""
    trace: Trace | None = None
    """Trace to find near copies; None where it was not asked for, or the image shows too little."""


def survey(
    root: Path,
    names: Sequence[str],
    *,
    progress: Progress | None = None,
    scale: Choose | None = None,
    traced: bool = False,
) -> list[Look | str]:
    """Decode every image, keep none, and describe each, in order; for a broken one, return the reason.

    Args:
        root: the folder that `names` start from.
        names: relative paths.
        progress: called in this thread with (done, total) images.
        scale: of greys of more than 8 bits; None: from 0 to 65,535.
        traced: whether traces to find near copies are computed, too.
    """
    job = _Job(root, names, progress)
    if scale is not None:
        job.each(job.stored_size)
        job.choose(scale)
    looks = iter(job.each(lambda _, path: _look(path, job.greys, traced), halves_before=0, halves=2))
    return [job.broken[place] if place in job.broken else next(looks) for place in range(len(names))]


class _Job:
    """Hold the files being read and the faults found in them."""

    def __init__(self, root: Path, names: Sequence[str], progress: Progress | None) -> None:
        self.root = root
        self.names = names
        self.progress = progress
        self.broken: dict[int, str] = {}
        """Reasons why images could not be read, by place."""
        self.contents: dict[int, bytes] = {}
        """Images that are not in files, by place."""
        self.greys = Greys()
        self._deep: list[int] = []

    def stored_size(self, place: int, path: File) -> tuple[int, int]:
        """Read height and width from the head of the file; deep images are remembered."""
        with _opened(path) as image:
            if is_deep(image):
                self._deep.append(place)
            return image.height, image.width

    def choose(self, scale: Choose) -> None:
        """Settle the scale of greys, from images that have been measured."""

        def one(place: int, path: File) -> tuple[int, Range]:
            with _opened(path) as image:
                return place, range_of(image)

        self.greys = scale(dict(self.each(one, among=sorted(self._deep))))

    def measure(self, max_side: int | None) -> Canvas:
        """Compute the canvas that fits all images."""
        sizes = set(self.each(self.stored_size, halves_before=0))
        sides = {frozenset(size) for size in sizes}
        if len(sides) == 1 and len(sides.pop()) == 2:
            # All have the same two different sides: they are equal if all are landscape or all are portrait.
            sizes = set(self.each(_shown_size))
        if not sizes:
            raise self.failure()
        longest = max(max(size) for size in sizes)
        if len(sizes) == 1 and (max_side is None or longest <= max_side):
            height, width = sizes.pop()
            return Canvas(height, width, longest)
        side = min(longest, DEFAULT_SIDE if max_side is None else max_side)
        return Canvas(side, side, side)

    def lay(self, canvas: Canvas, pixels: NDArray[np.uint8], sizes: NDArray[np.int32]) -> None:
        """Decode every image into its place of `pixels` and `sizes`."""
        plain = np.asarray(pixels)  # slices of a memmap cost more than the decoding of a small image

        def lay_one(place: int, path: File) -> None:
            image = _pixels(path, canvas.longest, self.greys)
            height, width = image.shape[:2]
            if height > canvas.height or width > canvas.width:
                raise ValueError("it was changed while the images were being read")
            sizes[place] = height, width
            slot = plain[place]
            slot[:, :height, :width] = image.transpose(2, 0, 1)
            if width < canvas.width:
                slot[:, :height, width:] = slot[:, :height, width - 1 : width]
            if height < canvas.height:
                slot[:, height:] = slot[:, height - 1 : height]

        self.each(lay_one, halves_before=len(self.names))

    def _file(self, place: int) -> File:
        return BytesIO(self.contents[place]) if place in self.contents else self.root / self.names[place]

    def failure(self) -> DataError:
        """Build the error that counts the broken images and names the first five."""
        named = [f"{self.names[place]} ({self.broken[place]})" for place in sorted(self.broken)[:5]]
        more = f"; and {len(self.broken) - 5} more" if len(self.broken) > 5 else ""
        them = "it" if len(self.broken) == 1 else "them"
        return DataError(
            f"{len(self.broken)} of {len(self.names)} images in {self.root} cannot be read: "
            f"{'; '.join(named)}{more}: replace {them} or remove {them}"
        )

    def each(
        self,
        read: Callable[[int, File], _T],
        halves_before: int | None = None,
        halves: int = 1,
        among: Sequence[int] | None = None,
    ) -> list[_T]:
        """Yield the result of `read` for every image that is not broken (those `among` places, if given), in order.

        For the progress: `halves` of the work on an image are done here, `halves_before` of that on all were before.
        """
        places = range(len(self.names)) if among is None else among
        places = [place for place in places if place not in self.broken]
        chunks = [places[start : start + _CHUNK] for start in range(0, len(places), _CHUNK)]

        def read_some(chunk: list[int]) -> list[_T]:
            results = []
            for place in chunk:
                try:
                    results.append(read(place, self._file(place)))
                except Exception as error:  # Pillow's readers raise anything on a broken file
                    raise_if_out_of_memory(error)
                    self.broken[place] = _reason(error)
            return results

        results: list[_T] = []
        pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
        try:
            for chunk, some in zip(chunks, pool.map(read_some, chunks), strict=True):
                results += some
                if self.progress is not None and halves_before is not None:
                    halves_before += halves * len(chunk)
                    self.progress(halves_before // 2, len(self.names))
        finally:
            pool.shutdown(cancel_futures=True)
        return results


def _opened(path: File) -> Image.Image:
    try:
        return Image.open(path, formats=read_formats())
    except UnidentifiedImageError:
        if isinstance(path, Path):
            with path.open("rb") as file:  # read only then: on network file systems every access costs
                head = file.read(12)
        else:
            head = path.getvalue()[:12]
        if not head:
            raise ValueError("it is empty") from None
        remedy = remedy_of(head)
        if remedy is not None:
            raise ValueError(remedy) from None
        raise


def _shown_size(_: int, path: File) -> tuple[int, int]:
    """Return height and width of the upright image."""
    with _opened(path) as image:
        turned = _orientation(image) in _ON_ITS_SIDE
        return (image.width, image.height) if turned else (image.height, image.width)


def _pixels(path: File, longest: int, greys: Greys) -> NDArray[np.uint8]:
    """Return one image as (height, width, 3), upright, scaled down to `longest` where its longer side exceeds it."""
    with _opened(path) as image:
        return _loaded(image, longest, greys)


def _loaded(image: Image.Image, longest: int, greys: Greys) -> NDArray[np.uint8]:
    size = _scaled(image.size, longest)
    # A JPEG can be decoded at a half, a quarter or an eighth: large photographs become cheap.
    drafted = size != image.size and image.draft(None, (2 * size[0], 2 * size[1]))
    image.load()
    if not drafted:  # Pillow turns TIFFs while loading
        size = _scaled(image.size, longest)
    turn = _UPRIGHT.get(_orientation(image))
    rgb = _rgb(image, greys)
    if rgb.size != size:
        rgb = rgb.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(rgb if turn is None else rgb.transpose(turn))


def _look(path: File, greys: Greys, traced: bool) -> Look:
    with _opened(path) as image:
        kinds = colours_of(image)
        pixels = _loaded(image, sys.maxsize, greys)
        if has_frames(image):
            kinds.append("several frames")
        if _orientation(image) in _UPRIGHT:
            kinds.append("turned by EXIF")
    height, width = pixels.shape[:2]
    digest = blake2b(f"{height} {width} ".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return Look(height, width, tuple(kinds), digest.digest(), trace_of(pixels) if traced else None)


def _scaled(size: tuple[int, int], longest: int) -> tuple[int, int]:
    if max(size) <= longest:
        return size
    width, height = (max(1, round(side * longest / max(size))) for side in size)
    return width, height


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) where none can be read."""
    if image.format == "TIFF":
        image.load()  # Pillow turns it here; read earlier, the tag would be applied twice
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception as error:  # broken EXIF data does not make a broken image, and Pillow raises anything on it
        raise_if_out_of_memory(error)
        return 1
    return orientation if isinstance(orientation, int) else 1


def _rgb(image: Image.Image, greys: Greys) -> Image.Image:
    if has_deep_greys(image):
        image = as_eight_bits(image, greys)
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        page.alpha_composite(image.convert("RGBA"))
        image = page
    return image if image.mode == "RGB" else image.convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow knows"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
