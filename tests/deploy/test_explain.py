"""`lgkd predict --explain`: maps against a plain loop and by hand, made images, pictures, files."""

import json
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import lgkd
from lgkd.cli import run
from lgkd.data.captions import caption
from lgkd.deploy.inference.explain import explain_images, file_name
from lgkd.deploy.inference.load import open_source
from lgkd.deploy.inference.locate import find_source
from lgkd.deploy.inference.occlusion import occlusion_map
from lgkd.deploy.inference.overlay import colours, overlay, picture
from lgkd.errors import TakenError
from lgkd.models.default_taps import classifier_name
from lgkd.models.factory import create_model
from tests.support.small import CLASSES, make_pictures
from tests.support.untrained import make_student

VIT = {"patch_size": 4, "depth": 3, "embed_dim": 32, "num_heads": 2}
PVT = {"embed_dims": (16, 32), "num_heads": (1, 2), "depths": (1, 1), "sr_ratios": (2, 1), "mlp_ratios": (2, 2)}


# Maps


def test_a_map_is_that_of_a_plain_loop_over_windows_and_pixels() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)).eval()
    image = torch.randn(1, 3, 24, 17)
    found = occlusion_map(network, image, 2)
    whole = network(image)[0].tolist()
    fill = [float(image[0, channel].mean()) for channel in range(3)]
    losses: dict[tuple[int, int], list[float]] = {}
    for top in range(7):
        for left in range(7):
            covered = image.clone()
            for y in range(top * 24 // 8, (top + 2) * 24 // 8):
                for x in range(left * 17 // 8, (left + 2) * 17 // 8):
                    for channel in range(3):
                        covered[0, channel, y, x] = fill[channel]
            now = network(covered)[0].tolist()
            lost = (whole[2] - sum(whole) / 4) - (now[2] - sum(now) / 4)
            for cell in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
                losses.setdefault(cell, []).append(lost)
    for (row, column), some in losses.items():
        assert float(found[row, column]) == pytest.approx(max(sum(some) / len(some), 0), abs=1e-5)
    assert found.shape == (8, 8) and bool(found.any()) and not found.requires_grad


def test_of_a_sum_of_pixels_the_map_is_known_by_hand() -> None:
    """The logit of class 0 is the sum of the red pixels, of which four by four are 1: 16 of 256."""
    image = torch.zeros(1, 3, 16, 16)
    image[0, 0, 4:8, 8:12] = 1

    def logits(images: Tensor) -> Tensor:
        red = images[:, 0].sum((1, 2))
        return torch.stack([red, -red], 1)

    found = occlusion_map(logits, image, 0)
    # The window on the square takes 16 pixels of 1 away and lays 16 of 16/256 over: 16 - 1. The four that share half of
    # it lose 8 - 1, the four that share a quarter 4 - 1, all others gain 1.
    assert float(found[2, 4]) == pytest.approx((15 + 7 + 7 + 3) / 4)
    assert float(found[1, 4]) == pytest.approx((7 + 3 - 1 - 1) / 4)
    assert float(found[7, 7]) == 0
    # Of class 1 the square is no evidence: to cover it raises the logit, to cover anything else lowers it by 1.
    other = occlusion_map(logits, image, 1)
    assert float(other[2, 4]) == 0 and float(other[7, 7]) == pytest.approx(1)


def planted(count: int, side: int, patch: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise in which one patch has the colour of the class: images, classes, and the patch's row and column."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, side, side, generator=draw) * 0.3
    classes = torch.randint(3, (count,), generator=draw)
    places = torch.randint(side // patch, (count, 2), generator=draw)
    for image, label, (row, column) in zip(images, classes, places, strict=True):
        image[:, row * patch :, column * patch :][:, :patch, :patch] -= 1
        image[label, row * patch :, column * patch :][:patch, :patch] += 3
    return images, classes, places


def fitted(name: str, options: dict[str, object]) -> nn.Module:
    """A model whose first layers are random, and whose head is fitted to planted images by least squares."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, image_size=32, options=options).eval()
    head = dict(model.named_modules())[classifier_name(model)]
    images, classes, _ = planted(300, 32, 8, 1)
    kept: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    with torch.no_grad():
        model(images)
        handle.remove()
        seen = torch.cat([kept[0], torch.ones(300, 1)], 1).double()
        target = nn.functional.one_hot(classes, 3).double()
        ridge = 1e-3 * torch.eye(seen.shape[1], dtype=torch.float64)
        weights = torch.linalg.solve(seen.T @ seen + ridge, seen.T @ target).T.float()
        head.weight.copy_(weights[:, :-1])
        head.bias.copy_(weights[:, -1])
    return model


@pytest.mark.parametrize(
    ("name", "options"),
    [("deit_tiny", VIT), ("vit_96", {"depth": 2}), ("resnet8", {}), ("pvt_v2_b0", PVT)],
)
def test_the_only_patch_that_carries_the_class_is_the_maximum(name: str, options: dict[str, object]) -> None:
    """With a class token and with mean pooling, for a CNN and for a pyramid."""
    model = fitted(name, options)
    images, classes, places = planted(15, 32, 8, 2)
    with torch.no_grad():
        right = model(images).argmax(1) == classes
    assert int(right.sum()) >= 12
    for pixels, label, place in zip(images[right], classes[right].tolist(), places[right].tolist(), strict=True):
        shown = overlay(torch.zeros(3, 32, 32, dtype=torch.uint8), occlusion_map(model, pixels[None], label))
        y, x = divmod(int(shown[1].argmax()), 32)  # viridis' green rises all along
        assert [y // 8, x // 8] == place


# Pictures


def test_colours_are_viridis_whose_lightness_rises() -> None:
    values = torch.linspace(0, 1, 101)[None]
    expected = matplotlib.colormaps["viridis"](values[0].numpy())[:, :3]
    found = colours(values)[:, 0].T / 255
    assert np.abs(found.numpy() - expected).max() < 0.02
    lightness = found @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert bool((lightness.diff() > 0).all())


def test_an_overlay_covers_the_whole_image_and_is_brightest_at_the_maps_maximum() -> None:
    map_gg = torch.zeros(4, 8)
    map_gg[1, 6] = 3.0
    found = overlay(torch.full((3, 40, 160), 100, dtype=torch.uint8), map_gg)
    assert found.shape == (3, 40, 160) and found.dtype == torch.uint8
    y, x = divmod(int(found[1].float().argmax()), 160)
    assert (y // 10, x // 20) == (1, 6)
    assert found[:, 0, 0].tolist() == [round(0.55 * one + 45) for one in (68, 1, 84)]


def test_a_picture_has_the_image_at_its_own_resolution_and_the_small_one_enlarged() -> None:
    large = torch.randint(0, 256, (3, 300, 500), dtype=torch.uint8)
    shown = picture(large, torch.rand(7, 7), ["rows  97.1%", "truth: rows"])
    found = [top for top in range(30, 120) if torch.equal(shown[:, top : top + 300, 8:508], large)]
    assert len(found) == 1 and shown.shape[2] == 2 * 500 + 3 * 8
    small = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    shown = picture(small, torch.zeros(4, 4), ["rows"])
    assert any(torch.equal(shown[:, at : at + 224 : 28, 8:232:28], small) for at in range(20, 60))


def test_a_caption_fits_and_draws_what_strangers_call_things_as_text() -> None:
    narrow = caption(["a class with a very long name " * 20], 100, 15)
    assert narrow.shape == (3, 21, 100)
    assert bool((narrow < 128).any()) and not bool((caption([""], 100, 15) < 255).any())
    assert torch.equal(caption(["a\x1b[31m\nb"], 300, 15), caption(["a\\x1b[31m\\nb"], 300, 15))
    assert not torch.equal(caption(["a"], 50, 15), caption(["b"], 50, 15))


@pytest.mark.parametrize("stem", ["../../etc/passwd", "a b;$(rm)", "\x1b[31m", "é" * 300, "x" * 300, ".", "\udcff"])
def test_names_of_files_are_letters_digits_and_few_signs(stem: str) -> None:
    name = file_name(3, Path(f"{stem}.png"))
    assert name.startswith("00003_") and name.endswith(".png") and "/" not in name
    assert all(sign.isalnum() or sign in "._-" for sign in name) and len(name.encode()) < 200


# The command


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("explained") / "student")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a labelled folder of images, of which one is broken."""
    monkeypatch.chdir(tmp_path)
    make_pictures(tmp_path / "made", train=0, test=1)
    shutil.move(tmp_path / "made" / "test", tmp_path / "photos")
    shutil.copy(tmp_path / "photos" / "rows" / "0.png", tmp_path / "photos" / "rows" / "1.png")
    (tmp_path / "photos" / "rows" / "broken.jpg").write_bytes(b"no image at all")
    return tmp_path


def test_predict_writes_a_picture_per_image_and_json_names_it(
    student: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(student), "photos", "--explain", "seen", "--json", "--quiet", "--device", "cpu"]
    assert run(words) == 2, "one image is broken"
    told = json.loads(capsys.readouterr().out)
    drawn = [one["explanation"] for one in told if "error" not in one]
    assert len(drawn) == 4 and all("explanation" not in one for one in told if "error" in one)
    assert sorted(map(Path, drawn)) == sorted(Path("seen").iterdir())
    for one in drawn:
        with Image.open(one) as image:
            assert image.format == "PNG" and image.size == (480, image.height)
    assert told[0]["explanation"] == "seen/00001_0.png"


def test_the_picture_is_of_the_map_of_the_class_that_is_predicted(student: Path, here: Path) -> None:
    (one,) = lgkd.predict(student, "photos/rows/1.png", explain="seen", top_k=1, device="cpu")
    source = open_source(find_source(student), device="cpu")
    pixels = torch.from_numpy(np.array(Image.open("photos/rows/1.png").convert("RGB"))).permute(2, 0, 1)
    ready = source.plain(pixels[None], torch.tensor([[12, 12]], dtype=torch.int32))
    map_gg = occlusion_map(source.logits, ready, CLASSES.index(one.classes[0]))
    expected = picture(pixels, map_gg, [f"{one.classes[0]}  {one.confidences[0]:.1%}"])
    assert one.explanation is not None and one.explanation.parent == Path("seen")
    assert torch.equal(torch.from_numpy(np.array(Image.open(one.explanation))).permute(2, 0, 1), expected)


def test_the_table_says_where_the_pictures_are_and_csv_names_them(
    student: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(student), "photos/rows/0.png", "photos/rows/1.png", "--device", "cpu"]
    assert run([*words, "--explain", "seen", "--csv", "answers.csv"]) == 0
    told = capsys.readouterr()
    assert "2 overlays in seen" in told.out
    head, first, _ = Path("answers.csv").read_text().splitlines()
    assert head.split(",")[-2:] == ["explanation", "error"] and "seen/00001_0.png" in first


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_is_there_already_is_not_overwritten(
    student: Path, here: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if what == "file":
        Path("seen").write_text("mine")
    else:
        Path("seen").mkdir()
        Path("seen/mine.txt").write_text("mine")
    assert run(["predict", str(student), "photos", "--explain", "seen"]) == 2
    assert "seen" in (told := capsys.readouterr().err) and "choose another --explain" in told.lower()
    with pytest.raises(TakenError, match="explain="):
        lgkd.predict(student, "photos", explain="seen")
    assert (Path("seen") if what == "file" else Path("seen/mine.txt")).read_text() == "mine"


def test_an_image_that_vanishes_between_is_not_drawn(student: Path, here: Path) -> None:
    source = open_source(find_source(student), device="cpu")
    found = lgkd.predict(student, ["photos/rows/0.png", "photos/rows/1.png"], device="cpu")
    Path("photos/rows/0.png").unlink()
    drawn = explain_images(source, found, Path("seen"))
    assert [one.explanation for one in drawn] == [None, Path("seen/00002_1.png")]


def test_of_several_labels_the_map_is_the_loss_in_the_logit_alone() -> None:
    """Two equal logits: their difference, which a softmax depends on, never changes; each of them does."""
    image = torch.zeros(1, 1, 8, 8)
    image[..., :4, :4] = 1

    def logits(images: torch.Tensor) -> torch.Tensor:
        return images[..., :4, :4].sum((1, 2, 3))[:, None].repeat(1, 2)

    assert float(occlusion_map(logits, image, 0, cells=4).max()) == 0
    found = occlusion_map(logits, image, 0, cells=4, independent=True)
    assert float(found[0, 0]) == 12  # 16 pixels of 1 become the image's mean, 0.25
    assert float(found[3, 3]) == 0
