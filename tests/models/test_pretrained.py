"""Published weights: layouts, containers, files that would run code, and what does not fit."""

import hashlib
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lgkd.errors import InputError, LgkdError, ModelError
from lgkd.models.factory import create_teacher
from lgkd.models.pretrained import MAX_BYTES, fill_foreign, load_foreign, read_foreign
from tests.support.cnns import lively
from tests.support.published import Evil
from tests.support.published_networks import AT_HOME, CLASSES, PyclsStyle, TorchvisionStyle, VggStyle
from tests.support.small import environment


def sum_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def saved(thing: Any, path: Path, **options: Any) -> Path:
    torch.save(thing, path, **options)
    return path


def load(path: Path, name: str = "resnet8", **options: Any) -> nn.Module:
    return load_foreign(name, path, **{"num_classes": CLASSES, "sha256": sum_of(path), **options})


@pytest.mark.parametrize("layout", AT_HOME)
def test_weights_of_every_layout_compute_here_what_they_did_at_home(layout: str, tmp_path: Path) -> None:
    make, name, options = AT_HOME[layout]
    torch.manual_seed(4)
    home = lively(make())
    images = torch.randn(3, 3, 32, 32)
    path = saved(home.state_dict(), tmp_path / "weights.pth")
    with torch.no_grad():
        here, there = load(path, name, options=options)(images), home(images)
    assert there.std() > 1e-3
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-5)


@pytest.fixture
def home() -> nn.Module:
    torch.manual_seed(5)
    return lively(TorchvisionStyle())


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32)


