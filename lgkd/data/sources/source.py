"""Define a source of labelled images, and find the one that a text such as `--dataset` names.

A `Source` lists the images of a data set with labels, splits and groups, and everything else follows from the listing:
decoding and its cache, checks, dry runs, evaluation. A new kind of source takes one module here with a function
`open_source`, and one row in `_KINDS`. Named data sets are one kind (`lgkd.data.sources.named`): each has a row in
`lgkd.data.catalogue` with its facts, and a module with a `NamedSource` that adds the code. No torch here.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from lgkd._internal.text import did_you_mean
from lgkd.data.catalogue import CATALOGUE, ROWS, DataSetInfo, PublishedFile
from lgkd.data.image_folder import LAYOUT
from lgkd.data.listing import Fault, Listing, refuse
from lgkd.data.locations import Downloading
from lgkd.data.sources.publisher_files import PublisherFiles
from lgkd.errors import DataError, InputError

if TYPE_CHECKING:
    from lgkd.data.dataset import DataSet
    from lgkd.data.sources.rows import Labels

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
    """List the labelled images of one data set.

    Attributes:
        name: of the data set, as `DataSet.name`.
        text: as the user wrote it, for messages.
        place: text that finds it again, in run.json; None for a name of the catalogue.
    """

    name: str
    text: str
    place: str | None

    def listing(self, *, fault: Fault = refuse) -> Listing:
        """List the images of every split; nothing is decoded.

        Args:
            fault: called for every fault that prevents a training; where it returns, the rest is listed.

        Raises:
            DataError: the data set does not have the expected form; and from `refuse`.
        """
        ...

    def labelled(self, known: tuple[str, ...]) -> tuple[Listing, str]:
        """List the images to score a classifier on as the test split of a listing, labelled by their places in `known`.

        These are the test split, else the only one. The second value names that split, "" for all images.

        Raises:
            DataError: a class is not one of `known`, or there are no images.
        """
        ...

    def check(self) -> None:
        """Refuse a data set without images where that can be seen at once; the listing reports all other faults.

        Raises:
            DataError: there are none.
        """
        return

    def rows(self, fault: Fault) -> "Labels | None":  # noqa: ARG002
        """List all images with their labels, whatever their split and class; None where folders have them.

        Args:
            fault: called for images that are missing or repeated, or have no label.
        """
        return None

    def group_column(self) -> str | None:
        """Return the name of the column of groups; None where there is none."""
        return None

    def multi_label(self) -> bool:
        """Return True if an image may have several labels."""
        return False

    def load(
        self,
        max_side: int | None,  # noqa: ARG002
        use_cache: bool,  # noqa: ARG002
        progress: Callable[[int, int], None] | None,  # noqa: ARG002
    ) -> "DataSet | None":
        """Decode images that cannot be listed; None for all others. The arguments are those of `LoadRequest`."""
        return None


class NamedSource(Protocol):
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


class Kind(NamedTuple):
    """Describe how a kind of source is recognised; its module has the function `open_source`."""

    module: str
    """In `lgkd/data/sources/`."""
    form: str
    """How it is written, for messages."""
    prefix: str = ""
    """Beginning of the text; the text is not a path then."""
    endings: tuple[str, ...] = ()
    """Of the name of a file."""
    markers: tuple[str, ...] = ()
    """Names of files, one of which is in a folder of this kind; "" for any folder."""


_KINDS = (
    Kind("hugging_face", "hf:OWNER/NAME of the Hugging Face hub", prefix="hf:"),
    Kind(
        "table",
        "a table .csv, .tsv or .parquet of path,label or path,labels",
        endings=(".csv", ".tsv", ".parquet"),
    ),
    Kind("hugging_face", "a folder of datasets' save_to_disk", markers=("dataset_dict.json", "dataset_info.json")),
    Kind("folder", f"a folder: {LAYOUT}", markers=("",)),
)


class RecordedText(str):
    """Hold the text of a data set that a run's folder records, and no user typed: nothing is downloaded for it."""

    __slots__ = ()


