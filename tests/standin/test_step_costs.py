"""Launches, uploads and synchronisations of a step, below ceilings that are kept as data.

`python -m tests.standin.test_step_costs` prints today's figures.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lgkd.benchmark.options import Choices
from lgkd.benchmark.subject import Subject
from lgkd.config import Mix, load_recipe
from lgkd.data.dataset import Images
from lgkd.data.loader import TrainLoader
from lgkd.data.transforms.augment import Augment
from lgkd.data.transforms.mixup import Mixing
from tests.support import standin

pytestmark = pytest.mark.standin

CEILINGS = Path(__file__).with_name("ceilings.json")


def augmentation(at_once: int) -> dict[str, float]:
    """A batch of 128, as locality-guidance draws it, of so many batches that are drawn together.

    Above 64 px a batch is drawn alone; no operation depends on the side.
    """
    view = load_recipe("locality-guidance").view
    augment = Augment(view, 8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), seed=0)
    count = 128 * at_once
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=draw).to(standin.NAME)
    sizes = torch.full((count, 2), 8)
    for epoch in range(2):  # the first call sends what is kept
        with standin.counting() as counts:
            augment(pixels, sizes, torch.arange(count), epoch)
    return {name: value / at_once for name, value in counts.summary().items()}


def loaded() -> dict[str, float]:
    """The only batch of an epoch, of 128 images, read, drawn and mixed by the loader."""
    draw = torch.Generator().manual_seed(0)
    images = Images(
        torch.randint(0, 256, (128, 3, 8, 8), dtype=torch.uint8, generator=draw),
        torch.full((128, 2), 8, dtype=torch.int32),
        torch.arange(128) % 10,
        tuple(map(str, range(128))),
    )
    recipe = load_recipe("locality-guidance")
    augment = Augment(recipe.view, 8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), seed=0)
    mixing = Mixing(Mix(mixup=0.8, cutmix=1.0), classes=10, smoothing=0.1, seed=0)
    loader = TrainLoader(images, augment, mixing, batch_size=128, seed=0, device=standin.NAME)
    for epoch in range(2):
        with standin.counting() as counts:
            assert len(list(loader.epoch(epoch))) == 1
    return counts.summary()


def step(**choices: object) -> dict[str, float]:
    """The third step of a training, as `lgkd bench` builds it, without its batch."""
    subject = Subject(
        Choices(image_size=32, batch_size=2, precision="fp32", device=standin.NAME, images=20, **choices)  # type: ignore[arg-type]
    )
    for _ in range(3):
        batch = subject.draw()
        with standin.counting() as counts:
            subject.train(batch)
    return counts.summary()


DEIT = {"student": "deit_tiny", "student_options": {"patch_size": 16}}
SCENARIOS: dict[str, Callable[[], dict[str, float]]] = {
    "augmentation, a batch alone": lambda: augmentation(1),
    "augmentation, 8 batches together": lambda: augmentation(8),
    "a batch of the loader, mixed": loaded,
    "DeiT-Tiny by ResNet-56, AdamW": lambda: step(**DEIT, teacher="resnet56"),
    "DeiT-Tiny by ResNet-56, Muon": lambda: step(**DEIT, teacher="resnet56", overrides=["optimizer.name=muon"]),
    "DeiT-Tiny unguided, AdamW": lambda: step(**DEIT),
    "ResNet-56, its own training": lambda: step(teacher="resnet56"),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_step_stays_below_its_ceilings(device: str, scenario: str) -> None:
    ceilings = json.loads(CEILINGS.read_text(encoding="utf-8"))["ceilings"][scenario]
    found = SCENARIOS[scenario]()
    assert found["launches"] > (10 if "8 batches" in scenario else 100), "the counter must have seen the step"
    above = {name: (found[name], most) for name, most in ceilings.items() if found[name] > most}
    assert not above, "a change that needs more raises the ceiling in ceilings.json, and says why in its commit"


def test_every_scenario_has_ceilings_and_none_allows_a_wait() -> None:
    ceilings = json.loads(CEILINGS.read_text(encoding="utf-8"))["ceilings"]
    assert ceilings.keys() == SCENARIOS.keys()
    assert all(set(row) == {"launches", "uploads", "synchronisations"} for row in ceilings.values())
    assert all(row["synchronisations"] == 0 for row in ceilings.values())


if __name__ == "__main__":
    standin.load()
    torch.set_num_threads(1)
    for name, found in SCENARIOS.items():
        print(json.dumps(name), json.dumps(found()), flush=True)
