"""Declare teacher cards: the description of a trained teacher in a small JSON file beside its weights.

No torch here, so that listing teachers takes milliseconds.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from lgkd._internal.metric_rules import is_unequal

_SAFE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")


def safe(text: str) -> str:
    if not _SAFE.fullmatch(text):
        raise ValueError("must be 1 to 128 letters, digits, '_', '.' or '-', not beginning with '.'")
    return text


def _date(text: str) -> str:
    datetime.fromisoformat(text)
    return text


def _a_number_a_channel(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(values) not in (1, 3):
        raise ValueError("must be three numbers, for red, green and blue, or one for grey levels")
    return values


def _spread(values: tuple[float, ...]) -> tuple[float, ...]:
    if min(values) <= 0:
        raise ValueError("every channel's spread must be greater than 0")
    return values


def _distinct(names: list[str]) -> list[str]:
    if len(set(names)) != len(names):
        raise ValueError("every name must appear once")
    return names


SafeName = Annotated[str, AfterValidator(safe)]
Words = Annotated[list[str], Field(strict=False), AfterValidator(_distinct)]
Channels = Annotated[tuple[float, ...], Field(strict=False), AfterValidator(_a_number_a_channel)]


Side = Annotated[int, Field(ge=1, strict=True)]


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Accuracy(_Part):
    """Record a teacher's accuracy and how it was measured."""

    top1: float = Field(ge=0, le=1)
    """Top-1 accuracy as a share of 1."""
    split: str = Field(min_length=1)
    """The split it was measured on."""
    epoch: int = Field(ge=0)
    """The epoch whose weights were saved, counted from 1 (0: untrained)."""
    epochs: int = Field(ge=0)
    """Epochs of the training."""
    selected_on: str | None = None
    """The split on which that epoch was chosen; null: the last epoch, without a choice."""

    balanced_accuracy: float | None = Field(default=None, ge=0, le=1)
    """Mean accuracy of the classes with images there; null: not measured, as by an older lgkd."""
    seen_classes: int | None = Field(default=None, ge=1)
    """Number of classes with images there."""
    largest_class: float | None = Field(default=None, gt=0, le=1)
    """Share of the most frequent class in the images: the accuracy of always predicting it."""
    map: float | None = Field(default=None, ge=0, le=1)
    """Mean average precision, where an image has several labels; top1 is then the share with all labels right."""
    chance_map: float | None = Field(default=None, ge=0, le=1)
    """Mean share of the images that have a class, there: the mAP of a ranking by chance."""

    @model_serializer(mode="wrap")
    def _leave_out_several_labels(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Cards of one label an image stay readable by earlier versions.
        values: dict[str, Any] = write(self)
        return {key: value for key, value in values.items() if value is not None or key not in ("map", "chance_map")}

    @property
    def value(self) -> float:
        """Return the metric that stands for it: top-1 accuracy, or mAP of several labels an image."""
        return self.top1 if self.map is None else self.map

    @property
    def shown(self) -> str:
        """Return the accuracy in words."""
        return f"{self.value:.1%} {'top-1' if self.map is None else 'mAP'}"

    @model_validator(mode="after")
    def _epoch_is_one_of_them(self) -> "Accuracy":
        if self.epoch > self.epochs:
            raise ValueError(f"epoch {self.epoch} is after the last of {self.epochs}")
        return self

    def no_better_than(self, classes: int, largest_class: float | None = None) -> str | None:
        """Describe the baseline that a model hardly exceeds: by less than a tenth of the way from there to 1.

        The balanced accuracy decides where it was measured: a model that recognises the small classes may have a
        lower top-1 than one that always predicts the largest, and still be better.

        Args:
            classes: number of classes of the model.
            largest_class: share of the most frequent class in the test images, where the card of an older
                lgkd lacks it.
        """
        if self.map is not None:
            guess = self.chance_map or 0.0
            return f"little better than a ranking by chance ({guess:.1%})" if _hardly_above(self.map, guess) else None
        top1, balanced = self.top1, self.balanced_accuracy
        chance = 1 / classes
        largest = self.largest_class or largest_class or chance
        if balanced is not None:
            guess = 1 / (self.seen_classes or classes)
            if _hardly_above(balanced, guess) and is_unequal(largest, classes):
                return (
                    f"little better than always naming the largest class ({largest:.1%}): its balanced accuracy is "
                    f"{balanced:.1%}, that of a guess {guess:.1%}"
                )
            return f"little better than chance ({chance:.1%})" if _hardly_above(min(top1, balanced), chance) else None
        if not _hardly_above(top1, largest):
            return None
        if is_unequal(largest, classes):
            return f"little better than always naming the largest class ({largest:.1%})"
        return f"little better than chance ({chance:.1%})"


class TeacherCard(_Part):
    """Describe a trained teacher. Lists may be given as tuples; all fields are immutable."""

    version: Literal[1] = 1
    """Version of this format."""
    name: SafeName
    """The teacher's name, also that of its folder."""
    architecture: str = Field(min_length=1)
    """Builder of the untrained network."""
    options: dict[str, bool | int | float | str] = {}
    """Arguments of the constructor besides the number of classes."""
    dataset: SafeName
    """The data set it was trained on, also the folder above its own."""
    fingerprint: str = Field(min_length=1)
    """Fingerprint of the training images and labels."""
    classes: Annotated[Words, Field(min_length=1)]
    """Names of the classes, in the order of the logits."""
    images: int = Field(ge=1)
    """Number of its training images."""
    subset: str | None = None
    """Subset of the training split, like "fraction 0.1, seed 0"; null: all of it."""
    image_size: Side | Annotated[tuple[Side, Side], Field(strict=False)]
    """Side of the square images it expects, or (height, width), in pixels."""
    mean: Channels
    """Channel means for the normalisation of its images, for values 0 to 1."""
    std: Annotated[Channels, AfterValidator(_spread)]
    """Channel standard deviations for the normalisation of its images."""
    taps: Words
    """Layers that guide, from the first to the last."""
    accuracy: Accuracy
    """Accuracy and how it was measured."""
    recipe: str = Field(min_length=1)
    """The recipe it was trained with."""
    seed: int = Field(ge=0)
    """The seed of that training."""
    parameters: int = Field(ge=0)
    """Number of learned parameters."""
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of weights.safetensors."""
    lgkd_version: str
    """The lgkd version that trained it."""
    torch_version: str
    """The torch version that trained it."""
    created: Annotated[str, AfterValidator(_date)]
    """Date of the training, in ISO form (UTC)."""

    @model_validator(mode="after")
    def _as_many_channels(self) -> "TeacherCard":
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels, and std {len(self.std)}")
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) of the images it expects, in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def multi_label(self) -> bool:
        """Return true if it gives an image several labels: its logits are independent of each other."""
        return self.accuracy.map is not None

    @property
    def near_chance(self) -> bool:
        """Return true if it does little better than guessing, or than always predicting the largest class."""
        return self.no_better_than() is not None

    def no_better_than(self, largest_class: float | None = None) -> str | None:
        """Describe the baseline that the teacher hardly exceeds; see `Accuracy.no_better_than`."""
        return self.accuracy.no_better_than(len(self.classes), largest_class)


def card_size(image_size: Sequence[int]) -> int | tuple[int, int]:
    """Return (height, width) as a card stores it: one side for square images."""
    height, width = image_size
    return height if height == width else (height, width)


def _hardly_above(value: float, guess: float) -> bool:
    return value < guess + 0.1 * (1 - guess)
