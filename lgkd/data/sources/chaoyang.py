"""Lay out Chaoyang from the publisher's files."""

import json
from collections.abc import Iterator

from lgkd.data.catalogue import DataSetInfo
from lgkd.data.sources.archives import is_inside
from lgkd.data.sources.publisher_files import PublisherFiles, by_full_name, check_counts, is_image
from lgkd.data.sources.source import NamedSource
from lgkd.errors import DataError

CHAOYANG = {
    "normal": (1111, 705),
    "serrated": (842, 321),
    "adenocarcinoma": (1404, 840),
    "adenoma": (664, 273),
}
"""Chaoyang's classes in the order of the publisher's labels 0 to 3, each with its images in train and in test.

The names and counts are those of the README that comes with the data, which names the classes in this order. It does
not map labels to names; but no two counts are equal, so files whose labels mean anything else are refused.
"""


class Chaoyang(NamedSource):
    """Lay out train and test, by the publisher's labels."""

    def layout(self, info: DataSetInfo, files: PublisherFiles) -> dict[str, str]:
        """Map every image of the publisher's to its path in the tree.

        His layout: train.json and test.json are lists of {"name": "train/IMAGE.JPG", "label": 0 to 3}.
        """
        classes = tuple(CHAOYANG)
        plan: dict[str, str] = {}
        goals: set[str] = set()
        for place, split in enumerate(("train", "test")):
            per_class = dict.fromkeys(classes, 0)
            for number, (name, label) in enumerate(_labelled(files, f"{split}.json"), start=1):
                where = f"entry {number} of {files.where}/{split}.json"
                if not is_inside(name):
                    raise DataError(f"{where} names {name!r}, which points outside")
                if not is_image(name.rpartition("/")[2]):
                    raise DataError(f"{where} names {name!r}, expected an image")
                if not 0 <= label < info.classes:
                    raise DataError(f"{where} has the label {label}, expected 0 to {info.classes - 1}")
                goal = f"{split}/{classes[label]}/{name.rpartition('/')[2]}"
                if name in plan or goal in goals:
                    raise DataError(f"{where} names {name}, but there is one of that name before it")
                per_class[classes[label]] += 1
                goals.add(goal)
                plan[name] = goal
            check_counts(files, split, per_class, {name: counts[place] for name, counts in CHAOYANG.items()})
        return by_full_name(files, plan)


def _labelled(files: PublisherFiles, name: str) -> Iterator[tuple[str, int]]:
    """Yield the names and labels of a JSON list."""
    try:
        entries = json.loads(files.text(name))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{files.where / name} is not JSON ({error}): put the publisher's list") from error
    if not isinstance(entries, list):
        raise DataError(f"{files.where / name} does not hold a list: put the publisher's")
    for number, entry in enumerate(entries, start=1):
        found = (entry.get("name"), entry.get("label")) if isinstance(entry, dict) else (None, None)
        if not isinstance(found[0], str) or type(found[1]) is not int:
            raise DataError(
                f'entry {number} of {files.where / name} is not {{"name": "FOLDER/IMAGE.JPG", "label": NUMBER}}'
            )
        yield found[0], found[1]


SOURCE: NamedSource = Chaoyang()
