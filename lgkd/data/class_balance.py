"""Count the classes of a training, and derive class weights and logit adjustment from the counts.

Letters in shapes: K classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lgkd._internal.text import did_you_mean, listed
from lgkd.config import Recipe
from lgkd.errors import DataError, InputError


@dataclass(frozen=True, eq=False)
class ClassBalance:
    """Hold what the cross entropy of a training does for classes that are not equally many.

    Attributes:
        weights: float32 (K,), of the classes; None: all weigh the same.
        adjustment: float32 (K,), added to the logits; None: nothing.
        multi_label: whether an image has several labels; the weights are then those of its positive labels.
    """

    weights: Tensor | None = None
    adjustment: Tensor | None = None
    multi_label: bool = False


def is_balanced(recipe: Recipe) -> bool:
    """Return True if a recipe has a setting for classes that are not equally many."""
    return recipe.class_weights != "none" or bool(_settings(recipe))


def about_twice_balanced(recipe: Recipe) -> str | None:
    """Write the remark on settings that each make up for classes that are not equally many; None for one or none."""
    settings = _settings(recipe)
    if len(settings) < 2:
        return None
    return (
        f"{' and '.join(settings)}: each makes up for the sizes of the classes, so together they favour small ones; "
        "one of them is enough"
    )


def _settings(recipe: Recipe) -> list[str]:
    tau = recipe.logit_adjustment
    return [
        *(["class_weights: balanced"] if recipe.class_weights == "balanced" else []),
        *(["sampler: balanced"] if recipe.sampler == "balanced" else []),
        *([f"logit_adjustment: {tau:g}"] if tau else []),
    ]


def class_shares(labels: Tensor, classes: int, extra: Tensor | None = None, extra_share: float = 0.0) -> list[float]:
    """Return the share of every class in the images of a training: n_c / n.

    Args:
        labels: int64 (N,), of the training images.
        classes: their number K.
        extra, extra_share: labels of the extra images, int64 (M,), and their share of every batch.
    """
    shares = _shares(labels, classes)
    if extra is None:
        return shares
    pairs = zip(shares, _shares(extra, classes), strict=True)
    return [(1 - extra_share) * real + extra_share * more for real, more in pairs]


def class_balance(
    weights: str | Mapping[str, float], tau: float, shares: Sequence[float], classes: Sequence[str]
) -> ClassBalance:
    """Return the class weights and the adjustment of the logits that a recipe asks for.

    Balanced weights are n / (K n_c), those of scikit-learn's `compute_class_weight`: an image drawn from all of
    them then has the weight 1 on average. The adjustment is tau log(n_c / n), as in the loss of Menon et al.,
    2021, "Long-tail learning via logit adjustment" (https://arxiv.org/abs/2007.07314, equation 10).

    Args:
        weights: "none", "balanced", or weights by class name; a class without one weighs 1.
        tau: of the adjustment; 0: none.
        shares: n_c / n of every class; see `class_shares`.
        classes: names.

    Raises:
        InputError: a weight is for an unknown class.
        DataError: a class has no image, and its weight or prior would be computed from their number.
    """
    if tau or weights == "balanced":
        key = "logit_adjustment" if tau else "class_weights: balanced"
        empty = [name for name, share in zip(classes, shares, strict=True) if share == 0]
        if empty:
            raise DataError(
                f"{key} is computed from the number of training images of every class, and {listed(empty)} has none; "
                "add images, remove the class, or leave that key out"
            )
    return ClassBalance(_weights(weights, shares, classes), _adjustment(tau, shares))


def _weights(weights: str | Mapping[str, float], shares: Sequence[float], classes: Sequence[str]) -> Tensor | None:
    if isinstance(weights, str):
        return None if weights == "none" else torch.tensor([1 / (len(shares) * share) for share in shares])
    unknown = sorted(weights.keys() - set(classes))
    if unknown:
        raise InputError(
            f"class_weights has a weight for {unknown[0]!r}, expected classes of the data set "
            f"({listed(list(classes), 20)}); {did_you_mean(unknown[0][:100], classes)}"
        )
    return torch.tensor([float(weights.get(name, 1.0)) for name in classes])


def _adjustment(tau: float, shares: Sequence[float]) -> Tensor | None:
    return torch.tensor([tau * math.log(share) for share in shares]) if tau else None


def _shares(labels: Tensor, classes: int) -> list[float]:
    counts: list[int] = torch.bincount(labels, minlength=classes).tolist()
    return [count / len(labels) for count in counts]
