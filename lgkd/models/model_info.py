"""What is known of a model; no torch, so that listing is quick."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["teacher", "student"]


@dataclass(frozen=True)
class ModelInfo:
    """A model that lgkd knows by name.

    Attributes:
        name: what users type.
        role: what it is listed as; either role may be played by any model.
        title: the name in the literature.
        image_size: pixels of the side of its images unless told otherwise.
        parameters: count with 100 classes at `image_size`.
        source: where the architecture comes from.
        timm: name in timm, for models that timm builds.
        made_by: `package.module:factory` of lgkd's own models; it takes `num_classes` and, if it wants, `image_size`.
        preset: options of the factory that the name stands for; users cannot change them.
        aliases: other names.
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
