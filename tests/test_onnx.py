"""Every model that is built here can be written as ONNX and gives the same logits there, at any batch size.

Needs the extra `onnx`; `lgkd export` does not exist yet, so this is PyTorch's exporter on the plain modules.
"""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from lgkd.models.catalogue import MODELS
from lgkd.models.factory import create_model

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

# Few blocks and small images: (pixels, options).
SMALL: dict[str, tuple[int, dict[str, Any]]] = {
    "resnet8": (32, {}),
    "resnet8x4": (32, {}),
    "wrn_16_2": (32, {}),
    "vgg8": (32, {}),
    "mobilenet_v2": (32, {}),
    "shufflenet_v2": (32, {}),
    "densenet_100_12": (32, {}),
    "t2t_vit_7": (32, {"patch_size": 8, "depth": 3}),
    "pvt_tiny": (32, {"patch_size": 2, "depths": (1, 1, 1, 1)}),
    "cvt_13": (64, {"depths": (1, 1, 2)}),
    "dhvt_tiny": (32, {"depth": 2}),
    "vit_lite": (32, {"depth": 2}),
    "cvt_7_4": (32, {"depth": 2}),
    "cct_7_3x1": (32, {"depth": 2}),
    "cct_7_3x2": (32, {"depth": 2}),
    "cct_2_3x2": (32, {}),
    "sl_vit": (32, {"depth": 2}),
    "poorvit": (32, {"depth": 2, "q_rank": 8}),
}
# One of each family: those that differ in depth and width alone are the same code.
FAMILIES = {info.made_by for info in MODELS.values() if info.made_by}


def test_there_is_one_of_every_family() -> None:
    assert {MODELS[name].made_by for name in SMALL} == FAMILIES


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_onnx_gives_the_same_logits_at_every_batch_size(name: str, tmp_path: Path) -> None:
    size, options = SMALL[name]
    torch.manual_seed(3)
    model = create_model(name, num_classes=7, image_size=size, options=options).eval()
    file = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.randn(2, 3, size, size),),
            file,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        images = torch.randn(batch, 3, size, size)
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        with torch.no_grad():
            expected = model(images)
        # An untrained DenseNet's logits go into the hundred thousands.
        assert abs(torch.from_numpy(found) - expected).max() < 1e-4 * max(1.0, float(expected.abs().max()))
