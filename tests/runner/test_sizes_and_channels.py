"""Trainings on images that are wider than high, or of one channel: teacher, student, pause, cache, export."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import lgkd
from lgkd.cli import run
from lgkd.config import View
from lgkd.data.transforms.augment import Augment
from lgkd.deploy.export import LIMIT
from lgkd.models.factory import create_model
from lgkd.models.teacher_store import read_card
from tests.support.small import QUICK, TINY, make_pictures, one_thread, pause_after

OPTIONS = TINY[2:]
WIDE = ["--image-size", "16x24", "--channels", "1", "--set", "view.normalize=dataset"]
TEACH = ["train-teacher", "resnet8", *QUICK, "--image-size", "12x16", "--channels", "1", "--quiet"]
GUIDED = ["distill", "--student", "deit_tiny", "--teacher", "resnet8", *OPTIONS, *QUICK, *WIDE, "--quiet"]


@dataclass(frozen=True)
class Wide:
    home: Path
    pictures: Path
    teacher: Path
    guided: Path


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Wide:
    """A grey teacher at 12 x 16, and a grey student at 16 x 24 that it guides."""
    root = tmp_path_factory.mktemp("wide")
    made = Wide(root / "home", make_pictures(root / "pictures"), root / "teacher", root / "guided")
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setenv("LGKD_HOME", str(made.home))
        assert run([*TEACH, str(made.pictures), "--out", str(made.teacher)]) == 0
        assert run([*GUIDED, "--dataset", str(made.pictures), "--out", str(made.guided)]) == 0
    return made


@pytest.fixture
def here(wide: Wide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LGKD_HOME", str(wide.home))
    monkeypatch.chdir(tmp_path)
    with one_thread():
        yield tmp_path


def same(one: Path, other: Path) -> bool:
    ours, theirs = (load_file(folder / "student.safetensors") for folder in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_what_is_stored_has_height_width_and_a_number_a_channel(wide: Wide) -> None:
    card = read_card(wide.home / "teachers/pictures/resnet8")
    assert card.image_size == (12, 16) and card.size == (12, 16) and len(card.mean) == len(card.std) == 1
    assert json.loads((wide.home / "teachers/pictures/resnet8/card.json").read_text())["image_size"] == [12, 16]
    about, info = (json.loads((wide.guided / name).read_text()) for name in ("student.json", "run.json"))
    assert about["image_size"] == info["student"]["image_size"] == [16, 24]
    assert len(about["mean"]) == len(about["std"]) == 1
    grids = [(pair["student_map"][1:], pair["teacher_map"][1:], pair["grid"]) for pair in info["pairs"]]
    assert grids == [([4, 6], [12, 16], [12, 16]), ([4, 6], [6, 8], [6, 8]), ([4, 6], [3, 4], [4, 6])]
    recipe = (wide.guided / "recipe.yaml").read_text()
    assert "image_size: [16, 24]" in recipe and "channels: 1" in recipe
    student = lgkd.load_student(wide.guided)
    assert student.patch_embed.proj.weight.shape == (32, 1, 4, 4)
    assert student(torch.zeros(2, 1, 16, 24)).shape == (2, 3)


def test_a_paused_training_ends_with_the_same_bits(wide: Wide, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [*GUIDED, "--dataset", str(wide.pictures), "--out", "mine"]
    with monkeypatch.context() as patch:
        pause_after(patch, 5)
        assert run(command) == 75
    assert run(["resume", "mine", "--quiet"]) == 0
    assert same(Path("mine"), wide.guided)


def test_a_cache_serves_it_and_a_run_teaches_by_its_folder(wide: Wide, here: Path) -> None:
    cache = ["cache-teacher", "--student", "deit_tiny", "--teacher", "resnet8", *OPTIONS, *WIDE, "--device", "cpu"]
    assert run([*cache, "--dataset", str(wide.pictures), "--replay", "--quiet"]) == 0
    plain = ["--set", "view.crop=none", "--set", "view.rand_augment=null", "--set", "view.erase=0"]
    plain += ["--set", "view.color_jitter=0", "--set", "mix.mixup=0", "--set", "mix.cutmix=0", "--set", "view.flip=0"]
    words = [*GUIDED, *plain, "--dataset", str(wide.pictures), "--epochs", "1"]
    assert run([*words, "--cached", "auto", "--out", "cached"]) == 0
    assert run([*words, "--out", "online"]) == 0
    cached, online = (load_file(Path(name) / "student.safetensors") for name in ("cached", "online"))
    assert all(torch.allclose(value, online[name], atol=1e-3) for name, value in cached.items())
    by_folder = ["--teacher", str(wide.guided), "--out", "second"]
    assert run([*[word for word in words if word not in ("--teacher", "resnet8")], *by_folder]) == 0


def test_predictions_exports_and_reports_of_any_image(
    wide: Wide, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grey = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30)
    Image.fromarray(grey).save("deep.png")
    Image.fromarray(np.zeros((9, 9, 4), np.uint8)).save("clear.png")
    files = ["deep.png", "clear.png", str(wide.pictures / "test/rows/0.png")]
    found = lgkd.predict(wide.guided, files)
    assert len(found) == 3
    assert run(["evaluate", str(wide.guided), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["top1"] == json.loads((wide.guided / "run.json").read_text())["results"]["test_top1"]
    made = lgkd.export(wide.guided, "exported", formats=["safetensors"])
    assert max(made.differences.values()) <= LIMIT
    page = Path("exported/README.md").read_text()
    assert "16 x 24 pixels, grey levels" in page and "in_chans=1" in page and "img_size=(16, 24)" in page
    # The snippet of the page prepares an image as lgkd does.
    code = page[page.index("import json") : page.index("images = np.stack")].replace(
        "student.json", "exported/student.json"
    )
    names: dict = {}
    exec(code, names)
    image = torch.from_numpy(names["prepare"](files[2]))[None]
    with torch.no_grad():
        probabilities = lgkd.load_student("exported")(image).softmax(1)
    assert image.shape == (1, 1, 16, 24)
    assert float(probabilities.max()) == pytest.approx(found[2].confidences[0], abs=2e-2)


def test_onnx_of_one_channel(wide: Wide, here: Path) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    made = lgkd.export(wide.guided, "exported", formats=["onnx"])
    assert max(made.differences.values()) <= LIMIT
    (found,) = lgkd.predict("exported/student.onnx", [wide.pictures / "test/rows/0.png"])
    (expected,) = lgkd.predict(wide.guided, [wide.pictures / "test/rows/0.png"])
    assert found.classes[0] == expected.classes[0]


@pytest.mark.parametrize(("channels", "of_teacher"), [(1, 3), (3, 1)])
def test_teacher_and_student_may_differ_in_channels(channels: int, of_teacher: int, wide: Wide, here: Path) -> None:
    normalisation = {"mean": [0.5] * of_teacher, "std": [0.2] * of_teacher}
    torch.manual_seed(0)
    model = create_model("resnet8", num_classes=3, image_size=16, channels=of_teacher)
    teacher = lgkd.Teacher(model, image_size=16, **normalisation)
    made = lgkd.distill(
        "vit_96", teacher, wide.pictures, student_options={"depth": 3}, image_size=(16, 24), channels=channels,
        epochs=1, batch_size=8, precision="fp32", device="cpu", out="mixed",
    )  # fmt: skip
    assert made.student.patch_embed.proj.in_channels == channels
    assert np.isfinite(made.metrics[-1]["loss"])


def _turned(model: nn.Module, grid: tuple[int, int] | None = None) -> dict[str, torch.Tensor]:
    """The weights of the model that gives the same of transposed images."""
    state = {name: value.transpose(2, 3) if value.ndim == 4 else value for name, value in model.state_dict().items()}
    if grid is not None:
        positions = state["pos_embed"]
        state["pos_embed"] = positions.unflatten(1, grid).transpose(1, 2).flatten(1, 2)
    return {name: value.clone() for name, value in state.items()}


@pytest.mark.parametrize("name", ["resnet8", "vit_96"])
def test_training_on_transposed_images_is_the_transposed_training(name: str) -> None:
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (8, 3, 16, 32), dtype=torch.uint8, generator=draws)
    targets = torch.arange(8) % 3
    options = {"depth": 3} if name == "vit_96" else {}
    students, losses = {}, {}
    torch.manual_seed(1)
    first = create_model(name, num_classes=3, image_size=(16, 32), options=options)
    guiding = create_model("resnet8", num_classes=3, image_size=(8, 24))
    for size in ((16, 32), (32, 16)):
        turned = size == (32, 16)
        student = create_model(name, num_classes=3, image_size=size, options=options)
        model = create_model("resnet8", num_classes=3, image_size=(8, 24))
        student.load_state_dict(_turned(first, (8, 16) if name == "vit_96" else None) if turned else first.state_dict())
        model.load_state_dict(_turned(guiding) if turned else guiding.state_dict())
        teacher = lgkd.Teacher(model.eval(), image_size=(24, 8) if turned else (8, 24))
        torch.manual_seed(2)
        guide = lgkd.Guide(student, teacher, image_size=size, terms=[lgkd.Term(lgkd.losses.MapLoss("linear"))])
        view = View(crop="none", flip=0.0)
        shown = pixels.transpose(2, 3).contiguous() if turned else pixels
        images = Augment(view, size, mean=guide.mean.flatten().tolist(), std=guide.std.flatten().tolist(), seed=0)(
            shown, torch.tensor([size] * 8), torch.arange(8), 0
        )
        weights = [*student.parameters(), *guide.parameters()]
        optimizer = torch.optim.SGD(weights, lr=0.01)
        losses[size] = []
        for _ in range(3):
            seen = guide.read(student, images)
            (term,) = guide(seen, guide.teach(images), targets).values()
            loss = nn.functional.cross_entropy(seen.logits, targets) + term
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[size].append(loss.item())
        guide.remove()
        students[size] = student
    assert losses[32, 16] == pytest.approx(losses[16, 32], rel=1e-4)
    assert losses[16, 32][-1] < losses[16, 32][0]
    expected = _turned(students[16, 32], (8, 16) if name == "vit_96" else None)
    for key, value in students[32, 16].state_dict().items():
        torch.testing.assert_close(value, expected[key], atol=2e-4, rtol=1e-3)
