"""A dry run foretells what the run then is, and does nothing."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from timm.layers import PatchEmbed
from torch import nn

from lgkd.cli import run
from lgkd.data.catalogue import PUBLISHED
from lgkd.data.names import Subset
from lgkd.data.prepare import prepare_data
from lgkd.distillation.guide import Guide, PairShape, Term
from lgkd.errors import MissingError
from lgkd.losses import MapLoss
from lgkd.models.factory import create_model
from lgkd.models.patch_size import unseen_pixels
from lgkd.models.teacher import Teacher
from lgkd.runner.dry_run.dataset_outline import count, outline
from lgkd.runner.dry_run.warnings import about_grids, about_locality, best_unguided, far_influence
from lgkd.runs.folder import read_run
from tests.support.manifests import reseal
from tests.support.small import DISTILL, QUICK, TINY, TINY_OPTIONS, TRAIN, World, everything_below, make_pictures


@pytest.fixture
def here(tmp_path: Path, monkeypatch, world: World) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LGKD_HOME", str(world.home))
    return folder


def foretold(words: list[str], capsys, code: int = 0) -> dict:
    assert run([*words, "--dry-run", "--json"]) == code
    return json.loads(capsys.readouterr().out)


def of_world(words: list[str], world: World) -> list[str]:
    return [word for word in words if word != "--quiet"] + ["--dataset", str(world.pictures)]


@pytest.mark.parametrize("kind", ["distill", "train", "teacher"])
def test_what_is_foretold_is_what_the_run_then_was(kind: str, here: Path, world: World, capsys) -> None:
    words, folder = {
        "distill": (of_world(DISTILL, world), world.guided_run),
        "train": (of_world(TRAIN, world), world.unguided_run),
        "teacher": (
            ["train-teacher", "resnet8", str(world.pictures), *QUICK, "--image-size", "16", "--replace"],
            world.teacher_run,
        ),
    }[kind]
    before = everything_below(here, world.home, world.pictures)
    told, was = foretold(words, capsys), read_run(folder)
    assert everything_below(here, world.home, world.pictures) == before, "a dry run writes nothing"
    for name in ("kind", "device", "precision", "compiled", "epochs", "steps_per_epoch"):
        assert told[name] == was[name], name
    assert told["parameters"]["model"] == was["student"]["parameters"]
    assert told["image_size"] == was["student"]["image_size"]
    assert told["recipe_yaml"] == (folder / "recipe.yaml").read_text()
    assert [{k: v for k, v in pair.items() if k != "compared"} for pair in told["pairs"]] == was["pairs"]
    data = told["dataset"]
    assert (data["train_images"], data["test_images"], data["classes"]) == (24, 12, 3)
    assert data["stored_size"] == [12, 12]
    assert told["problems"] == []
    assert told["steps"] == told["epochs"] * told["steps_per_epoch"] == 6
    measured, seconds = told["measured"], told["seconds"]
    assert measured["seconds_a_step"] > 0
    assert seconds["training"] == pytest.approx(6 * measured["seconds_a_step"])
    assert seconds["evaluation"] == pytest.approx(2 * 12 * measured["seconds_an_image"])
    if kind == "distill":
        # deit_tiny of width 32 meets ResNet-8's 16, 32 and 64 channels: weights and biases of three 1 x 1 convolutions.
        assert told["parameters"]["projections"] == sum(32 * width + width for width in (16, 32, 64))
        assert [pair["compared"] for pair in told["pairs"]] == [[16, 16, 16], [32, 8, 8], [64, 4, 4]]


def test_in_words_it_says_what_would_be_done_and_what_is_worth_knowing(here: Path, world: World, capsys) -> None:
    assert run([*of_world(DISTILL, world), "--dry-run", "--seeds", "0,1", "--with-baseline"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "would train deit_tiny guided by resnet8" in out
    assert "24 (8 a class, 3 classes), 12 to test" in out
    assert "2 epochs x 3 = 6, 2 evaluations" in out
    assert "term 1 locality, weight 2.5" in out
    assert "into runs/deit_tiny_pictures_by-resnet8_locality-guidance/seed0-guided" in out
    assert re.search(r"2 guided, 2 unguided; at most [\w ]+ together\. The figures are of one guided run", out)
    assert "blocks.0 32 x 4 x 4 stage1 16 x 16 x 16 16 x 16 x 16" in out
    assert "few images a class: 3 of 3 classes have fewer than 20 (checks: 8, the median class 8)" in out
    assert "the test split has 12 images, so each is 8.3% of the accuracy" in out
    assert "only 6 steps in all" in out
    assert list(here.iterdir()) == []


def test_a_folder_that_is_taken_is_foretold_and_an_unfinished_run_is_gone_on_with(
    here: Path, world: World, capsys
) -> None:
    words = of_world(TRAIN, world)
    told = foretold([*words, "--out", str(world.unguided_run)], capsys, code=2)
    assert [problem.partition(" (")[0] for problem in told["problems"]] == [
        f"{world.unguided_run} already holds a finished run"
    ]
    assert run([*words, "--out", "mine", "--max-time", "0"]) == 75
    capsys.readouterr()
    assert foretold([*words, "--out", "mine"], capsys)["goes_on"]
    assert not foretold([*words, "--out", "other"], capsys)["goes_on"]


@pytest.mark.parametrize("begun", [DISTILL, TRAIN])
def test_an_unfinished_run_that_differs_is_foretold_in_the_words_in_which_the_training_refuses_it(
    begun: list[str], here: Path, world: World, capsys
) -> None:
    words = [*of_world(begun, world), "--out", "mine", "--val-fraction", "0.3"]
    assert run([*words, "--max-time", "0"]) == 75
    capsys.readouterr()
    assert foretold(words, capsys)["problems"] == []
    other = [*words, "--batch-size", "12", "--seed", "7"]
    before = everything_below(here)
    told = foretold(other, capsys, code=2)
    assert everything_below(here) == before and not told["goes_on"]
    assert run(other) == 2
    error = capsys.readouterr().err
    assert "seed: was 0, now 7" in error and "recipe.batch_size: was 8, now 12" in error
    assert told["problems"] and error.endswith(f"lgkd: {told['problems'][0]}\n")
    assert run([*other, "--dry-run"]) == 2
    shown = capsys.readouterr().out
    assert "would not start" in shown and "(resumes" not in shown and "\n    recipe.batch_size: was 8" in shown
    forced = foretold([*other, "--force"], capsys)
    assert forced["goes_on"] and "resuming although it differs: seed: was 0, now 7" in forced["cautions"]


def test_where_each_run_of_a_series_lies_is_foretold_and_all_of_them_are_looked_at(
    here: Path, world: World, capsys
) -> None:
    words = [*of_world(DISTILL, world), "--with-baseline"]
    assert run([*words, "--seeds", "0", "--quiet"]) == 0
    capsys.readouterr()
    (folder,) = (here / "runs").iterdir()
    told = foretold([*words, "--seeds", "0,1"], capsys)
    assert told["folder"] == str(folder.relative_to(here) / "seed0-guided")
    assert (told["runs"], told["guided_runs"], told["unguided_runs"], told["finished_runs"]) == (4, 2, 2, 2)
    assert told["seconds_of_all_at_most"] == pytest.approx(2 * told["seconds"]["together"])
    assert told["problems"] == [] and not told["goes_on"]
    refused = foretold([*words, "--seeds", "0,1", "--set", "optimizer.lr=0.1"], capsys, code=2)["problems"]
    assert [problem.partition(" (")[0] for problem in refused] == [
        f"{folder.relative_to(here) / name} holds a finished run" for name in ("seed0-guided", "seed0-unguided")
    ]
    assert all("recipe.optimizer.lr: was 0.0005, now 0.1" in problem for problem in refused)


def test_what_a_run_would_be_refused_for_a_dry_run_is(here: Path, world: World, capsys) -> None:
    small = ["--student", "deit_tiny", *TINY, *QUICK]
    assert run(["distill", *small, "--teacher", "resnet20", "--dataset", "digits", "--dry-run"]) == 3
    assert "no teacher 'resnet20' is trained for digits yet" in capsys.readouterr().err
    assert run(["train", "--student", "deit_tini", "--dataset", "digits", "--dry-run"]) == 2
    assert run(["train", "--student", "deit_tiny", "--dataset", "cifar100", "--dry-run"]) == 3
    assert "cifar100 is not here; looked for" in capsys.readouterr().err


def test_a_teacher_of_other_classes_would_keep_it_from_starting(here: Path, world: World, capsys) -> None:
    other = make_pictures(here / "pictures", ("bricks", "columns", "rows"))
    told = foretold([word for word in DISTILL if word != "--quiet"] + ["--dataset", str(other)], capsys, code=2)
    assert len(told["problems"]) == 1
    assert "was trained on 3 classes of pictures" in told["problems"][0]
    assert "(checks)" in told["problems"][0]


@pytest.mark.parametrize(("top1", "unguided", "words"), [
    (0.39, None, "a poor teacher: resnet8 has 39.0% top-1 on test, little better than chance (33.3%)"),
    (0.60, 0.75, "a poor teacher: resnet8 has 60.0% top-1, an unguided student reaches 75.0% here"),
    (0.80, 0.75, None),
])  # fmt: skip
def test_a_poor_teacher_is_told_of(
    top1: float, unguided: float | None, words: str | None, here: Path, world: World, capsys, monkeypatch
) -> None:
    home = here / "home"
    shutil.copytree(world.home / "teachers", home / "teachers")
    monkeypatch.setenv("LGKD_HOME", str(home))
    (file,) = home.glob("teachers/pictures/*/card.json")
    card = json.loads(file.read_text())
    card["accuracy"] |= {"top1": top1, "balanced_accuracy": top1}
    file.write_text(json.dumps(card))
    reseal(file.parent)
    if unguided is not None:
        mine = here / "runs" / "mine"
        mine.mkdir(parents=True)
        info = json.loads((world.unguided_run / "run.json").read_text())
        info["results"]["test_top1"] = unguided
        del info["manifest"]  # as an older lgkd wrote it
        (mine / "run.json").write_text(json.dumps(info))
        (here / "runs" / "broken").mkdir()
        (here / "runs" / "broken" / "run.json").write_text("[]")
        assert best_unguided("pictures", [here / "runs"]) == (unguided, mine)
        assert best_unguided("others", [here / "runs"]) is None
    said = [one for one in foretold(of_world(DISTILL, world), capsys)["cautions"] if "a poor teacher" in one]
    assert [one[: len(words or "")] for one in said] == ([words] if words else [])


def test_a_pair_that_meets_at_a_single_cell_is_told_of(here: Path, world: World, capsys) -> None:
    told = foretold([*of_world(DISTILL, world), "--student-option", "patch_size=16"], capsys)
    said = [one for one in told["cautions"] if "no local information is left" in one]
    assert said[0].startswith("the pair blocks.0 (32, 1, 1) - stage1 (16, 16, 16) is compared on a grid of 1 x 1")


def test_a_student_of_few_places_is_told_of_with_the_patch_that_would_do(here: Path, world: World, capsys) -> None:
    words = of_world(DISTILL, world)
    said = foretold([*words, "--student-option", "patch_size=8"], capsys)["cautions"]
    assert [one for one in said if "coarse" in one] == [
        "a coarse student: 2 of 3 pairs have a student map below 4 x 4 (blocks.0: 2 x 2, the teacher's "
        "stage1: 16 x 16), so little locality is left to imitate; use a smaller patch (--student-option "
        "patch_size=2) or a larger --image-size"
    ]
    assert not [one for one in foretold(words, capsys)["cautions"] if "coarse" in one]


def test_a_pyramid_of_few_places_is_told_to_take_larger_images() -> None:
    pairs = [
        PairShape("stages.0", (64, 8, 8), "stage1", (16, 32, 32)),
        PairShape("stages.3", (256, 2, 2), "stage3", (64, 8, 8)),
    ]
    (said,) = about_grids(pairs, (4, 4), (32, 32))
    assert said.startswith("a coarse student: 1 of 2 pairs have a student map below 4 x 4 (stages.3: 2 x 2")
    assert said.endswith("; use a larger --image-size")


def test_pixels_that_are_never_seen_are_told_of_before_and_by_the_training(here: Path, world: World, capsys) -> None:
    words = [*of_world(TRAIN, world), "--student-option", "patch_size=5", "--image-size", "32"]
    sentence = "32 is not a multiple of patch_size 5; 2 rows and 2 columns of pixels are never seen"
    assert [one.partition(":")[0] for one in foretold(words, capsys)["cautions"] if "never seen" in one] == [sentence]
    assert run([*words, "--max-time", "0"]) == 75
    assert sentence in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("model", "side", "options", "unseen"), [
    ("deit_tiny", 33, {"patch_size": 4, "depth": 1},
     "33 is not a multiple of patch_size 4; 1 row and 1 column of pixels"),
    ("deit_tiny", 32, {"patch_size": 4, "depth": 1}, None),
    ("resnet8", 33, {}, None),
])  # fmt: skip
def test_pixels_are_lost_where_patches_do_not_reach(model: str, side: int, options: dict, unseen: str | None) -> None:
    said = unseen_pixels(create_model(model, num_classes=3, image_size=side, options=options), (side, side))
    assert (said or "").partition(" are never seen")[0] == (unseen or "")


def test_rows_and_columns_that_are_never_seen_are_counted_apart() -> None:
    patches = nn.Sequential(nn.Conv2d(3, 4, (2, 5), stride=(2, 5)))
    assert unseen_pixels(PatchEmbed(32, 4, dynamic_img_pad=True), (33, 33)) is None, "it pads them"
    assert (unseen_pixels(patches, (8, 16)) or "").startswith(
        "8 x 16 is not a multiple of patch_size 2 x 5; 1 column of pixels is never seen"
    )


def test_words_are_by_role_and_in_the_singular(here: Path, world: World, capsys) -> None:
    words = ["train-teacher", "resnet8", str(world.pictures), "--epochs", "1", "--batch-size", "24", "--replace"]
    assert run([*words, "--image-size", "16", "--device", "cpu", "--dry-run"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "1 epoch x 1 = 1, 1 evaluation on" in out
    assert "only 1 step in all: a teacher learns little in it; use more --epochs" in out


class Layers(nn.Module):
    """A layer that looks at its neighbours, one that mixes all of the image, and one that is nothing but that."""

    def __init__(self) -> None:
        super().__init__()
        self.near = nn.Conv2d(3, 4, 3, padding=1)
        self.everywhere = nn.Identity()

    def forward(self, images):
        near = self.near(images)
        return self.everywhere(near.mean((2, 3), keepdim=True).expand_as(near)).mean((2, 3))


def test_influence_is_0_where_a_layer_cannot_see_and_1_where_it_sees_all_alike() -> None:
    torch.manual_seed(0)
    found = far_influence(Layers(), ["near", "everywhere"], (16, 16))
    assert found["near"] == 0
    # Only pixels at the border, which the padding cuts off, count for a little less.
    assert found["everywhere"] == pytest.approx(1, abs=0.15)


def test_a_cnns_stages_are_local_and_a_transformers_blocks_are_not() -> None:
    torch.manual_seed(0)
    net = create_model("resnet20", num_classes=10, image_size=32).eval()
    stages = far_influence(net, ["stage1", "stage2"], (32, 32))
    assert max(stages.values()) < 0.1
    vit = create_model("deit_tiny", num_classes=10, image_size=16, options=TINY_OPTIONS).eval()
    teacher = Teacher(vit, image_size=16, taps=["blocks.2"])
    student = create_model("deit_tiny", num_classes=10, image_size=16, options=TINY_OPTIONS)
    guide = Guide(student, teacher, image_size=16, terms=[Term(MapLoss("linear"))], taps=["blocks.1"])
    said = list(about_locality(guide))
    assert len(said) <= 1
    assert far_influence(vit, ["blocks.2"], (16, 16))["blocks.2"] > max(stages.values())


@pytest.mark.parametrize("chosen", [
    {}, {"fraction": 0.3}, {"per_class": 7}, {"val_fraction": 0.2}, {"fraction": 0.5, "val_fraction": 0.1},
])  # fmt: skip
def test_images_are_counted_as_the_training_chooses_them(chosen: dict, world: World) -> None:
    held_out = chosen.get("val_fraction")
    subset = Subset(chosen.get("fraction"), chosen.get("per_class"), seed=3)
    counts = count(outline("digits", data_dir=None, offline=True), subset, val_fraction=held_out)
    data = prepare_data("digits", normalize="imagenet", subset=subset, val_fraction=held_out)
    assert list(counts.train) == torch.bincount(data.train.labels).tolist()
    assert counts.held_out == (len(data.val) if data.val is not None else 0)


def test_publishers_files_are_not_opened_for_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("LGKD_OFFLINE")
    absent = outline("cifar10", data_dir=tmp_path, offline=False)
    assert absent.where == "not here; 170 MB would be downloaded"
    assert (len(absent.train), absent.test, absent.side, absent.named) == (50_000, 10_000, (32, 32), False)
    with pytest.raises(MissingError, match="cifar10 is not here; looked for"):
        outline("cifar10", data_dir=tmp_path, offline=True)
    (file,) = PUBLISHED["cifar10"]
    with (tmp_path / file.name).open("wb") as stream:
        stream.truncate(file.bytes)
    assert outline("cifar10", data_dir=tmp_path, offline=True).where == f"the publisher's files in {tmp_path}"


def test_images_of_several_sizes_are_stored_on_the_largest_canvas(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path / "pictures")
    from PIL import Image

    Image.new("RGB", (600, 300)).save(pictures / "train" / "rows" / "0.png")
    found = outline(pictures, data_dir=None, offline=True)
    data = prepare_data(pictures, normalize="imagenet")
    assert found.side == tuple(data.train.pixels.shape[2:]) == (256, 256)
    (pictures / "train" / "checks" / "0.png").write_bytes(b"no picture")
    assert "`lgkd check` lists all such files" in outline(pictures, data_dir=None, offline=True).notes[0]
