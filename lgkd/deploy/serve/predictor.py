"""Answer one uploaded image: its classes, and the overlay of its occlusion map. Nothing is stored."""

from base64 import b64encode
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lgkd.data.decode import decode_readable
from lgkd.data.encode import as_png
from lgkd.deploy.inference.explain import map_of
from lgkd.deploy.inference.load import Source
from lgkd.deploy.inference.overlay import enlarged, overlay
from lgkd.deploy.inference.predict import labels_above, most_likely
from lgkd.errors import DataError

SHOWN = 1024
"""Longest side of the overlay, in pixels."""

TOP_K = 5


class Predictor:
    """Predict from the content of image files; one call at a time.

    Args:
        source: the student.
        name: of the student, for the page.
    """

    def __init__(self, source: Source, name: str) -> None:
        self._source = source
        self._name = name

    def about(self) -> dict[str, Any]:
        """Return the student's name, its classes and the size of its images."""
        height, width = self._source.plain.image_size
        about = {"student": self._name, "classes": [*self._source.classes], "image_size": [height, width]}
        return about | ({"multi_label": True} if self._source.multi_label else {})

    def answer(self, data: bytes, *, top_k: int, explain: bool) -> dict[str, Any]:
        """Classify one image, decoded as everywhere in lgkd.

        Args:
            data: the content of an image file.
            top_k: number of classes, at least 1.
            explain: whether the overlay is added, as PNG in base 64.

        Returns:
            `classes` with their confidences; of several labels an image these are independent probabilities, and
            `labels` are the classes above the threshold, all of which are among `classes`.

        Raises:
            DataError: the image cannot be read; the message has the reason.
        """
        source = self._source
        decode = partial(decode_readable, [Path("upload")], greys=source.greys, read=lambda _: data)
        pixels, sizes, broken = decode(max_side=source.longest_side)
        if broken:
            raise DataError(
                f"the image cannot be read ({broken[0]}), expected PNG, JPEG, WebP or the like; send another"
            )
        ready = source.plain(torch.from_numpy(pixels).to(source.device), torch.from_numpy(sizes))
        several = source.multi_label
        ((names, shares),) = most_likely(source, source.logits(ready), len(source.classes) if several else top_k)
        labels = labels_above(names, shares) if several else ()
        pairs = list(zip(names, shares, strict=True))[: max(top_k, len(labels))]
        found: dict[str, Any] = {"classes": [{"class": name, "confidence": share} for name, share in pairs]}
        if several:
            found["labels"] = [*labels]
        if not explain:
            return found
        map_gg = map_of(source, pixels, sizes, names[0])
        shown, _, _ = decode(max_side=SHOWN)
        png = as_png(overlay(enlarged(torch.from_numpy(shown)[0]), map_gg), smallest=False)
        return found | {"overlay": b64encode(png).decode("ascii")}
