"""Files that name a function of Python's as the model they are of: none may be called because a file says so."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lgkd.models.teacher_store import CARD
from lgkd.runs.folder import RUN, STUDENT
from tests.support.manifests import reseal
from tests.support.small import DISTILL
from tools.torture.arena import Arena
from tools.torture.inside import expect_words
from tools.torture.parts import Trials, expect, part
from tools.torture.pickles import Program, at_desk, make_desk

Called = tuple[str, dict[str, Any]]


def callable_by_name(desk: Path, canary: Path) -> dict[str, Called]:
    """Functions that make the canary when they are called as a model would be made, and their options."""
    line = f"open({str(canary)!r}, 'w').close()"
    (desk / "evil.py").write_text(f"{line}\ndef net(**_): ...\n")
    torch.save(Program(canary), desk / "evil.pt")
    return {
        "a command of the system": ("os:system", {"command": f"touch {canary}"}),
        "another process": ("subprocess:getoutput", {"cmd": f"touch {canary}"}),
        "a script": ("runpy:run_path", {"path_name": str(desk / "evil.py")}),
        "a pickle": ("torch:load", {"f": str(desk / "evil.pt"), "weights_only": False}),
        "a module of the working folder": ("evil:net", {}),
    }


def name_in(desk: Path, file: str, name: str, options: dict[str, Any]) -> list[str]:
    """Puts a name and its options into one of the desk's files; returns the command that reads it."""
    where = next(desk.glob(file))
    value = json.loads(where.read_text())
    if where.name == RUN:
        value["student"] |= {"name": name, "options": options}
        value["call"]["model_options"] = options
    else:
        value |= {"architecture" if where.name == CARD else "name": name, "options": options}
    where.write_text(json.dumps(value))
    reseal(where.parent)
    return READ[file](desk)


READ: dict[str, Callable[[Path], list[str]]] = {
    f"run/{STUDENT}": lambda desk: ["evaluate", str(desk / "run")],
    f"paused/{RUN}": lambda desk: ["resume", str(desk / "paused"), "--quiet"],
    f"home/teachers/*/*/{CARD}": lambda desk: [
        *DISTILL, "--dataset", str(desk / "pictures"), "--out", str(desk / "new"),
    ],
}  # fmt: skip
"""Files that name a model, and who makes one of it."""


@part("factories", "R10", "a run or a card that names a function as its model does not get it called; code 2", 30)
def factories(arena: Arena, trials: Trials) -> None:
    model = arena.new("desk")
    make_desk(arena, model)
    canary = arena.root / "canary"
    while trials.left():
        file = trials.draw.choice(list(READ))
        desk = arena.new("desk")
        shutil.copytree(model, desk)
        what, (name, options) = trials.draw.choice(list(callable_by_name(desk, canary).items()))
        with trials.one(f"{what} in {file}"):
            ended = at_desk(desk, *name_in(desk, file, name, options))
            ran = canary.exists()
            canary.unlink(missing_ok=True)
            expect(not ran, f"{name} was called, since {file} says so")
            expect_words(ended.code, ended.said, [2], name)
        shutil.rmtree(desk)
