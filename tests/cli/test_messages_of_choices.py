"""What is told of a model that returns no logits, of channels, of an empty folder, and of options out of place."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lgkd
from lgkd.cli import run
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Batch, Guided, Supervised
from lgkd.errors import DataError, ModelError
from lgkd.losses import KD
from lgkd.models.factory import create_model
from lgkd.models.forward_checks import check_model, check_training
from tests.support.small import DISTILL, TINY_OPTIONS, TRAIN, World, pause_after

Output = namedtuple("Output", "logits aux")


class Aux(nn.Module):
    """As GoogLeNet: logits in evaluation, and more while it trains; with BatchNorm and dropout."""

    lgkd_taps = ("early", "middle", "late")

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.middle, self.late = nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)
        self.head = nn.Linear(4, classes)

    def forward(self, images: Tensor) -> object:
        logits = self.head(self.late(self.middle(self.early(images))).mean((2, 3)))
        return Output(logits, logits) if self.training else logits


class WithLogits(Aux):
    """As a model of transformers: an object with `.logits`."""

    def forward(self, images: Tensor) -> object:
        return Output(self.head(self.late(self.middle(self.early(images))).mean((2, 3))), None)


WHILE = r"Aux returns Output \(2 x 3, 2 x 3\) while it trains, and logits in evaluation; expected logits \(B, classes\)"


def test_a_model_that_returns_more_while_it_trains_is_refused_before_anything_is_made(world: World, here: Path) -> None:
    model = Aux()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    drawn = torch.random.get_rng_state()
    with pytest.raises(ModelError, match=WHILE) as found:
        lgkd.train(model, world.pictures, image_size=16, epochs=1, out=here / "mine")
    assert "turn its other outputs off (torchvision: aux_logits=false), or wrap it in a module" in str(found.value)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(drawn, torch.random.get_rng_state()) and model.training
    assert not (here / "mine").exists()
    check_training(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(768), nn.Linear(768, 3)), "net", image_size=(16, 16))


def test_tasks_say_so_of_a_model_that_nobody_tried() -> None:
    batch = Batch(torch.zeros(2, 3, 16, 16), torch.tensor([0, 1]))
    words = r"Aux returns Output \(2 x 3, 2 x 3\) while it trains; expected logits"
    with pytest.raises(ModelError, match=words):
        Supervised(Aux()).train()(batch)
    student = Aux()
    guide = Guide(student, lgkd.Teacher(Aux(), image_size=16), image_size=16, terms=[Term(KD())])
    with pytest.raises(ModelError, match=words):
        Guided(student, guide).train()(batch)


def test_a_teacher_that_returns_an_object_is_told_with_what_makes_it_one(world: World, here: Path) -> None:
    teacher = lgkd.Teacher(WithLogits().eval(), image_size=16)
    words = r"the teacher WithLogits returns Output \(2 x 3, NoneType\); expected logits"
    with pytest.raises(ModelError, match=words):
        lgkd.distill("deit_tiny", teacher, world.pictures, image_size=16, student_options=TINY_OPTIONS, out=here / "x")
    with pytest.raises(ModelError, match=words):
        teacher(torch.zeros(2, 3, 16, 16))
    with pytest.raises(ModelError, match=r"WithLogits returns Output \(2 x 3, NoneType\); expected logits"):
        Guide(Aux(), teacher, image_size=16, terms=[Term(KD())])


def test_an_object_with_logits_that_is_no_tuple_names_the_wrapper_for_transformers() -> None:
    class Named:
        logits = torch.zeros(2, 3)

    class Net(nn.Module):
        def forward(self, images: Tensor) -> Named:
            return Named()

    with pytest.raises(ModelError, match=r"returns Named; .* give lgkd\.models\.huggingface\.Classifier\(model\)"):
        check_model(Net(), "net", num_classes=3, image_size=(16, 16))


@pytest.mark.parametrize("name", ["deit_tiny", "timm:resnet18", "timm:deit_tiny_patch16_224"])
def test_another_number_of_channels_is_named_and_not_the_image_size(name: str) -> None:
    with pytest.raises(ModelError, match=r"takes images of 1 channel, expected 3: give --channels 1") as found:
        create_model(name, num_classes=3, image_size=32, options={"in_chans": 1})
    assert "channels" in str(found.value.__cause__), "the first error, of the model itself"
    assert "--image-size" not in str(found.value)


def test_an_empty_folder_is_told_before_a_missing_teacher(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    Path("bare/train/cats").mkdir(parents=True)
    Path("bare/train/dogs").mkdir()
    for folder, said in (
        ("empty", "empty holds no class folders and no images: expected FOLDER/train/CLASS/*"),
        ("bare", "the class folder bare/train/cats holds no images (it is empty)"),
    ):
        assert run([*DISTILL, "--dataset", folder]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"lgkd: {said}") and "teacher" not in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("evaluate --run x", "lgkd evaluate takes the run without --run, as an argument: lgkd evaluate RUN"),
        (
            "import-teacher --weights x",
            "lgkd import-teacher takes the weights without --weights, as an argument: "
            "lgkd import-teacher TEACHER WEIGHTS DATASET",
        ),
    ],
)
def test_an_argument_that_is_given_as_an_option_is_shown_the_way(
    words: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words.split()) == 2
    assert capsys.readouterr().err == f"lgkd: {line} (see lgkd {words.split()[0]} --help)\n"


def test_a_class_is_called_by_its_name(world: World, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["--dry-run"]):
        assert run([*TRAIN, "--dataset", str(world.pictures), "--images-per-class", "9", *more]) == 2
        said = "".join(capsys.readouterr())
        assert "9 images per class were asked for, but the class 'checks' holds 8: ask for fewer" in said
    with pytest.raises(DataError, match="the class 'checks' holds 1 image: a class needs at least 2"):
        lgkd.train("deit_tiny", world.pictures, images_per_class=1, val_fraction=0.5)


def test_force_is_offered_only_where_a_checkpoint_fits(
    world: World, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TRAIN, "--dataset", str(world.pictures), "--out", "mine"]
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert run(words) == 75
    for changed, helps in (
        (["--student-option", "depth=4"], False),
        (["--student-option", "embed_dim=64", "--seed", "4"], False),
        (["--seed", "4"], True),
        (["--set", "optimizer.name=sgd"], True),
    ):
        capsys.readouterr()
        assert run([*words, *changed]) == 2
        err = capsys.readouterr().err
        assert ("Use --force to resume it anyway" in err) is helps, changed
        assert ("its checkpoint does not fit, so --force would not help" in err) is not helps, changed
        shutil.copytree("mine", "forced")
        assert run([*words, *changed, "--out", "forced", "--force"]) == (0 if helps else 2), changed
        shutil.rmtree("forced")


@pytest.mark.parametrize(
    "command", ["check", "train-teacher resnet8", "train --student vit_96", "fit", "bench --student vit_96"]
)
def test_a_data_set_is_taken_as_an_argument_and_as_an_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Both forms reach the same check of the folder; together they have to be equal."""
    answers = []
    for words in ("nowhere", "--dataset nowhere", "nowhere --dataset nowhere"):
        assert run([*command.split(), *words.split()]) == 2
        answers.append(capsys.readouterr().err)
    assert answers[0].startswith("lgkd: 'nowhere' is neither a known data set nor a folder")
    assert answers == answers[:1] * 3
    assert run([*command.split(), "nowhere", "--dataset", "elsewhere"]) == 2
    assert capsys.readouterr().err == (
        "lgkd: the data set is nowhere as an argument and elsewhere by --dataset; give one of them\n"
    )


@pytest.mark.parametrize("command", ["check", "fit"])
def test_a_command_for_a_data_set_alone_needs_one(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command]) == 2
    assert capsys.readouterr().err == (
        "lgkd: no data set is given, expected a folder of images or a name of `lgkd datasets`; write it like lgkd "
        f"{command} photos/\n"
    )
