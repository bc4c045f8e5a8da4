"""Cached guidance from the command line: a cache, trainings from it, and what is refused in one line."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import yaml

import lgkd
from lgkd._internal.manifest import BlockDigests, read_manifest, write_manifest
from lgkd.cli import run
from lgkd.distillation.teacher_cache.storage import stored_caches
from lgkd.errors import InputError
from tests.support.small import DISTILL, TINY, World

CACHE = ["cache-teacher", "--student", "deit_tiny", "--teacher", "resnet8", *TINY, "--device", "cpu"]


@pytest.fixture(scope="module")
def home(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the world's teacher and two caches of it: two views in fp32, and the whole images."""
    home = tmp_path_factory.mktemp("cached") / "home"
    shutil.copytree(world.home, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LGKD_HOME", str(home))
        data = ["--dataset", str(world.pictures), "--quiet"]
        assert run([*CACHE, *data, "--views", "2", "--storage", "fp32"]) == 0
        assert run([*CACHE, *data, "--replay", "--out", str(home / "replay")]) == 0
    return home


@pytest.fixture
def place(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and the store, which is only read."""
    monkeypatch.setenv("LGKD_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def distill(world: World, out: str, *more: str) -> int:
    return run([*DISTILL, "--dataset", str(world.pictures), "--out", out, *more])


def about(out: str) -> dict:
    return json.loads((Path(out) / "run.json").read_text())


def test_a_run_from_a_cache_is_the_run_with_the_teacher_and_says_so(world: World, place: Path) -> None:
    assert distill(world, "cached", "--cached", "auto", "--epochs", "3") == 0
    assert distill(world, "online", "--set", "view.fixed=2", "--epochs", "3") == 0
    cached, online = about("cached"), about("online")
    assert online["cached"] is None
    (written,) = cached["cached"]
    assert (written["mode"], written["views"], written["storage"]) == ("views", 2, "fp32")
    assert stored_caches()[0].name == written["key"]
    (errors,) = cached["cached_errors"]
    assert list(errors) == ["map1", "map2", "map3"] and max(errors.values()) < 1e-5
    assert yaml.safe_load(Path("cached/recipe.yaml").read_text())["view"]["fixed"] == 2
    rows = [lgkd.load_run(folder).metrics for folder in ("cached", "online")]
    for ours, theirs in zip(*rows, strict=True):
        for name in ("loss", "loss_classification", "loss_guidance_linear", "test_top1"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name


def test_a_cache_is_compared_with_its_teacher_under_the_runs_determinism(
    world: World, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That multiplies: cuBLAS takes its settings at the first product of a process."""
    inside: list[bool] = []

    @contextmanager
    def watched(device: str, *, deterministic: bool) -> Iterator[None]:
        inside.append(deterministic)
        try:
            yield
        finally:
            inside.clear()

    def measured(*_: object) -> None:
        raise InputError(f"compared under {inside}")

    monkeypatch.setattr("lgkd.runner.runner.exactly", watched)
    monkeypatch.setattr("lgkd.distillation.teacher_cache.serving.measure", measured)
    for words, found in ((["--deterministic"], [True]), ([], [False])):
        assert distill(world, "mine", "--cached", "auto", *words) == 2
        assert f"compared under {found}" in capsys.readouterr().err


def test_a_run_from_a_cache_that_was_stopped_goes_on_to_the_same_weights(world: World, place: Path) -> None:
    assert distill(world, "whole", "--cached", "auto") == 0
    assert distill(world, "stopped", "--cached", "auto", "--max-time", "0") == 75
    assert lgkd.resume("stopped").info["status"] == "finished"
    weights = [sha256((Path(out) / "student.safetensors").read_bytes()).hexdigest() for out in ("whole", "stopped")]
    assert weights[0] == weights[1]


def test_a_run_does_not_change_between_cache_and_teacher(world: World, place: Path, capsys) -> None:
    assert distill(world, "stopped", "--cached", "auto", "--max-time", "0") == 75
    assert distill(world, "stopped", "--set", "view.fixed=2") == 2
    assert "cached" in capsys.readouterr().err


def test_a_cache_that_lies_ready_is_not_made_again(world: World, place: Path, capsys) -> None:
    made = [path.stat().st_mtime_ns for path in stored_caches()]
    again = [*CACHE, "--dataset", str(world.pictures), "--views", "2", "--storage", "fp32"]
    assert run([*again, "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    # ResNet-8 at 16 px: 16 x 16 x 16 + 32 x 8 x 8 + 64 x 4 x 4 numbers of four bytes, 24 images in 2 views.
    assert (shown["made"], shown["bytes"], shown["images"]) == (False, 24 * 2 * 4 * (4096 + 2048 + 1024), 24)
    assert [path.stat().st_mtime_ns for path in stored_caches()] == made


def test_replay_refuses_what_it_cannot_follow_unless_told_and_says_how_far_off_it_is(
    world: World, place: Path, home: Path, capsys
) -> None:
    replayed = ["--cached", str(home / "replay")]
    assert distill(world, "refused", *replayed) == 2
    message = capsys.readouterr().err
    assert "cannot follow view.rand_augment, view.erase exactly" in message and "--approximate" in message
    assert not Path("refused").exists()
    loud = [word for word in DISTILL if word != "--quiet"]
    assert run([*loud, "--dataset", str(world.pictures), "--out", "out", *replayed, "--approximate"]) == 0
    assert "cached guidance (replay): error against the teacher map1 " in capsys.readouterr().err
    run_info = about("out")
    assert run_info["cached"][0]["mode"] == "replay" and min(run_info["cached_errors"][0].values()) > 0.01
    followed = ["--set", "view.rand_augment=null", "--set", "view.erase=0"]
    assert distill(world, "followed", *replayed, *followed) == 0


REFUSED = [
    (["--seed", "1"], "seed: the cache has 0, this training 1"),
    (["--set", "view.flip=0.25"], "view.flip: the cache has 0.5, this training 0.25"),
    (["--set", "view.padding_mode=reflect"], 'view.padding_mode: the cache has null, this training "reflect"'),
    (["--images-per-class", "4"], "part of the training images: the cache has null"),
    (["--val-fraction", "0.25"], "training images: the cache has 24, this training 18"),
    (["--image-size", "32"], "image size: the cache has [16, 16], this training [32, 32]"),
    (["--set", "guide.view=antialias"], 'guide.view: the cache has "resized", this training "antialias"'),
    (["--set", "mix.mixup=0.5", "--set", "mix.cutmix=1"], "mode views cannot follow mix.mixup, mix.cutmix exactly"),
    (["--set", "guide.teacher_bn=batch"], "guide.teacher_bn is batch"),
    (["--set", "guide.view=original"], "guide.view is original, and a cache stores features of the student's view"),
    (["--set", "view.repeats=2"], "view.repeats is 2, several views of an image per epoch"),
    (["--extra", "EXTRA"], "a cache has features of the data set's own images only"),
    (["--set", "view.fixed=3"], "view.fixed is 3, the cache has 2 views of each image"),
    (["--set", "guide.terms=[{kind: kd}]"], "the recipe's terms also read logits"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message.split(":")[0] for _, message in REFUSED])
def test_a_foreign_cache_is_refused_in_one_line_before_anything_is_written(
    world: World, place: Path, capsys, changes: list[str], message: str
) -> None:
    (folder,) = stored_caches()
    changes = [str(world.pictures / "train") if word == "EXTRA" else word for word in changes]
    assert distill(world, "out", "--cached", str(folder), *changes) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not Path("out").exists()


def forged(folder: Path, place: Path, **identity: object) -> Path:
    """A copy of a cache whose index says something else, and says it properly."""
    shutil.copytree(folder, place)
    index = json.loads((place / "index.json").read_text())
    del index["checksum"]
    index["identity"] |= identity
    index["checksum"] = sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
    (place / "index.json").write_text(json.dumps(index))
    return place


def test_a_cache_of_another_teacher_is_refused(world: World, place: Path, capsys) -> None:
    (folder,) = stored_caches()
    other = forged(folder, place / "other", teacher="0" * 64)
    assert distill(world, "out", "--cached", str(other)) == 2
    assert "is the cache of another training: teacher: the cache has" in capsys.readouterr().err


def test_a_cache_with_other_numbers_in_it_is_refused(world: World, place: Path, capsys) -> None:
    (folder,) = stored_caches()
    other = forged(folder, place / "other")
    values = np.load(other / "map2.npy", mmap_mode="r+")
    values[:] = values[:, ::-1].copy()
    values.flush()
    assert distill(world, "out", "--cached", str(other)) == 2
    assert "map2.npy: block 0 (of 4,194,304 bytes) has SHA-256" in capsys.readouterr().err
    digests = BlockDigests()
    digests.update(values.reshape(-1).view(np.uint8).data)
    files = read_manifest(other)
    blocks = {name: entry.blocks for name, entry in files.items() if entry.sha256 is None}
    write_manifest(other, ("index.json",), blocks | {"map2.npy": digests.all()})
    assert distill(world, "out", "--cached", str(other)) == 2
    assert "from the teacher's features of the same views" in capsys.readouterr().err


def test_where_no_cache_fits_the_command_that_makes_it_is_named(world: World, place: Path, capsys) -> None:
    assert distill(world, "out", "--cached", "auto", "--seed", "1") == 3
    said = capsys.readouterr().err
    assert "create one by `lgkd cache-teacher`" in said and "differs: seed: the cache has 0, this training 1" in said
    assert distill(world, "out", "--cached", "nowhere") == 3
    (folder,) = stored_caches()
    assert distill(world, "out", "--cached", str(folder), "--cached", str(folder)) == 2
    assert "2 caches for 1 teachers" in capsys.readouterr().err


def test_options_that_need_each_other_are_refused_alone(world: World, place: Path, capsys) -> None:
    assert distill(world, "out", "--approximate") == 2
    assert "it needs --cached" in capsys.readouterr().err
    data = ["--dataset", str(world.pictures), "--quiet"]
    assert run([*CACHE, *data, "--replay", "--views", "3"]) == 2
    assert run([*CACHE, *data, "--storage", "int8"]) == 2
    assert "expected fp16 or fp32" in capsys.readouterr().err
    assert run([*CACHE, *data, "--views", "3", "--max-gb", "0.000001"]) == 2
    assert "--max-gb is 1e-06; use fewer --views" in capsys.readouterr().err
    (folder,) = stored_caches()
    assert run([*CACHE, *data, "--views", "3", "--out", str(folder)]) == 2
    assert "holds another cache; nothing was touched" in capsys.readouterr().err
    with pytest.raises(InputError, match="--cached is for a guided student"):
        lgkd.train("deit_tiny", world.pictures, image_size=16, epochs=1, cached="auto", device="cpu")
