"""What SECURITY.md promises of files that strangers made: no pickle is run; and the page itself."""

import ast
import json
import re
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lgkd
from lgkd._internal.atomic_io import json_sha256
from lgkd.cli import run
from lgkd.config import yaml_io
from lgkd.data import image_formats
from lgkd.distillation.teacher_cache.storage import Layout, Writer, open_cache
from lgkd.errors import DataError, InputError
from lgkd.models import pretrained
from lgkd.runs import folder as runs
from lgkd.training.checkpoint import read_checkpoint
from tests import CHECKOUT
from tests.support.security import canary as canary
from tests.support.security import desk as desk
from tests.support.security import payloads, rewrite
from tests.support.small import DISTILL

PACKAGE = Path(lgkd.__file__).parent


@pytest.mark.parametrize("kind", ["pickle", "torch", "numpy"])
def test_a_pickle_is_never_run_whatever_file_of_a_run_a_teacher_or_a_checkpoint_it_is(
    desk: Path, canary: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    data = payloads(canary)[kind]
    digest = sha256(data).hexdigest()
    teacher = desk / "home" / "teachers" / "pictures" / "resnet8"
    (teacher / "weights.safetensors").write_bytes(data)
    rewrite(teacher / "card.json", lambda card: card.update(weights_sha256=digest))
    assert run([*DISTILL, "--dataset", "pictures"]) == 2
    assert "not a safetensors file" in capsys.readouterr().err
    (desk / "mine" / "student.safetensors").write_bytes(data)
    rewrite(desk / "mine" / "student.json", lambda about: about.update(weights_sha256=digest))
    assert run(["evaluate", "mine"]) == 2
    assert "mine/student.safetensors: not a safetensors file" in capsys.readouterr().err

    shutil.copytree(desk / "mine", desk / "stopped")
    rewrite(desk / "stopped" / "run.json", lambda about: about.update(status="running", teacher=None, pairs=[]))
    for step in (desk / "stopped" / "checkpoint").iterdir():
        (step / "student.safetensors").write_bytes(data)
        manifest = step / "MANIFEST.json"
        named = {"bytes": len(data), "sha256": digest}
        rewrite(manifest, lambda about, named=named: about["files"].update({"student.safetensors": named}))
        manifest.write_bytes(manifest.read_bytes() + b"\n")
        with pytest.raises(InputError, match=r"student\.safetensors holds no tensors"):
            read_checkpoint(step)
    for name in ("run.json", "student.json", "recipe.yaml", "env.json", "metrics.csv"):
        shutil.copytree(desk / "mine", desk / f"no-{name}")
        (desk / f"no-{name}" / name).write_bytes(data)
        for command in ("evaluate", "resume"):
            assert run([command, f"no-{name}"]) in (2, 3)


def test_a_pickle_among_images_or_decoded_images_is_never_run(desk: Path, canary: Path) -> None:
    made = payloads(canary)
    shutil.rmtree(desk / "home" / "cache" / "images")
    before = lgkd.load_dataset(desk / "pictures").fingerprint
    (entry,) = (desk / "home" / "cache" / "images").iterdir()
    for name in ("pixels.npy", "sizes.npy"):
        (entry / name).write_bytes(made["numpy"])

        def sign(record: dict[str, Any], name: str = name) -> None:
            record.pop("checksum")
            record["bytes"] = (entry / "pixels.npy").stat().st_size
            record["sizes"] = sha256((entry / "sizes.npy").read_bytes()).hexdigest()
            record["checksum"] = json_sha256(record)

        rewrite(entry / "index.json", sign)
        assert lgkd.load_dataset(desk / "pictures").fingerprint == before  # decoded anew
    for kind, data in made.items():
        (desk / "pictures" / "train" / "rows" / f"{kind}.png").write_bytes(data)
    with pytest.raises(DataError, match=r"3 of 39 images .*not an image that Pillow knows"):
        lgkd.load_dataset(desk / "pictures")


def test_a_pickle_among_cached_features_is_never_run(desk: Path, canary: Path) -> None:
    writer = Writer(desk / "features", {"mode": "views"}, Layout({"map1": (2,)}, views=1, images=1), {})
    writer.add({"map1": np.zeros((1, 2), np.float16)})
    folder = writer.finish()
    data = payloads(canary)["numpy"]
    (folder / "map1.npy").write_bytes(data)

    def sign(index: dict[str, Any]) -> None:
        index.pop("checksum")
        index["files"]["map1"]["bytes"] = len(data)
        index["checksum"] = sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()

    rewrite(folder / "index.json", sign)
    with pytest.raises(InputError, match=r"map1\.npy cannot be read"):
        open_cache(folder)


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keywords(node: ast.Call) -> dict[str, str]:
    return {word.arg or "**": ast.unparse(word.value) for word in node.keywords}


def test_no_file_of_lgkd_calls_what_could_run_a_strangers_file() -> None:
    seen = set()
    never = {"eval", "exec", "compile", "__import__", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system",
             "os.popen", "joblib.load", "torch.hub.load", "runpy.run_path"}  # fmt: skip
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE).as_posix()
        for name, node in calls(path):
            last = name.rpartition(".")[2]
            assert name not in never and last not in ("extractall", "unpack_archive"), f"{place}:{node.lineno} {name}"
            given = keywords(node)
            if name == "torch.export.load":  # what it has just written itself, in memory
                read = ast.unparse(node.args[0])
                assert (place, read) == ("deploy/formats.py", "io.BytesIO(written.getvalue())"), place
            elif last == "load" and "torch" in name:
                assert (place, given["weights_only"]) == ("models/pretrained.py", "True"), f"{place}:{node.lineno}"
            if name in ("np.load", "numpy.load"):
                assert given["allow_pickle"] == "False", f"{place}:{node.lineno}"
            if "subprocess" in name:
                # The worker is this interpreter, with code of lgkd.
                starts = ("_internal/git.py", "runner/workers.py")
                assert place in starts and given.get("shell") is None, f"{place}:{node.lineno}"
            if last == "import_module" and not isinstance(node.args[0], ast.Constant):
                known = place in ("__init__.py", "config/registry.py", "models/factory.py")
                # A command's and a data set's module, by tables of lgkd; and the losses, the files beside that one.
                own = (place, ast.unparse(node.args[0]))
                inside = {
                    ("cli/app.py", "f'lgkd.cli.{module}'"),
                    ("data/sources/source.py", "f'lgkd.data.sources.{ROWS[info.name].source}'"),
                    ("data/sources/source.py", "f'lgkd.data.sources.{kind.module}'"),
                    ("losses/__init__.py", "f'{__name__}.{_module.name}'"),
                    # The functions of jobs are named by the code that starts them, never by a file.
                    ("runner/workers.py", "module"),
                }
                assert known or own in inside, f"{place}:{node.lineno}"
            seen.add(name)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
        risky = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy", "code"}
        assert not modules & risky, f"{place} imports {modules & risky}"
    assert {"np.load", "importlib.import_module", "subprocess.run"} <= seen  # the walk sees them where they are


# The page


def test_every_test_that_the_page_names_is_there() -> None:
    tests = CHECKOUT / "tests"
    page = (tests.parent / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)`", page)
    written = {
        name for path in tests.rglob("test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert len(named) > 35
    assert not [name for name in named if name not in written]
    for row in page.splitlines():  # every promise names a test
        if row.startswith("|") and not row.startswith(("|---", "| what")):
            assert "`test_" in row, row


def test_the_numbers_on_the_page_are_those_of_the_code() -> None:
    page = (PACKAGE.parent / "SECURITY.md").read_text(encoding="utf-8")
    assert f"at most {yaml_io.MAX_BYTES:,} bytes, {yaml_io.MAX_DEPTH} levels and {yaml_io.MAX_NODES:,} keys" in page
    assert f"up to {pretrained.MAX_BYTES // 2**30} GiB" in page
    assert all(f"`{name}`" in page for name in runs._VARIABLES) and len(runs._VARIABLES) == 4
    shown = {"PNG", "JPEG", "BMP", "GIF", "TIFF", "WebP", "PPM", "AVIF", "HEIC"}
    assert {name.upper() for name in shown} == {*image_formats._ALWAYS, "AVIF", "HEIC"} and all(
        name in page for name in shown
    )
