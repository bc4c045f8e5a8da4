"""Make a listing of images whose labels and splits are given row by row, and not by folders. No torch."""

from collections import Counter
from collections.abc import Collection, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple

from lgkd._internal.text import counted, listed, safe_text
from lgkd.data.listing import Fault, File, Listing, Read
from lgkd.errors import DataError

Role = Literal["train", "test", "val"]

_NAMES: dict[Role, tuple[str, ...]] = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "val": ("val", "valid", "validation", "dev"),
}
ROLES: dict[str, Role] = {name: role for role, names in _NAMES.items() for name in names}
"""Roles of splits by their names, in lower case."""

_EVALUATED: tuple[Role, ...] = ("test", "val")

PATHS = (
    "path", "file", "filename", "file_name", "filepath", "file_path", "fname", "image", "image_path", "img", "img_path",
)  # fmt: skip
SPLITS = ("split", "subset", "set", "partition", "is_valid")
LABELS = ("label", "labels", "class", "class_name", "category", "target")
GROUPS = ("group", "groups", "group_id", "patient", "patient_id", "subject", "subject_id")
"""Names of columns, the first of which is taken where there are several."""
LISTS = ("labels", "tags")
"""Those of lists of labels, in a table that has no column of one label."""


class Row(NamedTuple):
    """Describe one labelled image."""

    path: str
    """Name of the image below the root; each occurs once."""
    label: str
    """Name of its class."""
    role: Role
    size: int
    mtime_ns: int
    group: str | None = None
    classes: tuple[str, ...] | None = None
    """Of several labels an image all of them, sorted; `label` is "" then."""


