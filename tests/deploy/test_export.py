"""`lgkd export`: files that need no lgkd, compared with the student, whole or not there at all."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import lgkd
from lgkd.cli import run
from lgkd.data.decode import decode_readable
from lgkd.deploy import export, formats
from lgkd.deploy.export import Exported, largest_difference
from lgkd.deploy.inference.load import open_source
from lgkd.deploy.inference.locate import find_source
from lgkd.deploy.options import export_folder
from lgkd.errors import DataError, InputError, MissingError, ModelError, TakenError
from lgkd.runner.loaded_run import open_run
from tests.support.onnx import subject_of
from tests.support.security import rewrite
from tests.support.small import CLASSES, TINY_OPTIONS, World, environment, one_thread

HAS_ONNX = all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
WITHOUT_LGKD = "import sys\nsys.modules['lgkd'] = None\n"


@pytest.fixture(autouse=True)
def _the_store(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGKD_HOME", str(world.home))


@pytest.fixture(scope="module")
def exported(world: World, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The guided student in every format that can be written here."""
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setenv("LGKD_HOME", str(world.home))
        return lgkd.export(world.guided_run, tmp_path_factory.mktemp("exports") / "guided")


@pytest.fixture(scope="module")
def own(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an architecture that timm does not have."""
    folder = tmp_path_factory.mktemp("own") / "run"
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setenv("LGKD_HOME", str(world.home))
        lgkd.train(
            "vit_lite", world.pictures, out=folder, student_options={"depth": 1}, image_size=16, epochs=1, batch_size=8,
            precision="fp32", device="cpu",
        )  # fmt: skip
    return folder


def python(code: str, folder: Path) -> str:
    """What a program prints that cannot import lgkd."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LGKD + code], cwd=folder, env=environment(folder), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def snippets(folder: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (folder / "README.md").read_text(), flags=re.M | re.S)


# What is in it


def test_the_folder_holds_the_files_and_what_their_sums_and_sizes_are(world: World, exported: Exported) -> None:
    expected = {"student.safetensors", "student.pt2", "student.json", "export.json", "README.md", "MANIFEST.json"}
    assert {path.name for path in exported.folder.iterdir()} == expected | ({"student.onnx"} if HAS_ONNX else set())
    about = json.loads((exported.folder / "export.json").read_text())
    assert about["files"].keys() == exported.differences.keys() >= {"student.safetensors", "student.pt2"}
    for name, file in about["files"].items():
        data = (exported.folder / name).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(data), sha256(data).hexdigest())
        assert file["largest_difference"] == exported.differences[name] <= 1e-4
    assert (exported.images, exported.source) == (12, "the test split of pictures")
    assert about["compared_on"]["batch_sizes"] == [1, 7]
    kept = json.loads((exported.folder / "student.json").read_text())
    assert kept == json.loads((world.guided_run / "student.json").read_text())
    assert kept["classes"] == list(CLASSES) and kept["image_size"] == [16, 16]
    assert (exported.folder / "student.safetensors").read_bytes() == (
        world.guided_run / "student.safetensors"
    ).read_bytes()


def test_no_file_names_a_folder_of_this_machine_and_none_is_a_pickle(world: World, exported: Exported) -> None:
    places = [str(path).encode() for path in (Path(lgkd.__file__).parent.parent, world.pictures.parent, Path.home())]
    for path in exported.folder.iterdir():
        assert not any(place in path.read_bytes() for place in places), path.name
    with ZipFile(exported.folder / "student.pt2") as archive:
        assert len(archive.namelist()) > 10
        for name in archive.namelist():
            data = archive.read(name)
            assert not any(place in data for place in places), name
            assert data[:2] not in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05"), name


