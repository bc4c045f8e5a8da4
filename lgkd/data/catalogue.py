"""List the named data sets: a row each with its facts, the publisher's files and the module that reads them.

A new data set takes one row here and one file in `lgkd/data/sources/`. No torch here: listing takes milliseconds.
"""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class DataSetInfo:
    """Describe a named data set: the facts that are known before an image of it is read."""

    name: str
    """Value of `--dataset`."""
    title: str
    """One line to show."""
    classes: int
    train: int
    """Images in the training split."""
    test: int
    """Images in the test split."""
    image_size: int
    """Side of the square images, in pixels."""
    source: str
    """Origin of the images."""
    note: str = ""
    """Remarks to read before using it."""
    trains_on: tuple[str, ...] = ("train",)
    """The folders whose images make up the training split."""
    shares: str = ""
    """The named set whose files it reads; empty for its own."""
    lists: tuple[str, ...] = ()
    """Files that distinguish the publisher's folder from an image tree, where `lgkd arrange` makes the tree."""

    @property
    def folder(self) -> str:
        """Return the name of its folder."""
        return self.shares or self.name


class PublishedFile(NamedTuple):
    """Describe a file of a named data set, as published."""

    name: str
    """Name in a folder."""
    url: str
    bytes: int
    sha256: str
    """Hex digits."""


class Row(NamedTuple):
    """Describe a named data set: its facts, and the module that reads it."""

    info: DataSetInfo
    source: str
    """Module in `lgkd/data/sources/` whose `SOURCE` reads the set; see `lgkd.data.sources.source.NamedSource`."""
    files: tuple[PublishedFile, ...] = ()
    """The publisher's files that can be downloaded; none where the set shares those of another one."""
    bundled: str = ""
    """Package that has the images, in words, where they need no files."""


_KRIZ = "https://www.cs.toronto.edu/~kriz/"
_VGG = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"


def _at(place: str, name: str, size: int, sha256: str) -> PublishedFile:
    return PublishedFile(name, place + name, size, sha256)


# Sizes and checksums agree with those that TensorFlow Datasets keeps in its url_checksums.
_ROWS = (
    Row(
        DataSetInfo(
            name="digits",
            title="Handwritten digits, grey",
            classes=10,
            train=1198,
            test=599,
            image_size=8,
            source="Alpaydin & Kaynak, UCI, 1998; comes with scikit-learn",
            note="needs no files: made for first steps and tests",
        ),
        "digits",
        bundled="it comes with scikit-learn",
    ),
    Row(
        DataSetInfo(
            name="cifar10",
            title="CIFAR-10, small photographs of animals and vehicles",
            classes=10,
            train=50_000,
            test=10_000,
            image_size=32,
            source="Krizhevsky, 2009, https://www.cs.toronto.edu/~kriz/cifar.html",
            note="read from an image tree, cifar10/train/CLASS/* and cifar10/test/CLASS/*, or from the publisher's "
            "binary archive, which is downloaded where it is not at hand (170 MB)",
        ),
        "cifar",
        files=(
            _at(_KRIZ, "cifar-10-binary.tar.gz", 170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
        ),
    ),
    Row(
        DataSetInfo(
            name="cifar100",
            title="CIFAR-100, small photographs in a hundred fine classes",
            classes=100,
            train=50_000,
            test=10_000,
            image_size=32,
            source="Krizhevsky, 2009, https://www.cs.toronto.edu/~kriz/cifar.html",
            note="read from an image tree, cifar100/train/CLASS/* and cifar100/test/CLASS/*, or from the publisher's "
            "binary archive, which is downloaded where it is not at hand (169 MB)",
        ),
        "cifar",
        files=(
            _at(_KRIZ, "cifar-100-binary.tar.gz", 168_513_733,
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"),
        ),
    ),
    Row(
        DataSetInfo(
            name="flowers102",
            title="Oxford Flowers, photographs; trained on train alone",
            classes=102,
            train=1020,
            test=6149,
            image_size=256,
            source="Nilsback & Zisserman, 2008, https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
            note="the publisher's splits: trained on his 1,020 training images alone, as an honest protocol asks; most "
            "papers add the 1,020 of his validation split, which is flowers102-trainval, and figures on the two differ "
            "by ten points and more; sizes differ, longer sides are scaled down to 256; downloaded where it is not "
            "at hand (345 MB)",
        ),
        "flowers",
        files=(
            _at(_VGG, "102flowers.tgz", 344_862_509,
                "2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246"),
            _at(_VGG, "imagelabels.mat", 502, "4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d"),
            _at(_VGG, "setid.mat", 14_989, "46b8678f91fd95d3c8f4feab80d271a6c834a1dd896fe29fd3e6ad9ce5c8dccd"),
        ),
    ),
    Row(
        DataSetInfo(
            name="flowers102-trainval",
            title="Oxford Flowers, photographs; trained on train + val",
            classes=102,
            train=2040,
            test=6149,
            image_size=256,
            source="Nilsback & Zisserman, 2008, https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
            note="the files of flowers102, trained on both its training and its validation split: twice the images, so "
            "compare with papers that train on 2,040, and never with flowers102, which trains on 1,020",
            trains_on=("train", "val"),
            shares="flowers102",
        ),
        "flowers",
    ),
    Row(
        DataSetInfo(
            name="tiny-imagenet",
            title="Tiny ImageNet, photographs of 200 classes of ImageNet",
            classes=200,
            train=100_000,
            test=10_000,
            image_size=64,
            source="Stanford CS231n, http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            note="laid out by `lgkd arrange tiny-imagenet SOURCE` from the publisher's zip; classes are WordNet ids; "
            "the validation split is the test split, as in the literature: the publisher's test images have no labels",
            lists=("wnids.txt",),
        ),
        "tiny_imagenet",
    ),
    Row(
        DataSetInfo(
            name="chaoyang",
            title="Chaoyang, slides of the colon in four classes, noisy labels",
            classes=4,
            train=4021,
            test=2139,
            image_size=512,
            source="Zhu et al., 2021, https://github.com/bupt-ai-cz/HSA-NRL; not for commercial use",
            note="laid out by `lgkd arrange chaoyang SOURCE` from the publisher's files; his labels 0 to 3 are normal, "
            "serrated, adenocarcinoma, adenoma; here classes are sorted by name, so they are numbered 2, 3, 0, 1",
            lists=("train.json", "test.json"),
        ),
        "chaoyang",
    ),
)  # fmt: skip

ROWS: dict[str, Row] = {row.info.name: row for row in _ROWS}
"""Rows of all named data sets, by name."""

CATALOGUE: dict[str, DataSetInfo] = {name: row.info for name, row in ROWS.items()}
"""Facts of all named data sets, by name."""

PUBLISHED: dict[str, tuple[PublishedFile, ...]] = {name: row.files for name, row in ROWS.items() if row.files}
"""The publisher's files of the data sets that can be downloaded, by the name of their folder."""


def published(info: DataSetInfo) -> tuple[PublishedFile, ...]:
    """Return the files that a named set can be downloaded as; empty where it cannot be downloaded."""
    return PUBLISHED.get(info.folder, ())


def bundled(info: DataSetInfo) -> str:
    """Return the origin of a named set that needs no files, in words; empty for all others."""
    return ROWS[info.name].bundled
