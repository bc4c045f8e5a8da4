"""Read the handwritten digits of scikit-learn."""

import numpy as np
import torch

from lgkd.data.catalogue import DataSetInfo
from lgkd.data.dataset import DataSet, Images, fingerprint_of
from lgkd.data.sources.source import LoadRequest, NamedSource
from lgkd.data.subsets import held_out_places
from lgkd.errors import InputError

_SEED = 0


class Digits(NamedSource):
    """Split scikit-learn's digits into two thirds to train and one third to test."""

    def load(self, info: DataSetInfo, request: LoadRequest) -> DataSet:
        """Scale greys 0..16 to 0..255 and split each class by seed 0."""
        if request.max_side is not None and request.max_side < info.image_size:
            raise InputError(
                f"max_side is {request.max_side}, but digits are {info.image_size} x {info.image_size}: leave it out"
            )
        from sklearn.datasets import load_digits  # takes a second to import

        digits = load_digits()
        order = np.argsort(digits.target, kind="stable")
        grey = np.rint(digits.images[order] * (255 / 16)).astype(np.uint8)
        labels = torch.from_numpy(digits.target[order].astype(np.int64))
        every = Images(
            pixels=torch.from_numpy(grey)[:, None].expand(-1, 3, -1, -1).contiguous(),
            sizes=torch.full((len(labels), 2), info.image_size, dtype=torch.int32),
            labels=labels,
            names=tuple(f"digits/{label}/{place:04d}" for label, place in zip(labels.tolist(), order, strict=True)),
        )
        train, test = (
            every.take(places)
            for places in held_out_places(labels, 1 / 3, _SEED, lambda label, _: f"the digit {label}")
        )
        classes = tuple(str(label) for label in range(info.classes))
        return DataSet(info.name, classes, train, test, fingerprint_of(classes, train, test), ())


SOURCE: NamedSource = Digits()
