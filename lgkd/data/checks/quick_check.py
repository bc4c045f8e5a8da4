"""Check decoded images before they are trained on: copies, leaks into held-out images, classes of unequal size."""

from collections import Counter
from collections.abc import Callable

from lgkd.data.checks.duplicates import Part, compare, copies_of, digests_of
from lgkd.data.checks.remarks import TINY_IN_TRAINING, about_balance, about_copies, about_held_out
from lgkd.data.dataset import DataSet, Images


def quick_check(dataset: DataSet, *, say: Callable[[str], None], balanced: bool = False) -> None:
    """Return the remarks on decoded images to read before the first epoch; empty for clean data.

    Images are compared once for a fingerprint: the result is kept in the user's store.

    Args:
        dataset: decoded.
        say: called with one sentence a finding.
        balanced: whether the recipe makes up for the sizes of the classes, so that no remark has to name its keys.
    """
    counted = Counter(dataset.train.class_numbers.tolist())
    per_class = {name: counted[number] for number, name in enumerate(dataset.classes)}
    copies = copies_of(dataset)
    balance = about_balance(per_class, TINY_IN_TRAINING, advise=not balanced and not dataset.multi_label)
    for sentence in (*about_copies(copies, len(dataset.test)), *balance):
        say(sentence)


def held_out_remarks(train: Images, held: Images) -> list[str]:
    """Return the remark on held-out images that are also trained on; empty for clean data.

    Args:
        train: images to train on.
        held: images to choose the epoch on.
    """
    parts = [
        Part(images.names, images.label_keys, digests)
        for images, digests in zip((train, held), digests_of(train, held), strict=True)
    ]
    return about_held_out(compare(*parts), len(held))
