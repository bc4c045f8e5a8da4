"""A model whose first weights depend on training images is shown them before the first step."""

from pathlib import Path

import torch
from torch import nn

import lgkd
from lgkd.data.constants import IMAGENET_MEAN, IMAGENET_STD
from lgkd.data.load import load_dataset


def test_a_fastnet_is_whitened_by_the_images_that_train_it(tmp_path: Path) -> None:
    run = lgkd.train_teacher("fastnet_small", "digits", epochs=1, image_size=8, out=tmp_path / "run")
    train = load_dataset("digits").train
    # Digits are 8 x 8, so that nothing is resized.
    levels = train.pixels.float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    patches = nn.functional.unfold((levels - mean) / std, 3).transpose(1, 2).reshape(-1, 27).double()
    moments = patches.T @ patches / len(patches)
    # Grey patches differ in at most ten directions. The sixteen of the stem contain these, where the squares of all
    # filters are determined; the others are arbitrary and answer nothing.
    strengths, directions = torch.linalg.eigh(moments)
    varied = directions[:, strengths > 1e-6]
    assert 8 < varied.shape[1] <= 10
    expected = varied.T @ torch.linalg.inv(moments + 5e-4 * torch.eye(27)) @ varied
    filters = run.student.stem.conv.weight[:16].detach().flatten(1).double()
    found = (filters @ varied).T @ (filters @ varied)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    kept = lgkd.load_teacher("fastnet_small", "digits").model
    assert torch.equal(kept.stem.conv.weight, run.student.stem.conv.weight)


def test_it_is_shown_every_so_manyth_of_the_chosen_images_normalised_and_of_its_size(tmp_path: Path) -> None:
    class Own(nn.Module):
        image_size = 16
        shown: tuple[int, ...] = ()

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 10)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(images.mean((2, 3)))

        def lgkd_fit_images(self, images: torch.Tensor) -> None:
            Own.shown, Own.mean = tuple(images.shape), float(images.mean())

    lgkd.train(Own(), "digits", epochs=1, images_per_class=7, out=tmp_path / "run")
    assert Own.shown == (70, 3, 16, 16)
    assert abs(Own.mean) < 1.5  # black and white digits, normalised by ImageNet's statistics: between -2.1 and 2.6
