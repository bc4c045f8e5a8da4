"""Write the remarks on a data set, one sentence a finding."""

from collections.abc import Iterable, Mapping, Sequence

from lgkd._internal.text import counted, listed
from lgkd.data.checks.duplicates import Copies
from lgkd.data.checks.near_copies import NearCopies

TINY_CLASS = 20
"""Classes with fewer training images are named by the check."""
TINY_IN_TRAINING = 5
"""Classes with fewer training images are named before every training: lgkd is for small data sets."""
LOPSIDED = 4
"""Ratio to the smallest class at which the largest one gets a remark."""
TINY_SIDE = 4
"""Images with a shorter side, in pixels, are named."""

_NAMED = 3
_ADVICE = ", and --set class_weights=balanced or --set sampler=balanced trains on all classes alike"


def tiny_classes(per_class: Mapping[str, int], fewest: int = TINY_CLASS) -> dict[str, int]:
    """Return classes with fewer than `fewest` images, and their counts."""
    return {name: count for name, count in per_class.items() if count < fewest}


def missing_classes(per_class: Mapping[str, int]) -> tuple[str, ...]:
    """Return classes without an image."""
    return tuple(name for name, count in per_class.items() if count == 0)


def imbalance(per_class: Mapping[str, int]) -> float | None:
    """Return the largest class over the smallest; None where one is empty."""
    smallest = min(per_class.values())
    return round(max(per_class.values()) / smallest, 2) if smallest else None


def about_copies(copies: Copies, tested: int) -> list[str]:
    """Write sentences on copies that change a training or its score."""
    said = []
    if leaks := copies.leaks.count:
        other = copies.leaks_of_other_class
        wrong = f", {other} of them under another class" if other else ""
        said.append(
            f"LEAK: {leaks:,} of {tested:,} test images ({leaks / tested:.2%}) {'is' if leaks == 1 else 'are'} in the "
            f"training split too, pixel for pixel{wrong}, {copies.leaks.example()}: they do not test what was learned"
        )
    if copies.train_contradictions.count:
        pairs = copies.train_contradictions
        said.append(
            f"{_repeat(pairs.count, 'training')} one of another class, pixel for pixel, {pairs.example()}: "
            "one label of each pair is wrong, or the classes overlap"
        )
    if copies.train_copies.count:
        pairs = copies.train_copies
        said.append(f"{_repeat(pairs.count, 'training')} one of the same class, pixel for pixel, {pairs.example()}")
    return said


def about_held_out(copies: Copies, held: int) -> list[str]:
    """Write the sentence on held-out images with the same pixels as a trained one."""
    if not (same := copies.leaks.count):
        return []
    return [
        f"{same:,} of {held:,} held-out images ({same / held:.2%}) {'is' if same == 1 else 'are'} trained on too, "
        f"pixel for pixel, {copies.leaks.example()}: the epoch is chosen on images that it has seen"
    ]


def about_val(trained: Copies, tested: Copies, images: int) -> list[str]:
    """Write sentences on images of the split val with the same pixels as a trained or a tested one.

    Args:
        trained: copies between train, and val as the test split.
        tested: likewise with the test split instead of train.
        images: of val.
    """
    return [
        f"{number:,} of {images:,} images of val {'is' if number == 1 else 'are'} in {split} too, pixel for pixel, "
        f"{copies.leaks.example()}: the epoch is chosen on images that {why}"
        for split, copies, why in (
            ("train", trained, "it has seen"),
            ("test", tested, "it is tested on, so the test split is no longer independent"),
        )
        if (number := copies.leaks.count)
    ]


def about_test_copies(copies: Copies) -> list[str]:
    """Write sentences on images that the test split holds twice."""
    sorts = (("another", copies.test_contradictions), ("the same", copies.test_copies))
    return [
        f"{_repeat(pairs.count, 'test')} one of {which} class, pixel for pixel, {pairs.example()}"
        for which, pairs in sorts
        if pairs.count
    ]


def about_near_copies(near: NearCopies, tested: int) -> list[str]:
    """Write sentences on near copies of images, in the order of their weight."""
    said = []
    if leaks := near.leaks.count:
        are = "is a near copy" if leaks == 1 else "are near copies"
        said.append(
            f"{leaks:,} of {tested:,} test images ({leaks / tested:.2%}) {are} of a training image, "
            f"{near.leaks.example('~')}: look at them, and train without by "
            "--leave-out-near-copies if they are"
        )
    for which, pairs in (("training", near.train), ("test", near.test)):
        if number := pairs.count:
            are = "image is a near copy" if number == 1 else "images are near copies"
            said.append(f"{number:,} {which} {are} of an earlier one, {pairs.example('~')}")
    return said


def about_balance(per_class: Mapping[str, int], fewest: int = TINY_CLASS, *, advise: bool = True) -> list[str]:
    """Write sentences on classes that are small, absolutely or relative to others.

    Args:
        per_class: training images of every class.
        fewest: classes with fewer are named.
        advise: name the keys of a recipe that would help.
    """
    said = []
    if tiny := tiny_classes(per_class, fewest):
        named = listed([f"{name} ({count})" for name, count in tiny.items()])
        said.append(f"{counted(len(tiny), 'class')} with fewer than {fewest} training images: {named}")
    ratio = imbalance(per_class)
    if ratio is not None and ratio >= LOPSIDED:
        few = min(per_class, key=lambda name: per_class[name])
        many = max(per_class, key=lambda name: per_class[name])
        said.append(
            f"the largest class has {ratio:,.0f} times the training images of the smallest "
            f"({many}: {per_class[many]:,}, {few}: {per_class[few]:,}): accuracy says little of the small ones"
            + (_ADVICE if advise else "")
        )
    return said


def about_broken(broken: Sequence[tuple[str, str]], of: int) -> str:
    """Write the sentence on files that cannot be read, from their names and the reasons."""
    named = "; ".join(f"{name} ({reason})" for name, reason in broken[:_NAMED])
    more = f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    them = "it" if len(broken) == 1 else "them"
    return f"{len(broken)} of {of:,} images cannot be read: {named}{more}: replace {them} or remove {them}"


def about_missing(tested: Mapping[str, int]) -> list[str]:
    """Write sentences on classes without test images."""
    untested = missing_classes(tested)
    return [f"{counted(len(untested), 'class')} without a test image: {listed(untested)}"] if untested else []


def about_images(seen: Iterable[tuple[str, int, int]]) -> list[str]:
    """Write sentences on images too small to show anything, from names, heights and widths."""
    small = [f"{name} ({width} x {height})" for name, height, width in seen if min(height, width) < TINY_SIDE]
    many = counted(len(small), "image")
    return [f"{many} with a side of fewer than {TINY_SIDE} pixels: {listed(small)}"] if small else []


def about_names(classes: Iterable[str]) -> list[str]:
    """Write sentences on classes that may be the same one, written in two ways."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(" ".join(name.casefold().split()), []).append(repr(name))
    return [
        f"classes whose names differ only in case or spaces: {listed(names)}"
        for names in alike.values()
        if len(names) > 1
    ]


def _repeat(count: int, which: str) -> str:
    return f"{count:,} {which} {'image repeats' if count == 1 else 'images repeat'}"
