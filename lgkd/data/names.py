"""Name data sets and subsets in folders, cards and run.json."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lgkd.data.catalogue import CATALOGUE
from lgkd.errors import InputError

_WITHOUT = "without near copies"
_TEXT = re.compile(
    r"(?:(?:fraction (?P<fraction>[\d.e-]{1,20})|(?P<per_class>\d{1,18}) images per class), seed (?P<seed>\d{1,18}))?"
    rf"(?:, )?(?P<without>{_WITHOUT})?"
)


def dataset_key(source: str | Path) -> str:
    """Return the name under which teachers of a data set are stored; a safe name of a folder."""
    if isinstance(source, str) and source in CATALOGUE:
        return source
    return folder_word(Path(source).expanduser().resolve().name) or "folder"


@dataclass(frozen=True)
class Subset:
    """Describe the part of the training images that a model sees; without arguments it is all of them.

    Attributes:
        fraction: share of the images of every class, above 0 and at most 1.
        per_class: number of images of every class.
        seed: selects the images.
        without_near_copies: whether near copies of test images or of earlier training images are left out.

    Raises:
        InputError: `fraction` and `per_class` were both given, or one is out of range.
    """

    fraction: float | None = None
    per_class: int | None = None
    seed: int = 0
    without_near_copies: bool = False

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

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "Subset":
        """Read the part that the options of a training choose; options that are not given are left at all images."""
        return cls(
            options.get("fraction"),
            options.get("images_per_class"),
            options.get("subset_seed") or 0,
            bool(options.get("leave_out_near_copies")),
        )

    @classmethod
    def parse(cls, text: str) -> "Subset | None":
        """Read the text of a card or a run.json; None where it is not what `text` writes."""
        match = _TEXT.fullmatch(text)
        if match is None:
            return None
        fraction, per_class, seed, without = match.group("fraction", "per_class", "seed", "without")
        try:
            found = cls(
                float(fraction) if fraction else None,
                int(per_class) if per_class else None,
                int(seed or 0),
                without is not None,
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
        """Return `text` without the seed, equal for all seeds."""
        return ", ".join(self._words(seed=False)) or None

    @property
    def command_options(self) -> str:
        """Return the options of the command line that choose it."""
        words = []
        if self._is_part:
            chosen = f"--fraction {self.fraction:g}" if self.fraction else f"--images-per-class {self.per_class}"
            words += [chosen, f"--subset-seed {self.seed}"] if self.seed else [chosen]
        if self.without_near_copies:
            words.append("--leave-out-near-copies")
        return " ".join(words)

    @property
    def _is_part(self) -> bool:
        return self.per_class is not None or self.fraction not in (None, 1)

    def _words(self, *, seed: bool) -> list[str]:
        words = []
        if self._is_part:
            words.append(f"fraction {self.fraction:g}" if self.fraction else f"{self.per_class} images per class")
            words += [f"seed {self.seed}"] if seed else []
        return [*words, _WITHOUT] if self.without_near_copies else words


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
