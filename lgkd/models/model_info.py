"""Describe a known model; no torch, so that listing is quick."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["teacher", "student"]


@dataclass(frozen=True)
class ModelInfo:
    """Describe a model that lgkd knows by name.

    Attributes:
        name: the word that users type.
        role: the list that it is in; any model may play either role.
        title: the name in the literature.
        image_size: pixels of the side of its images unless another size is given.
        parameters: count with 100 classes at `image_size`.
        source: where the architecture comes from.
        timm: name in timm, for models that timm builds.
        made_by: `package.module:factory` of lgkd's own models; it takes `num_classes` and optionally `image_size`.
        preset: options of the factory that the name implies; users cannot change them.
        aliases: other names.
        suits: image sizes and trainings that it is for, in a few words.
    """

    name: str
    role: Role
    title: str
    image_size: int
    parameters: int
    source: str
    timm: str | None = None
    made_by: str | None = None
    preset: Mapping[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    suits: str = ""
