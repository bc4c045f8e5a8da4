"""Exports in fp16 and int8, the version of ONNX's operators, and the accuracy of exported files."""

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score

import lgkd
from lgkd.cli import run
from lgkd.data.transforms.augment import Plain
from lgkd.deploy import export, formats
from lgkd.deploy.accuracy import Accuracy, LabelAccuracy, check_drop, logits_of, measure
from lgkd.deploy.export import Exported
from lgkd.deploy.few_bits import CALIBRATION
from lgkd.deploy.inference.locate import find_source
from lgkd.deploy.options import check_max_drop, check_opset
from lgkd.deploy.subject import calibration_batches, read_subject, run_splits
from lgkd.errors import InputError, MissingError, ModelError
from tests.support.security import rewrite
from tests.support.small import CLASSES, World, one_thread

ALL = ("onnx", "onnx-fp16", "onnx-int8")


@pytest.fixture(autouse=True)
def _the_store(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGKD_HOME", str(world.home))


# Without the extra


def test_accuracies_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    labels, classes, student = (draw.integers(0, 5, 200) for _ in range(3))
    labels[labels == 2] = 1  # a class without images

    def measured(*which: np.ndarray) -> Accuracy:
        classes, labels, student = map(torch.from_numpy, which)
        found = measure(F.one_hot(classes, 5), labels, F.one_hot(student, 5))
        assert isinstance(found, Accuracy)
        return found

    found = measured(classes, labels, student)
    assert found.top1 == pytest.approx((classes == labels).mean(), abs=1e-12)
    recalls = [(classes[labels == one] == one).mean() for one in (0, 1, 3, 4)]
    assert found.balanced_accuracy == pytest.approx(np.mean(recalls), abs=1e-12)
    kept = classes != 2
    exact = measured(*(one[kept] for one in (classes, labels, student)))
    assert exact.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels[kept], classes[kept]), abs=1e-12)
    assert found.same_class == pytest.approx((classes == student).mean(), abs=1e-12)


def test_accuracies_of_several_labels_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    logits, student = draw.normal(size=(2, 60, 4))
    labels = (logits + draw.normal(size=(60, 4)) > 0.5).astype(np.float32)
    found = measure(*map(torch.from_numpy, (logits, labels, student)))
    assert isinstance(found, LabelAccuracy)
    assert found.map == pytest.approx(average_precision_score(labels, logits, average="macro"), abs=1e-6)
    assert found.micro_f1 == pytest.approx(f1_score(labels, logits > 0, average="micro"), abs=1e-12)
    assert found.same_labels == pytest.approx(((logits > 0) == (student > 0)).mean(), abs=1e-12)
    worse = LabelAccuracy(found.map - 0.02, found.micro_f1)
    assert worse.drop_from(found) == pytest.approx(2.0)
    assert LabelAccuracy(found.map + 0.1, found.micro_f1 - 0.03).drop_from(found) == pytest.approx(3.0)
    with pytest.raises(ModelError, match=r"has a mean average precision of .+ on the test images, .+ 2\.00 points are"):
        check_drop("a.onnx", worse, found, max_drop=1.0, force=False, say=lambda _: None)


@pytest.mark.parametrize(
    ("found", "allowed", "refused"),
    [
        (Accuracy(0.89, 0.80), 1.0, False),  # exactly a point
        (Accuracy(0.889, 0.80), 1.0, True),
        (Accuracy(0.90, 0.78), 1.0, True),  # the small classes are lost
        (Accuracy(0.95, 0.90), 0.0, False),  # better
        (Accuracy(0.10, 0.10), 80.0, False),
    ],
)
def test_a_file_that_loses_more_than_allowed_is_refused(found: Accuracy, allowed: float, refused: bool) -> None:
    student, said = Accuracy(0.90, 0.80), list[str]()
    if refused:
        lost = r"student-int8\.onnx classifies .+ of the test images correctly, the student 90\.00% .+ points are lost"
        with pytest.raises(ModelError, match=f"{lost}, expected at most {allowed:g} by --max-drop; nothing was"):
            check_drop("student-int8.onnx", found, student, max_drop=allowed, force=False, say=said.append)
        assert not said
        check_drop("student-int8.onnx", found, student, max_drop=allowed, force=True, say=said.append)
        assert said[0].endswith("more than --max-drop 1; it is kept by --force")
        return
    check_drop("student-int8.onnx", found, student, max_drop=allowed, force=False, say=said.append)
    assert not said


def test_impossible_options_are_refused() -> None:
    for drop in (-1.0, 101.0, float("nan")):
        with pytest.raises(InputError, match=r"--max-drop is .+, expected points of accuracy between 0 and 100"):
            check_max_drop(drop)
    with pytest.raises(InputError, match="--opset is 12, expected 13 or more"):
        check_opset(12, ["onnx"])
    with pytest.raises(InputError, match="--opset 17 is for ONNX files, and none is written; add --format onnx"):
        check_opset(17, ["safetensors"])
    check_opset(17, ["onnx-int8"])
    check_opset(None, ["safetensors"])


