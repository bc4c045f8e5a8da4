"""Build image classifiers of Hugging Face transformers from a configuration, to be trained from scratch.

An optional extra: `pip install 'lgkd[hf]'`. Nothing is downloaded.

Letters in shapes: B batch, K classes, H W image size.
"""

import importlib
from typing import Any

from torch import Tensor, nn

from lgkd._internal.text import did_you_mean
from lgkd.errors import ModelError
from lgkd.models.factory import ImageSize, pair

_NO_OPTIONS = {"architectures", "dtype", "id2label", "label2id", "return_dict", "transformers_version"}
"""Keys of configurations that lgkd sets: the classes, and that logits come back in single precision."""

_NOT_HERE = {"timm_wrapper"}
"""Type that `timm:NAME` builds instead, which never reads files."""


class Classifier(nn.Module):
    """Return logits from a classifier whose forward returns an object with `.logits`: (B,3,H,W) -> (B,K).

    Its layers are those of `model`: `model.vit.layers.0`.

    Args:
        model: called with `pixel_values=images`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return logits (B,K)."""
        return self.model(pixel_values=images_B3HW).logits  # type: ignore[no-any-return]


def classifier(
    num_classes: int, model_type: str, image_size: ImageSize | None = None, in_chans: int = 3, **options: Any
) -> Classifier:
    """Build an untrained image classifier of transformers.

    As a name: `--student lgkd.models.huggingface:classifier --student-option model_type=vit`.

    Args:
        num_classes: width of the logits.
        model_type: as transformers calls its architectures: vit, deit, swin, convnext, ...
        image_size: pixels, one number or (height, width); passed to those architectures that are made for one size.
        in_chans: channels of the images.
        options: keys of the architecture's configuration: `hidden_size=192, num_hidden_layers=12, patch_size=4`.

    Raises:
        ModelError: transformers is not installed, has no image classifier of that type, or its configuration no such
            key.
    """
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise ModelError(f"transformers cannot be imported ({error}); install it: pip install 'lgkd[hf]'") from error
    named = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    known = sorted(named.keys() - _NOT_HERE)
    if model_type not in known:
        raise ModelError(
            f"transformers has no image classifier of type {model_type!r}; {did_you_mean(model_type, known)}"
        )
    default = transformers.AutoConfig.for_model(model_type)
    # Configurations keep any key that they are given, so that a typo would go unnoticed.
    keys = sorted(key for key in default.to_dict().keys() - _NO_OPTIONS if not key.startswith("_"))
    unknown = sorted(options.keys() - set(keys))
    if unknown:
        raise ModelError(f"{model_type} has no option {unknown[0]!r}; {did_you_mean(unknown[0], keys)}")
    sized: dict[str, Any] = {}
    if image_size is not None and hasattr(default, "image_size"):
        height, width = pair(image_size)
        sized["image_size"] = height if height == width and isinstance(default.image_size, int) else [height, width]
    if in_chans != 3 and hasattr(default, "num_channels"):
        sized["num_channels"] = in_chans
    # Without a list of architectures transformers fails for types that have two classifiers.
    words = {"num_labels": num_classes, "architectures": [], **sized, **options}
    config = transformers.AutoConfig.for_model(model_type, **words)
    return Classifier(transformers.AutoModelForImageClassification.from_config(config))
