"""Every model that lgkd knows gives the same logits as ONNX, at any batch size; needs the extra `onnx`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import lgkd
from lgkd.cli import run
from lgkd.deploy import formats
from lgkd.deploy.export import LIMIT
from lgkd.deploy.inference.load import open_source
from lgkd.deploy.inference.locate import find_source
from lgkd.deploy.inference.onnx import ABOUT, OnnxStudent
from lgkd.errors import InputError, ModelError
from lgkd.models.factory import create_model
from lgkd.models.registry import MODELS
from tests.support.onnx import COUNT, UNEXPORTABLE, agreement, cifar_images, lively, students, subject_of
from tests.support.security import rewrite
from tests.support.small import World, one_thread
from tools.models_page import FAMILIES, HUGGING_FACE, Elsewhere

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

# Few blocks and small images: (pixels, options).
SMALL: dict[str, tuple[int, dict[str, Any]]] = {
    "resnet8": (32, {}),
    "resnet8x4": (32, {}),
    "wrn_16_2": (32, {}),
    "vgg8": (32, {}),
    "mobilenet_v2": (32, {}),
    "shufflenet_v2": (32, {}),
    "densenet_100_12": (32, {}),
    "fastnet_small": (32, {}),
    "t2t_vit_7": (32, {"patch_size": 8, "depth": 3}),
    "pvt_tiny": (32, {"patch_size": 2, "depths": (1, 1, 1, 1)}),
    "cvt_13": (64, {"depths": (1, 1, 2)}),
    "dhvt_tiny": (32, {"depth": 2}),
    "vit_lite": (32, {"depth": 2}),
    "cvt_7_4": (32, {"depth": 2}),
    "cct_7_3x1": (32, {"depth": 2}),
    "cct_7_3x2": (32, {"depth": 2}),
    "cct_2_3x2": (32, {}),
    "sl_vit": (32, {"depth": 2}),
    "poorvit": (32, {"depth": 2, "q_rank": 8}),
    "vit_96": (32, {"depth": 2}),
    "vit_128": (32, {"depth": 2}),
    "vit_192": (32, {"depth": 2}),
    "vit_96_conv": (32, {"depth": 2}),
    "vit_128_conv": (32, {"depth": 2}),
    "vit_192_conv": (32, {"depth": 2}),
}
# One of each family: those that differ in depth and width alone are the same code.
FAMILIES_OF_LGKD = {info.made_by for info in MODELS.values() if info.made_by}


def test_there_is_one_of_every_family() -> None:
    assert {MODELS[name].made_by for name in SMALL} == FAMILIES_OF_LGKD


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_onnx_gives_the_same_logits_at_every_batch_size(name: str) -> None:
    size, options = SMALL[name]
    torch.manual_seed(3)
    model = lively(create_model(name, num_classes=7, image_size=size, options=options))
    subject = subject_of(model, name, size, classes=7)
    student = formats.as_onnx(subject, formats.follow(subject)).logits
    for batch in (1, 5):
        images = torch.randn(batch, 3, size, size)
        with torch.no_grad():
            expected = model(images)
        # An untrained DenseNet's logits go into the hundred thousands.
        assert abs(student(images) - expected).max() < LIMIT * max(1.0, float(expected.abs().max()))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    files = cifar_images(tmp_path_factory.mktemp("cifar"))
    if not files:
        pytest.skip("CIFAR-100 is not at hand")
    assert len(files) == COUNT
    return files


@pytest.mark.slow
@pytest.mark.parametrize("entry", [pytest.param(one, id=one.name) for one in students()])
def test_onnx_runtime_and_the_student_agree_on_100_real_images(entry: Elsewhere, photographs: list[Path]) -> None:
    found = agreement(entry.name, entry.size, entry.options, photographs)
    assert found.difference < LIMIT < 0.1 < found.largest_logit
    assert (found.same_class, found.images) == (COUNT, COUNT)


@pytest.mark.slow
@pytest.mark.parametrize("entry", [pytest.param(one, id=one.family) for one in FAMILIES])
def test_families_of_others_agree_or_are_known_not_to_be_exportable(entry: Elsewhere, photographs: list[Path]) -> None:
    if entry.name == HUGGING_FACE:
        pytest.importorskip("transformers")
    if entry.family in UNEXPORTABLE:
        with pytest.raises(ModelError, match="cannot be written as"):
            agreement(entry.name, entry.size, entry.options, photographs)
        return
    found = agreement(entry.name, entry.size, entry.options, photographs)
    # Some begin with logits near nothing: then the bar is as much lower.
    assert found.difference < LIMIT * min(1.0, found.largest_logit)
    assert found.same_class == COUNT


@pytest.fixture(scope="module")
def exported(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guided student as ONNX alone, written by the command."""
    folder = tmp_path_factory.mktemp("onnx") / "guided"
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setenv("LGKD_HOME", str(world.home))
        assert run(["export", str(world.guided_run), "--format", "onnx", "--out", str(folder), "--quiet"]) == 0
    return folder


