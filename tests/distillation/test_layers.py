"""The list of layers that `lgkd layers` shows."""

import json
from pathlib import Path

import pytest
import torch

from lgkd.distillation.layers import Layer, describe_layers
from lgkd.errors import ModelError


def by_name(layers: list[Layer]) -> dict[str, Layer]:
    return {layer.name: layer for layer in layers}


def test_the_layers_of_a_resnet_say_what_can_be_tapped() -> None:
    layers = by_name(describe_layers("resnet8"))
    assert [name for name, layer in layers.items() if layer.tapped] == ["stage1", "stage2", "stage3"]
    assert [(layers[f"stage{n}"].map, layers[f"stage{n}"].stride) for n in (1, 2, 3)] == [
        ((16, 32, 32), 1.0),
        ((32, 16, 16), 2.0),
        ((64, 8, 8), 4.0),
    ]
    assert all(layers[name].is_block for name in ("stage1", "stage2", "stage3"))
    assert not layers["conv"].is_block
    assert layers["fc"].output == (10,) and layers["fc"].map is None
    assert layers["fc"].problem == "no map" and layers["fc"].stride is None
    assert layers["conv"].kind == "Conv2d"


def test_layers_come_in_the_order_in_which_they_run() -> None:
    names = [layer.name for layer in describe_layers("resnet8")]
    assert names.index("conv") < names.index("stage1.0.conv1") < names.index("stage1") < names.index("fc")
    assert "" not in names, "the model as a whole is no layer of itself"


def test_tokens_are_shown_as_the_maps_that_they_fold_into() -> None:
    options = {"patch_size": 8, "depth": 3}
    layers = by_name(describe_layers("deit_tiny", image_size=32, options=options))
    assert [name for name, layer in layers.items() if layer.tapped] == ["blocks.0", "blocks.1", "blocks.2"]
    block = layers["blocks.1"]
    assert (block.output, block.map, block.stride, block.is_block) == ((17, 192), (192, 4, 4), 8.0, True)
    assert layers["patch_embed.proj"].map == (192, 4, 4)
    assert layers["head"].map is None


def test_a_model_without_default_taps_is_listed_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "untapped_for_tests.py").write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "                         nn.Linear(4, num_classes))\n",
        encoding="utf-8",
    )
    layers = describe_layers("untapped_for_tests:net", image_size=16)
    assert [(layer.name, layer.map, layer.tapped) for layer in layers] == [
        ("0", (4, 8, 8), False),
        ("1", (4, 1, 1), False),
        ("2", None, False),
        ("3", None, False),
    ]


def test_listing_draws_no_random_numbers_and_can_be_written_as_json() -> None:
    chance = torch.get_rng_state()
    layers = describe_layers("resnet8", image_size=16)
    assert torch.equal(torch.get_rng_state(), chance)
    rows = json.loads(json.dumps([layer.as_dict() for layer in layers]))
    keys = ("name", "kind", "output", "map", "stride", "depth", "is_block", "tapped", "problem", "meets")
    assert set(rows[0]) == set(keys)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ModelError, match="no model is called 'resnet9'; did you mean"):
        describe_layers("resnet9")
