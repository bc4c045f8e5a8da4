"""Name data sets and subsets in folders, cards and run.json."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from lgkd.data.catalogue import CATALOGUE
from lgkd.data.groups import Groups
from lgkd.data.sources.source import RecordedText, has_prefix, is_source, is_table, source_place
from lgkd.errors import InputError

_WITHOUT = "without near copies"
_TEXT = re.compile(
    r"(?:(?:fraction (?P<fraction>[\d.e-]{1,20})|(?P<per_class>\d{1,18}) images per class)(?:, )?)?"
    r"(?:(?:fold (?P<fold>\d{1,6}) of (?P<of>\d{1,6})|(?P<folds>\d{1,6}) folds))?"
    r"(?:, seed (?P<seed>\d{1,18}))?"
    rf"(?:, )?(?P<without>{_WITHOUT})?"
    r"(?:, grouped by (?P<groups>.{1,2000}))?"
)
_LEAST_FOLDS = 2


def dataset_key(source: str | Path) -> str:
    """Return the name under which teachers of a data set are stored; a safe name of a folder."""
    if isinstance(source, str) and source in CATALOGUE:
        return source
    if has_prefix(source):
        return folder_word(str(source).partition(":")[2]) or "folder"
    place = Path(source).expanduser().resolve()
    return folder_word(f"{place.parent.name}-{place.stem}" if is_table(place) else place.name) or "folder"


def place_of(source: str | Path) -> str | None:
    """Return the text that run.json keeps of a data set; None for a name of the catalogue."""
    return source_place(source)


def source_at(place: str) -> str | Path | None:
    """Resolve the data set path that a run recorded; None where nothing exists there any more."""
    if has_prefix(place):
        return RecordedText(place)
    return Path(place) if is_source(Path(place)) else None


@dataclass(frozen=True)
class Subset:
    """Describe the part of the training images that a model sees; without arguments it is all of them.

    Attributes:
        fraction: share of the images of every class, above 0 and at most 1.
        per_class: number of images of every class.
        seed: selects the images.
        without_near_copies: whether near copies of test images or of earlier training images are left out.
        folds: number of folds of a cross-validation, of which one is the test split; None: it has its own.
        fold: which one is tested on, from 1; None: each in turn.
        groups: name of the groups that are not divided by folds; None: images are the units.

    Raises:
        InputError: `fraction` and `per_class` were both given, a fold without folds, or one is out of range.
    """

    fraction: float | None = None
    per_class: int | None = None
    seed: int = 0
    without_near_copies: bool = False
    folds: int | None = None
    fold: int | None = None
    groups: str | None = None

    def __post_init__(self) -> None:
        fraction, per_class = self.fraction, self.per_class
        if fraction is not None and per_class is not None:
            raise InputError(f"--fraction {fraction:g} and --images-per-class {per_class} were both given; choose one")
        if fraction is not None and not 0 < fraction <= 1:
            raise InputError(f"--fraction is {fraction:g}, expected a number above 0 and at most 1")
        if per_class is not None and per_class < 1:
            raise InputError(f"--images-per-class is {per_class}, expected at least 1")
        if self.seed < 0:
            raise InputError(f"--subset-seed is {self.seed}, expected 0 or more")
        if self.folds is not None and self.folds < _LEAST_FOLDS:
            raise InputError(f"--folds is {self.folds}, expected at least {_LEAST_FOLDS}")
        if self.fold is not None and self.folds is None:
            raise InputError(f"--fold {self.fold} has no number of folds; add --folds, like --folds 5")
        if self.fold is not None and not 1 <= self.fold <= (self.folds or 0):
            raise InputError(f"--fold is {self.fold}, expected 1 to {self.folds}")

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "Subset":
        """Read the part that the options of a training choose; options that are not given are left at all images."""
        folds, groups = options.get("folds"), Groups.parse(options.get("groups"))
        return cls(
            options.get("fraction"),
            options.get("images_per_class"),
            options.get("subset_seed") or 0,
            bool(options.get("leave_out_near_copies")),
            folds,
            options.get("fold"),
            groups.name if groups is not None and folds is not None else None,
        )

    @classmethod
    def parse(cls, text: str) -> "Subset | None":
        """Read the text of a card or a run.json; None where it is not what `text` writes."""
        match = _TEXT.fullmatch(text)
        if match is None:
            return None
        fraction, per_class, seed, without = match.group("fraction", "per_class", "seed", "without")
        fold, of, folds, groups = match.group("fold", "of", "folds", "groups")
        try:
            found = cls(
                float(fraction) if fraction else None,
                int(per_class) if per_class else None,
                int(seed or 0),
                without is not None,
                int(of or folds) if of or folds else None,
                int(fold) if fold else None,
                groups,
            )
        except (ValueError, InputError):
            return None
        return found if found.text == text else None

    def __str__(self) -> str:
        return ", ".join(self._words(seed=True)) or "all images"

    @property
    def text(self) -> str | None:
        """Return the subset as a card and run.json hold it; None for all images."""
        return ", ".join(self._words(seed=True)) or None

    @property
    def text_without_seed(self) -> str | None:
        """Return `text` without the seed and the number of the fold, equal for all seeds and folds."""
        return ", ".join(replace(self, fold=None)._words(seed=False)) or None

    @property
    def each_fold(self) -> list["Subset"]:
        """Return the subset of each fold."""
        return [replace(self, fold=number) for number in range(1, (self.folds or 0) + 1)]

    @property
    def word(self) -> str:
        """Return `text` as a part of a folder's name; groups are named by a hash. "" for all images."""
        plain = replace(self, groups=None).text or ""
        hashed = [] if self.groups is None else [f"groups-{sha256(self.groups.encode()).hexdigest()[:8]}"]
        return folder_word(", ".join([plain, *hashed]))

    @property
    def command_options(self) -> str:
        """Return the options of the command line that choose it."""
        words = []
        if self._is_part:
            chosen = f"--fraction {self.fraction:g}" if self.fraction else f"--images-per-class {self.per_class}"
            words += [chosen, f"--subset-seed {self.seed}"] if self.seed else [chosen]
        elif self.folds is not None and self.seed:
            words.append(f"--subset-seed {self.seed}")
        if self.without_near_copies:
            words.append("--leave-out-near-copies")
        if self.folds is not None:
            words.append(f"--folds {self.folds}")
        if self.groups is not None:
            words.append(f"--groups {shlex.quote(self.groups.partition('@')[0] if self._is_table else self.groups)}")
        return " ".join(words)

    @property
    def _is_table(self) -> bool:
        return self.groups is not None and self.groups.startswith("csv:")

    @property
    def _is_part(self) -> bool:
        return self.per_class is not None or self.fraction not in (None, 1)

    def _words(self, *, seed: bool) -> list[str]:
        words = []
        if self._is_part:
            words.append(f"fraction {self.fraction:g}" if self.fraction else f"{self.per_class} images per class")
        if self.folds is not None:
            words.append(f"{self.folds} folds" if self.fold is None else f"fold {self.fold} of {self.folds}")
        words += [f"seed {self.seed}"] if seed and words else []
        words += [_WITHOUT] if self.without_near_copies else []
        return words if self.groups is None else [*words, f"grouped by {self.groups}"]


def subset_word(text: str) -> str:
    """Return the text of a subset as a part of a folder's name."""
    subset = Subset.parse(text)
    return folder_word(text) if subset is None else subset.word


def folder_word(text: str) -> str:
    """Return `text` as a part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip(".-")


def parse_side(text: str | int) -> str | int:
    """Check the option `stored_side`: "auto" or pixels.

    Raises:
        InputError: neither.
    """
    if text == "auto":
        return "auto"
    try:
        side = int(text)
    except ValueError:
        side = 0
    if side < 1:
        raise InputError(f"--stored-side is {text!r}, expected auto, or pixels of the shorter side such as 160")
    return side