def test_the_snippets_of_the_card_give_lgkds_answers_without_lgkd(world: World, exported: Exported) -> None:
    """In one process: images made ready with Pillow, then timm, ONNX Runtime and torch.export, as the card says."""
    image = world.pictures / "test" / "rows" / "1.png"
    shutil.copy(image, exported.folder / "image.png")
    opened = open_run(world.guided_run)
    images = torch.cat([images for images, _ in opened.batches()])
    save_file({"images": images}, exported.folder / "images.safetensors")
    blocks = snippets(exported.folder)
    assert len(blocks) == 2 + HAS_ONNX + 1
    same = "exact = load_file('images.safetensors')['images']\n"
    keep = "save_file({{'logits': model(exact).detach()}}, '{}.safetensors')\n"
    code = [
        blocks[0], blocks[1], "from safetensors.torch import save_file\n", same, keep.format("timm-logits"),
        *blocks[2:], keep.format("program-logits"),
    ]  # fmt: skip
    try:
        printed = python("\n".join(code), exported.folder)
        (one,) = lgkd.predict(world.guided_run, image)
        lines = [line.split() for line in printed.splitlines()]
        assert len(lines) == 3 * (len(blocks) - 1)
        for start in range(0, len(lines), 3):
            shares = {name: float(share) for share, name in lines[start : start + 3]}
            for name, share in zip(one.classes, one.confidences, strict=True):
                assert abs(shares[name] - share) < 2e-3
        with torch.no_grad():
            expected = opened.student(images)
        for name in ("timm", "program"):
            logits = load_file(exported.folder / f"{name}-logits.safetensors")["logits"]
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    finally:
        for path in (*exported.folder.glob("*-logits.safetensors"), exported.folder / "images.safetensors"):
            path.unlink()
        (exported.folder / "image.png").unlink()