class Labels(NamedTuple):
    """Hold the rows of a data set.

    Attributes:
        root: folder of the images.
        text: of the source, for messages.
        place: of the source.
        rows: of all images that are used.
        notes: for the user.
        read: as for `Listing`.
        classes: of a data set with several labels an image, sorted; None for one label an image.
    """

    root: Path
    text: str
    place: str
    rows: Sequence[Row]
    notes: tuple[str, ...] = ()
    read: Read | None = None
    classes: tuple[str, ...] | None = None

    def listing(self, fault: Fault) -> Listing:
        """Sort the images into splits and classes, as a folder of them would be.

        Raises:
            DataError: there are no training images; and from `refuse`.
        """
        shown = safe_text(self.text, 300)
        if not any(row.role == "train" for row in self.rows):
            raise DataError(
                f"{shown} has no training images ({_counted_roles(self.rows)}); expected rows with the split train, or "
                "no splits"
            )
        classes = self.classes or tuple(sorted({row.label for row in self.rows if row.role == "train"}))
        if len(classes) < 2:
            name = safe_text(next(iter(classes), ""))
            fault(f"{shown} has one class only, {name!r}: at least two are needed, check the labels")
        splits = {role: self._files(role, classes) for role in _EVALUATED}
        notes = list(self.notes)
        for role in _EVALUATED:
            foreign = sorted(self._named(role) - set(classes))
            if foreign:
                fault(
                    f"{shown} has {counted(len(foreign), 'class')} in {role} that train lacks: {listed(foreign)}; "
                    "every class must be trained on"
                )
        notes += self._about_sets(classes)
        test, val = splits["test"] or None, splits["val"] or None
        if test is None and val is not None:
            test, val = val, None
            notes.append("no split test: accuracy is reported on val")
        tested: Role = "test" if splits["test"] else "val"
        if test is not None and (absent := sorted(set(classes) - self._named(tested))):
            names = listed(absent)
            notes.append(f"test has no images of {counted(len(absent), 'class')}: {names}")
        return self._listing(classes, self._files("train", classes), test, val, notes)

    def labelled(self, known: tuple[str, ...]) -> tuple[Listing, str]:
        """List the images to score a classifier on, see `Source.labelled`.

        Raises:
            DataError: as for `Source.labelled`.
        """
        roles = {row.role for row in self.rows}
        role: Role = next((one for one in _EVALUATED if one in roles), "train")
        # A column of a class counts although no image has it: its images are examples of none.
        foreign = sorted((self._named(role) | set(self.classes or ())) - set(known))
        if foreign or not roles:
            raise DataError(
                f"{safe_text(self.text, 300)} has {counted(len(foreign), 'class')} that the student does not know: "
                f"{listed(foreign)}; expected labels that are its classes ({listed(list(known))}), or some of them"
                if foreign
                else f"{safe_text(self.text, 300)} has no images; expected rows of labelled images"
            )
        unused = sorted(roles - {role})
        notes = [*self.notes, *([f"not used: {listed(unused)}, beside {role}"] if unused else [])]
        return self._listing(known, (), self._files(role, known), None, notes), role if len(roles) > 1 else ""

    def _named(self, role: Role) -> set[str]:
        """Return the classes of the images of a split."""
        rows = [row for row in self.rows if row.role == role]
        return {name for row in rows for name in ((row.label,) if row.classes is None else row.classes)}

    def _about_sets(self, classes: Sequence[str]) -> list[str]:
        """Write the notes on several labels an image."""
        if self.classes is None:
            return []
        counts = [len(row.classes or ()) for row in self.rows if row.role == "train"]
        lacking = sorted(set(classes) - self._named("train"))
        return [
            f"several labels an image: {sum(counts) / max(1, len(counts)):.2f} of {len(classes)} classes on average, "
            f"{counted(counts.count(0), 'image')} with none",
            *([f"{safe_text(self.text, 300)} trains on no image of {listed(lacking)}"] if lacking else []),
        ]

    def _files(self, role: Role, classes: Sequence[str]) -> tuple[File, ...]:
        label = {name: place for place, name in enumerate(classes)}
        files = (
            File(row.path, 0 if row.classes is not None else label[row.label], row.size, row.mtime_ns)
            for row in self.rows
            if row.role == role and (row.classes is not None or row.label in label)
        )
        return tuple(sorted(files, key=lambda file: (file.label, file.path)))

    def _listing(
        self,
        classes: tuple[str, ...],
        train: tuple[File, ...],
        test: tuple[File, ...] | None,
        val: tuple[File, ...] | None,
        notes: Collection[str],
    ) -> Listing:
        groups = {row.path: row.group or "" for row in self.rows} if any(row.group for row in self.rows) else None
        # Unlike those of a folder, paths do not determine the labels that the fingerprint depends on.
        sets = self._sets(classes)
        named = [(f.path, f.label if sets is None else sets[f.path]) for f in (*train, *(test or ()))]
        labels = sha256(repr((classes, named)).encode())
        key = (self.place, labels.hexdigest())
        return Listing(self.root, classes, train, test, tuple(notes), val, self.read, groups, key, sets)

    def _sets(self, classes: Sequence[str]) -> dict[str, tuple[int, ...]] | None:
        """Return the places of the classes of every image by its path; None for one label an image."""
        if self.classes is None:
            return None
        place = {name: number for number, name in enumerate(classes)}
        return {row.path: tuple(place[name] for name in row.classes or () if name in place) for row in self.rows}


def check_groups(rows: Sequence[Row], place: str, fault: Fault) -> None:
    """Call `fault` where only some of the images have a group."""
    lacking = [row.path for row in rows if not row.group]
    if lacking and len(lacking) < len(rows):
        fault(
            f"{len(lacking):,} of {len(rows):,} rows of {safe_text(place, 300)} have no group: {listed(lacking, 3)}; "
            "fill the column, or remove it"
        )


def column_of(names: Sequence[str], aliases: Sequence[str], what: str, place: str) -> str | None:
    """Return the column with one of some names, the first name if it is there; None where there is none.

    Raises:
        DataError: there are several of the other names.
    """
    found = [name for name in names if name.strip().lower() in aliases]
    exact = [name for name in found if name.strip().lower() == aliases[0]]
    if len(found) > 1 and len(exact) != 1:
        raise DataError(
            f"{safe_text(place, 300)} has several columns for the {what}: {listed(found)}; expected one, call it "
            f"{aliases[0]}"
        )
    return next(iter(exact or found), None)


def _counted_roles(rows: Sequence[Row]) -> str:
    counts = Counter(row.role for row in rows)
    return ", ".join(f"{number:,} in {role}" for role, number in counts.items()) or "no rows"
