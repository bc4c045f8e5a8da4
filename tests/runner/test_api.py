"""What notebooks call: the same four choices, with modules and teachers of one's own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import lgkd
from lgkd.cli import run
from lgkd.errors import InputError, MissingError, TakenError, TapError
from lgkd.runner import execute
from lgkd.runs.folder import read_metrics
from tests.support.small import CLASSES, DISTILL, QUICK, TINY, TINY_OPTIONS, World, make_pictures

SHORT: dict[str, Any] = {"epochs": 1, "batch_size": 8, "precision": "fp32", "device": "cpu", "image_size": 16}


class PatchNet(nn.Module):
    """A student of one's own: patches, three layers, mean, head."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.mixers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        for layer in self.mixers:
            tokens = tokens + layer(tokens).relu()
        return self.head(tokens.mean(dim=1))


OWN_TAPS = ["mixers.0", "mixers.1", "mixers.2"]


class Stop(Exception):
    """Ends a job where its training would begin."""


def before_training(monkeypatch: pytest.MonkeyPatch, call: Any) -> dict[str, Any]:
    """What the loop is given at the beginning: weights, and the batches of the first epoch."""
    seen: dict[str, Any] = {}

    def look(task: nn.Module, loader: Any, plan: Any, **_: Any) -> None:
        seen["weights"] = {name: value.clone() for name, value in task.student.state_dict().items()}
        seen["task"], seen["plan"] = task, plan
        seen["batches"] = list(loader.epoch(0))
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(execute, "fit", look)
        with pytest.raises(Stop):
            call()
    return seen


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_guided_and_unguided_start_equal_and_see_the_same_batches(world: World, here: Path, monkeypatch) -> None:
    shared = {"student_options": TINY_OPTIONS, **SHORT}
    guided = before_training(
        monkeypatch, lambda: lgkd.distill("deit_tiny", "resnet8", world.pictures, out="guided", **shared)
    )
    alone = before_training(monkeypatch, lambda: lgkd.train("deit_tiny", world.pictures, out="alone", **shared))
    assert equal(guided["weights"], alone["weights"])
    assert len(guided["batches"]) == len(alone["batches"]) == 3
    for batch, theirs in zip(guided["batches"], alone["batches"], strict=True):
        assert torch.equal(batch.images, theirs.images)
        assert torch.equal(batch.targets, theirs.targets)
    other = before_training(monkeypatch, lambda: lgkd.train("deit_tiny", world.pictures, out="other", seed=1, **shared))
    assert not equal(alone["weights"], other["weights"])
    assert not torch.equal(alone["batches"][0].images, other["batches"][0].images)


def test_a_run_in_python_is_the_run_of_the_command(world: World, here: Path) -> None:
    done = lgkd.distill(
        student="deit_tiny", teacher="resnet8", dataset=str(world.pictures), student_options=TINY_OPTIONS,
        **{**SHORT, "epochs": 2},
    )  # fmt: skip
    assert done.folder == Path("runs/deit_tiny_pictures_by-resnet8_locality-guidance_seed0")
    assert equal(done.student.state_dict(), load_file(world.guided_run / "student.safetensors"))
    assert not done.student.training
    assert done.metrics[-1]["test_top1"] == done.top1
    assert not done.student.blocks[0]._forward_hooks


def test_a_run_comes_back_from_its_folder(world: World, here: Path) -> None:
    for folder in (world.teacher_run, world.guided_run, world.unguided_run):
        found = lgkd.load_run(folder)
        assert equal(found.student.state_dict(), load_file(folder / "student.safetensors"))
        assert equal(lgkd.load_student(str(folder)).state_dict(), found.student.state_dict())
        assert found.metrics == read_metrics(folder)
        scores = lgkd.evaluate(folder)
        assert scores.top1 == found.top1 == lgkd.evaluate(found).top1
        assert scores.loss == pytest.approx(found.info["results"]["test_loss"], abs=1e-6)
        assert scores.images == 12


def test_loading_draws_no_random_numbers(world: World) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    lgkd.load_student(world.guided_run)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_loaded_teacher_is_the_trained_one(world: World, here: Path) -> None:
    teacher = lgkd.load_teacher("resnet8", dataset=world.pictures)
    assert teacher.card.classes == list(CLASSES)
    assert teacher.image_size == (16, 16)
    assert equal(teacher.model.state_dict(), load_file(world.teacher_run / "student.safetensors"))
    with pytest.raises(MissingError, match="lgkd train-teacher resnet8 digits"):
        lgkd.load_teacher("resnet8", dataset="digits")


