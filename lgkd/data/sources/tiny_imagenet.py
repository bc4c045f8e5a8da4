"""Lay out Tiny ImageNet from the publisher's zip or folder."""

import re
from collections import Counter

from lgkd.data.catalogue import DataSetInfo
from lgkd.data.sources.archives import is_inside
from lgkd.data.sources.publisher_files import NOT_IT, PublisherFiles, by_full_name, check_counts, is_image
from lgkd.data.sources.source import NamedSource
from lgkd.errors import DataError


class TinyImageNet(NamedSource):
    """Lay out train and val, by WordNet id."""

    def layout(self, info: DataSetInfo, files: PublisherFiles) -> dict[str, str]:
        """Map every image of the publisher's to its path in the tree.

        His layout: wnids.txt names the classes; train/WNID/images/*.JPEG; val/images/*.JPEG with
        val/val_annotations.txt, whose lines are the image's name, its class and a box, separated by tabs. The images
        of `test` have no labels and are left out.
        """
        classes = files.text("wnids.txt").split()
        odd = [wnid for wnid in classes if not re.fullmatch(r"n\d{8}", wnid)]
        if odd:
            raise DataError(f"{files.where}/wnids.txt has {odd[0]!r}, expected WordNet numbers such as n01443537")
        if len(set(classes)) != info.classes or len(classes) != info.classes:
            found = len(set(classes))
            raise DataError(f"{files.where}/wnids.txt names {found} classes, {info.name} has {info.classes}: {NOT_IT}")
        plan: dict[str, str] = {}
        per_class = dict.fromkeys(classes, 0)
        for name in sorted(files.sizes):
            parts = name.split("/")
            if len(parts) == 4 and parts[0] == "train" and parts[2] == "images" and is_image(parts[3]):
                if parts[1] not in per_class:
                    raise DataError(f"{files.where}/train has the class {parts[1]!r}, which wnids.txt lacks")
                per_class[parts[1]] += 1
                plan[name] = f"train/{parts[1]}/{parts[3]}"
        check_counts(files, "train", per_class, dict.fromkeys(classes, info.train // info.classes))
        labels: dict[str, str] = {}
        for number, line in enumerate(files.text("val/val_annotations.txt").splitlines(), start=1):
            image, wnid = (*line.split("\t"), "", "")[:2]
            where = f"line {number} of {files.where}/val/val_annotations.txt"
            if not is_image(image) or "/" in image or not is_inside(image):
                raise DataError(f"{where} names {image!r}, expected an image of val/images")
            if wnid not in per_class:
                raise DataError(f"{where} has the class {wnid!r}, which wnids.txt lacks")
            if image in labels:
                raise DataError(f"{where} names {image} again, expected once: {NOT_IT}")
            labels[image] = wnid
        check_counts(files, "val", Counter(labels.values()), dict.fromkeys(classes, info.test // info.classes))
        plan |= {f"val/images/{image}": f"test/{wnid}/{image}" for image, wnid in labels.items()}
        return by_full_name(files, plan)


SOURCE: NamedSource = TinyImageNet()
