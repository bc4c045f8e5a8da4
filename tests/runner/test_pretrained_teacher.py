"""A teacher of timm with weights of other classes: from a file and from a server, guiding by maps alone."""

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import load_file, save, save_file

import lgkd
from lgkd.cli import run
from lgkd.errors import InputError, MissingError, ModelError
from lgkd.models.pretrained_teacher import load_pretrained_teacher
from tests.support.small import QUICK, TINY, TINY_OPTIONS, World, pause_after

NAME = "timm:test_resnet"
WORDS = ["distill", "--student", "deit_tiny", *TINY, *QUICK, "--quiet", "--teacher", NAME]
SHORT = {"student_options": TINY_OPTIONS, "image_size": 16, "epochs": 1, "batch_size": 8, "out": "new"}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    """Those of a network of seven classes, in timm's names, in a file."""
    torch.manual_seed(5)
    tensors = timm.create_model("test_resnet", num_classes=7).state_dict()
    save_file(tensors, "imagenet.safetensors")
    return tensors


def about(folder: str) -> dict:
    return json.loads(Path(folder, "run.json").read_text())


def student(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "student.safetensors")


def test_a_file_is_loaded_with_timms_image_size_and_normalisation(weights: dict[str, torch.Tensor]) -> None:
    teacher = load_pretrained_teacher(NAME, Path("imagenet.safetensors"))
    theirs = timm.get_pretrained_cfg("test_resnet")
    assert teacher.image_size == theirs.input_size[1:]
    assert teacher.mean.flatten().tolist() == pytest.approx(theirs.mean)
    assert teacher.std.flatten().tolist() == pytest.approx(theirs.std)
    assert all(torch.equal(value, weights[name]) for name, value in teacher.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert teacher.taps == ["layer1", "layer2", "layer3"]
    assert teacher(torch.zeros(1, 3, *teacher.image_size)).shape == (1, 7)


def test_it_guides_and_the_run_says_by_what(world: World, weights: dict[str, torch.Tensor]) -> None:
    command = [*WORDS, "--dataset", str(world.pictures), "--teacher-weights", "imagenet.safetensors"]
    assert run([*command, "--report"]) == 0
    folder = "runs/deit_tiny_pictures_by-timm-test_resnet_locality-guidance_seed0"
    found = about(folder)
    assert found["teacher"] == {
        "name": NAME,
        "class": "ResNet",
        "sha256": hashlib.sha256(Path("imagenet.safetensors").read_bytes()).hexdigest(),
        "batch_norm": "running",
        "weights": str(Path("imagenet.safetensors").resolve()),
        "image_size": list(timm.get_pretrained_cfg("test_resnet").input_size[1:]),
    }
    assert [pair["teacher"] for pair in found["pairs"]] == ["layer1", "layer2", "layer3"]
    page = Path(folder, "report.html").read_text()
    assert "--teacher-weights imagenet.safetensors" in page and "has to be in the store" not in page
    # The same as with the teacher that a user of Python makes.
    theirs = timm.get_pretrained_cfg("test_resnet")
    model = timm.create_model("test_resnet", num_classes=7)
    model.load_state_dict(weights)
    own = lgkd.Teacher(model, image_size=theirs.input_size[1:], mean=theirs.mean, std=theirs.std)
    lgkd.distill(
        "deit_tiny", own, world.pictures, precision="fp32", device="cpu", **{**SHORT, "epochs": 2}
    )  # fmt: skip
    ours, plain = student(folder), student("new")
    assert all(torch.equal(value, plain[name]) for name, value in ours.items())


def test_a_stopped_run_goes_on_with_the_same_weights_and_no_others(
    world: World, weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*WORDS, "--dataset", str(world.pictures), "--teacher-weights", "imagenet.safetensors"]
    assert run([*command, "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        assert run([*command, "--out", "parts"]) == 75
    whole = Path("imagenet.safetensors").read_bytes()
    save_file({name: value + value for name, value in weights.items()}, "imagenet.safetensors")
    with pytest.raises(InputError, match=r'teacher.sha256: was "\w+", now "\w+"'):
        lgkd.resume("parts")
    Path("imagenet.safetensors").write_bytes(whole)
    assert run(["resume", "parts", "--quiet"]) == 0
    assert all(torch.equal(value, student("whole")[name]) for name, value in student("parts").items())


def test_terms_of_logits_are_refused_with_a_recipe_that_works(world: World, weights: dict[str, torch.Tensor]) -> None:
    with pytest.raises(InputError, match=r"timm:test_resnet has the classes that its weights .* of the recipe compare"
                                         r".*such as locality-guidance"):  # fmt: skip
        lgkd.distill(
            "deit_tiny",
            NAME,
            world.pictures,
            recipe="logit-standardized",
            teacher_weights="imagenet.safetensors",
            **SHORT,
        )
    assert not Path("new").exists()


def test_a_baseline_and_a_dry_run_need_no_weights(world: World, weights: dict[str, torch.Tensor]) -> None:
    command = [*WORDS, "--dataset", str(world.pictures), "--epochs", "1"]
    assert run([*command, "--teacher-weights", "pretrained", "--dry-run", "--out", "new"]) == 0
    assert not Path("new").exists()
    several = ["--teacher-weights", "imagenet.safetensors", "--seeds", "0", "--with-baseline", "--out", "series"]
    assert run([*command, *several]) == 0
    assert len(list(Path("series").glob("*/run.json"))) == 2


def test_weights_that_cannot_be_are_refused(
    world: World, weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(given: object, error: type[Exception], message: str, name: str = NAME) -> None:
        with pytest.raises(error, match=message):
            lgkd.distill("deit_tiny", name, world.pictures, teacher_weights=given, **SHORT)
        assert not Path("new").exists()

    refused("none.safetensors", MissingError, "there is no file none.safetensors; expected weights in a .safetensors")
    Path("weights.pth").write_bytes(b"x")
    refused(
        "weights.pth", InputError, "weights.pth is not a .safetensors file; --teacher-weights expects one, or pretr"
    )
    refused(
        ["pretrained", "pretrained"], InputError, "is given 2 times for 1 teachers timm:NAME; expected one for each"
    )
    refused("pretrained", InputError, "is given 1 times for 0 teachers timm:NAME", name="resnet8")
    refused(
        "pretrained", MissingError, "timm's weights of timm:test_resnet are not here, and lgkd is offline: get https"
    )
    refused("imagenet.safetensors", ModelError, "timm has no model 'resnetto'; did you mean", name="timm:resnetto")
    refused(
        "imagenet.safetensors",
        ModelError,
        r"imagenet.safetensors does not fit timm:resnet10t \(Error",
        "timm:resnet10t",
    )
    refused("pretrained", ModelError, "timm has no weights of timm:resnet50t; name a file of them", "timm:resnet50t")
    save_file({**weights, "fc.bias": weights["fc.bias"] / 0}, "wild.safetensors")
    refused("wild.safetensors", ModelError, r"holds numbers that are not finite \(fc.bias, 1 tensors in all\); take it")
    with monkeypatch.context() as patch:
        patch.setattr(timm, "get_pretrained_cfg", lambda _: None)
        refused(
            "wild.safetensors", ModelError, "timm states no image size and no normalisation of timm:test_resnet; make"
        )
    monkeypatch.setattr("lgkd.models.pretrained_teacher.sha256_of", unreadable)
    refused("wild.safetensors", ModelError, r"wild.safetensors cannot be read \(Permission denied\); make it readable")


def unreadable(path: Path) -> str:
    raise PermissionError(13, "Permission denied", str(path))


class Hub(BaseHTTPRequestHandler):
    """Answers as Hugging Face's hub does for one file of any repository."""

    content = b""
    asked: ClassVar[list[tuple[str, str, str | None]]] = []

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(self.content)

    def _answer(self, body: bytes) -> None:
        Hub.asked.append((self.command, self.path, self.headers.get("Authorization")))
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    monkeypatch.setattr(Hub, "content", save(weights))
    monkeypatch.setattr(Hub, "asked", [])
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    at_hub = partial(huggingface_hub.hf_hub_download, endpoint=address, cache_dir=tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", at_hub)
    yield Hub
    server.shutdown()
    thread.join()
    server.server_close()


def test_timms_own_weights_are_downloaded_once_without_the_users_token(
    hub: type[Hub], weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_not_to_be_sent")
    with pytest.raises(MissingError, match="and lgkd is offline"):
        load_pretrained_teacher(NAME, None, offline=True)
    assert hub.asked == []
    teacher = load_pretrained_teacher(NAME, None)
    repository = timm.get_pretrained_cfg("test_resnet").hf_hub_id
    assert {path for _, path, _ in hub.asked} == {f"/{repository}/resolve/main/model.safetensors"}
    assert "GET" in {word for word, _, _ in hub.asked} and {token for _, _, token in hub.asked} == {None}
    assert all(torch.equal(value, weights[name]) for name, value in teacher.model.state_dict().items())
    assert teacher.source == {
        "name": NAME, "weights": "pretrained", "sha256": hashlib.sha256(hub.content).hexdigest()
    }  # fmt: skip
    hub.asked.clear()
    assert load_pretrained_teacher(NAME, None, offline=True).source == teacher.source
    assert hub.asked == [], "it is in the cache"


def test_a_server_that_fails_is_named_as_the_reason(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "do_HEAD", lambda self: self.send_error(404))
    with pytest.raises(MissingError, match=r"are not here, and could not be downloaded \(.*404.*\): get https"):
        load_pretrained_teacher(NAME, None)
