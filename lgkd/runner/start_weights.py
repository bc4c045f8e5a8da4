"""Give a model the weights that its training starts from: those of a file, or fitted to its training images."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lgkd._internal.safetensors_io import load_weights
from lgkd.config import Recipe
from lgkd.data.prepare import Data, make_test_batches
from lgkd.errors import InputError
from lgkd.models.initial_weights import start_from_weights
from lgkd.runner.initial_weights import InitialWeights

_FITTED = 5000
"""Largest number of training images for models whose initial weights depend on them."""


def start_from(initial: InitialWeights, model: nn.Module, data: Data, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Load the initial weights, and report what had to be changed; return the record for run.json."""
    if initial.file is None:
        return dict(initial.record or {})
    adapted = start_from_weights(
        model,
        load_weights(initial.file, initial.sha256),
        initial.origin,
        same_classes=None if initial.classes is None else initial.classes == data.classes,
        image_size=initial.image_size,
    )
    record: dict[str, Any] = {
        "path": str(initial.place),
        "sha256": initial.sha256,
        "classifier": adapted.classifier,
        "resized": list(adapted.resized),
    }
    if initial.epochs_before is not None and (adapted.classifier == "new" or adapted.resized):
        raise InputError(
            f"{initial.place} was trained on other classes or another image size, and its optimiser state does not "
            "fit these; start from its weights alone, without --with-optimizer"
        )
    if initial.epochs_before is not None:
        record["epochs_before"] = initial.epochs_before
    changes = ["its classifier is drawn anew, for other classes"] if adapted.classifier == "new" else []
    changes += [f"{name} is resized" for name in adapted.resized]
    say(f"starts from {initial.file}{': ' if changes else ''}{'; '.join(changes)}")
    return record


def fit_images(model: nn.Module, size: tuple[int, int], data: Data, recipe: Recipe) -> None:
    """Pass training images to a model whose initial weights depend on them (its method `lgkd_fit_images`)."""
    fit = getattr(model, "lgkd_fit_images", None)
    if fit is None:
        return
    count = len(data.train)
    some = data.train.take(torch.arange(0, count, -(-count // _FITTED)))
    batches = make_test_batches(
        some,
        image_size=size,
        mean=data.mean,
        std=data.std,
        interpolation=recipe.view.interpolation,
        device="cpu",
    )
    fit(torch.cat([images for images, _ in batches]))