@pytest.fixture(scope="module")
def grey(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Pictures of 12 bits in files of 16, and the export of a student that was trained on them."""
    root = tmp_path_factory.mktemp("grey")
    shutil.copytree(world.pictures, root / "pictures")
    for place in (root / "pictures").rglob("*.png"):
        values = np.asarray(Image.open(place).convert("L")).astype(np.uint16) * 16 + 7
        Image.fromarray(values).save(place)
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setenv("LGKD_HOME", str(world.home))
        lgkd.train(
            "deit_tiny", root / "pictures", out=root / "run", student_options=TINY_OPTIONS, image_size=12, epochs=1,
            batch_size=8, precision="fp32", device="cpu",
        )  # fmt: skip
        return root / "pictures", lgkd.export(root / "run", root / "out", formats=["safetensors"]).folder


@pytest.mark.parametrize("kind", ["12-bit PNG", "TIFF in which 0 is white", "8-bit PNG", "values beyond 12 bits"])
def test_the_snippet_prepares_deep_greys_as_lgkd_does(grey: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    pictures, folder = grey
    assert json.loads((folder / "student.json").read_text())["greys"]["whole"] == [0, 4095]
    image = Image.open(pictures / "test" / "rows" / "1.png")
    values = np.asarray(image)
    assert values.dtype == np.uint16 and 255 < values.max() < 4096
    place = tmp_path / "image.png"  # whose content says what it is
    if kind == "TIFF in which 0 is white":
        image.save(place, "TIFF", tiffinfo={262: 0})
    elif kind == "8-bit PNG":
        image = Image.fromarray((values // 16).astype(np.uint8))
        image.save(place)
    else:
        image = Image.fromarray(values * (5 if kind.startswith("values") else 1))
        image.save(place)
    source = open_source(find_source(folder), device="cpu")
    pixels, sizes, broken = decode_readable([place], max_side=source.longest_side, greys=source.greys)
    assert broken == {}
    expected = source.plain(torch.from_numpy(pixels), torch.from_numpy(sizes))
    shutil.copy(place, folder / "image.png")
    code = snippets(folder)[0] + "\nnp.save('ready.npy', images)\n"
    python(code, folder)
    ready = np.load(folder / "ready.npy")
    # No size is changed here, so that nothing is rounded: a grey level would be 1/255 / 0.229 = 0.017.
    np.testing.assert_allclose(ready, expected.numpy(), rtol=0, atol=1e-5)
    by_hand = np.floor(np.asarray(image).astype(np.float64).clip(0, 4095) / 4095 * 255 + 0.5)
    if kind == "TIFF in which 0 is white":
        by_hand = 255 - by_hand
    if kind == "8-bit PNG":
        by_hand = np.asarray(image)
    np.testing.assert_allclose(ready[0, 0], (by_hand / 255 - 0.485) / 0.229, rtol=0, atol=1e-5)


def test_an_architecture_of_lgkds_own_needs_no_lgkd_as_a_program(own: Path, tmp_path: Path) -> None:
    made = lgkd.export(own, tmp_path / "out", formats=["torch-export", "safetensors"])
    assert made.needs_lgkd and made.differences["student.pt2"] <= 1e-4
    card = (made.folder / "README.md").read_text()
    assert "its weights alone need the code that made it; without it, take `student.pt2`" in card
    opened = open_run(own)
    images = torch.cat([images for images, _ in opened.batches()])
    save_file({"images": images}, tmp_path / "out" / "images.safetensors")
    python(
        "import torch\nfrom safetensors.torch import load_file, save_file\n"
        "model = torch.export.load('student.pt2').module()\nimages = load_file('images.safetensors')['images']\n"
        "found = {str(n): torch.cat([model(part) for part in images.split(n)]).detach() for n in (1, 5, 12)}\n"
        "save_file(found, 'logits.safetensors')\n",
        made.folder,
    )
    with torch.no_grad():
        expected = opened.student(images)
    found = load_file(made.folder / "logits.safetensors")
    assert found.keys() == {"1", "5", "12"}
    for logits in found.values():
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_an_export_predicts_as_its_run(world: World, exported: Exported) -> None:
    images = world.pictures / "test"
    expected = lgkd.predict(world.guided_run, images)
    assert lgkd.predict(exported.folder, images) == expected
    assert lgkd.predict(exported.folder / "student.safetensors", images) == expected


def test_an_export_is_no_run_and_evaluate_says_where_its_figures_are(exported: Exported) -> None:
    with pytest.raises(InputError, match=r"holds an exported student, not its run; README.md in it has the results"):
        lgkd.evaluate(exported.folder)
    assert "top-1" in (exported.folder / "README.md").read_text(encoding="utf-8").lower()


def test_a_student_of_a_module_is_exported_from_its_run_and_from_its_folder(
    world: World, conv_student: nn.Module, tmp_path: Path
) -> None:
    conv_student.head = nn.Linear(10, 3)
    run_of_it = lgkd.train(
        conv_student, world.pictures, out=tmp_path / "run", epochs=1, batch_size=8, image_size=16, precision="fp32",
        device="cpu",
    )  # fmt: skip
    assert lgkd.export(run_of_it, tmp_path / "out", formats=["safetensors"]).needs_lgkd
    with pytest.raises(InputError, match="made in Python"):
        lgkd.export(tmp_path / "run", tmp_path / "other")
    made = lgkd.export(tmp_path / "run", tmp_path / "other", formats=["torch-export"], model=conv_student)
    assert made.differences.keys() == {"student.pt2"}


# Whole or not at all


REAL = formats.as_program


def shifted(by: float) -> Callable[..., formats.Copy]:
    def wrong(*arguments: object) -> formats.Copy:
        made = REAL(*arguments)
        return dataclasses.replace(made, logits=lambda images: made.logits(images) + by)

    return wrong


@pytest.mark.parametrize("by", [1.5e-4, float("nan")])
def test_a_copy_that_differs_is_refused_and_leaves_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], by: float
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(formats, "as_program", shifted(by))
    words = ["export", str(world.guided_run), "--format", "torch-export", "--format", "safetensors", "--quiet"]
    assert run(words) == 2
    said = (
        r"student\.pt2 differs from the student by (1\.5e-04|nan) in a logit on 12 images of the test split of pictures"
    )
    assert re.search(said + ", expected at most 1e-04; nothing was written", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(formats, "as_program", shifted(0.0))
    assert run(words) == 0
    assert [path.name for path in Path("exports").iterdir()] == [world.guided_run.name]


@pytest.mark.parametrize(
    ("run", "called"),
    [("runs/mine", "mine"), ("runs/vit_photos/seed0-guided", "vit_photos_seed0-guided"), ("runs/a/seed12", "a_seed12")],
)
def test_an_export_is_called_as_its_run_and_that_of_a_series_as_both(run: str, called: str, here: Path) -> None:
    # Every series has a seed0-guided: its exports would lie in each other's way.
    assert export_folder(Path(run), None) == Path("exports") / called


def test_the_difference_is_the_largest_of_any_image_and_any_number_of_them() -> None:
    expected = torch.zeros(9, 2)

    def wrong_when_alone(images: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(images), 2)
        if len(images) == 1:
            logits[0, 1] = images[0, 0] / 8
        return logits

    assert largest_difference(wrong_when_alone, torch.arange(9.0)[:, None], expected) == 1.0
    assert export.BATCHES == (1, 7)


def test_a_death_in_between_leaves_nothing(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "model_card", fails)
    with pytest.raises(KeyboardInterrupt):
        lgkd.export(world.guided_run, tmp_path / "out", formats=["safetensors"])
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_a_place_that_is_taken_is_not_touched(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    assert run(["export", str(world.guided_run), "--out", str(tmp_path / "full")]) == 2
    assert (
        "already holds 'notes.txt'; nothing was touched. Choose another --out to export to" in capsys.readouterr().err
    )
    with pytest.raises(TakenError, match="is a file, expected a folder that is new or empty to export to"):
        lgkd.export(world.guided_run, tmp_path / "file")
    assert [path.read_text() for path in (tmp_path / "full" / "notes.txt", tmp_path / "file")] == ["precious"] * 2
    (tmp_path / "empty").mkdir()
    assert lgkd.export(world.guided_run, tmp_path / "empty", formats=["safetensors"]).folder == tmp_path / "empty"


def test_a_run_that_is_not_finished_is_refused(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.guided_run, tmp_path / "run")
    rewrite(tmp_path / "run" / "run.json", lambda info: info.update(status="running"))
    with pytest.raises(InputError, match=r"is not finished \(running\), so it has no student to export; resume it by"):
        lgkd.export(tmp_path / "run", tmp_path / "out")


def test_formats_are_named_or_refused(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="unknown export format 'onx'; did you mean 'onnx'"):
        lgkd.export(world.guided_run, tmp_path / "out", formats=["onx"])
    with pytest.raises(
        InputError, match="no export format is named; known: onnx, onnx-fp16, onnx-int8, safetensors, torch-export"
    ):
        lgkd.export(world.guided_run, tmp_path / "out", formats=[])


def test_without_the_extra_onnx_is_left_out_with_a_remark_or_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = "lgkd.deploy.requirements.find_spec"
    monkeypatch.setattr(find_spec, lambda name: None if name == "onnxscript" else True)
    told: list[str] = []
    made = lgkd.export(world.guided_run, tmp_path / "out", say=told.append)
    assert made.differences.keys() == {"student.safetensors", "student.pt2"}
    (sentence,) = told
    assert sentence == (
        "the ONNX file is left out: ONNX needs onnxscript, which is not installed; "
        "get it with: pip install 'lgkd[onnx]'"
    )
    with pytest.raises(MissingError, match=r"ONNX needs onnxscript, which is not installed; get it with: pip install"):
        lgkd.export(world.guided_run, tmp_path / "other", formats=["onnx"])


class Odd(nn.Module):
    """Knows two images at once and no other number."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.reshape(2, -1)[:, :5]


def test_a_student_that_torch_cannot_follow_is_told_of(tmp_path: Path) -> None:
    told = r"odd:Odd cannot be written as torch\.export for any number of images \(.+\); choose another --format"
    with pytest.raises(ModelError, match=told):
        formats.follow(subject_of(Odd(), "odd:Odd", 8, classes=5))


# Real images


def test_images_can_be_named_where_the_data_set_is_gone(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.guided_run, tmp_path / "run")
    rewrite(tmp_path / "run" / "run.json", lambda info: info["dataset"].update(path=str(tmp_path / "gone")))
    told = "compared with its student on real images, and those of the run are not here .* name some with --images"
    with pytest.raises(MissingError, match=told):
        lgkd.export(tmp_path / "run", tmp_path / "out", formats=["safetensors"])
    images = world.pictures / "test" / "rows"
    made = lgkd.export(tmp_path / "run", tmp_path / "out", formats=["safetensors"], images=images)
    assert (made.images, made.source) == (4, "those that were named")
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"broken\.png cannot be read \(.+\); name whole images to compare the export on"
    ):
        lgkd.export(tmp_path / "run", tmp_path / "other", images=[images, tmp_path / "broken.png"])
    assert not (tmp_path / "other").exists()


# The command


def test_the_command_tells_what_it_made(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", str(world.unguided_run), "--format", "safetensors", "--out"]
    assert run([*words, str(tmp_path / "one")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^compared on +12 images of the test split of pictures$", out, re.M)
    assert re.search(r"^student\.safetensors +[\d,]+ +\d\.\de[-+]\d\d$", out, re.M)
    assert out.endswith(f"How to use them: {tmp_path / 'one' / 'README.md'}\n")
    assert run([*words, str(tmp_path / "two"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["files"].keys() == {"student.safetensors"} and told["needs_lgkd"] is False