def assert_the_same(here: nn.Module, there: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(here(images), there(images), rtol=1e-4, atol=1e-5)


# Files and containers


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 240, "best": torch.tensor(72.3)},
        lambda state: {"model": state, "epoch": 240, "accuracy": torch.tensor([72.34]), "optimizer": {"state": {}}},
        lambda state: {"model_state": state, "ema_state": {}, "test_err": 29.57, "cfg": "MODEL:\n  DEPTH: 8\n"},
        lambda state: {"epoch": 3, "model": {"state_dict": state}},
        lambda state: {"model_state_dict": state, "net": None},
        lambda state: {key: nn.Parameter(value, False) for key, value in state.items()},
    ],
    ids=["bare", "state_dict", "model", "model_state", "nested", "model_state_dict", "parameters"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_the_usual_containers_are_unwrapped(
    home: nn.Module, images: Tensor, tmp_path: Path, wrap: Callable[[Any], Any], zipped: bool
) -> None:
    path = saved(wrap(home.state_dict()), tmp_path / "best", _use_new_zipfile_serialization=zipped)
    assert_the_same(load(path), home, images)


def test_safetensors_are_read_too(home: nn.Module, images: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({f"module.{key}": value.contiguous() for key, value in home.state_dict().items()}, path)
    assert_the_same(load(path), home, images)


def test_a_loaded_model_is_ready_to_be_asked_and_draws_no_numbers(home: nn.Module, tmp_path: Path) -> None:
    path = saved(home.state_dict(), tmp_path / "a.pt")
    before = torch.get_rng_state()
    model = load(path, sha256=f" {sum_of(path).upper()}\n")
    assert not any(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "prefixes",
    [
        "module.",
        "_orig_mod.",
        "teacher_model.",
        "student.",
        "backbone.",
        "model.",
        "module.student.",
        "_orig_mod.module.",
    ],
)
def test_what_wrappers_put_before_every_name_is_taken_away(
    home: nn.Module, images: Tensor, tmp_path: Path, prefixes: str
) -> None:
    state = {prefixes + key: value for key, value in home.state_dict().items()}
    assert_the_same(load(saved(state, tmp_path / "a.pt")), home, images)


def test_a_real_data_parallel_model_is_read(home: nn.Module, images: Tensor, tmp_path: Path) -> None:
    path = saved({"model": nn.DataParallel(home).state_dict()}, tmp_path / "a.pth")
    assert_the_same(load(path), home, images)


def test_a_prefix_that_only_some_names_have_stays(home: nn.Module, tmp_path: Path) -> None:
    state = {(key if key.startswith("fc") else f"module.{key}"): value for key, value in home.state_dict().items()}
    with pytest.raises(ModelError, match=r"missing \(bn\.bias.*unexpected \(module\.bn1\.bias"):
        load(saved(state, tmp_path / "a.pt"))


def test_checkpoints_from_before_batches_were_counted_are_read(home: nn.Module, images: Tensor, tmp_path: Path) -> None:
    state = {key: value for key, value in home.state_dict().items() if "num_batches" not in key}
    assert len(state) < len(home.state_dict())
    assert_the_same(load(saved(state, tmp_path / "a.pt")), home, images)


def test_half_precision_is_widened(home: nn.Module, tmp_path: Path) -> None:
    state = {key: value.half() if value.is_floating_point() else value for key, value in home.state_dict().items()}
    model = load(saved(state, tmp_path / "a.pt"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.fc.weight, home.fc.weight.half().float())


# Nothing runs


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.bin", "a.ckpt", "a.pkl", "a.safetensors", "best"])
@pytest.mark.parametrize("shape", ["bare pickle", "torch", "torch of old", "beside good weights"])
def test_a_file_that_would_run_code_is_refused_and_runs_none(
    home: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, shape: str
) -> None:
    canary, path = tmp_path / "canary", tmp_path / name
    evil = Evil(canary)
    if shape == "bare pickle":
        path.write_bytes(pickle.dumps({"state_dict": evil}))
        pickle.loads(path.read_bytes())
    else:
        beside = {"state_dict": home.state_dict(), "epoch": evil}
        thing = beside if shape == "beside good weights" else {"conv1.weight": evil}
        saved(thing, path, _use_new_zipfile_serialization=shape != "torch of old")
        torch.load(path, weights_only=False) if path.suffix != ".safetensors" else canary.touch()
    assert canary.exists(), "opened carelessly, it does run"
    canary.unlink()
    for value in ("0", "1"):
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", value)
        with pytest.raises(InputError) as error:
            load(path)
        assert not canary.exists()
        assert "weights_only" not in str(error.value), "torch's advice to open it nevertheless is not passed on"
    if path.suffix != ".safetensors":
        assert "holds more than tensors" in str(error.value) and "could run code, so it was refused" in str(error.value)


def test_in_a_process_that_turns_safety_off_nothing_runs_either(home: nn.Module, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = saved({"model": home.state_dict(), "opt": Evil(canary)}, tmp_path / "a.pth")
    code = (
        "from lgkd.models.pretrained import read_foreign\n"
        "from lgkd.errors import InputError\n"
        f"try: read_foreign({str(path)!r}, sha256={sum_of(path)!r})\n"
        "except InputError as error: print('refused:', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment(tmp_path), "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("refused:"), done.stderr[-1000:]
    assert not canary.exists()


def test_a_file_of_another_sum_is_not_even_opened(
    home: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(home.state_dict(), tmp_path / "a.pt")
    good = sum_of(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(InputError, match=f"has SHA-256 {sum_of(path)}, expected {good}: it is damaged or another file"):
        load(path, sha256=good)


@pytest.mark.parametrize("given", ["", "abc", "g" * 64, "0" * 63, "f2eff4c8"])
def test_a_sum_must_be_stated_whole(tmp_path: Path, given: str) -> None:
    said = r"is not a SHA-256, expected 64 hex digits: as the publisher of a\.pt states them, or"
    with pytest.raises(InputError, match=said):
        load(saved({"a": torch.zeros(1)}, tmp_path / "a.pt"), sha256=given)


# What is not a file of weights


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        ({"epoch": 3, "lr": 0.1}, r"holds the keys epoch, lr; expected named tensors, or one dictionary of them under"),
        ({}, r"holds nothing; expected named tensors"),
        ([torch.zeros(1)], r"holds a list; expected named tensors"),
        (torch.zeros(3), r"holds a Tensor; expected named tensors"),
        ({"state_dict": {"a": torch.zeros(1)}, "model": {"a": torch.zeros(1)}}, r"holds the keys state_dict, model;"),
        ({"state_dict": {"a": 3}}, r"holds the keys a;"),
        ({f"key{number:02}": 0 for number in range(14)}, r"key09 and 4 more; expected"),
        ({3: torch.zeros(1)}, r"holds tensors that are not plain numbers \(3\)"),
        ({"a": torch.zeros(2, 2).to_sparse()}, r"not plain numbers \(a\); expected dense real ones"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, r"not plain numbers \(a\)"),
        ({"\x1b[2J": torch.zeros(1, dtype=torch.complex64)}, r"not plain numbers \(\?\[2J\)"),
    ],
)
def test_what_holds_no_weights_says_what_it_holds(tmp_path: Path, thing: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        load(saved(thing, tmp_path / "a.pt"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and nothing", b"not weights at all", b"\x80\x02", b"\x00" * 300])
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_what_is_no_file_of_weights_is_told(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_an_empty_file_is_damaged_or_something_else(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"")
    said = r"a\.pt: not a file that torch has saved \(.+\); it is damaged or a different file"
    with pytest.raises(InputError, match=said):
        load(path)


def test_cut_files_are_told(home: nn.Module, tmp_path: Path) -> None:
    whole = saved(home.state_dict(), tmp_path / "a.pt").read_bytes()
    for share in (0.1, 0.5, 0.99):
        path = tmp_path / "cut.pt"
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InputError, match=r"cut\.pt"):
            load(path)


def test_files_that_are_not_there_or_far_too_large_are_told(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(InputError, match=r"cannot be read \(.+\); expected a file of weights"):
            read_foreign(path, sha256="0" * 64)
    huge = tmp_path / "huge.pth"
    with huge.open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)  # a hole, which takes no room
    with pytest.raises(InputError, match=r"has 4,294,967,297 bytes, expected weights of at most 4,294,967,296"):
        read_foreign(huge, sha256="0" * 64)


# What does not fit


def test_another_number_of_classes_is_told_with_both(home: nn.Module, tmp_path: Path) -> None:
    path = saved(home.state_dict(), tmp_path / "a.pt")
    with pytest.raises(ModelError, match=r"a.pt distinguishes 5 classes, resnet8 needs 100; use weights"):
        load(path, num_classes=100)
    path = saved(lively(PyclsStyle(8)).state_dict(), tmp_path / "b.pyth")
    with pytest.raises(ModelError, match=r"b.pyth distinguishes 5 classes, resnet8 needs 10"):
        load(path, num_classes=10)


def test_a_deeper_network_is_told_by_ten_of_its_names(home: nn.Module, tmp_path: Path) -> None:
    path = saved(home.state_dict(), tmp_path / "a.pt")
    with pytest.raises(ModelError) as error:
        load(path, "resnet20")
    told = str(error.value)
    # Two further blocks a stage, each of two convolutions and two norms with four tensors that count: 6 (2 + 8).
    assert told.startswith(f"{path} does not fit resnet20: 60 missing (")
    assert told.count("stage1.") == 10 and told.endswith("and 50 more)")
    path = saved(TorchvisionStyle(20).state_dict(), tmp_path / "b.pt")
    with pytest.raises(ModelError, match=r"72 unexpected \(layer1\.1\.bn1\.bias, .* and 62 more\)$"):
        load(path)


def test_other_widths_are_told_shape_by_shape(tmp_path: Path) -> None:
    path = saved(TorchvisionStyle(8, (16, 16, 32, 48)).state_dict(), tmp_path / "a.pt")
    with pytest.raises(ModelError) as error:
        load(path)
    assert "of another shape or kind (fc.weight (5, 48) instead of (5, 64), " in str(error.value)
    assert "stage3.0.conv1.weight (48, 32, 3, 3) instead of (64, 32, 3, 3)" in str(error.value)


def test_a_network_of_another_kind_is_told(tmp_path: Path) -> None:
    path = saved(lively(VggStyle()).state_dict(), tmp_path / "a.pt")
    # Nine convolutions and norms of four tensors, and the classifier's two; ten of 2 + 5, and two.
    with pytest.raises(ModelError, match=r"does not fit resnet8: 47 missing .*; 72 unexpected"):
        load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_told(home: nn.Module, tmp_path: Path, value: float) -> None:
    home.layer2[0].bn1.running_var[3] = value
    with pytest.raises(ModelError, match=r"1 not finite \(stage2\.0\.bn1\.running_var\)"):
        load(saved(home.state_dict(), tmp_path / "a.pt"))


def test_whole_numbers_in_place_of_weights_are_told(home: nn.Module, tmp_path: Path) -> None:
    state = home.state_dict() | {"fc.bias": torch.zeros(CLASSES, dtype=torch.int8)}
    with pytest.raises(ModelError, match=r"fc\.bias \(5,\) of whole numbers instead of \(5,\)"):
        load(saved(state, tmp_path / "a.pt"))


def test_two_names_for_one_tensor_are_told(home: nn.Module, tmp_path: Path) -> None:
    state = home.state_dict()
    state["conv.weight"] = state["conv1.weight"] + 1
    with pytest.raises(ModelError, match="two of its tensors map to the same tensor of the model"):
        load(saved(state, tmp_path / "a.pt"))


def test_what_does_not_fit_leaves_the_model_as_it_was(home: nn.Module) -> None:
    model = create_teacher("resnet8", num_classes=CLASSES)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = home.state_dict()
    del state["layer3.0.conv2.weight"]
    with pytest.raises(ModelError, match=r"a file does not fit it: 1 missing \(stage3\.0\.conv2\.weight\)$"):
        fill_foreign(model, state, name="it", origin="a file", num_classes=CLASSES)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_names_and_options_are_those_of_create_teacher(home: nn.Module, tmp_path: Path) -> None:
    path = saved(home.state_dict(), tmp_path / "a.pt")
    for name, options in (("resnet57", None), ("resnet8", {"width": 3}), ("resnet8", {"num_classes": 3})):
        with pytest.raises(LgkdError, match=r"did you mean|has no option"):
            load(path, name, options=options)
