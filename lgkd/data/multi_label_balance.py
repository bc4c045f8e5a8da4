"""Weight the positive labels of classes that few images have, and refuse settings that need one label an image.

Letters in shapes: N images, K classes.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from lgkd._internal.text import listed
from lgkd.config import Recipe
from lgkd.data.class_balance import ClassBalance, class_balance
from lgkd.errors import DataError, InputError


def label_balance(recipe: Recipe, labels_NK: Tensor, classes: Sequence[str]) -> ClassBalance:
    """Return the weights of the positive labels in the binary cross entropy of a training.

    "balanced" weighs the positive labels of a class by (n - n_c) / n_c, where n_c of n images have it: as much then
    depends on images with the class as on those without, as with scikit-learn's `class_weight="balanced"` for every
    class by itself. By name, the positive labels of those classes have these weights, all others 1.

    Raises:
        InputError: a weight is for an unknown class, or a setting needs one label an image.
        DataError: no image, or every image, has a class, and its weight would be computed from their numbers.
    """
    check_recipe(recipe)
    weights = recipe.class_weights
    if isinstance(weights, Mapping) or weights == "none":
        named = class_balance(weights, 0.0, [1.0] * len(classes), classes).weights
        return ClassBalance(named, None, multi_label=True)
    have_K = labels_NK.sum(0)
    odd = [name for name, n in zip(classes, have_K.tolist(), strict=True) if n in (0, len(labels_NK))]
    if odd:
        raise DataError(
            "class_weights: balanced is computed from the images with and without every class, and of "
            f"{listed(odd)} there are none; add images, remove the class, or leave that key out"
        )
    return ClassBalance((len(labels_NK) - have_K) / have_K, None, multi_label=True)


def check_recipe(recipe: Recipe) -> None:
    """Refuse settings of a recipe that are not defined for several labels an image.

    Raises:
        InputError: there is one.
    """
    found = [
        *(["sampler: balanced"] if recipe.sampler == "balanced" else []),
        *([f"logit_adjustment: {recipe.logit_adjustment:g}"] if recipe.logit_adjustment else []),
    ]
    if found:
        raise InputError(
            f"{' and '.join(found)}: for images of one class each, and here an image has several labels; set it back, "
            "and use class_weights: balanced, which weighs the positive labels of rare classes"
        )
