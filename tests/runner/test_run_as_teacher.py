"""The folder of a run as a teacher: the same guidance as from the store, and what cannot guide."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import lgkd
from lgkd.cli import run
from lgkd.errors import InputError, MissingError, TapError
from lgkd.runner.find_teacher import card_of_run
from lgkd.runner.loaded_run import open_run, teacher_at_hand
from tests.support.small import QUICK, TINY, World, pause_after

WORDS = ["distill", "--student", "deit_tiny", *TINY, *QUICK, "--quiet"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "student.safetensors")


def about(folder: str | Path) -> dict:
    return json.loads(Path(folder, "run.json").read_text())


def same(one: str | Path, other: str | Path) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_it_guides_as_the_same_teacher_of_the_store_does(world: World) -> None:
    shutil.copytree(world.teacher_run, "teachers/mine")
    command = [*WORDS, "--dataset", str(world.pictures), "--teacher", "teachers/mine"]
    assert run([*command, "--report"]) == 0
    folder = Path("runs/deit_tiny_pictures_by-resnet8_locality-guidance_seed0")
    assert same(folder, world.guided_run)
    place = str(Path("teachers/mine").resolve())
    assert about(folder)["teacher"] == {**about(world.guided_run)["teacher"], "run": place}
    assert about(folder)["call"]["teachers"] == [place]
    page = (folder / "report.html").read_text()
    assert "--teacher mine" in page and "has to be in the store" not in page
    # From the folder above it, without a path, as the report's command names it.
    assert lgkd.load_teacher("./teachers/mine", world.pictures).card == card_of_run(Path("teachers/mine"))


def test_a_folder_without_a_path_is_found_after_the_store(world: World) -> None:
    shutil.copytree(world.teacher_run, "mine")
    teacher = lgkd.load_teacher("mine", world.pictures)
    assert teacher.source == {"run": str(Path("mine").resolve())} and teacher.card is not None
    kept = json.loads((world.home / "teachers/pictures/resnet8/card.json").read_text())
    ours = teacher.card.model_dump(mode="json")
    differing = {key for key in kept if kept[key] != ours[key]}
    # A run does not state these; its layers are those of the store's card all the same.
    assert differing <= {"taps", "accuracy", "created", "torch_version"}
    assert teacher.taps == kept["taps"]
    assert ours["accuracy"]["top1"] == kept["accuracy"]["top1"]


def test_a_stopped_student_goes_on_with_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(world.teacher_run, "mine")
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert run([*WORDS, "--dataset", str(world.pictures), "--teacher", "./mine", "--out", "parts"]) == 75
    assert run(["resume", "parts", "--quiet"]) == 0
    assert same("parts", world.guided_run)
    opened = open_run(Path("parts"))
    teacher = teacher_at_hand(opened)
    assert teacher is not None and teacher.source == {"run": str(Path("mine").resolve())}
    shutil.rmtree("mine")
    assert teacher_at_hand(opened) is None


def test_a_student_can_teach_where_its_layers_can_be_chosen(world: World) -> None:
    assert run([*WORDS, "--dataset", str(world.pictures), "--teacher", str(world.unguided_run), "--out", "new"]) == 0
    pairs = about("new")["pairs"]
    assert [pair["teacher"] for pair in pairs] == ["blocks.0", "blocks.1", "blocks.2"]
    assert pairs[0]["teacher_map"] == [32, 4, 4]


def test_what_cannot_teach_is_refused_with_the_reason(world: World) -> None:
    def refused(name: str, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            lgkd.distill("deit_tiny", name, world.pictures, out="new")
        assert not Path("new").exists()

    refused("runs/none", MissingError, r"there is no folder runs/none; expected a finished run's, or a teacher's name")
    shutil.copytree(world.teacher_run, "broken")
    for name in ("MANIFEST.json", "student.json"):
        Path("broken", name).unlink()
    refused("./broken", InputError, r"broken is not finished; resume it by: lgkd resume|not finished")
    shutil.copytree(world.teacher_run, "damaged")
    Path("damaged/MANIFEST.json").unlink()
    info = about("damaged")
    del info["manifest"], info["results"]["test_top1"]
    Path("damaged/run.json").write_text(json.dumps(info))
    refused(
        "./damaged", InputError, r"damaged/run.json does not describe a finished run \('test_top1'\); it is damaged"
    )
    student = json.loads(Path("damaged/student.json").read_text())
    Path("damaged/student.json").write_text(json.dumps({**student, "name": None}))
    refused("./damaged", InputError, r"is the run of a CifarResNet made in Python; give distill\(\) an lgkd.Teacher")


class Flat(nn.Module):
    """No blocks and no stages."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images.mean((2, 3)))


def test_a_run_without_layers_to_guide_by_cannot_teach(world: World) -> None:
    name = f"{__name__}:Flat"
    lgkd.train(name, world.pictures, image_size=16, epochs=1, batch_size=8, out="flat")
    with pytest.raises(TapError, match="Flat has no transformer blocks and no 3 stages to tap"):
        lgkd.distill("deit_tiny", "./flat", world.pictures, out="new")
