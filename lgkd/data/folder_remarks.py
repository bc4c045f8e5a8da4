"""Write remarks on the layout of a folder of images. No torch."""

from pathlib import Path

from lgkd._internal.text import listed
from lgkd.data.listing import File


def nested_remarks(folder: Path, classes: tuple[str, ...], files: tuple[File, ...], above: int) -> tuple[str, ...]:
    """Write the remark for class folders that hold only folders, which may be the classes that were meant.

    One folder of the same name in every class, such as `images`, groups nothing.

    Args:
        folder: holds the class folders.
        classes: their names.
        files: theirs.
        above: number of folders before the class in a file's path.
    """
    groups: dict[tuple[str, str], None] = {}
    for file in files:
        parts = file.path.split("/")[above:]
        if len(parts) < 3:
            return ()
        groups[parts[0], parts[1]] = None
    if len({inner for _, inner in groups}) < 2:
        return ()
    named = [f"{outer}/{inner}" for outer, inner in groups]
    return (
        f"every class folder of {folder} holds only folders ({listed(named)}): trained on are the outer ones "
        f"({listed(list(classes))}); if the inner ones are the classes, move them directly into {folder}",
    )
