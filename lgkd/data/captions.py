"""Draw lines of text as pixels, for pictures that carry a caption.

The font is DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic, Arabic and many signs. A character that it
lacks is drawn as a box.
"""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lgkd._internal.text import one_line

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_CUT = "..."
_LINE = 1.4
"""Height of a line, in sizes of the font."""


def caption(lines: Sequence[str], width: int, size: int) -> Tensor:
    """Draw lines in black on white, one below the other: uint8 (3,h,width).

    Args:
        lines: control characters are escaped, and a line that is too wide is cut, with "..." at its end.
        width: in pixels.
        size: of the font, in pixels.
    """
    font = _font(size)
    height = round(_LINE * size)
    page = Image.new("RGB", (width, max(1, height * len(lines))), "white")
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        draw.text((0, number * height), _fitting(draw, one_line(line), width, font), fill="black", font=font)
    return torch.from_numpy(np.array(page)).permute(2, 0, 1).contiguous()


@cache
def _font(size: int) -> Font:
    spec = find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        file = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        try:
            return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)
        except (OSError, ImportError):  # a matplotlib without its fonts, a Pillow without FreeType
            pass
    return ImageFont.load_default(size)


def _fitting(draw: ImageDraw.ImageDraw, line: str, width: int, font: Font) -> str:
    """Cut a line at its end until it is as wide as `width`, by halving."""
    if draw.textlength(line, font=font) <= width:
        return line
    fits, too_long = 0, len(line)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if draw.textlength(line[:middle] + _CUT, font=font) <= width:
            fits = middle
        else:
            too_long = middle
    return line[:fits] + _CUT