def test_a_lone_onnx_file_predicts_as_the_run(
    world: World, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "renamed.onnx").write_bytes((exported / "student.onnx").read_bytes())
    images = world.pictures / "test"
    expected = lgkd.predict(world.guided_run, images)
    for source in (exported, exported / "student.onnx", tmp_path / "renamed.onnx"):
        for one, other in zip(lgkd.predict(source, images), expected, strict=True):
            assert (one.image, one.classes) == (other.image, other.classes)
            assert one.confidences == pytest.approx(other.confidences, abs=1e-5)
    assert run(["predict", str(tmp_path / "renamed.onnx"), str(images), "--json"]) == 0
    assert [one["classes"][0]["class"] for one in json.loads(capsys.readouterr().out)] == [
        one.classes[0] for one in expected
    ]


def test_onnx_takes_any_number_of_images_and_says_what_it_is(world: World, exported: Path) -> None:
    model = onnx.load_model(exported / "student.onnx")
    onnx.checker.check_model(model, full_check=True)
    (images,), (logits,) = model.graph.input, model.graph.output
    shapes = [[dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim] for one in (images, logits)]
    assert (images.name, logits.name, shapes) == ("images", "logits", [["batch", 3, 16, 16], ["batch", 3]])
    about = json.loads(next(entry.value for entry in model.metadata_props if entry.key == ABOUT))
    assert about == json.loads((world.guided_run / "student.json").read_text())
    source = open_source(find_source(exported), device="cpu")
    pixels = torch.randn(9, 3, 16, 16)
    whole = source.logits(pixels)
    for parts in (1, 2, 4):
        torch.testing.assert_close(torch.cat([source.logits(part) for part in pixels.split(parts)]), whole)


def changed(path: Path, change: Any) -> bytes:
    model = onnx.load_model(path)
    change(model)
    return model.SerializeToString()


def test_a_file_that_asks_for_another_file_is_refused(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(4096))

    def outside(model: Any) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if len(tensor.raw_data) > 16)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="secret.bin")

    with pytest.raises(InputError, match=r"asks for another file that holds '.+'; an export of lgkd is in one file"):
        OnnxStudent(changed(exported / "student.onnx", outside), tmp_path / "student.onnx")

    def hidden(model: Any) -> None:
        tensor = onnx.TensorProto(name="deep", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
        inner = onnx.helper.make_graph([onnx.helper.make_node("Constant", [], ["c"], value=tensor)], "inner", [], [])
        model.graph.node.append(onnx.helper.make_node("If", ["x"], [], then_branch=inner, else_branch=inner))

    with pytest.raises(InputError, match="asks for another file that holds 'deep'"):
        OnnxStudent(changed(exported / "student.onnx", hidden), tmp_path / "student.onnx")


def test_what_is_no_export_is_refused(exported: Path, tmp_path: Path) -> None:
    file = exported / "student.onnx"
    place = tmp_path / "student.onnx"

    def about(text: str) -> Any:
        def change(model: Any) -> None:
            model.metadata_props[0].value = text

        return change

    def bend(model: Any) -> None:
        model.graph.node[0].op_type = "NoSuchOperator"

    told = json.loads(next(entry.value for entry in onnx.load_model(file).metadata_props))
    for data, message in (
        (b"\x00nothing", r"student\.onnx is not an ONNX file \(.*\); it is damaged or something else"),
        (changed(file, lambda model: model.ClearField("metadata_props")), "has no classes and preprocessing"),
        (changed(file, about("{")), "cannot be read as JSON"),
        (changed(file, about(json.dumps({**told, "mean": 3}))), "lacks a proper mean"),
        (changed(file, bend), r"cannot be run by ONNX Runtime \(.*\); export it again"),
    ):
        with pytest.raises(InputError, match=message):
            OnnxStudent(data, place)
    small = OnnxStudent(file.read_bytes(), place)
    with pytest.raises(InputError, match=r"fails on images of \(1, 3, 8, 8\)"):
        small(torch.zeros(1, 3, 8, 8))
    other = OnnxStudent(changed(file, about(json.dumps({**told, "num_classes": 4}))), place)
    with pytest.raises(InputError, match=r"returns \(2, 3\) for 2 images, expected \(2, 4\)"):
        other(torch.zeros(2, 3, 16, 16))


def test_of_a_folder_without_a_name_for_its_student_onnx_is_taken(exported: Path, world: World, tmp_path: Path) -> None:
    for name in ("student.onnx", "student.json"):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    (tmp_path / "student.safetensors").write_bytes((world.guided_run / "student.safetensors").read_bytes())
    assert find_source(tmp_path).file == "safetensors"
    rewrite(tmp_path / "student.json", lambda about: about.update(name=None))
    assert find_source(tmp_path).file == "onnx"
