"""Programs planted where data are expected: none may run, under no name and at no command that reads a file."""

import bz2
import gzip
import hashlib
import io
import json
import pickle
import random
import shutil
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import lgkd
from lgkd._internal.atomic_io import sha256_of
from lgkd._internal.paths import recipes_folder
from lgkd.data.catalogue import PUBLISHED
from lgkd.errors import LgkdError
from lgkd.models.teacher_store import CARD, WEIGHTS
from lgkd.runs.folder import STUDENT, STUDENT_WEIGHTS
from lgkd.training.checkpoint import MANIFEST
from tests.support.manifests import reseal
from tests.support.published import as_published, make_flowers
from tests.support.small import DISTILL, TINY, TRAIN
from tools.torture.arena import Arena
from tools.torture.inside import Ended, command, expect_words, surroundings
from tools.torture.parts import Trials, expect, part

FORCED = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
"""Name of torch's variable that makes `torch.load` run programs wherever the call does not say that it must not."""

CACHE = ["cache-teacher", "--student", "deit_tiny", "--teacher", "resnet8", *TINY, "--device", "cpu", "--quiet"]
SEDUCTIVE = (
    "pytorch_model.bin", "model.pt", "weights.pt", "weights.pth", "student.pt", "student.pkl", "checkpoint.pth.tar",
    "optimizer.pt", "random_states_0.pkl", "state.pkl", "data.npy", "cache.npz", "scaler.joblib", "model.ckpt",
    "last.ckpt", "hubconf.py", "conftest.py", "setup.cfg", "config.pkl",
)  # fmt: skip
"""Names under which other frameworks would take a file for theirs."""


@part(
    "pickles", "R10", "a planted program never runs, whatever its name and place; refused in words or passed over", 300
)
def pickles(arena: Arena, trials: Trials) -> None:
    model = arena.new("desk")
    make_desk(arena, model)
    canary = arena.root / "canary"
    with trials.judging("the plants themselves"):
        every = programs(canary)
        for name, program in every.items():
            expect(is_live(program, canary), f"the {name} does not run even where it is loaded carelessly")
    while trials.left():
        area = trials.draw.choice(list(AREAS))
        kind, how = trials.draw.choice(list(every)), trials.draw.choice(["replaced", "vouched for", "beside"])
        forced = trials.draw.random() < 0.5
        with trials.one(f"a {kind} {how} in {area}{', forced' if forced else ''}, trial {trials.made}"):
            desk = arena.new("desk")
            shutil.copytree(model, desk)
            where = _plant(desk, area, every[kind], how, trials.draw)
            read = trials.draw.choice(AREAS[area][1])
            with surroundings({FORCED: "1" if forced else None}):
                ended = read(desk, where)
            expect(not canary.exists(), f"the program ran: {where.relative_to(desk)} by {ended}")
            if ended is not None:
                expect_words(ended.code, ended.said, [0] if how == "beside" else [0, 2, 3], lines=True)
                trials.seen["passed over" if ended.code == 0 else "refused"] += 1
            shutil.rmtree(desk)


# Plants


