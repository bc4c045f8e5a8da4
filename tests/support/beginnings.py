"""Every command that makes a folder, small enough to be killed in hundreds of places, and what it must leave."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from lgkd._internal.locks import LOCK
from lgkd.runs.folder import is_finished
from tests.support.small import DISTILL, QUICK, TINY, TRAIN, World

TEACH = ["train-teacher", "resnet8", "PICTURES", *QUICK, "--image-size", "16", "--quiet", "--out", "OUT"]
CACHE = ["cache-teacher", "--student", "deit_tiny", *TINY, "--teacher", "resnet8", "--dataset", "PICTURES"]
COMMANDS = {
    "train": [*TRAIN, "--dataset", "PICTURES", "--out", "OUT"],
    "train --seeds": [*TRAIN, "--dataset", "PICTURES", "--seeds", "0,1", "--epochs", "1", "--out", "OUT"],
    "train-teacher": TEACH,
    "train-teacher --replace": [*TEACH, "--seed", "1", "--replace"],
    "distill": [*DISTILL, "--dataset", "PICTURES", "--out", "OUT"],
    "cache-teacher": [*CACHE, "--views", "2", "--device", "cpu", "--quiet", "--out", "OUT"],
    "inspect": ["inspect", "GUIDED", "--dataset", "PICTURES", "--most", "32", "--device", "cpu", "--out", "OUT"],
    "export": ["export", "GUIDED", "--format", "safetensors", "--quiet", "--out", "OUT"],
    "reproduce": ["reproduce", "tiny", "--seeds", "0", "--quiet", "--out", "OUT"],
    "quickstart": ["quickstart", "--seeds", "1", "--epochs", "1", "--quiet", "--out", "OUT"],
}
"""As typed, but for the places: PICTURES, GUIDED (a finished run) and OUT. `reproduce` runs an experiment of tests."""

LEFT = re.compile(r"\..*(?:\.tmp|-[0-9a-f]{16}|\.old|\.new|\.part|\.lock)|.*\.tmp|.*\.old")
"""Names of what only a killed process leaves."""


@dataclass(frozen=True)
class Place:
    """Where one command is run: a folder of its own with a store of its own.

    Attributes:
        name: of the command.
        root: the folder; all else lies below it.
    """

    name: str
    root: Path
    world: World

    @classmethod
    def make(cls, name: str, root: Path, world: World, *, decoded: bool = False) -> "Place":
        """Lay out a place; the world's teacher is in its store, unless the command makes it.

        Args:
            name: of the command.
            root: a new folder.
            world: has the pictures, a teacher and runs.
            decoded: whether the store has the images decoded already, so that the command's folder is begun at once.
        """
        root.mkdir(parents=True)
        made = cls(name, root, world)
        if decoded:
            shutil.copytree(world.home / "cache", made.home / "cache")
        if name != "train-teacher":
            shutil.copytree(world.home / "teachers", made.home / "teachers")
        return made

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def words(self) -> list[str]:
        """The command."""
        world = self.world
        places = {"PICTURES": str(world.pictures), "GUIDED": str(world.guided_run), "OUT": str(self.out)}
        return [places.get(word, word) for word in COMMANDS[self.name]]

    @property
    def dying(self) -> list[str]:
        """What stands between `python -m tests.support.dying N` and the command."""
        return [str(self.root), *self.words]

    def is_done(self) -> bool:
        """Whether the command has nothing more to do, so that it says that its folder is taken."""
        if self.name == "export":
            return (self.out / "export.json").is_file()
        if self.name == "quickstart":
            return (self.out / "results.json").is_file() and not (self.out / "quickstart.json").is_file()
        return is_finished(self.out)

    def left(self) -> list[str]:
        """What killed processes have left, by path; but for the lock of one that had finished its run."""
        below = [path for path in self.root.rglob("*") if LEFT.fullmatch(path.name)]
        left = [path for path in below if path.name != LOCK or not is_finished(path.parent)]
        return sorted(str(path.relative_to(self.root)) for path in left)
