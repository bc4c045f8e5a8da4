"""List or decode a named data set: an image tree, or the publisher's files by its `NamedSource`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lgkd.data.catalogue import DataSetInfo, PublishedFile, bundled, published
from lgkd.data.image_folder import read_labelled, read_tree
from lgkd.data.listing import Fault, Listing, refuse
from lgkd.data.locations import Downloading, absent, published_file, tree_folder
from lgkd.data.sources.source import LoadRequest, Source, source_of

if TYPE_CHECKING:
    from lgkd.data.dataset import DataSet


class Named(Source):
    """Read a named data set.

    Args:
        info: its row of the catalogue.
        data_dir: folder of named sets.
        offline, downloading: as for `lgkd.load_dataset`.
    """

    def __init__(
        self, info: DataSetInfo, data_dir: str | Path | None, *, offline: bool, downloading: Downloading | None
    ) -> None:
        self.info, self.name, self.text, self.place = info, info.name, info.name, None
        self._data_dir, self._offline, self._downloading = data_dir, offline, downloading

    def load(
        self, max_side: int | None, use_cache: bool, progress: Callable[[int, int], None] | None
    ) -> "DataSet | None":
        """Decode a bundled dataset, or the publisher's archive without an image tree; else return None."""
        info = self.info
        if not bundled(info) and (tree_folder(info, self._data_dir) is not None or not published(info)):
            return None

        def find(file: PublishedFile) -> Path:
            return published_file(info, file, self._data_dir, offline=self._offline, downloading=self._downloading)

        return source_of(info).load(info, LoadRequest(find, max_side, use_cache, progress))

    def listing(self, *, fault: Fault = refuse) -> Listing:
        """List the image tree. Its validation split is not used beside a test split, as published results have it."""
        info, place = self.info, tree_folder(self.info, self._data_dir)
        if place is None:
            raise absent(info, self._data_dir, as_tree=True)
        tree = read_tree(place, trains_on=info.trains_on, fault=fault, selects=False)
        if len(tree.classes) != info.classes:
            fault(
                f"{place} has {len(tree.classes)} classes, {info.name} has {info.classes}: "
                f"it is another data set, or a part of this one is missing"
            )
        notes = (*tree.notes, *_part_of(info, tree))
        return Listing(tree.root, tree.classes, tree.train, tree.test, notes)

    def labelled(self, known: tuple[str, ...]) -> tuple[Listing, str]:
        """List the test split of the image tree."""
        return read_labelled(self.listing().root, known)


def _part_of(info: DataSetInfo, tree: Listing) -> list[str]:
    """Write notes where a tree holds another number of images than was published."""
    splits = (("training", len(tree.train), info.train), ("test", len(tree.test or ()), info.test))
    return [
        f"{found:,} {split} images found, {info.name} was published with {published:,}"
        for split, found, published in splits
        if found != published
    ]