class Program:
    """What runs when it is unpickled: it makes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return exec, (f"open({str(self.canary)!r}, 'w').close()",)


def programs(canary: Path) -> dict[str, bytes]:
    """The program in every form in which data sets, weights and caches come."""
    program = Program(canary)

    def saved(write: Callable[[io.BytesIO], Any]) -> bytes:
        stream = io.BytesIO()
        write(stream)
        return stream.getvalue()

    state = {"state_dict": {"conv.weight": torch.zeros(3), "extra": program}}
    objects = np.array([program], dtype=object)
    plain = pickle.dumps(program, protocol=2)
    return {
        **{f"pickle of protocol {number}": pickle.dumps(program, protocol=number) for number in (0, 2, 5)},
        "torch file": saved(lambda stream: torch.save(program, stream)),
        "torch checkpoint": saved(lambda stream: torch.save(state, stream)),
        "old torch file": saved(lambda stream: torch.save(state, stream, _use_new_zipfile_serialization=False)),
        "npy file": saved(lambda stream: np.save(stream, objects, allow_pickle=True)),
        "npz file": saved(lambda stream: np.savez(stream, objects)),
        "joblib file": saved(lambda stream: joblib.dump(program, stream)),
        "gzip pickle": gzip.compress(plain),
        "bzip2 pickle": bz2.compress(plain),
    }


def is_live(program: bytes, canary: Path) -> bool:
    """Whether it runs where somebody loads it carelessly; the canary is taken away again."""
    loaders: tuple[Callable[[bytes], Any], ...] = (
        pickle.loads,
        lambda data: torch.load(io.BytesIO(data), weights_only=False),
        lambda data: np.load(io.BytesIO(data), allow_pickle=True)["arr_0"],
        lambda data: joblib.load(io.BytesIO(data)),
        lambda data: pickle.loads(gzip.decompress(data)),
        lambda data: pickle.loads(bz2.decompress(data)),
        lambda data: np.load(io.BytesIO(data), allow_pickle=True),
    )
    for load in loaders:
        with suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(program)
        if canary.exists():
            canary.unlink()
            return True
    return False


def _plant(desk: Path, area: str, program: bytes, how: str, draw: random.Random) -> Path:
    root = desk / AREAS[area][0]
    files = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
    where = draw.choice(files)
    if how == "beside":
        for folder in {where.parent, draw.choice(files).parent, desk, desk / "hub" / "checkpoints"}:
            folder.mkdir(parents=True, exist_ok=True)
            for name in draw.sample(SEDUCTIVE, 3):
                (folder / name).write_bytes(program)
        return where
    where.write_bytes(program)
    if how == "vouched for":
        vouch(where)
    return where


def vouch(file: Path) -> None:
    """Whatever holds a file's size or hash is made to hold those that it has now."""
    size, sha256 = file.stat().st_size, sha256_of(file)
    if file.name == WEIGHTS:
        _change(file.with_name(CARD), lambda card: card | {"weights_sha256": sha256})
    elif file.name == STUDENT_WEIGHTS and (file.with_name(STUDENT)).exists():
        _change(file.with_name(STUDENT), lambda about: about | {"weights_sha256": sha256})
    elif (manifest := file.with_name(MANIFEST)).exists() and file != manifest and not _is_sealed(manifest):
        value = json.loads(manifest.read_text())
        value["files"][file.name] = {"bytes": size, "sha256": sha256}
        manifest.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    elif (index := file.with_name("index.json")).exists() and file != index:

        def vouched(record: dict[str, Any]) -> dict[str, Any]:
            if file.name == "pixels.npy":
                record["bytes"] = size
            elif file.name == "sizes.npy":
                record["sizes"] = sha256
            elif file.stem in record.get("files", {}):
                record["files"][file.stem]["bytes"] = size
            del record["checksum"]
            return record | {"checksum": hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()}

        _change(index, vouched)
    reseal(file.parent)


def _is_sealed(manifest: Path) -> bool:
    """Tell the manifest of a finished folder, which has a checksum, from that of a checkpoint."""
    return b'"checksum"' in manifest.read_bytes()


def _change(file: Path, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text())), indent=2) + "\n")


# Who reads what


def make_desk(arena: Arena, desk: Path) -> None:
    """A folder with everything that lgkd writes and reads: a store, runs, caches, pictures, a recipe."""
    world = arena.world
    shutil.copytree(world.home, desk / "home")
    shutil.copytree(world.pictures, desk / "pictures")
    shutil.copytree(world.guided_run, desk / "run")
    shutil.copy(recipes_folder() / "quickstart.yaml", desk / "mine.yaml")
    weights = next((desk / "home").glob(f"teachers/*/*/{WEIGHTS}"))
    torch.save(load_file(weights), desk / "theirs.pth")
    (desk / "published").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        make_flowers(desk / "published", patch)
    data = ["--dataset", str(desk / "pictures")]
    for words, code in (
        ([*DISTILL, *data, "--out", str(desk / "paused"), "--max-time", "0"], 75),
        ([*CACHE, *data, "--views", "2", "--out", str(desk / "features")], 0),
    ):
        made = command(words, LGKD_HOME=str(desk / "home"))
        assert made.code == code, made.said


