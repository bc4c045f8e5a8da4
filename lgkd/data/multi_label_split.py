"""Divide images with several labels each into parts of given shares, every class as evenly as possible.

Letters in shapes: N images, K classes, P parts.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lgkd._internal.rng import permutation


def stratified_parts(labels_NK: Tensor, shares: Sequence[float], seed: int) -> Tensor:
    """Assign every image to a part by iterative stratification.

    The algorithm of Sechidis, Tsoumakas, Vlahavas, On the stratification of multi-label data, ECML PKDD 2011: of the
    classes with images that are not assigned yet, the one with the fewest is taken; each of its images goes to the part
    that lacks most images of that class, of equals to the one that lacks most images in all, of equals to the first.
    Images without a class follow in the same way. The order within a class is drawn by `seed`.

    Args:
        labels_NK: 1 for each class of an image, else 0.
        shares: of every part, which sum to one.
        seed: of the order of the images.

    Returns:
        The part of every image, int64 (N,).
    """
    order = permutation(seed, len(labels_NK))
    has_NK = (labels_NK[order] > 0).numpy()
    wanted_P = [share * len(order) for share in shares]
    wanted_PK = [[share * count for count in has_NK.sum(0).tolist()] for share in shares]
    left_K = has_NK.sum(0)
    part_N = [-1] * len(order)

    def assign(image: int, label: int | None) -> None:
        lacks = wanted_P if label is None else [wanted_K[label] for wanted_K in wanted_PK]
        part = max(range(len(shares)), key=lambda number: (round(lacks[number], 9), round(wanted_P[number], 9)))
        part_N[image] = part
        wanted_P[part] -= 1
        for one in has_NK[image].nonzero()[0].tolist():
            wanted_PK[part][one] -= 1

    while (left_K > 0).any():
        label = min((count, place) for place, count in enumerate(left_K.tolist()) if count)[1]
        for image in has_NK[:, label].nonzero()[0].tolist():
            if part_N[image] < 0:
                assign(image, label)
                left_K = left_K - has_NK[image]
    for image, part in enumerate(part_N):
        if part < 0:
            assign(image, None)
    parts = torch.empty(len(order), dtype=torch.int64)
    parts[order] = torch.tensor(part_N, dtype=torch.int64)
    return parts


def rarest_class(labels_NK: Tensor) -> Tensor:
    """Return the rarest class of every image, int64 (N,), of equals the first; K for an image without a class."""
    counts_K = (labels_NK > 0).sum(0)
    ranked = torch.where(labels_NK > 0, counts_K, len(labels_NK) + 1)
    return torch.where((labels_NK > 0).any(dim=1), ranked.argmin(dim=1), labels_NK.shape[1])
