"""List a folder of images with a folder for each class."""

from pathlib import Path

from lgkd.data.image_folder import check_some_image, read_labelled, read_tree
from lgkd.data.listing import Fault, Listing, refuse
from lgkd.data.sources.source import Source


class Folder(Source):
    """List FOLDER/train/CLASS/* with test and val beside it, or FOLDER/CLASS/*."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name, self.text = root.resolve().name, str(root)
        self.place = str(root.resolve())

    def listing(self, *, fault: Fault = refuse) -> Listing:
        """List all splits, see `read_tree`."""
        return read_tree(self.root, fault=fault)

    def labelled(self, known: tuple[str, ...]) -> tuple[Listing, str]:
        """List the images to score, see `read_labelled`."""
        return read_labelled(self.root, known)

    def check(self) -> None:
        """Refuse a folder without any image, see `check_some_image`."""
        check_some_image(self.root)


def open_source(place: Path, offline: bool) -> Folder:  # noqa: ARG001
    """Return the source of a folder."""
    return Folder(place)
