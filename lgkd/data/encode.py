"""Encode pixels as bytes of a format, and back; only for bytes made here, see `decode` for files."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def as_png(pixels_3HW: Tensor, *, smallest: bool = True) -> bytes:
    """Encode an image, uint8 (3,H,W), as PNG; `smallest` takes several times as long for a large image."""
    return _written(pixels_3HW, "PNG", optimize=smallest)


def as_jpeg(pixels_3HW: Tensor, quality: int) -> bytes:
    """Encode an image, uint8 (3,H,W), as JPEG; quality from 1 to 95."""
    return _written(pixels_3HW, "JPEG", quality=quality)


def through_jpeg(pixels_3HW: Tensor, quality: int) -> Tensor:
    """Compress an image, uint8 (3,H,W), as JPEG and decode it again."""
    with Image.open(io.BytesIO(as_jpeg(pixels_3HW, quality)), formats=("JPEG",)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def _written(pixels_3HW: Tensor, kind: str, **options: bool | int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels_3HW.permute(1, 2, 0).contiguous().numpy()).save(stream, kind, **options)
    return stream.getvalue()
