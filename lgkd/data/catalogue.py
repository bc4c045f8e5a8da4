"""The data sets lgkd knows by name. No torch here, so that listing them takes milliseconds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSetInfo:
    """What is known of a named data set before an image of it is read."""

    name: str
    """What `--dataset` takes."""
    title: str
    """One line for people."""
    classes: int
    train: int
    """Images in the training split."""
    test: int
    """Images in the test split."""
    image_size: int
    """Side of the square images, in pixels."""
    source: str
    """Where the images come from."""
    note: str = ""
    """What one should know before using it."""


CATALOGUE: dict[str, DataSetInfo] = {
    info.name: info
    for info in (
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
        DataSetInfo(
            name="cifar10",
            title="CIFAR-10, small photographs of animals and vehicles",
            classes=10,
            train=50_000,
            test=10_000,
            image_size=32,
            source="Krizhevsky, 2009, https://www.cs.toronto.edu/~kriz/cifar.html",
            note="read from an image tree: cifar10/train/CLASS/* and cifar10/test/CLASS/*",
        ),
        DataSetInfo(
            name="cifar100",
            title="CIFAR-100, small photographs in a hundred fine classes",
            classes=100,
            train=50_000,
            test=10_000,
            image_size=32,
            source="Krizhevsky, 2009, https://www.cs.toronto.edu/~kriz/cifar.html",
            note="read from an image tree: cifar100/train/CLASS/* and cifar100/test/CLASS/*",
        ),
    )
}
"""Every named data set, by name."""