def test_agreement_is_counted_with_the_teacher_of_the_run(world: World, here: Path) -> None:
    scores = lgkd.evaluate(world.guided_run)
    teacher, student = lgkd.load_teacher("resnet8", dataset=world.pictures), lgkd.load_student(world.guided_run)
    test = lgkd.load_dataset(world.pictures).test
    images = torch.nn.functional.interpolate(test.pixels.float() / 255, size=(16, 16), mode="bilinear", antialias=True)
    images = (images - teacher.mean) / teacher.std
    with torch.no_grad():
        same = teacher(images).argmax(1) == student(images).argmax(1)
    assert scores.agreement == pytest.approx(float(same.float().mean()), abs=1e-6)
    assert lgkd.evaluate(world.unguided_run).agreement is None


def test_a_student_of_ones_own_is_trained_in_place_and_loaded_again(world: World, here: Path) -> None:
    torch.manual_seed(1)
    student = PatchNet()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    done = lgkd.distill(student, "resnet8", world.pictures, taps=OWN_TAPS, out="mine", **SHORT)
    assert done.student is student
    assert not equal(before, student.state_dict())
    assert equal(student.state_dict(), load_file("mine/student.safetensors"))
    assert done.info["student"]["name"] == "PatchNet"
    with pytest.raises(InputError, match=r"mine is the run of a PatchNet made in Python.*model="):
        lgkd.load_student("mine")
    assert equal(lgkd.load_student("mine", model=PatchNet()).state_dict(), student.state_dict())
    assert lgkd.load_run("mine", model=PatchNet()).top1 == done.top1
    assert lgkd.evaluate("mine", model=PatchNet()).top1 == done.top1
    with pytest.raises(
        InputError, match=r"does not fit PatchNet: 2 of another shape \(head.bias \(3,\) instead of \(4,\)"
    ):
        lgkd.load_student("mine", model=PatchNet(num_classes=4))


def test_a_student_without_blocks_asks_for_taps_and_says_where_to_find_them(world: World, here: Path) -> None:
    with pytest.raises(TapError, match=r"PatchNet .*--taps"):
        lgkd.distill(PatchNet(), "resnet8", world.pictures, **SHORT)


def test_projections_learn_and_stay_out_of_the_student(world: World, here: Path, monkeypatch) -> None:
    kept: dict[str, Any] = {}
    original = execute.fit

    def watch(task: nn.Module, *arguments: Any, **options: Any) -> Any:
        kept["guide"] = task.guide
        kept["before"] = {name: value.detach().clone() for name, value in task.guide.named_parameters()}
        return original(task, *arguments, **options)

    monkeypatch.setattr(execute, "fit", watch)
    lgkd.distill("deit_tiny", "resnet8", world.pictures, student_options=TINY_OPTIONS, out="mine", **SHORT)
    after = dict(kept["guide"].named_parameters())
    assert len(after) >= 3
    assert all(not torch.equal(kept["before"][name], after[name]) for name in after)
    plain = lgkd.create_student("deit_tiny", num_classes=3, image_size=16, **TINY_OPTIONS)
    assert load_file("mine/student.safetensors").keys() == plain.state_dict().keys()