def test_images_to_calibrate_on_are_training_images_that_are_spread_evenly(world: World) -> None:
    subject = read_subject(world.guided_run, None)
    splits = run_splits(subject)
    assert (len(splits.train), len(splits.test)) == (24, 12)
    assert all(name.startswith("train/") for name in splits.train.names)
    plain = Plain((16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic")
    batches = list(calibration_batches(splits.train, plain, 10, batch=4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    some = splits.train.take(torch.tensor([0, 2, 4, 7, 9, 12, 14, 16, 19, 21]))  # 24 * place // 10
    assert torch.equal(torch.cat(batches), plain(some.pixels, some.sizes))


def test_accuracy_needs_the_images_of_the_run(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.guided_run, tmp_path / "run")
    rewrite(tmp_path / "run" / "run.json", lambda info: info["dataset"].update(path=str(tmp_path / "gone")))
    with pytest.raises(
        MissingError, match=r"accuracy is measured on the run's own test images, and these are not here"
    ):
        lgkd.export(
            tmp_path / "run", tmp_path / "out", formats=["safetensors"], verify=True,
            images=world.pictures / "test" / "rows",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_verify_measures_every_file_and_shows_it(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(world.guided_run), "--format", "safetensors", "--verify", "--out", str(tmp_path / "out")]
    assert run(words) == 0
    top1 = json.loads((world.guided_run / "run.json").read_text())["results"]["test_top1"]
    out = capsys.readouterr().out
    assert out.count(f"{top1:.2%}") >= 2 and "accuracy on 12 test images; same class: as the student in fp32\n" in out
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    expected = about["files"]["student.safetensors"]["test"]
    assert expected["top1"] == pytest.approx(top1) and expected["same_class"] == 1.0
    assert about["test"]["images"] == 12 and about["test"]["student"] == expected and "calibrated_on" not in about
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Measured with these files on the 12 test images" in card
    assert f"| `student.safetensors` | {top1:.2%} | {top1:.2%} | 100.00% |" in card


# With the extra


@pytest.fixture(scope="module")
def made(world: World, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    pytest.importorskip("onnxruntime")
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setenv("LGKD_HOME", str(world.home))
        folder = tmp_path_factory.mktemp("few") / "out"
        return lgkd.export(world.guided_run, folder, formats=ALL, max_drop=100.0)


def model_of(made: Exported, file: str) -> Any:
    import onnx

    model = onnx.load_model(made.folder / file)
    onnx.checker.check_model(model, full_check=True)
    return model


def test_an_export_in_few_bits_is_complete_and_smaller(world: World, made: Exported) -> None:
    files = {"student.onnx", "student-fp16.onnx", "student-int8.onnx"}
    others = {"student.json", "export.json", "README.md", "MANIFEST.json"}
    assert {path.name for path in made.folder.iterdir()} == files | others
    about = json.loads((made.folder / "export.json").read_text())
    assert about["files"].keys() == files and about["calibrated_on"] == 24 == min(CALIBRATION, 24)
    manifest = json.loads((made.folder / "MANIFEST.json").read_text())["files"]
    assert files < manifest.keys()
    size = {file: (made.folder / file).stat().st_size for file in files}
    assert size["student-fp16.onnx"] < size["student.onnx"] and size["student-int8.onnx"] < size["student.onnx"]
    places = [str(path).encode() for path in (Path(lgkd.__file__).parent.parent, world.pictures.parent, Path.home())]
    for path in made.folder.iterdir():
        assert not any(place in path.read_bytes() for place in places), path.name
    card = (made.folder / "README.md").read_text()
    assert "the same in int8 (QDQ), calibrated on 24 training images" in card
    assert "`student-fp16.onnx` and `student-int8.onnx` in the same way" in card


def test_weights_of_linear_layers_are_int8_with_a_scale_for_each_channel_and_the_rest_is_fp32(made: Exported) -> None:
    import onnx

    whole, model = model_of(made, "student.onnx"), model_of(made, "student-int8.onnx")
    kinds = Counter(
        onnx.TensorProto.DataType.Name(one.data_type) for one in model.graph.initializer if len(one.dims) > 1
    )
    assert kinds["INT8"] >= 1 + 3 * 4, "the patch embedding, and four products of each of three blocks"
    scales = {one.name: one for one in model.graph.initializer}
    weights = [
        node for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in scales and len(scales[node.input[0]].dims) > 1
    ]  # fmt: skip
    assert weights and all(len(scales[node.input[1]].dims) == 1 for node in weights)
    # Softmax and normalisation read what no quantiser has written.
    written = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    for node in model.graph.node:
        if node.op_type in ("Softmax", "LayerNormalization"):
            assert not set(node.input) & written, node.name
    assert sum(node.op_type == "Softmax" for node in model.graph.node) == sum(
        node.op_type == "Softmax" for node in whole.graph.node
    )


def test_fp16_weights_are_those_of_the_student_rounded(made: Exported) -> None:
    import onnx
    from onnx import numpy_helper

    whole, model = model_of(made, "student.onnx"), model_of(made, "student-fp16.onnx")
    halves = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    matrices = [one for one in whole.graph.initializer if one.data_type == onnx.TensorProto.FLOAT and len(one.dims) > 1]
    assert matrices
    for one in matrices:
        half = halves[one.name]
        assert half.dtype == np.float16
        np.testing.assert_allclose(half, numpy_helper.to_array(one), rtol=1e-3, atol=1e-6)
    types = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert types == {onnx.TensorProto.FLOAT}


def test_their_accuracy_is_that_of_predict(world: World, made: Exported) -> None:
    student = lgkd.predict(world.guided_run, world.pictures / "test", top_k=1)
    for file in ("student-fp16.onnx", "student-int8.onnx"):
        found = lgkd.predict(made.folder / file, world.pictures / "test", top_k=1)
        right = [one.classes[0] == one.truth for one in found]
        same = [one.classes == other.classes for one, other in zip(found, student, strict=True)]
        assert made.accuracies[file].top1 == pytest.approx(sum(right) / 12)
        assert made.accuracies[file].same_class == pytest.approx(sum(same) / 12)
    assert made.accuracies.keys() == {"student", "student-fp16.onnx", "student-int8.onnx"}
    assert 0 < made.differences["student-fp16.onnx"] < 0.05


def test_a_damaged_file_is_not_run(made: Exported, tmp_path: Path) -> None:
    shutil.copytree(made.folder, tmp_path / "out")
    file = tmp_path / "out" / "student-int8.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"student-int8\.onnx"):
        lgkd.predict(file, tmp_path / "out" / "README.md")
    (tmp_path / "out" / "student.onnx").unlink()
    assert find_source(tmp_path / "out").name == "student-fp16.onnx"
    (tmp_path / "out" / "student-fp16.onnx").unlink()
    assert find_source(tmp_path / "out").name == "student-int8.onnx"


def test_a_bad_copy_is_refused_or_kept_by_force(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    real = export.as_int8
    images = run_splits(read_subject(world.guided_run, None)).test
    plain = Plain((16, 16), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), interpolation="bicubic")
    known = plain(images.pixels, images.sizes).flatten(1)

    def next_class(some: torch.Tensor) -> torch.Tensor:
        labels = images.labels[torch.cdist(some.flatten(1), known).argmin(dim=1)]
        return torch.nn.functional.one_hot((labels + 1) % len(CLASSES), len(CLASSES)).float()

    def wrong(*arguments: Any) -> formats.Copy:
        return dataclasses.replace(real(*arguments), logits=next_class)

    monkeypatch.setattr(export, "as_int8", wrong)
    with pytest.raises(ModelError, match=r"student-int8\.onnx classifies .+ points are lost, expected at most 1 by"):
        lgkd.export(world.guided_run, tmp_path / "out", formats=["onnx-int8"])
    assert not (tmp_path / "out").exists()
    words = ["export", str(world.guided_run), "--format", "onnx-int8", "--out", str(tmp_path / "out"), "--json"]
    assert run([*words, "--force"]) == 0
    assert (tmp_path / "out" / "student-int8.onnx").is_file()


def test_the_version_of_the_operators_is_the_requested_one(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    words = ["export", str(world.guided_run), "--format", "onnx", "--quiet", "--opset"]
    assert run([*words, "20", "--out", str(tmp_path / "out")]) == 0
    assert formats.opset_of((tmp_path / "out" / "student.onnx").read_bytes()) == 20
    assert json.loads((tmp_path / "out" / "export.json").read_text())["onnx_opset"] == 20
    monkeypatch.setattr(formats, "opset_of", lambda data: 18)
    with pytest.raises(ModelError, match=r"cannot be written in ONNX opset 20: torch's exporter gave opset 18; leave"):
        lgkd.export(world.guided_run, tmp_path / "other", formats=["onnx"], opset=20)
    assert not (tmp_path / "other").exists()


def test_classes_are_predicted_in_parts_as_at_once(world: World) -> None:
    subject = read_subject(world.guided_run, None)
    images = run_splits(subject).test
    plain = Plain((16, 16), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), interpolation="bicubic")
    with torch.no_grad():
        expected = subject.student(plain(images.pixels, images.sizes)).argmax(dim=1)
    assert torch.equal(logits_of(subject.student, images, plain).argmax(dim=1), expected)
