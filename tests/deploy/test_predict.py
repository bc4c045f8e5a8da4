"""`lgkd predict`: the same images as in evaluation, broken ones named, every way to name images, every output."""

import csv
import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lgkd
from lgkd._internal.manifest import write_manifest
from lgkd.cli import run
from lgkd.data.decode import decode, decode_readable
from lgkd.data.transforms.augment import Plain
from lgkd.deploy.inference.image_files import find_images
from lgkd.deploy.inference.load import exported_bytes, open_source
from lgkd.deploy.inference.locate import Place, find_source
from lgkd.deploy.inference.predict import read_logits
from lgkd.errors import InputError, MissingError, Remark, TakenError
from lgkd.runner.loaded_run import open_run
from tests.support.screen import shown_on, terminal
from tests.support.security import canary as canary
from tests.support.security import desk as desk
from tests.support.security import payloads, rewrite
from tests.support.small import CLASSES, World, python


@pytest.fixture
def here(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with pictures of which one is broken."""
    monkeypatch.setenv("LGKD_HOME", str(world.home))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(world.pictures / "test", tmp_path / "photos")
    (tmp_path / "photos" / "rows" / "broken.jpg").write_bytes(b"no image at all")
    return tmp_path


def names_of(found: list[Path]) -> list[str]:
    return [path.as_posix() for path in found]


def listed(*names: str | Path) -> list[str]:
    return names_of(find_images(names, fault=pytest.fail, unused=lambda _: None))


# The images


def test_images_reach_the_student_as_they_do_in_evaluation(world: World) -> None:
    opened = open_run(world.unguided_run)
    expected = torch.cat([images for images, _ in opened.batches()])
    source = open_source(find_source(world.unguided_run), device="cpu")
    files = [world.pictures / name for name in opened.data.test.names]
    pixels, sizes, broken = decode_readable(files, max_side=source.longest_side)
    assert torch.equal(source.plain(torch.from_numpy(pixels), torch.from_numpy(sizes)), expected)
    assert not broken
    ((_, logits, _),) = read_logits(source, files)
    with torch.no_grad():
        torch.testing.assert_close(logits, opened.student(expected), rtol=0, atol=1e-5)


def test_as_many_predictions_are_right_as_evaluation_says(world: World) -> None:
    scores = lgkd.evaluate(world.unguided_run)
    found = lgkd.predict(world.unguided_run, world.pictures / "test", top_k=1)
    right = sum(one.classes == (one.image.parent.name,) for one in found)
    assert (right / len(found), len(found)) == (scores.top1, scores.images)


@pytest.fixture
def odd_images(tmp_path: Path) -> Path:
    """Photographs of many sizes, one on its side by EXIF, one grey, one transparent, one small."""
    chance = np.random.default_rng(7)

    def noise(height: int, width: int) -> Image.Image:
        coarse = chance.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)

    folder = tmp_path / "odd"
    folder.mkdir()
    noise(300, 420).save(folder / "a.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6
    noise(500, 200).save(folder / "b.jpg", exif=turned)
    noise(90, 130).convert("L").save(folder / "c.png")
    clear = noise(70, 40)
    clear.putalpha(Image.fromarray(chance.integers(0, 256, (70, 40), np.uint8)))
    clear.save(folder / "d.png")
    noise(9, 11).save(folder / "e.bmp")
    noise(256, 256).save(folder / "f.webp")
    return folder


@pytest.mark.parametrize("size", [(32, 32), (48, 24), (256, 256)])
def test_what_an_image_becomes_does_not_depend_on_the_others(odd_images: Path, size: tuple[int, int]) -> None:
    """A data set decodes all images onto one canvas; alone, each has one of its own."""
    files = sorted(odd_images.iterdir())
    plain = Plain(size, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    pixels, sizes = decode(odd_images, [file.name for file in files])
    together = plain(torch.from_numpy(pixels), torch.from_numpy(sizes))
    for place, file in enumerate(files):
        alone, its_size, _ = decode_readable([file], max_side=max(pixels.shape[2:]))
        assert torch.equal(plain(torch.from_numpy(alone), torch.from_numpy(its_size))[0], together[place]), file.name


def test_a_run_knows_the_longest_side_of_the_images_that_it_was_trained_on(world: World) -> None:
    assert json.loads((world.unguided_run / "student.json").read_text())["longest_side"] == 12


def test_confidences_are_those_of_a_softmax_and_in_order(world: World) -> None:
    (one,) = lgkd.predict(world.unguided_run, world.pictures / "test" / "rows" / "0.png", top_k=99)
    assert sorted(one.classes) == sorted(CLASSES) and list(one.confidences) == sorted(one.confidences, reverse=True)
    assert sum(one.confidences) == pytest.approx(1)
    source = open_source(find_source(world.unguided_run), device="cpu")
    ((_, logits, _),) = read_logits(source, [one.image])
    powers = np.exp(logits[0].double().numpy())
    for name, share in zip(one.classes, one.confidences, strict=True):
        assert share == pytest.approx(powers[CLASSES.index(name)] / powers.sum())


def test_broken_images_are_named_in_their_places_and_stop_no_others(world: World, here: Path) -> None:
    found = lgkd.predict(world.unguided_run, "photos")
    assert len(found) == 13
    assert [(one.image.as_posix(), one.error) for one in found if not one.classes] == [
        ("photos/rows/broken.jpg", "not an image that Pillow knows")
    ]
    whole = {one.image.name + one.image.parent.name: one for one in lgkd.predict(world.unguided_run, "photos/*/?.png")}
    assert all(whole[one.image.name + one.image.parent.name] == one for one in found if one.classes)
    (alone,) = lgkd.predict(world.unguided_run, "photos/rows/broken.jpg")
    assert alone.error and not alone.classes


def test_a_run_object_and_one_of_a_module_predict_as_their_folders(world: World, here: Path) -> None:
    whole = lgkd.load_run(world.unguided_run)
    found = lgkd.predict(world.unguided_run, "photos/rows/0.png")
    assert lgkd.predict(whole, "photos/rows/0.png") == found
    shutil.copytree(world.unguided_run, "mine")
    rewrite(Path("mine/student.json"), lambda about: about.update(name=None))
    with pytest.raises(InputError, match="made in Python"):
        lgkd.predict("mine", "photos/rows/0.png")
    assert lgkd.predict("mine", "photos/rows/0.png", model=whole.student) == found


# Which files


def test_files_folders_and_patterns_are_listed_in_order_and_once(here: Path) -> None:
    Path("photos/rows/.hidden.png").write_bytes(b"")
    Path("photos/rows/notes.txt").write_text("no image")
    shutil.copy("photos/rows/0.png", "photos/rows/without-ending")
    rows = [
        "photos/rows/0.png",
        "photos/rows/1.png",
        "photos/rows/2.png",
        "photos/rows/3.png",
        "photos/rows/broken.jpg",
    ]
    assert listed("photos/rows") == rows
    assert listed("photos/rows/without-ending", "photos/rows/2.png", "photos/rows") == [
        "photos/rows/without-ending", rows[2], *rows[:2], *rows[3:]
    ]  # fmt: skip
    assert listed("photos/*/[01].png") == [f"photos/{name}/{number}.png" for name in CLASSES for number in (0, 1)]
    assert listed("**/0.png") == [f"photos/{name}/0.png" for name in CLASSES]
    assert listed("photos/c*") == listed("photos/checks", "photos/columns")
    Path("photos/a[1].png").write_bytes(b"")
    assert listed("photos/a[1].png") == ["photos/a[1].png"]  # a file of that name comes before a pattern


def test_names_that_lead_to_no_images_are_refused(here: Path) -> None:
    Path("empty").mkdir()
    os.mkfifo("pipe")
    for name, told in {
        "photo": "there is no file or folder 'photo'; expected images, folders of images, or a pattern",
        "photos/*.gif": r"the pattern 'photos/\*.gif' matches nothing; expected images or folders",
        "empty": "empty holds no images; expected files that end in (avif )?bmp gif",
        "pipe": "pipe is a pipe, a device or the like, expected an image or a folder of images",
    }.items():
        with pytest.raises(InputError, match=told):
            listed(name)
    with pytest.raises(InputError, match="no images were named; name files, folders or patterns"):
        listed()


def test_a_link_that_leads_nowhere_is_told_and_stops_no_others(here: Path) -> None:
    Path("photos/rows/lost.png").symlink_to("nowhere.png")
    told: list[str] = []
    assert len(find_images(["photos"], fault=told.append)) == 13
    (sentence,) = told
    assert "photos/rows/lost.png" in sentence


# The student


def test_what_is_no_student_is_refused(world: World, here: Path) -> None:
    shutil.copytree(world.unguided_run, "bare")
    Path("bare/student.safetensors").unlink()
    for place, told in {
        "nowhere": "there is no nowhere; expected the folder of a finished run or an export, or an ONNX file",
        "photos": "photos holds no student.json; expected the folder of a finished run, or of an export",
        "bare": "bare has a student.json, but neither a student.safetensors nor a student.onnx; export it with one",
        "bare/run.json": "bare/run.json is neither a folder nor an ONNX file nor a student.safetensors; expected the",
        "bare/student.pt2": "bare/student.pt2 is a program of torch.export, which only torch's own reader opens",
    }.items():
        with pytest.raises(InputError, match=told):
            find_source(place)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"longest_side": "big"}, "has a longest_side of 'big', expected pixels; it is damaged"),
        ({"longest_side": 0}, "has a longest_side of 0, expected pixels"),
        ({"classes": ["a"]}, "names 1 classes and has 3; it is damaged"),
    ],
)
def test_a_damaged_student_json_is_refused(world: World, here: Path, change: dict[str, object], told: str) -> None:
    shutil.copytree(world.unguided_run, "mine")
    rewrite(Path("mine/student.json"), lambda about: about.update(change))
    with pytest.raises(InputError, match=told):
        lgkd.predict("mine", "photos")


def test_runs_of_before_the_longest_side_was_written_down_are_read(world: World, here: Path) -> None:
    found = lgkd.predict(world.unguided_run, "photos")
    shutil.copytree(world.unguided_run, "mine")
    rewrite(Path("mine/student.json"), lambda about: about.pop("longest_side"))
    assert lgkd.predict("mine", "photos") == found  # none of these images is larger than 256 pixels


def test_a_program_of_torch_export_is_not_opened(desk: Path, canary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, data in payloads(canary).items():
        (desk / f"{kind}.pt2").write_bytes(data)
        assert run(["predict", f"{kind}.pt2", "pictures"]) == 2
        assert "that one runs pickles; lgkd does not read them: name the student.safetensors" in capsys.readouterr().err


def test_a_run_cannot_name_code_that_predicting_runs(
    desk: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (desk / "their_net.py").write_text(f"open({str(canary)!r}, 'w')\n")
    rewrite(desk / "mine" / "student.json", lambda about: about.update(name="their_net:Net"))
    for command in (["predict", "mine", "pictures"], ["export", "mine"]):
        assert run(command) == 2
        assert "a file alone may not run it; if you trust it, name it yourself" in capsys.readouterr().err
    assert "their_net" not in sys.modules


# What is shown


def test_one_class_an_image_leaves_no_empty_column(
    world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["predict", str(world.unguided_run), "photos/rows/0.png", "--top-k", "1", "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["image", "class", "sure"]


def test_the_table_has_a_line_an_image_and_broken_ones_end_the_command_with_2(
    world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["predict", str(world.unguided_run), "photos/rows", "--top-k", "2", "--quiet"]) == 2
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split() == ["image", "class", "sure", "or"] and len(lines) == 5
    assert re.fullmatch(r"photos/rows/0\.png +\w+ +\d+\.\d% +\w+ \d+\.\d%", lines[1])
    assert err == (
        "lgkd: 1 of 5 images could not be read and were skipped: photos/rows/broken.jpg "
        "(not an image that Pillow knows); the others were classified\n"
    )
    assert run(["predict", str(world.unguided_run), "photos/rows/broken.jpg"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("lgkd: no image could be read: photos/rows/broken.jpg (not an image that Pillow knows)\n")
    with terminal() as screen:
        assert run(["predict", str(world.unguided_run), "photos/checks"]) == 0
    assert max(map(len, shown_on(screen))) <= 80


def test_json_and_csv_hold_what_python_gets(world: World, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = lgkd.predict(world.unguided_run, "photos", top_k=2)
    words = ["predict", str(world.unguided_run), "photos", "--top-k", "2", "--json", "--csv", "mine.csv"]
    assert run(words) == 2
    told = json.loads(capsys.readouterr().out)
    with Path("mine.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(told) == len(rows) == len(found) == 13
    for one, as_json, as_row in zip(found, told, rows, strict=True):
        assert as_json["image"] == as_row["image"] == str(one.image)
        if one.error is not None:
            assert as_json["error"] == as_row["error"] == one.error and "classes" not in as_json
            continue
        pairs = list(zip(one.classes, one.confidences, strict=True))
        assert [(pair["class"], pair["confidence"]) for pair in as_json["classes"]] == pairs
        assert [(as_row[f"class_{n}"], float(as_row[f"confidence_{n}"])) for n in (1, 2)] == pairs
    assert run(["predict", str(world.unguided_run), "photos/checks", "--csv", "other.csv"]) == 0
    assert capsys.readouterr().out == "4 images in other.csv\n"


def test_a_labelled_folder_has_a_column_of_true_classes_and_an_accuracy(
    world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("photos/columns")
    Path("photos/rows/2.png").unlink()
    Path("photos/rows/deeper").mkdir()
    shutil.move("photos/rows/3.png", "photos/rows/deeper/3.png")
    found = lgkd.predict(world.unguided_run, "photos")
    assert [one.truth for one in found] == [one.image.parts[1] for one in found] and len(found) == 8
    read = [one for one in found if one.error is None]
    right = {name: [one.classes[0] == name for one in read if one.truth == name] for name in ("checks", "rows")}
    assert [len(part) for part in right.values()] == [4, 3]
    accuracy = sum(map(sum, right.values())) / 7
    balanced = (sum(right["checks"]) / 4 + sum(right["rows"]) / 3) / 2
    line = f"accuracy {accuracy:.2%} of 7 labelled images, balanced accuracy {balanced:.2%} over 2 classes\n"
    words = ["predict", str(world.unguided_run), "photos"]
    assert run([*words, "--quiet"]) == 2
    out = capsys.readouterr().out
    assert out.endswith(line) and out.splitlines()[0].split() == ["image", "truth", "class", "sure", "or"]
    assert out.splitlines()[1].split()[1] == "checks"
    assert run([*words, "--json", "--csv", "mine.csv"]) == 2
    shown = capsys.readouterr()
    assert [one["truth"] for one in json.loads(shown.out)] == [one.truth for one in found] and line in shown.err
    assert run([*words, "--json", "--quiet"]) == 2
    assert "accuracy" not in capsys.readouterr().err
    with Path("mine.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["truth"] for row in rows] == [one.truth for one in found] and list(rows[0])[:3] == [
        "image", "truth", "class_1",
    ]  # fmt: skip


def test_folders_that_are_not_labelled_are_classified_as_before(
    world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of one class, single files, and a tree of which one folder is no class."""
    Path("photos/rows/broken.jpg").unlink()
    words = ["predict", str(world.unguided_run), "--csv"]
    assert run([*words, "one.csv", "photos/rows", "photos/checks/0.png"]) == 0
    assert capsys.readouterr().out == "5 images in one.csv\n"
    Path("photos/rows").rename("photos/spots")
    assert run([*words, "two.csv", "photos"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "12 images in two.csv\n"
    line = "photos is not taken as labelled: the student has no class spots; rename or move that folder"
    assert line in " ".join(shown.err.split())
    for name in ("one.csv", "two.csv"):
        assert "truth" not in Path(name).read_text().splitlines()[0]
    with pytest.warns(UserWarning, match="the student has no class spots"):
        assert all(one.truth is None for one in lgkd.predict(world.unguided_run, "photos"))
    # Beside class folders, images directly in the folder have no true class.
    Path("photos/spots").rename("photos/rows")
    shutil.move("photos/rows/0.png", "photos/loose.png")
    truths = {
        one.image.as_posix(): one.truth for one in lgkd.predict(world.unguided_run, ["photos", "photos/loose.png"])
    }
    assert truths["photos/loose.png"] is None and truths["photos/rows/1.png"] == "rows" and len(truths) == 12


def test_bad_choices_are_told_before_anything_is_done(
    world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.csv").write_text("precious")
    for words, told in (
        (["--top-k", "0"], "--top-k is 0, expected at least 1 class per image"),
        (["--csv", "mine.csv"], "mine.csv exists already; nothing was touched. Choose another --csv"),
    ):
        assert run(["predict", str(world.unguided_run), "photos", *words]) == 2
        out, err = capsys.readouterr()
        assert (out, err) == ("", f"lgkd: {told}\n")
    assert Path("mine.csv").read_text() == "precious"
    with pytest.raises(InputError, match="top_k is 0, expected at least 1 class an image"):
        lgkd.predict(world.unguided_run, "photos", top_k=0)
    assert issubclass(TakenError, InputError) and not issubclass(MissingError, InputError)


def test_mistakes_in_names_do_not_wait_for_torch(tmp_path: Path) -> None:
    done = python(
        "import sys\nfrom lgkd.cli import run\n"
        "assert run(['predict', 'nowhere', 'x.png']) == 2\nassert run(['export', 'nowhere']) == 2\n"
        "assert run(['export', 'nowhere', '--format', 'onx']) == 2\n"
        "assert not {'torch', 'numpy', 'onnx'} & set(sys.modules)\n",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stderr.splitlines()) == 3


@pytest.mark.parametrize("by", ["MANIFEST.json", "export.json"])
def test_no_flipped_bit_of_an_exported_file_is_run(tmp_path: Path, by: str) -> None:
    """By the manifest; in an export of an older version by its export.json."""
    data = bytes(range(256)) * 4
    file = tmp_path / "student.onnx"
    file.write_bytes(data)
    about = {"files": {"student.onnx": {"sha256": hashlib.sha256(data).hexdigest()}}}
    (tmp_path / "export.json").write_text(json.dumps(about))
    if by == "MANIFEST.json":
        write_manifest(tmp_path, ("student.onnx", "export.json"))
    assert exported_bytes(file) == data
    for place in range(60):
        changed = bytearray(data)
        changed[17 * place] ^= 1 << place % 8
        file.write_bytes(changed)
        with pytest.raises(
            InputError, match=rf"student.onnx: has SHA-256 \w{{64}}, expected \w{{64}} by the {by} beside it"
        ):
            open_source(Place(tmp_path, "student.onnx", "onnx"), device="cpu")


def test_an_exported_file_alone_is_read_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "student.onnx").write_bytes(b"x")
    with pytest.warns(Remark, match=r"student.onnx could not be verified: there is no MANIFEST.json"):
        assert exported_bytes(tmp_path / "student.onnx") == b"x"
    with pytest.raises(InputError, match=r"gone.onnx: cannot be read \(.*\); expected an exported student"):
        exported_bytes(tmp_path / "gone.onnx")
