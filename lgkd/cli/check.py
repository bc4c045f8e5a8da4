"""Implement `lgkd check`."""

from typing import TYPE_CHECKING

from lgkd._internal.text import counted
from lgkd.cli import options as o
from lgkd.cli.display import Display, console, line_of, show_json, show_pairs, show_table
from lgkd.errors import DataError
from lgkd.runner.resolve import check_dataset

if TYPE_CHECKING:
    from lgkd.data.checks.report import CheckReport, Sizes, Split

_ROWS = 10


@o.takes_dataset(required=True)
def check(
    dataset: str,
    data_dir: o.DataDir = None,
    offline: o.Offline = False,
    as_json: o.Json = False,
) -> None:
    """Check every image of a data set before training.

    Counts, sizes, broken and unusual files, copies and near copies within a split, test
    images that are also (nearly) in the training split, empty, small and missing
    classes. Exit code 2 where a training would fail (broken files, wrong folders),
    0 where there are only remarks. A leak is a remark: published sets have some.

    Example: lgkd check digits
    """
    check_dataset(dataset, data_dir)
    from lgkd.data.checks.report import check_dataset_images

    display = Display("check", quiet=as_json)
    report = check_dataset_images(
        dataset, data_dir=data_dir, progress=display.decoded, downloading=display.downloading, offline=offline
    )
    if as_json:
        show_json(report.as_dict())
    else:
        _show(report)
    if report.problems:
        count = len(report.problems)
        raise DataError(
            f"{report.name} has {counted(count, 'problem')} (listed above); "
            "a training does not start until they are fixed"
        )


def _show(report: "CheckReport") -> None:
    show_pairs(
        {
            "data set": report.name,
            **({"folder": report.folder} if report.folder is not None else {}),
            "classes": f"{len(report.classes):,}",
            "images": ", ".join(f"{split.images:,} {split.name}" for split in _splits(report)),
            **(_about_sizes(report.sizes) if report.sizes is not None else {}),
        }
    )
    _table(
        "images per class",
        ("split", "images", "fewest", "median", "most"),
        [
            (split.name, f"{split.images:,}", f"{split.smallest:,}", f"{split.median:,g}", f"{split.largest:,}")
            for split in _splits(report)
        ],
        right=(1, 2, 3, 4),
    )
    _table(
        "not plain RGB",
        ("kind", "images", "becomes", "such as"),
        [(kind.name, f"{kind.images:,}", kind.becomes, kind.examples[0]) for kind in report.kinds],
        right=(1,),
    )
    _table("broken images", ("file", "why"), [(one.name, one.reason) for one in report.broken])
    _table(
        "files that are not used",
        ("ending", "files", "such as"),
        [(one.ending, f"{one.files:,}", one.examples[0]) for one in report.unused],
        right=(1,),
    )
    _table(
        "leak: test images that are also in the training split",
        ("test", "train"),
        [(pair.image, pair.same_as) for pair in report.copies.leaks.listed],
        of=report.copies.leaks.count,
    )
    _table(
        "near copies: test images that are nearly a training image",
        ("test", "train"),
        [(pair.image, pair.same_as) for pair in report.near_copies.leaks.listed],
        of=report.near_copies.leaks.count,
    )
    for which, pairs in (("training", report.near_copies.train), ("test", report.near_copies.test)):
        _table(
            f"near copies: {which} images that are nearly an earlier one",
            ("one", "the other"),
            [(pair.image, pair.same_as) for pair in pairs.listed],
            of=pairs.count,
        )
    _table(
        "training images that are in two classes",
        ("one", "the other"),
        [(pair.image, pair.same_as) for pair in report.copies.train_contradictions.listed],
        of=report.copies.train_contradictions.count,
    )
    _sentences("problems", report.problems, "bold red")
    _sentences("remarks", report.remarks, "bold")
    if not report.problems and not report.remarks:
        console().print()
        console().print("no remarks")


def _splits(report: "CheckReport") -> "list[Split]":
    return [report.train, report.test, *([report.val] if report.val is not None else [])]


def _about_sizes(sizes: "Sizes") -> dict[str, str]:
    first = sizes.common[0]
    if sizes.different == 1:
        return {"size": f"{first.width} x {first.height}"}
    common = ", ".join(f"{size.width} x {size.height} ({size.images:,})" for size in sizes.common[:3])
    about = {
        "sizes": f"{sizes.different:,}, from {sizes.smallest.width} x {sizes.smallest.height} "
        f"to {sizes.largest.width} x {sizes.largest.height}",
        "most frequent": common,
        "width / height": f"{sizes.narrowest:.2f} to {sizes.widest:.2f}",
    }
    if sizes.scaled_down:
        about["scaled down"] = f"{sizes.scaled_down:,} images, in a training"
    return about


def _table(
    title: str,
    columns: tuple[str, ...],
    rows: list[tuple[str, ...]],
    *,
    right: tuple[int, ...] = (),
    of: int | None = None,
) -> None:
    """Print a table of the first rows, if there are any, with an empty line above."""
    if not rows:
        return
    console().print()
    show_table(title, columns, rows[:_ROWS], right=right)
    more = (len(rows) if of is None else of) - _ROWS
    if more > 0:
        console().print(f"and {more:,} more with --json")


def _sentences(title: str, sentences: tuple[str, ...], style: str) -> None:
    if not sentences:
        return
    console().print()
    console().print(line_of(title, style))
    for sentence in sentences:
        console().print(line_of(f"- {sentence}"))
