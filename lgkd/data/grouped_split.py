"""Split images by whole groups, every class as evenly as its groups allow.

Letters in shapes: N images, G groups, P parts, K classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lgkd._internal.rng import permutation, seed_of
from lgkd._internal.text import safe_text
from lgkd.errors import DataError


def split_by_groups(
    labels: Tensor,
    groups: Sequence[str],
    shares: Sequence[float],
    seed: int,
    *,
    classes: Sequence[str],
    trained_on: int | None = None,
) -> Tensor:
    """Assign every group to a part.

    The algorithm of scikit-learn's `StratifiedGroupKFold`, for parts of any share: groups are taken by the spread of
    their classes, the most uneven first, and each goes to the part that leaves the shares of every class most even; of
    equal parts to the one with the fewest images. In addition no part gets all images of a class, since the others are
    trained on; of a held-out part and the rest, which is `trained_on`, only the held-out one.

    Args:
        labels: int64 (N,); or of several labels an image (N,K).
        groups: of every image.
        shares: of every part, which sum to one.
        seed: draws the order of groups of equal spread.
        classes: names, for messages.
        trained_on: the part that is trained on; None: each part is left out in turn.

    Returns:
        The part of every image, int64 (N,).

    Raises:
        DataError: there are fewer groups than parts, a class is in one group alone, or a part would get no group.
    """
    names = sorted(set(groups))
    if len(names) < len(shares):
        raise DataError(
            f"there are {_in_words(names)}, and {len(shares)} parts are asked for; a group cannot be divided: ask for "
            "fewer parts, or group the images otherwise"
        )
    place = {name: number for number, name in enumerate(names)}
    group_N = torch.tensor([place[name] for name in groups])
    counts_GK = torch.zeros(len(names), len(classes), dtype=torch.float64)
    if labels.ndim == 2:
        counts_GK.index_add_(0, group_N, labels.double())
    else:
        counts_GK.index_put_((group_N, labels), torch.ones(len(labels), dtype=torch.float64), accumulate=True)
    if trained_on is None:
        _check_classes(counts_GK, names, classes)
    order = permutation(seed_of(seed, "groups"), len(names))
    return _assigned(counts_GK[order], shares, names, trained_on)[torch.argsort(order)][group_N]


def _check_classes(counts_GK: Tensor, names: Sequence[str], classes: Sequence[str]) -> None:
    holders_K = (counts_GK > 0).sum(0)
    if len(alone := (holders_K == 1).nonzero().flatten()):
        label = int(alone[0])
        group = names[int(counts_GK[:, label].argmax())]
        raise DataError(
            f"all images of the class {classes[label]!r} are in the group {safe_text(group)!r}; expected at least two "
            "groups of every class, since without that one nothing of the class would be trained on: add images, or "
            "group them otherwise"
        )


def _assigned(
    counts_GK: Tensor, shares: Sequence[float], names: Sequence[str], trained_on: int | None = None
) -> Tensor:
    """Return the part of every group, int64 (G,); groups of equal spread are taken in the given order."""
    total_K = counts_GK.sum(0)
    seen = total_K > 0
    share_P = torch.tensor(shares, dtype=torch.float64)
    parts_PK = torch.zeros(len(shares), counts_GK.shape[1], dtype=torch.float64)
    chosen_G = torch.zeros(len(counts_GK), dtype=torch.int64)
    # The variance times K squared, in whole numbers: rounding must not order groups of equal spread.
    spread_G = counts_GK.shape[1] * counts_GK.square().sum(1) - counts_GK.sum(1).square()
    for group in torch.argsort(-spread_G, stable=True).tolist():
        best, part = None, None
        for number in range(len(shares)):
            after_PK = parts_PK.clone()
            after_PK[number] += counts_GK[group]
            if number != trained_on and bool(((after_PK[number] == total_K) & seen).any()):
                continue
            even = float((after_PK[:, seen] / total_K[seen] / share_P[:, None]).std(0, correction=0).mean())
            # Rounding must not decide between equal parts.
            rank = (round(even, 12), float(after_PK[number].sum() / share_P[number]))
            if best is None or rank < best:
                best, part = rank, number
        if part is None:
            raise DataError(
                f"the groups ({_in_words(names)}) cannot be divided so that every part leaves images of all classes to "
                "train on; ask for other parts or another --subset-seed, or group the images otherwise"
            )
        parts_PK[part] += counts_GK[group]
        chosen_G[group] = part
    return _without_empty_parts(counts_GK, chosen_G, len(shares), names)


def _without_empty_parts(counts_GK: Tensor, chosen_G: Tensor, parts: int, names: Sequence[str]) -> Tensor:
    """Give a part without a group the smallest group that can be spared; a small share may have been given none."""
    for empty in range(parts):
        if bool((chosen_G == empty).any()):
            continue
        for group in torch.argsort(counts_GK.sum(1), stable=True).tolist():
            of_it = chosen_G == chosen_G[group]
            others_K = counts_GK.sum(0) - counts_GK[group]
            if int(of_it.sum()) > 1 and bool((others_K[counts_GK[group] > 0] > 0).all()):
                chosen_G[group] = empty
                break
        else:
            raise DataError(
                f"the groups ({_in_words(names)}) leave a part without images; ask for fewer parts, or group the "
                "images otherwise"
            )
    return chosen_G


def _in_words(names: Sequence[str]) -> str:
    shown = ", ".join(safe_text(name, 20) for name in names[:3])
    return f"{len(names)} group{'' if len(names) == 1 else 's'} ({shown}{', ...' if len(names) > 3 else ''})"
