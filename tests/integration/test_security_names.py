"""What runs, cards and recipes name is not run, not opened and not written to because they name it."""

import builtins
import io
import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lgkd
from lgkd.cli import run
from lgkd.config import load_recipe, parse_recipe
from lgkd.config.validate import recipe_from
from lgkd.errors import InputError, ModelError, RecipeError
from lgkd.models import trust
from lgkd.models.factory import create_model
from tests.support.security import canary as canary
from tests.support.security import desk as desk
from tests.support.security import payloads, rewrite
from tests.support.small import DISTILL, TINY_OPTIONS, TRAIN


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path


EVIL = "open({canary!r}, 'w')\ndef net(num_classes, **_): raise SystemExit\n"


@pytest.fixture
def evil(desk: Path, canary: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working folder that must not be imported; what a file names it by."""
    (desk / "evil_module.py").write_text(EVIL.format(canary=str(canary)))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return "evil_module:net"


@pytest.mark.parametrize("named", ["evil_module:net", "os:system"])
def test_a_run_cannot_name_code_that_evaluating_or_resuming_it_runs(
    desk: Path, canary: Path, evil: str, capsys: pytest.CaptureFixture[str], named: str
) -> None:
    options = {"command": f"touch {canary}"}
    rewrite(desk / "mine" / "student.json", lambda about: about.update(name=named, options=options))
    assert run(["evaluate", "mine"]) == 2
    err = capsys.readouterr().err
    assert f"mine/student.json asks for {named}" in err and f"--use {named.split(':')[0]}" in err
    with pytest.raises(InputError, match="a file alone may not run it"):
        lgkd.load_run(desk / "mine")

    def unfinished(about: dict[str, Any]) -> None:
        about.update(status="running")
        about["student"].update(name=named)
        about["call"].update(model_options=options)

    rewrite(desk / "mine" / "run.json", unfinished)
    assert run(["resume", "mine"]) == 2
    assert f"mine/run.json asks for {named}" in capsys.readouterr().err


@pytest.mark.parametrize("named", ["evil_module:net", "os:system"])
def test_a_card_cannot_name_code_that_using_the_teacher_runs(
    desk: Path, canary: Path, evil: str, capsys: pytest.CaptureFixture[str], named: str
) -> None:
    card = desk / "home" / "teachers" / "pictures" / "resnet8" / "card.json"
    rewrite(card, lambda about: about.update(architecture=named, options={"command": f"touch {canary}"}))
    assert run([*DISTILL, "--dataset", "pictures"]) == 2
    assert f"card.json asks for {named}" in capsys.readouterr().err
    assert run(["teachers"]) == 0
    assert run(["teachers", "resnet8"]) == 0
    assert lgkd.evaluate("mine").agreement is None  # its teacher is not at hand


def test_of_lgkds_own_functions_a_file_may_name_the_quickstarts_student_alone() -> None:
    trust.check_named_in(Path("run.json"), "lgkd.quickstart:small_vit")
    strangers = ("lgkd._internal.atomic_io:remove", "lgkd.quickstart:small_vit.eval", "other:small_vit")
    for name in ("lgkd.quickstart:run", *strangers):
        with pytest.raises(ModelError, match="code outside lgkd's models"):
            trust.check_named_in(Path("run.json"), name)


def test_what_a_person_named_may_be_loaded_again(desk: Path, canary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (desk / "my_own_net.py").write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    layers = nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)\n"
        "    return nn.Sequential(*layers)\n"
    )
    words = ["train", "--student", "my_own_net:net", "--image-size", "16", *TRAIN[TRAIN.index("--epochs") :]]
    assert run([*words, "--dataset", "pictures", "--out", "own", "--epochs", "1"]) == 0, capsys.readouterr().err
    assert lgkd.load_student("own")[3].out_features == 3  # this process was told of it
    trust._TRUSTED.clear()
    assert run(["evaluate", "own"]) == 2
    assert run(["evaluate", "own", "--use", "my_own_net"]) == 0
    trust._TRUSTED.clear()
    model = lgkd.create_student("my_own_net:net", num_classes=3, image_size=16)
    assert lgkd.load_student("own", model=model) is model


@pytest.mark.parametrize("option", ["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"])
def test_options_of_timm_that_read_files_are_none_of_a_model(desk: Path, canary: Path, option: str) -> None:
    (desk / "w.pth").write_bytes(payloads(canary)["torch"])
    with pytest.raises(InputError, match=f"{option} is not an option"):
        create_model("deit_tiny", num_classes=3, image_size=16, options={**TINY_OPTIONS, option: str(desk / "w.pth")})


NONSENSE = [None, -1, 10**30, "x", [], {}]


@pytest.mark.parametrize("name", ["student.json", "run.json"])
def test_nonsense_anywhere_in_a_runs_files_is_told_in_words(desk: Path, name: str, capsys: Any) -> None:
    whole = json.loads((desk / "mine" / name).read_text())
    command = ["evaluate", "mine"] if name == "student.json" else ["resume", "mine", "--quiet", "--max-time", "0"]
    draw = random.Random(5)
    places = sorted(leaves(whole), key=str)
    for path in draw.sample(places, min(len(places), 25)):
        changed = json.loads(json.dumps(whole))
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = draw.choice(NONSENSE)
        changed["status"] = "running"
        (desk / "mine" / name).write_text(json.dumps(changed))
        code = run(command)
        err = capsys.readouterr().err
        assert code in (0, 2, 3, 75) and "fault of lgkd" not in err, (path, inner[path[-1]], err)
    for nonsense in ("[" * 100_000, "", "\x00", "null", '{"format": 1}'):
        (desk / "mine" / name).write_text(nonsense)
        assert run(command) == 2
        assert f"mine/{name}" in capsys.readouterr().err


def test_a_run_cannot_send_what_resuming_it_writes_elsewhere(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def elsewhere(about: dict[str, Any]) -> None:
        about.update(status="running")
        about["call"]["options"].update(out=str(desk / "elsewhere"))

    rewrite(desk / "mine" / "run.json", elsewhere)
    assert run(["resume", "mine"]) == 2
    assert "mine/run.json lacks a proper call" in capsys.readouterr().err
    assert not (desk / "elsewhere").exists()


RECIPE = "trains: student\nguide:\n  terms:\n    - {kind: own, loss: %s, weight: 1.0}\n"


@pytest.mark.parametrize("named", ["evil_module", "evil_module:net", "os:system", "../evil_module.py"])
def test_a_recipe_imports_nothing_whatever_it_names(desk: Path, canary: Path, evil: str, named: str) -> None:
    with pytest.raises(RecipeError, match="no loss is registered as"):
        parse_recipe(RECIPE % json.dumps(named))
    (desk / "mine.yaml").write_text(RECIPE % json.dumps(named))
    assert run([*DISTILL, "--dataset", "pictures", "--recipe", "mine.yaml"]) == 2
    assert "evil_module" not in sys.modules


def test_no_value_of_a_recipe_is_opened_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("secret")
    plain = load_recipe("locality-guidance").model_dump(mode="json")
    opened: list[object] = []
    for module, name in ((builtins, "open"), (io, "open"), (os, "open")):
        real = getattr(module, name)

        def watched(place: object, *more: Any, real: Any = real, **options: Any) -> Any:
            opened.append(place)
            return real(place, *more, **options)

        monkeypatch.setattr(module, name, watched)
    assert (tmp_path / "secret").read_text() == "secret" and len(opened) == 1  # it sees what is opened
    tried = refused = 0
    for path in leaves(plain):
        changed = json.loads(json.dumps(plain))
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = str(tmp_path / "secret")
        tried += 1
        try:
            recipe_from(changed)
        except RecipeError:
            refused += 1
    assert tried > 40 and refused > tried - 5 and len(opened) == 1
