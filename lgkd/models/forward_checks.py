"""Check what a model returns by a trial forward pass on black images."""

from typing import Any

import torch
from torch import nn

from lgkd._internal.text import first_line
from lgkd.errors import ModelError


def check_model(
    model: nn.Module, name: str, *, num_classes: int | None, image_size: tuple[int, int], channels: int = 3
) -> int:
    """Run two images through a model and return the width of the logits; training flags and statistics are restored.

    Raises:
        ModelError: the forward fails, or its result is not (2, num_classes).
    """
    try:
        logits = _tried(model, image_size, channels=channels)
    except Exception as error:
        taken = _channels_taken(model, image_size, channels)
        if taken is not None:
            way = (
                "a factory that makes models of one takes the argument in_chans; else leave out --channels"
                if channels == 1
                else "give --channels 1 instead of an option such as in_chans; without it grey images have three, too"
            )
            raise ModelError(
                f"{name} takes images of {taken} channel{'s' * (taken != 1)}, expected {channels}: {way}"
            ) from error
        raise ModelError(
            f"{name} cannot take images of {image_size[0]} x {image_size[1]} pixels ({first_line(error)}); "
            "choose another --image-size, or a --student-option such as patch_size"
        ) from error
    if not isinstance(logits, torch.Tensor):
        raise no_logits(name, logits)
    if logits.ndim != 2 or logits.shape[0] != 2:
        raise ModelError(f"{name} returns {tuple(logits.shape)} for two images, expected logits of shape (2, classes)")
    if num_classes is not None and logits.shape[1] != num_classes:
        raise ModelError(f"{name} returns logits for {logits.shape[1]} classes, expected {num_classes}")
    return int(logits.shape[1])


def check_training(model: nn.Module, name: str, *, image_size: tuple[int, int], channels: int = 3) -> None:
    """Refuse a model that returns logits in evaluation but another type in training; its state is restored.

    Raises:
        ModelError: it does. A model that cannot be tried this way is left to its training.
    """
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        output = _tried(model, image_size, channels=channels, training=True)
    except Exception:  # it may need more than two images, a GPU or other processes
        return
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    if not isinstance(output, torch.Tensor):
        raise no_logits(name, output, when=" while it trains, and logits in evaluation")


def no_logits(name: str, output: object, *, when: str = "") -> ModelError:
    """Build the error of a model whose output is not a tensor.

    Args:
        name: the model's.
        output: the value that it returned.
        when: condition that the message adds, such as the mode.
    """
    if isinstance(output, tuple | list):
        parts = ", ".join(_shape_of(part) for part in output)
        found, way = f"{type(output).__name__} ({parts})", "turn its other outputs off (torchvision: aux_logits=false)"
    elif isinstance(getattr(output, "logits", None), torch.Tensor):
        found = type(output).__name__
        way = "for a model of transformers give lgkd.models.huggingface.Classifier(model)"
    else:
        found, way = type(output).__name__, "name the part of it that holds them"
    return ModelError(
        f"{name} returns {found}{when}; expected logits (B, classes) at all times: {way}, or wrap it in a module whose "
        "forward returns the logits alone"
    )


def _shape_of(part: object) -> str:
    return " x ".join(map(str, part.shape)) if isinstance(part, torch.Tensor) else type(part).__name__


def _tried(model: nn.Module, image_size: tuple[int, int], *, channels: int = 3, training: bool = False) -> Any:
    """Run a model on two black images and return its output. Training flags and random states are restored."""
    flags = [(module, module.training) for module in model.modules()]
    like = next(model.parameters(), torch.zeros(()))
    images = torch.zeros(2, channels, *image_size, device=like.device, dtype=like.dtype)
    try:
        model.train(training)
        with torch.no_grad(), torch.random.fork_rng(devices=[like.device] if like.is_cuda else [], enabled=training):
            return model(images)
    finally:
        for module, was in flags:
            module.training = was


def _channels_taken(model: nn.Module, image_size: tuple[int, int], expected: int) -> int | None:
    """Return the image channels that a model takes instead; None where the channels are not the cause."""
    taken = next((module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), expected)
    if taken == expected:
        return None
    try:
        _tried(model, image_size, channels=taken)
    except Exception:  # another error, in addition or instead
        return None
    return taken
