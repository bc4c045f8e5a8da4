"""Single bits of finished folders: what is read afterwards is told to be damaged, made again, or as it was."""

import hashlib
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

import lgkd
from lgkd._internal.manifest import MANIFEST
from lgkd.data.load import load_dataset
from lgkd.deploy.inference.load import exported_bytes
from lgkd.distillation.teacher_cache.storage import open_cache, stored_caches
from lgkd.errors import LgkdError, Remark
from tests.support.small import TINY
from tools.torture.arena import Arena
from tools.torture.inside import command, surroundings
from tools.torture.parts import Trials, expect, part

_CACHE = ["cache-teacher", "--student", "deit_tiny", "--teacher", "resnet8", *TINY, "--device", "cpu", "--quiet"]


@part("flips", "R5", "a flipped bit of a run, export, teacher or cache is told, mended, or changes no result", 600)
def flips(arena: Arena, trials: Trials) -> None:
    place = arena.new("flips")
    shutil.copytree(arena.world.home, place / "home")
    shutil.copytree(arena.world.guided_run, place / "run")
    home = str(place / "home")
    pictures = ["--dataset", str(arena.world.pictures)]
    made = command([*_CACHE, *pictures, "--views", "2", "--storage", "fp32"], LGKD_HOME=home)
    expect(made.code == 0, made.said)
    images = [str(path) for path in sorted(arena.world.pictures.glob("test/*/0.png"))]
    formats = ["--format", "safetensors", "--format", "torch-export"]
    made = command(["export", str(place / "run"), "--out", str(place / "export"), *formats, "--quiet"], LGKD_HOME=home)
    expect(made.code == 0, made.said)
    with surroundings({"LGKD_HOME": home}, None), warnings.catch_warnings():
        warnings.simplefilter("ignore", Remark)
        (cache,) = stored_caches()
        # Other tests of the same world may have decoded images, too.
        shutil.rmtree(place / "home" / "cache" / "images", ignore_errors=True)
        load_dataset(arena.world.pictures)
        (decoded,) = (path for path in (place / "home" / "cache" / "images").iterdir() if path.is_dir())
        teacher = place / "home" / "teachers" / "pictures" / "resnet8"
        kinds: dict[str, tuple[Path, Callable[[], str]]] = {
            "run": (place / "run", lambda: _run(place / "run")),
            "export": (place / "export", lambda: _export(place / "export", images)),
            "teacher": (teacher, lambda: _teacher(arena.world.pictures)),
            "features": (cache, lambda: _features(cache)),
            "images": (decoded, lambda: _images(arena.world.pictures)),
        }
        for kind, (folder, read) in kinds.items():
            trials.seen[f"files of {kind}"] = len(_files(folder))
            with trials.judging(f"{kind}, undisturbed"):
                read()
        while trials.left():
            kind = list(kinds)[trials.made % len(kinds)]
            folder, read = kinds[kind]
            path = _files(folder)[trials.made // len(kinds) % len(_files(folder))]
            with trials.one(f"{kind}: {path.name}, trial {trials.made}"):
                trials.seen[f"{kind}: {_flipped(path, folder, read, trials)}"] += 1
    shutil.rmtree(place)


def _files(folder: Path) -> list[Path]:
    """Those that the manifest lists, and the manifest."""
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix not in (".png", ".md"))


def _flipped(path: Path, folder: Path, read: Callable[[], str], trials: Trials) -> str:
    """Flip a bit, read, and put the folder back; in a word what came of it."""
    kept = {other: other.read_bytes() for other in _files(folder)}
    good = read()
    data = bytearray(kept[path])
    data[trials.draw.randrange(len(data))] ^= 1 << trials.draw.randrange(8)
    path.write_bytes(data)
    try:
        found = read()
    except LgkdError as error:
        said = str(error)
        expect(path.name in said or MANIFEST in said, f"it did not name {path.name}: {said}")
        return "told"
    finally:
        again = path.exists() and path.read_bytes() == kept[path]
        folder.mkdir(exist_ok=True)
        for other, content in kept.items():
            other.write_bytes(content)
    expect(found == good, "silent, and what was read is something else")
    return "made again" if again else "no result changed"


def _digest(*values: object) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode())
    return digest.hexdigest()


def _run(folder: Path) -> str:
    """Its scores, its rows, and what a comparison says of it."""
    scores = lgkd.evaluate(folder, device="cpu")
    return _digest(scores, lgkd.load_run(folder).metrics, lgkd.compare(folder))


def _export(folder: Path, images: list[str]) -> str:
    predictions = lgkd.predict(folder, images, device="cpu")
    return _digest(predictions, exported_bytes(folder / "student.pt2"))


def _teacher(pictures: Path) -> str:
    teacher = lgkd.load_teacher("resnet8", pictures)
    return _digest(teacher.card, *(value for _, value in sorted(teacher.model.state_dict().items())))


def _features(folder: Path) -> str:
    cache = open_cache(folder)
    places = torch.arange(cache.layout.images).numpy()
    every = [
        torch.from_numpy(cache.read(name, view, places))
        for name in cache.layout.shapes
        for view in range(cache.layout.views)
    ]
    return _digest(cache.identity, cache.layout, *every)


def _images(pictures: Path) -> str:
    data = load_dataset(pictures)
    splits = [getattr(split, name) for split in (data.train, data.test) for name in ("pixels", "sizes", "labels")]
    return _digest(data.classes, data.fingerprint, *splits)
