"""Publishers' files that `lgkd arrange` lays out: small folders and zips of the published layouts."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from lgkd.data.catalogue import CATALOGUE
from lgkd.data.sources import chaoyang
from lgkd.data.sources.arrange import arrange

Change = dict[str, bytes | None]

WNIDS = ("n02124075", "n01443537", "n04067472")
# Two training images of each class; of the validation images each class has one, in no order.
VAL = {"val_0.JPEG": "n04067472", "val_1.JPEG": "n02124075", "val_2.JPEG": "n01443537"}
SLIDES = {"normal": (2, 1), "serrated": (1, 2), "adenocarcinoma": (3, 1), "adenoma": (1, 3)}
# What is in a slide is told by its red: 50 times the publisher's label.
LABELS = {"train": (0, 2, 2, 1, 3, 0, 2), "test": (3, 1, 1, 0, 2, 3, 3)}


def jpeg(red: int, number: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (red, number, 0)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def tiny_files() -> dict[str, bytes]:
    files = {"wnids.txt": "\n".join(WNIDS).encode() + b"\n", "words.txt": b"n01443537\tgoldfish\n"}
    for place, wnid in enumerate(WNIDS):
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b"x\n"
        for number in range(2):
            files[f"train/{wnid}/images/{wnid}_{number}.JPEG"] = jpeg(80 * place, number)
    lines = [f"{image}\t{wnid}\t0\t32\t44\t62\n" for image, wnid in VAL.items()]
    files["val/val_annotations.txt"] = "".join(lines).encode()
    files |= {f"val/images/{image}": jpeg(80 * WNIDS.index(wnid), 9) for image, wnid in VAL.items()}
    return files | {"test/images/test_0.JPEG": jpeg(1)}


def slide_files() -> dict[str, bytes]:
    files: dict[str, bytes] = {"README.md": b"Colon slides"}
    for split, labels in LABELS.items():
        entries = []
        for place, label in enumerate(labels):
            name = f"{split}/5359-IMG{place:03d}-{label}.JPG"
            files[name] = jpeg(50 * label, place)
            entries.append({"label": label, "name": name})
        files[f"{split}.json"] = json.dumps(entries).encode()
    return files


MAKE = {"tiny-imagenet": tiny_files, "chaoyang": slide_files}
INNER = {"tiny-imagenet": "tiny-imagenet-200/", "chaoyang": "chaoyang-data/"}


def packed(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def make_given(tmp_path: Path, patch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes a publisher's zip or folder of a small set; the catalogue then says how many images that has."""
    (tmp_path / "desk").mkdir()
    patch.chdir(tmp_path / "desk")
    tiny = replace(CATALOGUE["tiny-imagenet"], classes=3, train=6, test=3, image_size=16)
    patch.setitem(CATALOGUE, "tiny-imagenet", tiny)
    slides = replace(CATALOGUE["chaoyang"], train=7, test=7, image_size=16)
    patch.setitem(CATALOGUE, "chaoyang", slides)
    patch.setattr(chaoyang, "CHAOYANG", SLIDES)

    def make(name: str, form: str = "folder", change: Change | None = None) -> Path:
        files = {file: content for file, content in (MAKE[name]() | (change or {})).items() if content is not None}
        if form == "zip":
            return packed(tmp_path / "given.zip", *((INNER[name] + file, content) for file, content in files.items()))
        for file, content in files.items():
            path = tmp_path / "given" / INNER[name] / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return tmp_path / "given" / ("" if form == "around" else INNER[name])

    return make


def refused(error: type[Exception], *words: object, **options: object) -> str:
    with pytest.raises(error) as caught:
        arrange(*words, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)
