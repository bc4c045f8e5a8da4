"""Name kinds of images that are not plain 8-bit RGB, and the way they are decoded."""

from PIL import Image

from lgkd._internal.out_of_memory import raise_if_out_of_memory
from lgkd.data.greys import has_deep_greys, is_deep, is_inverted

KINDS = {
    "grey": "the same in three channels",
    "palette": "its colours",
    "transparent": "laid on white",
    "CMYK": "RGB, no colour profile applied",
    "16-bit": "scaled to 8 bits",
    "floating-point": "scaled to 8 bits",
    "white is 0": "inverted",
    "several frames": "the first one",
    "turned by EXIF": "set upright",
    "another colour space": "RGB, no colour profile applied",
}
"""Images that are not plain 8-bit RGB, and the result of decoding each kind."""


def colours_of(image: Image.Image) -> list[str]:
    """Return the kinds that are visible before an image is loaded, which may change its mode."""
    mode = image.mode
    kinds = []
    if mode in ("1", "L", "LA", "La", "F") or mode.startswith("I"):
        kinds.append("grey")
    elif mode.startswith("P"):
        kinds.append("palette")
    elif mode == "CMYK":
        kinds.append("CMYK")
    elif not mode.startswith("RGB"):
        kinds.append("another colour space")
    # Pillow reads 16-bit colours as 8-bit ones; only its instructions for the decoder show it.
    if mode == "F":
        kinds.append("floating-point")
    elif is_deep(image):
        kinds.append("16-bit")
    if has_deep_greys(image) and is_inverted(image):
        kinds.append("white is 0")
    if image.has_transparency_data:
        kinds.append("transparent")
    return kinds


def has_frames(image: Image.Image) -> bool:
    """Return True where an image holds more than its first frame."""
    try:
        return int(getattr(image, "n_frames", 1)) > 1
    except Exception as error:  # a broken later frame, of which Pillow raises anything: only the first one is used
        raise_if_out_of_memory(error)
        return True
