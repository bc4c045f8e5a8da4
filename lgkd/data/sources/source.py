"""Define how a named data set is read: the `Source` that a module of `lgkd/data/sources/` provides.

A row in `lgkd.data.catalogue` holds the facts: classes, counts, folders, the publisher's files and checksums. From them
`lgkd.data.locations` finds a set on disk and downloads it, and a dry run outlines it. A source adds only code: it
decodes the publisher's files or lays them out. Image trees are read by `lgkd.data.load` without it. No torch here.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from lgkd.data.catalogue import ROWS, DataSetInfo, PublishedFile
from lgkd.data.sources.publisher_files import PublisherFiles

if TYPE_CHECKING:
    from lgkd.data.dataset import DataSet

Find = Callable[[PublishedFile], Path]
"""Returns the path of a published file, downloaded where it is not here, its checksum verified."""


class LoadRequest(NamedTuple):
    """Hold the arguments of `lgkd.load_dataset` that a source takes into account."""

    find: Find
    max_side: int | None
    """Longest side of an image, in pixels; None for no limit."""
    use_cache: bool
    """True to keep decoded images in the user's store."""
    progress: Callable[[int, int], None] | None
    """Called with (done, total) images while they are decoded."""


class Source(Protocol):
    """Read a named data set from the files of its publisher."""

    def load(self, info: DataSetInfo, request: LoadRequest) -> "DataSet | None":  # noqa: ARG002
        """Decode a set that is bundled, or published as `files` of its row, where no image tree of it was found.

        Returns:
            The decoded set; None where the files were laid out as an image tree in `lgkd.data.locations.arranged`
            instead, which is then read as any other.

        Raises:
            MissingError: a file cannot be had.
            DataError: a file is not the published one.
        """
        return None

    def layout(self, info: DataSetInfo, files: PublisherFiles) -> dict[str, str]:  # noqa: ARG002
        """Map every image of the publisher's to its path in the image tree, for `lgkd arrange`.

        Called only for sets with `info.lists`. Keys are names as `files.full` returns them; nothing is written here.

        Raises:
            DataError: lists or images are missing, counts are wrong, or a name points outside.
        """
        return {}


def source_of(info: DataSetInfo) -> Source:
    """Import the module that reads a named set and return its source."""
    source: Source = import_module(f"lgkd.data.sources.{ROWS[info.name].source}").SOURCE
    return source