def test_a_teacher_may_be_any_module(world: World, here: Path) -> None:
    torch.manual_seed(2)
    net = lgkd.create_teacher("resnet20", num_classes=3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    done = lgkd.distill(
        "deit_tiny", lgkd.Teacher(net, image_size=16), world.pictures, student_options=TINY_OPTIONS, **SHORT
    )
    assert equal(before, net.state_dict())
    assert done.folder.name == "deit_tiny_pictures_by-CifarResNet_locality-guidance_seed0"
    assert done.info["teacher"] == {"name": None, "class": "CifarResNet", "sha256": None, "batch_norm": "running"}
    assert lgkd.evaluate(done).agreement is None
    with pytest.raises(InputError, match=r"the teacher is a CifarResNet, expected .* lgkd.Teacher"):
        lgkd.distill("deit_tiny", net, world.pictures, student_options=TINY_OPTIONS, out="mine", **SHORT)
    assert not Path("mine").exists()


def test_a_data_set_may_be_handed_over_loaded(world: World, here: Path) -> None:
    dataset = lgkd.load_dataset(world.pictures)
    done = lgkd.distill("deit_tiny", "resnet8", dataset, student_options=TINY_OPTIONS, **SHORT)
    assert done.info["dataset"]["path"] is None
    with pytest.raises(InputError, match=r"loaded in Python; .* dataset="):
        lgkd.evaluate(done)
    assert lgkd.evaluate(done, dataset=dataset).top1 == done.top1
    with pytest.raises(TakenError, match=r"already in the store \(.*, of \d+ images in 3 classes\); .* rename yours"):
        lgkd.train_teacher("resnet8", dataset, **SHORT)


def test_a_relative_folder_is_found_again_from_elsewhere(here: Path, monkeypatch) -> None:
    make_pictures(here / "pictures")
    done = lgkd.train("deit_tiny", "pictures", student_options=TINY_OPTIONS, out=here / "mine", **SHORT)
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert lgkd.evaluate(here / "mine").top1 == done.top1


def test_a_factory_in_the_working_folder_makes_students_and_teachers(
    world: World, here: Path, capsys, monkeypatch
) -> None:
    (here / "my_nets.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    lgkd_taps = ['a', 'b', 'c']\n"
        "    def __init__(self, num_classes, width=4):\n"
        "        super().__init__()\n"
        "        self.a = nn.Conv2d(3, width, 3, stride=2)\n"
        "        self.b = nn.Conv2d(width, width, 3, padding=1)\n"
        "        self.c = nn.Conv2d(width, width, 3, padding=1)\n"
        "        self.head = nn.Linear(width, num_classes)\n"
        "    def forward(self, images):\n"
        "        return self.head(self.c(self.b(self.a(images).relu()).relu()).mean((2, 3)))\n"
    )
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    data = ["--dataset", str(world.pictures)]
    words = [*DISTILL, *data, "--out", "mine"]
    words[words.index("deit_tiny")] = "my_nets:Net"
    words = [w for w in words if w not in TINY or w in ("--image-size", "16")] + ["--student-option", "width=6"]
    assert run(words) == 0, capsys.readouterr().err
    info = json.loads(Path("mine/run.json").read_text())
    assert info["student"]["name"] == "my_nets:Net"
    assert info["student"]["options"] == {"width": 6}
    assert lgkd.load_student("mine").a.out_channels == 6
    assert run(["evaluate", "mine", "--json"]) == 0
    monkeypatch.setenv("LGKD_HOME", str(here / "home"))
    teach = ["train-teacher", "my_nets:Net", str(world.pictures), *QUICK, "--image-size", "16", "--quiet"]
    assert run([*teach, "--teacher-option", "width=5"]) == 0, capsys.readouterr().err
    assert (here / "home" / "teachers" / "pictures" / "my_nets-Net" / "card.json").is_file()
    assert lgkd.load_teacher("my_nets:Net", dataset=world.pictures).model.a.out_channels == 5


def test_a_teacher_of_the_same_part_is_found_first_and_the_full_one_else(world: World, here: Path, monkeypatch) -> None:
    import shutil

    shutil.copytree(world.home, here / "home")
    monkeypatch.setenv("LGKD_HOME", str(here / "home"))
    part = {"images_per_class": 4, "subset_seed": 1}
    remarks: list[str] = []
    shared = {"student_options": TINY_OPTIONS, "say": remarks.append, **part, **SHORT}
    fallen_back = lgkd.distill("deit_tiny", "resnet8", world.pictures, out="one", **shared)
    assert fallen_back.info["teacher"]["kept_as"] == "resnet8"
    assert fallen_back.info["dataset"]["train_images"] == 12
    assert any("the teacher saw all training images, the student sees 4 images per class, seed 1" in r for r in remarks)

    lgkd.train_teacher("resnet8", world.pictures, **part, **SHORT)
    card = json.loads((here / "home/teachers/pictures/resnet8--4-images-per-class-seed-1/card.json").read_text())
    assert (card["images"], card["subset"]) == (12, "4 images per class, seed 1")
    remarks.clear()
    matched = lgkd.distill("deit_tiny", "resnet8", world.pictures, out="two", **shared)
    assert matched.info["teacher"]["kept_as"] == card["name"]
    assert matched.info["teacher"]["sha256"] == card["weights_sha256"]
    assert not any("the teacher saw" in remark for remark in remarks)
    assert lgkd.evaluate("two").agreement is not None
    whole = lgkd.distill("deit_tiny", "resnet8", world.pictures, out="three", student_options=TINY_OPTIONS, **SHORT)
    assert whole.info["teacher"]["kept_as"] == "resnet8"
    by_name = lgkd.load_teacher("resnet8", dataset=world.pictures, subset="4 images per class, seed 1")
    assert by_name.card.name == card["name"]


def test_a_teacher_is_exchanged_on_demand_only(world: World, here: Path, monkeypatch) -> None:
    import shutil

    shutil.copytree(world.home, here / "home")
    monkeypatch.setenv("LGKD_HOME", str(here / "home"))
    place = here / "home" / "teachers" / "pictures" / "resnet8"
    before = (place / "card.json").read_bytes()
    with pytest.raises(TakenError, match="--replace"):
        lgkd.train_teacher("resnet8", world.pictures, out="one", **SHORT)
    assert not Path("one").exists()
    assert (place / "card.json").read_bytes() == before
    done = lgkd.train_teacher("resnet8", world.pictures, out="one", replace=True, seed=5, **SHORT)
    assert json.loads((place / "card.json").read_text())["seed"] == 5
    assert equal(lgkd.load_teacher("resnet8", world.pictures).model.state_dict(), done.student.state_dict())
    assert [path.name for path in place.parent.iterdir()] == ["resnet8"]
    with pytest.raises(TakenError, match="already in the store"):
        lgkd.train_teacher("resnet8", world.pictures, out="two", **SHORT)


def test_a_teacher_that_another_training_kept_meanwhile_is_not_touched(world: World, here: Path, monkeypatch) -> None:
    monkeypatch.setenv("LGKD_HOME", str(here / "home"))
    place = here / "home" / "teachers" / "pictures" / "resnet8"
    original = execute.fit

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        place.mkdir(parents=True)
        (place / "card.json").write_text("theirs")
        return original(*arguments, **options)

    monkeypatch.setattr(execute, "fit", meanwhile)
    with pytest.raises(TakenError, match=r"meanwhile .*This one is in mine"):
        lgkd.train_teacher("resnet8", world.pictures, out="mine", **SHORT)
    assert (place / "card.json").read_text() == "theirs"
    assert [path.name for path in place.parent.iterdir()] == ["resnet8"]
    with pytest.raises(InputError, match="mine is not finished"):
        lgkd.load_run("mine")


def test_a_teacher_of_the_same_classes_but_other_images_is_remarked_on(world: World, here: Path) -> None:
    make_pictures(here / "pictures", train=5)
    remarks: list[str] = []
    lgkd.distill("deit_tiny", "resnet8", "pictures", student_options=TINY_OPTIONS, say=remarks.append, **SHORT)
    assert any("trained on other images than those of pictures" in remark for remark in remarks)


def test_digits_need_nothing(here: Path) -> None:
    done = lgkd.train("deit_tiny", "digits", student_options=TINY_OPTIONS, images_per_class=4, **SHORT)
    assert done.info["dataset"]["train_images"] == 40
    assert done.info["dataset"]["test_images"] == 599
    assert lgkd.evaluate(done.folder).top1 == done.top1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lgkd.train("deit_tiny", "digits", epoch=3), "no option 'epoch'; did you mean 'epochs'"),
        (lambda: lgkd.train("deit_tiny", "digits", student_options={"norm": nn.ReLU}), "student options: .*plain"),
        (lambda: lgkd.train_teacher("resnet8", "digits", teacher_options={"depths": [1]}), "depths is \\[1\\]"),
        (lambda: lgkd.train_teacher(nn.Identity(), "digits"), "a teacher is stored by name"),
        (lambda: lgkd.train(PatchNet(10), "digits", student_options={"a": 1}, image_size=16), "leave them out"),
        (lambda: lgkd.train(PatchNet(3), "digits", image_size=16), "returns logits for 3 classes, expected 10"),
        (lambda: lgkd.train("deit_tiny", "digits", seed=-1), "seed is -1"),
        (lambda: lgkd.train("deit_tiny", Path("digits")), "no folder digits: expected FOLDER/train"),
        (lambda: lgkd.load_student("nowhere"), "nowhere holds no student.json"),
        (lambda: lgkd.load_run("nowhere"), "no folder nowhere"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_what_was_found(here: Path, call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
    assert list(here.iterdir()) == []
