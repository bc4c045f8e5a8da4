"""Bad input ends with one line that says what was found, the exit code, and everything left as it was."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lgkd.cli import run
from tests.support.manifests import reseal
from tests.support.small import CLASSES, DISTILL, QUICK, TRAIN, World, environment, make_pictures, snapshot


@pytest.fixture
def desk(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with copies of the store and the pictures, so that a test may spoil them."""
    shutil.copytree(world.home, tmp_path / "home")
    shutil.copytree(world.pictures, tmp_path / "pictures")
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(desk: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must be refused; returns its one line."""

    def check(arguments: list[str], code: int, *found: str, lines: int = 1) -> str:
        before = snapshot(desk)
        capsys.readouterr()
        got = run(arguments)
        out, err = capsys.readouterr()
        assert got == code, err
        assert out == ""
        assert err.startswith("lgkd: ")
        assert err.count("\n") == lines, err
        assert "Traceback" not in err
        assert "bug in lgkd" not in err
        for text in found:
            assert text in err
        assert snapshot(desk) == before
        return err

    return check


DIGITS = ["--dataset", "digits"]
PICTURES = ["--dataset", "pictures"]

# What names, the schema and the store can tell: arguments, exit code, and what the line must hold.
QUICKLY = {
    "unknown command": (["distil"], 2, ["'distil'", "'distill'", "lgkd --help"]),
    "unknown option": ([*TRAIN, "--epoch", "3"], 2, ["--epoch;", "--epochs", "lgkd train --help"]),
    "no student": (["distill"], 2, ["'--student'", "lgkd distill --help"]),
    "word for a number": (["train", "--student", "deit_tiny", "--epochs", "x"], 2, ["'--epochs'", "got 'x'"]),
    "word for a number, glued": (["train", "--student", "deit_tiny", "--seed=x"], 2, ["'--seed'", "got 'x'"]),
    "one argument too many": (["students", "deit_tiny", "pit_ti"], 2, ["pit_ti"]),
    "unknown student": (["train", "--student", "deit_tny", *DIGITS], 2, ["'deit_tny'", "'deit_tiny'", "timm:NAME"]),
    "unknown student to show": (["students", "deit_tny"], 2, ["'deit_tny'", "'deit_tiny'"]),
    "unknown teacher": ([*DISTILL, *PICTURES, "--teacher", "resnet57"], 2, ["'resnet57'", "'resnet56'"]),
    "unknown teacher to train": (["train-teacher", "resnet57", "digits"], 2, ["'resnet57'", "'resnet56'"]),
    "unknown teacher to show": (["teachers", "resnet57"], 2, ["'resnet57'", "'resnet56'"]),
    "teacher not trained yet": (
        [*DISTILL, *PICTURES, "--teacher", "resnet20"],
        3,
        ["'resnet20'", "pictures", "lgkd train-teacher resnet20 pictures", "trained for pictures: resnet8"],
    ),
    "teacher not trained on that part": (
        [*DISTILL, *PICTURES, "--teacher", "resnet20", "--images-per-class", "5", "--subset-seed", "2"],
        3,
        ["lgkd train-teacher resnet20 pictures --images-per-class 5 --subset-seed 2"],
    ),
    "teacher of another data set": ([*DISTILL, *DIGITS], 3, ["'resnet8'", "lgkd train-teacher resnet8 digits"]),
    "teacher that is there": (
        ["train-teacher", "resnet8", "pictures", *QUICK],
        2,
        ["teacher resnet8 for pictures", "not touched", "--replace"],
    ),
    "unknown data set": ([*TRAIN, "--dataset", "digitz"], 2, ["'digitz'", "'digits'", "FOLDER/train/CLASS"]),
    "unknown data set for a teacher": ([*DISTILL, "--dataset", "digitz"], 2, ["'digitz'", "'digits'"]),
    "unknown data set to show": (["datasets", "digitz"], 2, ["'digitz'", "'digits'"]),
    "empty name": ([*TRAIN, "--dataset", ""], 2, ["empty", "digits"]),
    "missing folder": ([*TRAIN, "--dataset", "photos/none"], 2, ["'photos/none'", "neither", "FOLDER/train/CLASS"]),
    "a file for a data set": ([*TRAIN, "--dataset", "pictures/train/rows/0.png"], 2, ["0.png'", "is a file"]),
    "missing --data-dir": ([*TRAIN, *DIGITS, "--data-dir", "nowhere"], 3, ["nowhere", "--data-dir"]),
    "unknown recipe": ([*TRAIN, *DIGITS, "--recipe", "superwised"], 2, ["'superwised'", "'supervised'"]),
    "unknown recipe to show": (["recipes", "superwised"], 2, ["'superwised'", "'supervised'"]),
    "missing recipe file": ([*TRAIN, *DIGITS, "--recipe", "mine.yaml"], 2, ["mine.yaml", "cannot be read"]),
    "recipe for the other role": ([*TRAIN, *DIGITS, "--recipe", "teacher"], 2, ["teacher trains a teacher", "student"]),
    "recipe for the other role, too": (
        ["train-teacher", "resnet20", "digits", "--recipe", "supervised"],
        2,
        ["supervised trains a student"],
    ),
    "recipe without a guide": (
        [*DISTILL, *PICTURES, "--recipe", "supervised"],
        2,
        ["supervised has no guide", "locality-guidance"],
    ),
    "unknown key": ([*TRAIN, *DIGITS, "--set", "optimizer.rl=1"], 2, ["--set optimizer.rl", "got 1", "'lr'"]),
    "wrong type": ([*TRAIN, *DIGITS, "--set", "optimizer.lr=fast"], 2, ["--set optimizer.lr", "number", "'fast'"]),
    "no value": ([*TRAIN, *DIGITS, "--set", "optimizer.lr"], 2, ["'optimizer.lr'", "NAME=VALUE"]),
    "no epochs": ([*TRAIN, *DIGITS, "--epochs", "0"], 2, ["--epochs must be >= 1", "got 0"]),
    "no batch": ([*TRAIN, *DIGITS, "--batch-size", "0"], 2, ["--batch-size must be >= 1", "got 0"]),
    "negative size": ([*TRAIN, *DIGITS, "--image-size", "-3"], 2, ["--image-size must be >= 8", "got -3"]),
    "odd size": ([*TRAIN, *DIGITS, "--image-size", "64x"], 2, ["HEIGHTxWIDTH like 160x320", "got '64x'"]),
    "small size": ([*TRAIN, *DIGITS, "--image-size", "4x64"], 2, ["--image-size must be a side", "got [4, 64]"]),
    "two channels": ([*TRAIN, *DIGITS, "--channels", "2"], 2, ["--channels must be 1 or 3", "got 2"]),
    "unknown precision": ([*TRAIN, *DIGITS, "--precision", "fp8"], 2, ["--precision must be", "'bf16'", "got 'fp8'"]),
    "negative seed": ([*TRAIN, *DIGITS, "--seed", "-1"], 2, ["seed is -1", "0 or more"]),
    "negative subset seed": ([*TRAIN, *DIGITS, "--subset-seed", "-1"], 2, ["--subset-seed is -1"]),
    "two subsets": (
        [*TRAIN, *DIGITS, "--fraction", "0.5", "--images-per-class", "3"],
        2,
        ["0.5", "--images-per-class 3", "one"],
    ),
    "too large a fraction": ([*TRAIN, *DIGITS, "--fraction", "1.5"], 2, ["--fraction is 1.5", "at most 1"]),
    "no images": ([*TRAIN, *DIGITS, "--images-per-class", "0"], 2, ["--images-per-class is 0", "at least 1"]),
    "option without =": ([*TRAIN, *DIGITS, "--student-option", "depth"], 2, ["'depth'", "KEY=VALUE"]),
    "option without a key": ([*TRAIN, *DIGITS, "--student-option", "=3"], 2, ["'=3'", "KEY=VALUE"]),
    "option that is a list": ([*TRAIN, *DIGITS, "--student-option", "depth=[1]"], 2, ["'[1]'", "number"]),
    "output in use": ([*TRAIN, *DIGITS, "--out", "pictures"], 2, ["pictures already holds 2 files", "test, train"]),
    "output is a file": ([*TRAIN, *DIGITS, "--out", "pictures/train/rows/0.png"], 2, ["0.png is a file", "--out"]),
    "no run": (["evaluate", "pictures"], 2, ["pictures holds no run.json"]),
    "no folder": (["evaluate", "runs/none"], 2, ["no folder runs/none"]),
    "no layers": (["layers", "deit_tny"], 2, ["'deit_tny'", "'deit_tiny'"]),
    "size of layers": (["layers", "deit_tiny", "--image-size", "-3"], 2, ["--image-size is -3"]),
}


@pytest.mark.parametrize("case", QUICKLY)
def test_a_choice_that_cannot_be_is_refused_in_one_line(refused: Callable[..., str], case: str) -> None:
    arguments, code, found = QUICKLY[case]
    refused(arguments, code, *found)


def test_what_names_can_tell_is_refused_before_torch_is_imported(desk: Path) -> None:
    code = (
        "import json, sys\n"
        "from lgkd.cli import run\n"
        "for name, (arguments, code, _) in json.load(sys.stdin).items():\n"
        "    assert run(arguments) == code, name\n"
        "    heavy = {'torch', 'timm', 'numpy', 'accelerate', 'PIL', 'sklearn'} & set(sys.modules)\n"
        "    assert not heavy, (name, heavy)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(QUICKLY),
        cwd=desk,
        env=environment(desk / "home"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("extra", "found"),
    [
        (["--image-size", "8", "--student-option", "patch_size=16"], ["deit_tiny", "8 x 8", "--image-size"]),
        (["--student-option", "patch_sise=4"], ["deit_tiny", "patch_sise"]),
        (["--student-option", "embed_dim=33"], ["deit_tiny", "embed_dim=33"]),
        (["--student-option", "img_size=32"], ["img_size is not an option", "--image-size"]),
        (["--taps", "blocks.0"], ["1 student taps (blocks.0)", "3 teacher taps (stage1, stage2, stage3)"]),
        (["--taps", "blocks.0,blocks.1,block.2"], ["'block.2'", "'blocks.2'"]),
        (["--taps", "blocks.0,blocks.1,head"], ["'head'", "is not a map"]),
        (["--student-option", "depth=2"], ["2 blocks", "3", "--taps"]),
        (["--images-per-class", "9"], ["9 images per class", "holds 8"]),
        (["--precision", "fp16"], ["fp16", "GPU", "fp32"]),
        (["--device", "tpu"], ["'tpu'", "cpu, cuda"]),
        (["--device", "cuda:99"], ["'cuda:99' is not here", "--device cpu"]),
        (["--student", "timm:no_such_model"], ["'no_such_model'"]),
        (["--student", "no_such_module:Net"], ["'no_such_module'", "package.module:factory"]),
    ],
)
def test_what_only_the_student_and_the_images_tell_is_refused_too(
    refused: Callable[..., str], extra: list[str], found: list[str]
) -> None:
    refused([*DISTILL, *PICTURES, *extra], 2, *found)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_here_is_refused(refused: Callable[..., str]) -> None:
    refused([*TRAIN, *PICTURES, "--device", "cuda"], 2, "'cuda' is not here (0 CUDA devices found)", "--device cpu")


def spoil_folder(folder: Path, how: str) -> None:
    if how == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif how == "one class":
        for split in ("train", "test"):
            for name in CLASSES[1:]:
                shutil.rmtree(folder / split / name)
    elif how == "a class in test that train lacks":
        shutil.rmtree(folder / "train" / "rows")
    elif how == "an empty class":
        for file in (folder / "train" / "rows").iterdir():
            file.unlink()
    elif how == "a broken image":
        (folder / "train" / "rows" / "0.png").write_bytes(b"no image")


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("empty", ["pictures holds no class folders and no images", "FOLDER/train/CLASS"]),
        ("one class", ["one class only, 'checks'", "at least two"]),
        ("a class in test that train lacks", ["1 class that train lacks: rows"]),
        ("an empty class", ["rows holds no images", "it is empty"]),
        ("a broken image", ["0.png"]),
    ],
)
@pytest.mark.parametrize("command", [TRAIN, DISTILL])
def test_a_folder_that_is_no_data_set_is_refused(
    desk: Path, refused: Callable[..., str], command: list[str], how: str, found: list[str]
) -> None:
    spoil_folder(desk / "pictures", how)
    refused([*command, *PICTURES], 2, *found)


def test_a_data_set_that_is_not_here_names_the_place_it_belongs_to(desk: Path, refused: Callable[..., str]) -> None:
    (desk / "images").mkdir()
    refused([*TRAIN, "--dataset", "cifar10", "--data-dir", "images"], 3, "cifar10 is not here", "images/cifar10/train")


def test_a_teacher_of_other_classes_is_refused(desk: Path, refused: Callable[..., str]) -> None:
    make_pictures(desk / "elsewhere" / "pictures", ("checks", "dots", "waves", "rows"))
    refused(
        [*DISTILL, "--dataset", "elsewhere/pictures"], 2,
        "resnet8 was trained on 3 classes of pictures", "elsewhere/pictures has 4", "columns",
        "lgkd train-teacher resnet8 elsewhere/pictures",
    )  # fmt: skip


def test_a_teacher_whose_weights_changed_is_refused(desk: Path, refused: Callable[..., str]) -> None:
    weights = desk / "home" / "teachers" / "pictures" / "resnet8" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-7] ^= 1
    weights.write_bytes(content)
    refused([*DISTILL, *PICTURES], 2, str(weights), "SHA-256", "lgkd train-teacher resnet8 pictures")


def test_a_teacher_whose_card_is_broken_is_refused(desk: Path, refused: Callable[..., str]) -> None:
    card = desk / "home" / "teachers" / "pictures" / "resnet8" / "card.json"
    card.write_text("{")
    reseal(card.parent)
    refused([*DISTILL, *PICTURES], 2, str(card), "not a teacher's card")


def test_a_listing_passes_over_a_broken_card_with_a_remark(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = desk / "home" / "teachers" / "pictures" / "resnet8" / "card.json"
    card.write_text("{")
    assert run(["teachers"]) == 0
    out, err = capsys.readouterr()
    assert "pictures" not in out
    assert err.startswith(f"skipped {card}: ")


def test_a_run_is_never_written_over(world: World, desk: Path, refused: Callable[..., str]) -> None:
    shutil.copytree(world.guided_run, desk / "mine")
    for command in (DISTILL, TRAIN):
        refused(
            [*command, *PICTURES, "--out", "mine"], 2,
            "mine already holds a finished run (deit_tiny guided by resnet8 on pictures, seed 0)", "--out",
        )  # fmt: skip


def test_a_recipe_file_tells_all_its_mistakes_by_line(desk: Path, refused: Callable[..., str]) -> None:
    from lgkd.config import dump_recipe, load_recipe

    text = dump_recipe(load_recipe("supervised")).replace("lr: 0.0005", "lr: fast").replace("flip: 0.5", "flop: 0.5")
    (desk / "mine.yaml").write_text(text)
    message = refused(
        [*TRAIN, *PICTURES, "--recipe", "mine.yaml"], 2, "optimizer.lr", "'fast'", "view.flop", "'flip'", lines=3
    )
    assert "mine.yaml:" in message


def test_several_wrong_options_are_told_at_once(refused: Callable[..., str]) -> None:
    refused(
        [*TRAIN, *PICTURES, "--epochs", "0", "--precision", "fp8", "--set", "ema.decay=2"], 2,
        "3 problems", "--epochs must be", "--precision must be", "--set ema.decay", lines=4,
    )  # fmt: skip


def spoil_run(folder: Path, how: str) -> None:
    run_json, student_json, weights = folder / "run.json", folder / "student.json", folder / "student.safetensors"
    about = json.loads(student_json.read_text())
    if how == "no run.json":
        run_json.unlink()
    elif how == "garbage in run.json":
        run_json.write_bytes(b"\xff{")
    elif how == "a list in run.json":
        run_json.write_text("[]")
    elif how == "another format":
        run_json.write_text(run_json.read_text().replace('"format": 1', '"format": 99'))
    elif how == "no data set in run.json":
        run_json.write_text(run_json.read_text().replace('"path"', '"paht"'))
    elif how == "no student.json":
        student_json.unlink()
    elif how == "half of student.json":
        student_json.write_text(student_json.read_text()[:100])
    elif how == "no size in student.json":
        student_json.write_text(json.dumps({**about, "image_size": "16"}))
    elif how == "no weights":
        weights.unlink()
    elif how == "a flipped bit":
        content = bytearray(weights.read_bytes())
        content[-7] ^= 1
        weights.write_bytes(content)
    elif how == "half of the weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif how == "weights of another shape":
        from lgkd._internal.atomic_io import sha256_of

        tensors = load_file(weights)
        save_file({**tensors, "head.weight": torch.zeros(3, 16)}, weights)
        student_json.write_text(json.dumps({**about, "weights_sha256": sha256_of(weights)}))
    else:
        from lgkd._internal.atomic_io import sha256_of

        weights.write_bytes(b"no weights at all")
        student_json.write_text(json.dumps({**about, "weights_sha256": sha256_of(weights)}))


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("no run.json", ["mine holds no run.json"]),
        ("garbage in run.json", ["mine/run.json cannot be read as JSON"]),
        ("a list in run.json", ["mine/run.json has format list", "format 1"]),
        ("another format", ["mine/run.json has format 99", "format 1"]),
        ("no data set in run.json", ["mine/run.json lacks", "dataset.path"]),
        ("no student.json", ["mine/student.json is not listed in the MANIFEST.json beside it; take both from a copy"]),
        ("half of student.json", ["mine/student.json cannot be read as JSON"]),
        ("no size in student.json", ["mine/student.json lacks a proper image_size"]),
        ("no weights", ["mine/student.safetensors", "cannot be read"]),
        ("a flipped bit", ["mine/student.safetensors", "SHA-256", "damaged"]),
        ("half of the weights", ["mine/student.safetensors", "SHA-256", "damaged"]),
        (
            "weights of another shape",
            ["mine/student.safetensors does not fit", "head.weight (3, 16) instead of (3, 32)"],
        ),
        ("something else for weights", ["mine/student.safetensors", "not a safetensors file"]),
    ],
)
def test_a_broken_run_is_refused(
    world: World, desk: Path, refused: Callable[..., str], how: str, found: list[str]
) -> None:
    shutil.copytree(world.guided_run, desk / "mine")
    spoil_run(desk / "mine", how)
    reseal(desk / "mine")
    refused(["evaluate", "mine"], 2, *found)


def test_a_run_is_evaluated_on_its_own_classes_only(world: World, refused: Callable[..., str]) -> None:
    refused(
        ["evaluate", str(world.guided_run), "--dataset", "digits"],
        2,
        "digits has classes that the student does not know: 0, 1, 2,",
        "its 3 classes",
    )


def test_a_run_whose_data_moved_says_where_they_were(world: World, desk: Path, refused: Callable[..., str]) -> None:
    shutil.copytree(world.guided_run, desk / "mine")
    file = desk / "mine" / "run.json"
    file.write_text(file.read_text().replace(str(world.pictures), str(desk / "gone")))
    reseal(file.parent)
    refused(["evaluate", "mine"], 3, str(desk / "gone"), "--dataset")


def test_a_store_that_cannot_be_written_is_found_before_the_training(
    desk: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (desk / "a-file").write_text("")
    monkeypatch.setenv("LGKD_HOME", str(desk / "a-file"))
    monkeypatch.setattr("lgkd.runner.execute.fit", lambda *_, **__: pytest.fail("trained"))
    refused(
        ["train-teacher", "resnet8", "pictures", *QUICK, "--image-size", "16", "--quiet"],
        2, "a-file/teachers/pictures cannot be made",
    )  # fmt: skip


def test_a_teacher_without_layers_to_guide_by_is_refused_before_the_training(
    desk: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (desk / "bare.py").write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    layers = nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)\n"
        "    return nn.Sequential(*layers)\n"
    )
    monkeypatch.syspath_prepend(desk)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    refused(
        ["train-teacher", "bare:net", "pictures", *QUICK, "--image-size", "16", "--quiet"], 2, "Sequential", "lgkd_taps"
    )
