"""A student as a run or an export stores it, made without a training: a small ViT with random weights."""

from pathlib import Path

import torch

from lgkd._internal.atomic_io import write_json
from lgkd._internal.manifest import write_manifest
from lgkd._internal.safetensors_io import save_weights
from lgkd.models.factory import create_model
from tests.support.small import CLASSES

OPTIONS = {"patch_size": 4, "depth": 1, "embed_dim": 16, "num_heads": 2}


def make_student(folder: Path) -> Path:
    """FOLDER/student.json, student.safetensors and MANIFEST.json of a student of 16 x 16 pixels."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = create_model("vit_96", num_classes=len(CLASSES), image_size=16, options=OPTIONS)
    about = {
        "format": 1,
        "name": "vit_96",
        "class": type(model).__name__,
        "options": OPTIONS,
        "classes": list(CLASSES),
        "num_classes": len(CLASSES),
        "image_size": [16, 16],
        "longest_side": 12,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.25, 0.3],
        "interpolation": "bicubic",
        "weights_sha256": save_weights(model.state_dict(), folder / "student.safetensors"),
    }
    write_json(folder / "student.json", about)
    write_manifest(folder, ("student.json", "student.safetensors"))
    return folder
