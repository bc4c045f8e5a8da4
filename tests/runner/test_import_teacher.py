"""Teachers of published weights: what is measured, what the card says, and what is refused."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import lgkd
from lgkd.cli import run
from lgkd.data.load import load_dataset
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Batch, Guided
from lgkd.errors import DataError, InputError, MissingError, ModelError, TakenError, TapError
from lgkd.losses import MapLoss
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.teacher_store import find_card
from lgkd.runner.import_teacher import fetch_weights, import_teacher
from tests.support.cnns import lively
from tests.support.published import Evil
from tests.support.published_networks import TorchvisionStyle
from tests.support.small import CLASSES, make_pictures

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("importing") / "pictures")


def network(classes: int = len(CLASSES)) -> CifarResNet:
    """Not trained, but such that it says one thing of some pictures and another of others."""
    torch.manual_seed(8)
    model = lively(CifarResNet(8, classes))
    nn.init.normal_(model.fc.weight, std=2.0)
    return model


def published(model: nn.Module, path: Path) -> tuple[Path, str]:
    """Its weights under the names of pytorch-cifar-models, and the file's sum."""
    names = (("conv.", "conv1."), ("bn.", "bn1."))
    state = {}
    for key, value in model.state_dict().items():
        for ours, theirs in names:
            key = theirs + key.removeprefix(ours) if key.startswith(ours) else key
        state[key.replace("stage", "layer").replace(".shortcut.", ".downsample.")] = value
    assert state.keys() == TorchvisionStyle().state_dict().keys()
    torch.save({"model": state, "epoch": 240}, path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def weights(tmp_path: Path) -> tuple[Path, str]:
    return published(network(), tmp_path / "resnet8_best.pth")


def measured_by_hand(model: nn.Module, pictures: Path) -> float:
    """Top-1 on the test split, picture by picture."""
    right = total = 0
    for number, name in enumerate(CLASSES):
        for file in sorted((pictures / "test" / name).iterdir()):
            pixels = np.asarray(Image.open(file).convert("RGB"), dtype=np.float64) / 255
            normal = torch.tensor((pixels - MEAN) / STD).float().permute(2, 0, 1)
            with torch.no_grad():
                right += int(model(normal[None]).argmax()) == number
            total += 1
    assert total == 12
    return right / total


def test_published_weights_become_a_teacher_whose_card_says_what_was_measured(
    pictures: Path, weights: tuple[Path, str]
) -> None:
    file, sha256 = weights
    said: list[str] = []
    card, folder = import_teacher(
        "resnet8", file, str(pictures), sha256=sha256, mean=MEAN, std=STD, image_size=12, epochs=240, say=said.append
    )
    by_hand = measured_by_hand(network(), pictures)
    assert 0 < by_hand < 1, "a network that says one thing of all pictures would measure nothing"
    assert card.accuracy.top1 == pytest.approx(by_hand)
    assert (card.accuracy.split, card.accuracy.epoch, card.accuracy.epochs) == ("test", 240, 240)
    assert card.accuracy.selected_on == "not known: imported"
    assert (card.name, card.architecture, card.dataset, card.subset) == ("resnet8", "resnet8", "pictures", None)
    assert (card.classes, card.images, card.image_size) == (list(CLASSES), 24, 12)
    assert (card.mean, card.std, card.taps) == (MEAN, STD, ["stage1", "stage2", "stage3"])
    assert card.recipe == f"imported from resnet8_best.pth, SHA-256 {sha256}"
    assert card.fingerprint == load_dataset(pictures).fingerprint
    assert find_card("resnet8", "pictures") == (card, folder)
    assert f"resnet8_best.pth reaches {by_hand:.2%} top-1 on the 12 test images of {pictures}" in said


def test_the_teacher_guides_like_one_that_was_trained_here(
    pictures: Path, weights: tuple[Path, str], conv_student: nn.Module
) -> None:
    file, sha256 = weights
    import_teacher("resnet8", file, str(pictures), sha256=sha256, mean=MEAN, std=STD, image_size=16, name="theirs")
    teacher = lgkd.load_teacher("theirs", dataset=str(pictures))
    images = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(teacher(images), network()(images))
    assert teacher.image_size == (16, 16) and teacher.mean.flatten().tolist() == pytest.approx(MEAN)
    guide = Guide(conv_student, teacher, image_size=32, terms=[Term(MapLoss("linear"), weight=1.0)])
    step = Guided(conv_student, guide)(Batch(torch.randn(2, 3, 32, 32), torch.tensor([0, 2])))
    step.loss.backward()
    assert torch.isfinite(step.loss) and float(step.parts["guidance_linear"]) > 0


def test_normalisation_may_be_that_of_imagenet_or_of_the_data_set(pictures: Path, weights: tuple[Path, str]) -> None:
    file, sha256 = weights
    options: dict[str, Any] = {"sha256": sha256, "image_size": 12}
    card, _ = import_teacher("resnet8", file, str(pictures), normalize="imagenet", name="a", **options)
    assert card.mean == (0.485, 0.456, 0.406)
    card, _ = import_teacher("resnet8", file, load_dataset(pictures), normalize="dataset", name="b", **options)
    assert (card.mean, card.std) == load_dataset(pictures).statistics()


def test_an_accuracy_that_is_not_the_published_one_is_refused_and_nothing_kept(
    pictures: Path, weights: tuple[Path, str]
) -> None:
    file, sha256 = weights
    by_hand = measured_by_hand(network(), pictures)
    options: dict[str, Any] = {"sha256": sha256, "mean": MEAN, "std": STD, "image_size": 12}
    with pytest.raises(InputError, match=rf"reaches {by_hand:.2%}.*, expected 99\.00%: normalisation, image size or"):
        import_teacher("resnet8", file, str(pictures), expect=0.99, **options)
    with pytest.raises(MissingError):
        find_card("resnet8", "pictures")
    card, _ = import_teacher("resnet8", file, str(pictures), expect=round(by_hand, 2), **options)
    assert card.accuracy.top1 == pytest.approx(by_hand)


def test_a_teacher_that_only_guesses_is_remarked_on(pictures: Path, tmp_path: Path) -> None:
    model = network()
    nn.init.zeros_(model.fc.weight)
    file, sha256 = published(model, tmp_path / "a.pth")
    said: list[str] = []
    import_teacher("resnet8", file, str(pictures), sha256=sha256, normalize="imagenet", image_size=12, say=said.append)
    assert said[-1].startswith("that is hardly better than chance: give the normalisation")


def test_the_store_is_not_overwritten_unasked(pictures: Path, weights: tuple[Path, str], tmp_path: Path) -> None:
    options: dict[str, Any] = {"mean": MEAN, "std": STD, "image_size": 12}
    first, folder = import_teacher("resnet8", weights[0], str(pictures), sha256=weights[1], **options)
    torch.manual_seed(9)
    file, sha256 = published(lively(CifarResNet(8, 3)), tmp_path / "other.pth")
    with pytest.raises(TakenError, match=r"a teacher resnet8 for pictures is already in the store .* --replace"):
        import_teacher("resnet8", file, str(pictures), sha256=sha256, **options)
    assert find_card("resnet8", "pictures")[0] == first
    second, same = import_teacher("resnet8", file, str(pictures), sha256=sha256, replace=True, **options)
    assert same == folder and second.weights_sha256 != first.weights_sha256


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({}, InputError, r"give the normalisation of the weights' training"),
        ({"mean": MEAN}, InputError, r"give the normalisation of the weights"),
        ({"normalize": "cifar"}, InputError, r"normalize is 'cifar', expected imagenet or dataset"),
        ({"normalize": "imagenet", "std": STD}, InputError, r"both normalize=imagenet and mean or std were given"),
        ({"mean": (0.5,), "std": STD}, InputError, r"expected three numbers each"),
        ({"mean": MEAN, "std": (0.2, 0.0, 0.2)}, InputError, r"every std above 0"),
        ({"mean": (123.0, 117.0, 104.0), "std": STD}, InputError, r"for values 0 to 1"),
        ({"mean": (float("nan"),) * 3, "std": STD}, InputError, r"for values 0 to 1"),
        (
            {"normalize": "imagenet", "expect": 72.3},
            InputError,
            r"the expected accuracy is 72.3, expected a share of 1",
        ),
        ({"normalize": "imagenet", "epochs": -1}, InputError, r"epochs are -1, expected 0 \(not known\) or more"),
        ({"normalize": "imagenet", "options": {"a": [1]}}, InputError, r"teacher options: a is \[1\]"),
        ({"normalize": "imagenet", "options": {"width": 2}}, ModelError, r"resnet8 has no option 'width'"),
        ({"normalize": "imagenet", "sha256": "0" * 64}, InputError, r"has SHA-256 [0-9a-f]{64}, expected 0{64}"),
        ({"normalize": "imagenet", "device": "abacus"}, InputError, r"no device is called 'abacus'"),
    ],
)
def test_what_cannot_be_is_told_and_nothing_kept(
    pictures: Path, weights: tuple[Path, str], options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        import_teacher("resnet8", weights[0], str(pictures), **{"sha256": weights[1], "image_size": 12, **options})
    with pytest.raises(MissingError):
        find_card("resnet8", "pictures")


def test_weights_of_other_classes_are_refused_with_both_numbers(pictures: Path, tmp_path: Path) -> None:
    model = lively(TorchvisionStyle())
    torch.save(model.state_dict(), tmp_path / "a.pth")
    sha256 = hashlib.sha256((tmp_path / "a.pth").read_bytes()).hexdigest()
    with pytest.raises(ModelError, match="distinguishes 5 classes, resnet8 needs 3"):
        import_teacher("resnet8", tmp_path / "a.pth", str(pictures), sha256=sha256, normalize="imagenet", image_size=12)


def test_a_model_without_layers_to_guide_by_is_refused(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "flat_for_import.py").write_text(
        "from torch import nn\n"
        "def make(num_classes):\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))\n"
    )
    torch.save({"2.weight": torch.zeros(3, 3), "2.bias": torch.zeros(3)}, tmp_path / "a.pth")
    sha256 = hashlib.sha256((tmp_path / "a.pth").read_bytes()).hexdigest()
    with pytest.raises(TapError, match="has no transformer blocks and no 3 stages"):
        import_teacher(
            "flat_for_import:make",
            tmp_path / "a.pth",
            str(pictures),
            sha256=sha256,
            normalize="imagenet",
            image_size=12,
        )


# The command


def command(file: Path | str, sha256: str, pictures: Path, *more: str) -> list[str]:
    words = ["import-teacher", "resnet8", str(file), "--sha256", sha256, "--dataset", str(pictures)]
    return [*words, "--image-size", "12", "--device", "cpu", *more]


BY_HAND = ["--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD))]


def test_the_command_keeps_a_teacher_and_lists_it(
    pictures: Path, weights: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command(*weights, pictures, *BY_HAND, "--name", "theirs")) == 0
    shown = capsys.readouterr()
    top1 = measured_by_hand(network(), pictures)
    assert shown.out.startswith(f"test top-1 {top1:.2%}, 77,") and "kept in " in shown.out
    assert f"resnet8_best.pth reaches {top1:.2%}" in shown.err
    assert run(["teachers", "theirs", "--json"]) == 0
    (card,) = json.loads(capsys.readouterr().out)
    assert card["recipe"].startswith("imported from resnet8_best.pth")
    assert run(command(*weights, pictures, *BY_HAND, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"]["top1"] == pytest.approx(top1)


def test_mistakes_end_with_code_2_and_one_line(
    pictures: Path, weights: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, sha256 = weights
    canary, evil = tmp_path / "canary", tmp_path / "evil.pth"
    torch.save({"state_dict": Evil(canary)}, evil)
    tries = {
        "give the normalisation of the weights": command(file, sha256, pictures),
        "--mean is '1,2', expected three numbers": command(file, sha256, pictures, "--mean", "1,2"),
        "it is damaged or another file": command(file, "0" * 64, pictures, *BY_HAND),
        "could run code": command(evil, hashlib.sha256(evil.read_bytes()).hexdigest(), pictures, *BY_HAND),
        "with --size": command("https://a.example/b.pth", sha256, pictures, *BY_HAND),
        "'--sha256'": ["import-teacher", "resnet8", str(file), "--dataset", str(pictures), *BY_HAND],
        "no model is called 'resnet9'": ["import-teacher", "resnet9", str(file), "--sha256", sha256],
    }
    for said, words in tries.items():
        assert run(words) == 2, said
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1, err
    assert not canary.exists()


# Downloads


@pytest.fixture
def served(weights: tuple[Path, str]) -> Iterator[str]:
    """An address on this machine that has the weights."""
    content = weights[0].read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *words: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/releases/resnet8_best.pth"
    server.shutdown()
    server.server_close()


def test_weights_are_downloaded_once_and_only_those_of_the_sum(
    served: str, weights: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LGKD_OFFLINE")
    file, sha256 = weights
    seen: list[tuple[str, int, int]] = []
    size = file.stat().st_size
    got = fetch_weights(served, sha256=sha256, size=size, downloading=lambda *words: seen.append(words))
    assert got == tmp_path / "lgkd-home" / "cache" / "weights" / f"{sha256}.pth"
    assert got.read_bytes() == file.read_bytes() and seen[-1] == ("resnet8_best.pth", size, size)
    assert fetch_weights(served, sha256=sha256, size=size, offline=True) == got, "it lies there already"
    with pytest.raises(DataError, match=r"expected 1{64}: it was removed"):
        fetch_weights(served, sha256="1" * 64, size=size)
    with pytest.raises(DataError, match="it is not the published file, so nothing was kept"):
        fetch_weights(served, sha256="2" * 64, size=size - 1)


def test_what_cannot_be_downloaded_is_told(weights: tuple[Path, str]) -> None:
    with pytest.raises(MissingError, match="lgkd is offline"):
        fetch_weights("https://a.example/b.pth", sha256="0" * 64, size=10)
    with pytest.raises(InputError, match="is not an https address"):
        fetch_weights("ftp://a.example/b.pth", sha256="0" * 64, size=10)
    with pytest.raises(InputError, match="weights of 0 bytes were announced"):
        fetch_weights("https://a.example/b.pth", sha256="0" * 64, size=0)
    with pytest.raises(InputError, match=r"'\.\./x' is not a SHA-256"):
        fetch_weights("https://a.example/b.pth", sha256="../x", size=10)


def test_the_command_downloads_from_an_address(
    served: str, weights: tuple[Path, str], pictures: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.delenv("LGKD_OFFLINE")
    size = str(weights[0].stat().st_size)
    assert run(command(served, weights[1], pictures, *BY_HAND, "--size", size)) == 0
    assert "kept in " in capsys.readouterr().out
