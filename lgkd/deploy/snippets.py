"""Write Python that uses an export without lgkd and runs in its folder; a test runs every snippet."""

from collections.abc import Iterator, Mapping
from typing import Any

from lgkd.deploy.options import FORMATS
from lgkd.deploy.subject import Subject

_PREPARE = """```python
import json

import numpy as np
from PIL import Image, ImageOps

about = json.load(open("student.json", encoding="utf-8"))
{scale}

def prepare(file):
    image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    image.thumbnail(({longest}, {longest}), Image.Resampling.BICUBIC, reducing_gap=None)
    height, width = about["image_size"]
    image = image{grey}.resize((width, height), Image.Resampling.{interpolation})
    levels = (np.asarray(image, dtype=np.float32){axis} / 255 - about["mean"]) / about["std"]
    return levels.astype(np.float32).transpose(2, 0, 1)


def show(logits):
    for row in np.asarray(logits, dtype=np.float64):
{shares}            print(f"{{shares[place]:.4f}} {{about['classes'][place]}}")


images = np.stack([prepare("image.png")])
```
"""

_SOFTMAX = """        shares = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        for place in shares.argsort()[::-1][:3]:
"""

_SIGMOID = """        shares = 1 / (1 + np.exp(-row))  # one for each class, independent of the others
        for place in np.flatnonzero(shares > 0.5):
"""

_SCALE = """

def eight_bits(image):
    # Greys of more than 8 bits, scaled as in the training.
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    black, white = about["greys"].get("float" if image.mode == "F" else "whole", (0, 65535))
    values = np.asarray(image).astype(np.float64)
    levels = np.clip(np.floor((values - black) / (white - black) * 255 + 0.5), 0, 255).astype(np.uint8)
    inverted = image.format == "TIFF" and image.tag_v2.get(262) == 0
    return Image.fromarray(255 - levels if inverted else levels)
"""

_TIMM = """```python
import timm
import torch
from safetensors.torch import load_file

model = timm.create_model({call})
model.load_state_dict(load_file("student.safetensors"))
model.eval()
with torch.no_grad():
    show(model(torch.from_numpy(images)))
```
"""

_ONNX = """```python
import onnxruntime

session = onnxruntime.InferenceSession("student.onnx")
show(session.run(None, {"images": images})[0])
```
"""

_PROGRAM = """```python
import torch

model = torch.export.load("student.pt2").module()
with torch.no_grad():
    show(model(torch.from_numpy(images)))
```
"""


def snippets(subject: Subject, about: Mapping[str, Any]) -> Iterator[str]:
    """Return the parts of the section, each with its heading.

    Args:
        subject: what was exported.
        about: export.json.
    """
    files = about["files"]
    yield "With lgkd, from any format but torch.export:\n\n```sh\nlgkd predict . image.png\n```\n"
    yield "Without it, images are prepared with Pillow:\n"
    deep = bool(subject.about.get("greys"))
    prepare = _PREPARE.format(
        longest=subject.about["longest_side"],
        interpolation=subject.about["interpolation"].upper(),
        grey='.convert("L")' if subject.channels == 1 else "",
        axis="[..., None]" if subject.channels == 1 else "",
        scale=_SCALE.rstrip("\n") + "\n" if deep else "",
        shares=_SIGMOID if subject.about.get("multi_label") else _SOFTMAX,
    )
    yield (
        prepare.replace("exif_transpose(Image.open(file))", "exif_transpose(eight_bits(Image.open(file)))")
        if deep
        else prepare
    )
    if FORMATS["safetensors"] in files:
        yield _safetensors(about)
    onnx = [FORMATS[name] for name in FORMATS if name.startswith("onnx") and FORMATS[name] in files]
    if onnx:
        others = f"{' and '.join(f'`{file}`' for file in onnx[1:])} in the same way.\n\n" if onnx[1:] else ""
        yield f"### `{onnx[0]}`, with ONNX Runtime\n\n{others}{_ONNX.replace(FORMATS['onnx'], onnx[0])}"
    if FORMATS["torch-export"] in files:
        yield (
            "### `student.pt2`, with torch\n\ntorch's reader runs pickles, so load such a file only if you trust who "
            f"made it. This one was written without any.\n\n{_PROGRAM}"
        )


def _safetensors(about: Mapping[str, Any]) -> str:
    call = about["timm"]
    if call is None:
        others = [f"`{file}`" for file in about["files"] if file != FORMATS["safetensors"]]
        without = f"; without it, take {' or '.join(others)}" if others else ""
        return (
            "### `student.safetensors`, with lgkd\n\nThis architecture is not timm's: its weights alone need the code "
            f'that made it{without}.\n\n```python\nimport lgkd\n\nmodel = lgkd.load_student(".")\n```\n'
        )
    words = [literal(call["model"]), *(f"{key}={literal(value)}" for key, value in call["arguments"].items())]
    return f"### `student.safetensors`, with timm\n\n{_TIMM.format(call=', '.join(words))}"


def literal(value: Any) -> str:
    """Write a value as a Python literal, in which no character can end a block of code."""
    return repr(value).replace("`", "\\x60")