def at_desk(desk: Path, *words: str | Path) -> Ended:
    """A command with the desk's store and in the desk's folder."""
    hubs = {name: str(desk / "hub") for name in ("TORCH_HOME", "HF_HOME", "XDG_CACHE_HOME")}
    return command([str(word) for word in words], at=desk, LGKD_HOME=str(desk / "home"), **hubs)


def _distilled(desk: Path, *more: str | Path) -> Ended:
    return at_desk(desk, *DISTILL, "--epochs", "1", "--dataset", desk / "pictures", "--out", desk / "new", *more)


def _in_python(read: Callable[[Path], Any]) -> Callable[[Path, Path], Ended | None]:
    def call(desk: Path, _: Path) -> None:
        with surroundings({"LGKD_HOME": str(desk / "home")}, desk), suppress(LgkdError):
            read(desk)

    return call


def _trained(desk: Path, *more: str | Path) -> Ended:
    return at_desk(desk, *TRAIN, "--epochs", "1", "--dataset", desk / "pictures", "--out", desk / "new", *more)


def _imported(desk: Path, _: Path) -> Ended:
    file = desk / "theirs.pth"
    words = ["import-teacher", "resnet8", file, "--sha256", sha256_of(file), "--dataset", desk / "pictures"]
    return at_desk(desk, *words, "--image-size", "16", "--normalize", "imagenet", "--name", "theirs", "--quiet")


def _published(desk: Path, _: Path) -> Ended:
    """A data set from its publisher's files, whose checksums are right: he himself is the hostile one."""
    with pytest.MonkeyPatch.context() as patch:
        (desk / "as-they-were").mkdir()
        make_flowers(desk / "as-they-were", patch)
        names = [file.name for file in PUBLISHED["flowers102"]]
        patch.setitem(PUBLISHED, "flowers102", tuple(as_published(desk / "published" / name) for name in names))
        words = ["--dataset", "flowers102", "--data-dir", desk / "published", "--epochs", "1", "--batch-size", "2"]
        return at_desk(desk, *TRAIN, *words, "--out", desk / "new")


Read = Callable[[Path, Path], Ended | None]

AREAS: dict[str, tuple[str, tuple[Read, ...]]] = {
    "teachers": (
        "home/teachers",
        (
            lambda desk, _: at_desk(desk, "teachers", "--json"),
            lambda desk, _: _distilled(desk),
            _in_python(lambda desk: lgkd.load_teacher("resnet8", dataset=desk / "pictures")),
        ),
    ),
    "decoded images": (
        "home/cache/images",
        (lambda desk, _: _trained(desk),),
    ),
    "a run": (
        "run",
        (
            lambda desk, _: at_desk(desk, "evaluate", desk / "run", "--json"),
            _in_python(lambda desk: lgkd.load_student(desk / "run")),
            _in_python(lambda desk: lgkd.load_run(desk / "run")),
        ),
    ),
    "a paused run": (
        "paused",
        (
            lambda desk, _: at_desk(desk, "resume", desk / "paused", "--quiet"),
            lambda desk, _: at_desk(desk, *DISTILL, "--dataset", desk / "pictures", "--out", desk / "paused"),
        ),
    ),
    "features": ("features", (lambda desk, _: _distilled(desk, "--cached", desk / "features"),)),
    "pictures": (
        "pictures",
        (
            lambda desk, _: at_desk(desk, "check", desk / "pictures"),
            lambda desk, _: _trained(desk),
        ),
    ),
    "a recipe": (
        "mine.yaml",
        (
            lambda desk, _: at_desk(desk, "recipes", desk / "mine.yaml"),
            lambda desk, _: _distilled(desk, "--recipe", desk / "mine.yaml"),
        ),
    ),
    "published weights": ("theirs.pth", (_imported,)),
    "published images": ("published", (_published,)),
}
"""Where what lies, and who reads it; a reader returns None where nothing is said of how it ends."""
