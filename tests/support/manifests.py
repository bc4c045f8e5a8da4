"""Manifests of folders that a test has changed on purpose, as whoever forges one would change them, too."""

from pathlib import Path

from lgkd._internal.manifest import MANIFEST, read_manifest, write_manifest


def reseal(folder: Path) -> None:
    """Write a folder's manifest anew, over the files that it lists and that are there; nothing where it has none."""
    # A checkpoint's manifest is another one, without a checksum.
    if not (folder / MANIFEST).is_file() or b'"checksum"' not in (folder / MANIFEST).read_bytes():
        return
    manifest = read_manifest(folder)
    assert manifest is not None
    there = {name: entry for name, entry in manifest.items() if (folder / name).is_file()}
    write_manifest(
        folder,
        [name for name, entry in there.items() if entry.sha256 is not None],
        {name: entry.blocks for name, entry in there.items() if entry.sha256 is None},
    )