def find_source(
    dataset: str | Path,
    *,
    data_dir: str | Path | None = None,
    offline: bool = False,
    downloading: Downloading | None = None,
) -> Source:
    """Find the source of a data set by its name, file or folder; its content is not read.

    Args:
        dataset: a name of the catalogue, else a text of `_KINDS`; a `Path` is never a name.
        data_dir: folder of named sets.
        offline: open no connection.
        downloading: called while a published file is downloaded.

    Raises:
        InputError: neither a name nor any of these.
    """
    if isinstance(dataset, str) and dataset in CATALOGUE:
        named = import_module("lgkd.data.sources.named")  # which imports this module
        found: Source = named.Named(CATALOGUE[dataset], data_dir, offline=offline, downloading=downloading)
        return found
    offline = offline or isinstance(dataset, RecordedText)
    kind, place = _kind_of(dataset)
    if kind is None:
        raise _unknown(dataset, place)
    source: Source = import_module(f"lgkd.data.sources.{kind.module}").open_source(place or str(dataset), offline)
    return source


def is_source(dataset: str | Path) -> bool:
    """Return False where a data set is neither a name nor a file or folder that is there."""
    return (isinstance(dataset, str) and dataset in CATALOGUE) or _kind_of(dataset)[0] is not None


def source_place(dataset: str | Path) -> str | None:
    """Return the text that finds a data set again from any working folder; None for a name of the catalogue."""
    if isinstance(dataset, str) and dataset in CATALOGUE:
        return None
    return str(dataset) if has_prefix(dataset) else str(Path(dataset).expanduser().resolve())


def has_prefix(dataset: str | Path) -> bool:
    """Return True for a text that is not a path."""
    return isinstance(dataset, str) and any(kind.prefix and dataset.startswith(kind.prefix) for kind in _KINDS)


def is_table(place: Path) -> bool:
    """Return True for the name of a file that lists images."""
    return any(place.suffix.lower() in kind.endings for kind in _KINDS)


def source_of(info: DataSetInfo) -> NamedSource:
    """Import the module that reads a named set and return its source."""
    source: NamedSource = import_module(f"lgkd.data.sources.{ROWS[info.name].source}").SOURCE
    return source


def _kind_of(dataset: str | Path) -> tuple[Kind | None, Path | None]:
    """Return the kind of an existing source, and its path; of a text with a prefix there is none."""
    if has_prefix(dataset):
        return next(kind for kind in _KINDS if kind.prefix and str(dataset).startswith(kind.prefix)), None
    try:
        place = Path(dataset).expanduser()
    except RuntimeError:  # "~" without a home folder: the sign itself
        place = Path(dataset)
    if not str(dataset).strip():
        return None, place
    if place.is_dir():
        found = (kind for kind in _KINDS if any(not one or (place / one).is_file() for one in kind.markers))
    else:
        found = (kind for kind in _KINDS if place.suffix.lower() in kind.endings and place.is_file())
    return next(found, None), place


def _unknown(dataset: str | Path, place: Path | None) -> InputError:
    forms = ", or ".join(dict.fromkeys(kind.form for kind in reversed(_KINDS)))
    expected = f"a data set is one of {', '.join(sorted(CATALOGUE))}, or {forms}"
    if not str(dataset).strip():
        return InputError(f"the name of the data set is empty: {expected}")
    if place is not None and place.exists():
        return InputError(f"{str(dataset)!r} is a file: {expected}")
    if place is not None and is_table(place):
        return DataError(f"there is no table {place}; expected a file with the columns path and label")
    if isinstance(dataset, Path):
        return DataError(f"no folder {dataset}: expected {LAYOUT}")
    return InputError(
        f"{dataset!r} is neither a known data set nor a folder; {did_you_mean(dataset, CATALOGUE)} (a folder holds "
        f"{LAYOUT})"
    )
