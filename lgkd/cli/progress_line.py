"""Format the progress line of a training, shortened to the terminal's width. No rich and no torch here."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from lgkd.runs.class_results import APART
from lgkd.runs.statistics import in_percent

_BAR = 16
_SHORTEST_TITLE = 8
_OF_SEVERAL = re.compile(r"\b([sf])(?:eed|old) (\d+)\b")
_NOT_LOSSES = ("loss", "accuracy")


@dataclass(frozen=True)
class Standing:
    """Hold the progress of a training.

    Attributes:
        title: of the training.
        epoch, epochs: the current one, from 1, and their number.
        done: finished epochs, with the fraction of the current one.
        left: seconds to the end, of all trainings where it is one of several; None where unknown.
        own: where it is one of several, seconds to its own end; None otherwise, or where unknown.
        top1: last measured accuracy on the test split, 0 to 1; None before.
        balanced: last measured balanced accuracy there; None before.
        train: of the epoch so far: "loss", its parts by name, "accuracy".
        images_per_second: in training.
        memory: bytes in use; None where unknown.
        where: the kind of memory: "RAM" or "GPU".
    """

    title: str
    epoch: int
    epochs: int
    done: float = 0.0
    left: float | None = None
    own: float | None = None
    top1: float | None = None
    balanced: float | None = None
    train: Mapping[str, float] = field(default_factory=dict)
    images_per_second: float | None = None
    memory: int | None = None
    where: str = "RAM"


@dataclass(frozen=True)
class _Shown:
    """Select the shown parts of the progress."""

    title: int = 1000
    short_title: bool = False
    bar: bool = True
    own: bool = True
    balanced: bool = True
    train_accuracy: bool = True
    short_names: bool = False
    parts: bool = True
    losses: bool = True
    whose: bool = True
    short_rate: bool = False
    memory: bool = True


# Parts dropped first where there is little room come first; the most useful ones stay longest.
_GIVES_WAY: tuple[Callable[[_Shown], _Shown], ...] = (
    lambda shown: replace(shown, bar=False),
    lambda shown: replace(shown, train_accuracy=False),
    lambda shown: replace(shown, short_names=True),
    lambda shown: replace(shown, whose=False),
    lambda shown: replace(shown, own=False),
    lambda shown: replace(shown, short_title=True),
    *(partial(replace, title=length) for length in range(20, _SHORTEST_TITLE - 1, -2)),
    lambda shown: replace(shown, short_rate=True),
    lambda shown: replace(shown, parts=False),
    lambda shown: replace(shown, memory=False),
    lambda shown: replace(shown, losses=False),
    lambda shown: replace(shown, balanced=False),
)


def live_line(now: Standing, width: int, *, ascii_only: bool = False) -> str:
    """Format one line of at most `width` characters, with the most important parts that fit."""
    shown = _Shown()
    line = _line(now, shown, ascii_only=ascii_only)
    for narrower in _GIVES_WAY:
        if len(line) <= width:
            return line
        shown = narrower(shown)
        line = _line(now, shown, ascii_only=ascii_only)
    return line if len(line) <= width else _cut(line, width, ascii_only=ascii_only)


def plain_line(now: Standing) -> str:
    """Format one line of any length, for files."""
    parts = [f"{now.title} epoch {now.epoch}/{now.epochs} {_news(now, _Shown())}"]
    if now.memory is not None:
        parts.append(f"{now.where} {_gigabytes(now.memory)}")
    if now.left is not None:
        parts.append(_left(now, _Shown()))
    return ", ".join(parts)


def _line(now: Standing, shown: _Shown, *, ascii_only: bool) -> str:
    parts = [_title(now.title, shown, ascii_only=ascii_only)]
    if shown.bar:
        full, empty = ("#", ".") if ascii_only else ("━", "╌")
        filled = round(_BAR * min(1.0, now.done / max(1, now.epochs)))
        parts.append(full * filled + empty * (_BAR - filled))
    parts.append(f"{now.epoch}/{now.epochs}")
    if now.left is not None:
        parts.append(_left(now, shown))
    parts.append(_news(now, shown))
    if shown.memory and now.memory is not None:
        parts.append(f"{now.where} {_gigabytes(now.memory)}" if shown.whose else _gigabytes(now.memory))
    return " ".join(part for part in parts if part)


def _title(title: str, shown: _Shown, *, ascii_only: bool) -> str:
    """Shorten a title. Seed, fold and arm distinguish one of several trainings, and its first word a single one."""
    if _OF_SEVERAL.search(title):
        return _OF_SEVERAL.sub(r"\1\2", title) if shown.short_title else title
    return _cut(title, max(shown.title, len(title.partition(" ")[0]) + 1), ascii_only=ascii_only)


def _left(now: Standing, shown: _Shown) -> str:
    """Format the time left: "20m left", or "5m00s of 20m00s left" of one of several trainings."""
    own = f"{duration(now.own)} of " if shown.own and now.own is not None else ""
    return f"{own}{duration(now.left or 0.0)} left"


def _news(now: Standing, shown: _Shown) -> str:
    """Format accuracies, losses and speed."""
    parts = []
    if now.top1 is not None:
        parts.append(f"test {in_percent(now.top1, digits=1)}%")
        if shown.balanced and now.balanced is not None and abs(now.balanced - now.top1) > APART:
            parts.append(f"balanced {in_percent(now.balanced, digits=1)}%")
    if "accuracy" in now.train and (shown.train_accuracy or now.top1 is None):
        parts.append(f"train {in_percent(now.train['accuracy'], digits=1)}%")
    if shown.losses:
        parts.append(_losses(now.train, shown))
    if now.images_per_second is not None:
        parts.append(f"{now.images_per_second:,.0f}{'/s' if shown.short_rate else ' img/s'}")
    return " ".join(part for part in parts if part)


def _losses(train: Mapping[str, float], shown: _Shown) -> str:
    """Format training losses by name, or their weighted sum where the line is too short."""
    named = {key: value for key, value in train.items() if key not in _NOT_LOSSES and not key.startswith("weight_")}
    if not shown.parts or not named:
        return f"loss {train['loss']:.3g}" if "loss" in train else ""
    names = [key.replace("classification", "class") for key in named]
    if shown.short_names:
        last = [name.rpartition("_")[2] for name in names]
        names = [short if last.count(short) == 1 else name for short, name in zip(last, names, strict=True)]
    return " ".join(f"{name} {value:.3g}" for name, value in zip(names, named.values(), strict=True))


def _cut(text: str, width: int, *, ascii_only: bool) -> str:
    if len(text) <= width:
        return text
    dots = "..." if ascii_only else "…"
    return text[: max(0, width - len(dots))].rstrip() + dots[:width]


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def duration(seconds: float) -> str:
    """Format seconds: 42s, 3m05s, 2h10m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"
