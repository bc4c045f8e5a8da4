"""The doctor tells what a machine has and lacks, and touches nothing."""

import json
import re
import shutil
import sys
import tomllib
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from lgkd._internal import hardware
from lgkd.cli import run
from lgkd.cli.doctor_checks import assets, compute, examine, packages, resources
from lgkd.cli.doctor_checks.finding import Finding, size
from lgkd.data.catalogue import CATALOGUE, PUBLISHED
from tests import CHECKOUT
from tests.support.manifests import reseal
from tests.support.small import World, everything_below


def found(what: str, findings) -> Finding:
    (one,) = (finding for finding in findings if finding.what == what)
    return one


@pytest.fixture
def at(tmp_path: Path, monkeypatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_a_sound_machine_ends_with_0_in_words_and_as_json_and_nothing_is_written(
    at: Path, world: World, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("LGKD_HOME", str(world.home))
    before = everything_below(at, world.home)
    assert run(["doctor"]) == 0
    text = capsys.readouterr().out
    assert f"ok      torch: {version('torch')}\n" in text
    # Those that come with lgkd are listed, too.
    assert re.search(r"^ok      teachers: .*resnet8 for pictures \(", text, re.MULTILINE)
    assert text.rstrip().splitlines()[-1].startswith("0 problems, ")
    assert run(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert everything_below(at, world.home) == before
    assert told["problem"] == 0
    assert sum(told[state] for state in ("ok", "warning", "problem")) == len(told["lines"])
    what = [line["what"] for line in told["lines"]]
    assert len(set(what)) == len(what)
    assert {f"data {name}" for name in CATALOGUE} <= set(what)
    assert {"python", "torch", "threads", "memory", "runs", "store", "cache", "extra onnx", "trackers"} <= set(what)


def test_a_problem_ends_with_3_and_says_where_to_look(at: Path, monkeypatch, capsys) -> None:
    real = packages.package_version
    monkeypatch.setattr(
        packages, "package_version", lambda name: {"torch": "2.3.1", "timm": None}.get(name, real(name))
    )
    assert run(["doctor"]) == 3
    caught = capsys.readouterr()
    lines = caught.out.splitlines()
    assert lines[lines.index("problem torch: 2.3.1 is not <3,>=2.10") + 1] == "        -> pip install 'torch<3,>=2.10'"
    assert "problem timm: is not installed" in lines
    assert "problem device: unknown without torch" in lines
    assert caught.err == (
        "lgkd: this machine has 3 problems (torch, timm, device); see the advice beside each of them\n"
    )


def test_what_is_asked_for_is_what_pyproject_asks_for() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    needed = [one for one in packages.requirements() if one.marker is None]
    assert len(needed) == len(project["dependencies"])
    assert {one.name for one in needed} >= {"torch", "timm", "accelerate", "pyyaml"}
    for extra in project["optional-dependencies"].keys() - {"dev", "docs"}:
        assert extra in packages._EXTRAS, f"the doctor does not know what the extra {extra} is for"


def test_versions_that_are_new_are_a_warning_and_old_ones_a_problem(monkeypatch) -> None:
    real = packages.package_version
    monkeypatch.setattr(packages, "package_version", lambda name: {"torch": "2.99.0"}.get(name, real(name)))
    assert found("torch", packages.look_at_packages()).state == "warning"
    for number, state in (((3, 10, 2), "problem"), ((3, 11, 9), "ok"), ((3, 12, 0), "ok"), ((3, 15, 0), "warning")):
        monkeypatch.setattr(sys, "version_info", number)
        assert found("python", packages.look_at_python()).state == state, number


def test_an_extra_that_is_not_here_is_no_fault_and_the_command_is_told(monkeypatch) -> None:
    real = packages.package_version
    monkeypatch.setattr(packages, "package_version", lambda name: None if name.startswith("onnx") else real(name))
    one = found("extra onnx", packages.look_at_extras())
    assert one.state == "ok"
    assert one.found.startswith("not installed (onnx, onnxscript, onnxruntime); for: lgkd export")
    assert one.advice == "if you want it: pip install 'lgkd[onnx]'"
    monkeypatch.setattr(packages, "package_version", lambda name: "0.1" if name.startswith("onnx") else real(name))
    assert found("extra onnx", packages.look_at_extras()).state == "warning"


def test_auto_is_explained_as_the_training_chooses_it(monkeypatch) -> None:
    for native, chosen, why in (
        (True, "bf16", "in hardware, which is faster"),
        (False, "fp32", "emulating it is slow"),
    ):
        monkeypatch.setattr("lgkd.training.precision.has_native_bf16", lambda device, native=native: native)
        told = compute.precision_on("cpu").found
        assert f"auto selects {chosen}: " in told
        assert why in told
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert compute.precision_on("cuda").found.endswith("emulating it is slower; --precision fp16 is faster")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    assert compute.precision_on("cuda").found.endswith("emulating it is slower")


def test_a_macs_gpu_is_told_not_to_be_used(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    one = found("GPU", compute.look_at_devices())
    assert (one.state, one.found) == ("ok", "this Mac's GPU is not used: lgkd trains on its CPU")


def test_a_torch_that_computes_wrongly_is_found(monkeypatch) -> None:
    assert compute.multiplies("cpu").state == "ok"
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda left, right: torch.matmul(left, right) * (1 + (left.dtype == torch.float32))
    )
    one = compute.multiplies("cpu")
    assert (one.state, one.found) == ("problem", "computes incorrectly, error 1")


@pytest.mark.parametrize(
    ("threads", "cores", "variable", "state"),
    [(2, 2, None, "ok"), (1, 2, None, "ok"), (1, 4, None, "warning"), (1, 2, "1", "warning"), (8, 2, None, "warning")],
)
def test_threads_are_held_against_the_cores_that_may_be_used(threads, cores, variable, state, monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(compute, "cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    (one,) = compute.look_at_threads()
    assert one.state == state
    assert (f"OMP_NUM_THREADS={cores}" in one.advice) == (state == "warning")


def test_a_gpu_that_torch_does_not_see_is_told_of(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(compute.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    for built, words in ((None, "this torch is built for CPUs"), ("13.0", "torch (CUDA 13.0) finds no GPU")):
        monkeypatch.setattr(torch.version, "cuda", built)
        one = found("GPU", compute.look_at_devices())
        assert one.state == "warning"
        assert words in one.found


@pytest.mark.parametrize(("free", "state"), [(50 << 20, "problem"), (1 << 30, "warning"), (50 << 30, "ok")])
def test_a_disk_that_is_nearly_full_is_told_of(free: int, state: str, at: Path, monkeypatch) -> None:
    monkeypatch.setattr(resources, "free_space", lambda place: free)
    findings = list(resources.look_at_disk())
    assert [one.what for one in findings] == ["runs", "store", "cache"]
    assert {one.state for one in findings} == {state}
    assert size(free) in findings[0].found


def test_a_store_that_cannot_be_written_is_a_problem_and_its_cache_a_warning(at: Path, monkeypatch) -> None:
    (at / "file").touch()
    monkeypatch.setenv("LGKD_HOME", str(at / "file" / "home"))
    findings = {one.what: one for one in resources.look_at_disk()}
    assert {what: one.state for what, one in findings.items()} == {"runs": "ok", "store": "problem", "cache": "warning"}
    assert findings["store"].advice == "choose another folder with LGKD_HOME"


def test_little_memory_is_a_warning(monkeypatch) -> None:
    for free, state in ((1 << 30, "warning"), (8 << 30, "ok")):
        monkeypatch.setattr(resources, "memory", lambda free=free: hardware.Memory(16 << 30, free))
        assert [one.state for one in resources.look_at_memory()] == [state]


def test_a_container_grants_less_than_the_machine_has(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    alone = hardware.cores()
    everything = hardware.memory()
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert hardware.cores() == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert hardware.cores() == alone
    (tmp_path / "memory.max").write_text(str(3 << 20))
    (tmp_path / "memory.current").write_text(str(1 << 20))
    assert hardware.memory() == (3 << 20, 2 << 20)
    (tmp_path / "memory.max").write_text("max\n")
    assert hardware.memory().total == everything.total


def test_published_files_are_here_only_if_they_are_whole(at: Path, monkeypatch) -> None:
    info, (file,) = CATALOGUE["cifar10"], PUBLISHED["cifar10"]
    place = at / "data" / "cifar10"
    place.mkdir(parents=True)
    with (place / file.name).open("wb") as stream:
        stream.truncate(file.bytes - 1)
    assert assets._place_of(info, None)[0] == "not here"
    with (place / file.name).open("ab") as stream:
        stream.write(b"x")
    assert assets._place_of(info, None)[0] == f"here, as the publisher's file in {place}"
    monkeypatch.delenv("LGKD_OFFLINE")
    assert assets._place_of(CATALOGUE["cifar100"], None)[0] == "not here; the first training downloads it (169 MB)"


def test_a_set_that_is_neither_downloaded_nor_arranged_is_put_by_hand(at: Path) -> None:
    chaoyang = CATALOGUE["chaoyang"]
    assert assets._place_of(chaoyang, None)[1].startswith("lgkd arrange chaoyang SOURCE")
    place = at / "data" / "chaoyang"
    by_hand = ("not here", f"put its images at {place}/train/CLASS/* and test/CLASS/*")
    assert assets._place_of(replace(chaoyang, lists=()), None) == by_hand


def test_teachers_that_are_damaged_or_poor_are_told_of(at: Path, world: World, monkeypatch) -> None:
    home = at / "home"
    shutil.copytree(world.home / "teachers", home / "teachers")
    monkeypatch.setenv("LGKD_HOME", str(home))
    (folder,) = (home / "teachers" / "pictures").iterdir()
    card = json.loads((folder / "card.json").read_text())
    card["accuracy"]["top1"] = 0.39
    (folder / "card.json").write_text(json.dumps(card))
    reseal(folder)
    poor = found("teacher resnet8 for pictures", assets.look_at_teachers())
    assert poor.state == "warning"
    assert poor.found == "39.0% top-1 is little better than chance (33.3%)"
    with (folder / "weights.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\xff")
    damaged = found("teacher resnet8 for pictures", assets.look_at_teachers())
    assert damaged.state == "problem"
    assert "damaged" in damaged.found + damaged.advice
    (folder / "card.json").write_text("{")
    assert found(f"teacher in {folder}", assets.look_at_teachers()).state == "problem"


def test_everything_is_looked_at_once() -> None:
    what = [finding.what for finding in examine()]
    assert len(what) == len(set(what)) > 20
