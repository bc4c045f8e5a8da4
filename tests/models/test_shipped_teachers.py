"""The teachers that come with lgkd: whole, as good as their cards say, and found without training one."""

import json
import os
from pathlib import Path

import pytest
import torch

import lgkd
from lgkd._internal.paths import teachers_folder
from lgkd._internal.safetensors_io import load_weights
from lgkd.models.teacher_store import WEIGHTS, find_card, list_cards, verify_weights
from lgkd.runner.build import load_trained_teacher
from tools.ship_teacher import scores_of, ship

SHIPPED = sorted(file.parent for file in teachers_folder().glob("*/*/card.json"))
IMAGES = Path(os.environ.get("LGKD_TEST_DATA", "/nowhere"))
"""Holds named data sets, as `--data-dir` does."""


@pytest.fixture(autouse=True)
def empty_store(tmp_path, monkeypatch):
    """Nobody's own teachers hide the shipped ones."""
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_a_shipped_teacher_is_whole_small_and_in_half_precision(folder):
    card, found = find_card(folder.name, folder.parent.name)
    assert found == folder
    tensors = load_weights(verify_weights(card, folder), card.weights_sha256)
    assert {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()} == {torch.float16}
    assert (folder / WEIGHTS).stat().st_size < 2.2 * card.parameters + 200_000
    assert (folder / WEIGHTS).stat().st_mode & 0o444 == 0o444
    assert card.accuracy.split == "test" and card.accuracy.selected_on is None


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_a_shipped_teacher_computes_in_full_precision_and_guides(folder):
    teacher = lgkd.load_teacher(folder.name, folder.parent.name)
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.float32}
    with torch.no_grad():
        logits = teacher.model(torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (3, len(teacher.card.classes)) and logits.isfinite().all()
    assert len(teacher.taps) == 3


@pytest.mark.slow
@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_a_shipped_teacher_is_as_good_as_its_card_says(folder):
    if not (IMAGES / folder.parent.name).is_dir():
        pytest.skip(f"needs {folder.parent.name} in the folder that $LGKD_TEST_DATA names")
    teacher = load_trained_teacher(folder.name, folder.parent.name)
    # A batch or a processor may round three of the ten thousand images the other way.
    assert scores_of(teacher, IMAGES).top1 == pytest.approx(teacher.card.accuracy.top1, abs=3.5e-4)


def test_shipping_a_teacher_halves_its_weights_and_measures_it_again(tmp_path, capsys):
    # Shipping measures in single precision: with bf16 in the training, rounding would turn some decisions.
    lgkd.train_teacher("resnet8", "digits", epochs=2, seed=3, precision="fp32", out=tmp_path / "run")
    before, folder = find_card("resnet8", "digits")
    card = ship("resnet8", "digits", None, tmp_path / "shipped")
    assert card.accuracy.top1 == pytest.approx(before.accuracy.top1, abs=0.002)
    place = tmp_path / "shipped" / "digits" / "resnet8"
    assert json.loads((place / "card.json").read_text())["weights_sha256"] == card.weights_sha256
    ours, theirs = load_weights(place / WEIGHTS), load_weights(folder / WEIGHTS)
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor.half() if tensor.is_floating_point() else tensor)
    assert "as shipped" in capsys.readouterr().out


def test_every_shipped_teacher_is_listed():
    listed = {(card.dataset, card.name) for card, _ in list_cards()[0]}
    assert {(folder.parent.name, folder.name) for folder in SHIPPED} <= listed
