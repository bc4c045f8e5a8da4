"""`evaluation.interpolation`: how images of a test are resized, apart from those of the training."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision import transforms

import lgkd
from lgkd.config import Recipe, apply_overrides, dump_recipe, load_recipe, parse_recipe
from lgkd.data.prepare import make_augment, prepare_data
from lgkd.deploy.inference.load import open_source
from lgkd.deploy.inference.locate import find_source
from lgkd.errors import RecipeError
from lgkd.runner.loaded_run import open_run
from lgkd.runs.folder import RECIPE
from lgkd.runs.identity import differences, identity
from tests.support.small import TINY_OPTIONS, World

SIZE = 16


def changed(*overrides: str) -> Recipe:
    return apply_overrides(load_recipe("supervised"), list(overrides))


def levels(images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """0 to 255, from normalised images."""
    return (images * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)) * 255


def resized(files: list[Path], mode: transforms.InterpolationMode) -> torch.Tensor:
    """As torchvision's `Resize` on Pillow images does it, in levels."""
    pipeline = transforms.Compose([transforms.Resize((SIZE, SIZE), interpolation=mode), transforms.PILToTensor()])
    return torch.stack([pipeline(Image.open(file).convert("RGB")) for file in files]).float()


@pytest.fixture(scope="module")
def folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trains bicubic and tests bilinear, as the paper's recipe does."""
    out = tmp_path_factory.mktemp("runs") / "paper"
    lgkd.train(
        "deit_tiny",
        world.pictures,
        out=out,
        epochs=1,
        batch_size=8,
        image_size=SIZE,
        precision="fp32",
        device="cpu",
        student_options=TINY_OPTIONS,
    )
    return out


def test_test_images_are_torchvisions_bilinear_and_not_bicubic(folder: Path, world: World) -> None:
    opened = open_run(folder)
    mine = levels(torch.cat([images for images, _ in opened.batches()]), *opened.normalisation)
    files = [world.pictures / name for name in opened.data.test.names]
    bilinear = (mine - resized(files, transforms.InterpolationMode.BILINEAR)).abs()
    bicubic = (mine - resized(files, transforms.InterpolationMode.BICUBIC)).abs()
    assert bilinear.max() < 1.01 and bilinear.mean() < 0.1
    assert bicubic.max() > 5


def test_predict_and_export_resize_as_evaluation_does(folder: Path) -> None:
    assert json.loads((folder / "student.json").read_text())["interpolation"] == "bilinear"
    assert open_source(find_source(folder), device="cpu").plain.interpolation == "bilinear"


def test_training_images_stay_bicubic(world: World) -> None:
    recipe = changed("view.crop=none", "view.flip=0", "view.rand_augment=null", "view.erase=0")
    data = prepare_data(world.pictures, normalize="imagenet")
    drawn = make_augment(recipe, data, image_size=(SIZE, SIZE), seed=0)
    index = torch.arange(len(data.train))
    mine = levels(drawn(data.train.pixels, data.train.sizes, index, 0), data.mean, data.std)
    files = [world.pictures / name for name in data.train.names]
    assert (mine - resized(files, transforms.InterpolationMode.BICUBIC)).abs().max() < 1.01
    assert (mine - resized(files, transforms.InterpolationMode.BILINEAR)).abs().max() > 5


@pytest.mark.parametrize("training", ["bicubic", "bilinear"])
def test_a_recipe_without_the_key_tests_as_it_trains(training: str) -> None:
    recipe = changed(f"view.interpolation={training}", "evaluation.interpolation=null")
    assert recipe.test_interpolation == training
    written = dump_recipe(recipe)
    older = "\n".join(
        line for line in written.splitlines() if line != "evaluation:" and line != "  interpolation: null"
    )
    assert "evaluation:" not in older and f"interpolation: {training}" in older
    assert parse_recipe(older) == recipe


def test_the_two_are_set_apart() -> None:
    recipe = changed("view.interpolation=bicubic", "evaluation.interpolation=bilinear")
    assert (recipe.view.interpolation, recipe.test_interpolation) == ("bicubic", "bilinear")
    with pytest.raises(RecipeError, match=r"evaluation\.interpolation"):
        changed("evaluation.interpolation=nearest")


def test_a_run_is_the_same_training_whether_the_key_is_left_out_or_says_the_same(folder: Path) -> None:
    info = json.loads((folder / "run.json").read_text())
    recipe = load_recipe(folder / RECIPE)
    left_out = apply_overrides(recipe, ["view.interpolation=bilinear", "evaluation.interpolation=null"])
    named = apply_overrides(recipe, ["view.interpolation=bilinear", "evaluation.interpolation=bilinear"])
    other = apply_overrides(recipe, ["view.interpolation=bilinear", "evaluation.interpolation=bicubic"])
    assert identity(info, left_out) == identity(info, named)
    assert list(map(str, differences(identity(info, named), identity(info, other)))) == [
        'recipe.evaluation.interpolation: was "bilinear", now "bicubic"'
    ]
