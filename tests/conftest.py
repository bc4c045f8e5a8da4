"""What every test stands on: a store of its own, one thread, small models and images that need nothing."""

import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests import GOLDEN

# For what a test starts and what is computed ahead of it, too; read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch
from torch import Tensor, nn

from lgkd.cli.app import COMMANDS
from lgkd.config import registry
from lgkd.distillation.tasks import Batch
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.factory import create_student
from lgkd.models.teacher import Teacher
from tests.support import raised, unrendered  # noqa: F401
from tests.support.forking import Nursery
from tests.support.small import World, the_world

# A shell that starts the tests in the background has them ignore Ctrl-C, which some of them send to themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test asserts a time: a busy machine is no reason to fail.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    """Record the errors of all processes of a session; the controller of several makes the folder."""
    if raised.VARIABLE not in os.environ:
        os.environ[raised.VARIABLE] = tempfile.mkdtemp(prefix="lgkd-errors-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(raised.VARIABLE), ignore_errors=True))
    raised.record_errors()
    # The order of `pytest_collection_modifyitems`, and not by the number of tests, which says little of their length;
    # those on the stand-in keep the latter: launches are counted in a process in which nothing was compiled before.
    config.option.loadscopereorder = "standin" in config.option.markexpr
    os.fsync = lambda handle: None  # no test outlives a loss of power; fifty a run would wait for the disk


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests on the stand-in device out of every selection that does not name them; order those of workers.

    A worker that ends with a long file works alone meanwhile, so files with slow tests are begun first.
    """
    if "standin" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("standin")])
        items[:] = [item for item in items if not item.get_closest_marker("standin")]
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a session of the whole suite in which some error of lgkd was made at no place, or had no proper message."""
    if raised.is_whole_suite(session.config) and raised.problems():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Name the places at which no test had an error made, and the messages without their parts."""
    if raised.is_whole_suite(config) and raised.problems():
        terminalreporter.section("errors that no test raises, or whose message lacks a part", red=True)
        for problem in raised.problems():
            terminalreporter.line(problem)


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Paths for stores, one after another, none of which exists."""
    root = tmp_path_factory.mktemp("stores")
    return (root / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, stores: Iterator[Path]) -> None:
    """No test sees or touches the user's teachers and data.

    The store is in the test's folder if it has one; to make one for every test would take as long as many of them.
    """
    has_folder = "tmp_path" in request.fixturenames
    store = request.getfixturevalue("tmp_path") / "lgkd-home" if has_folder else next(stores)
    monkeypatch.setenv("LGKD_HOME", str(store))


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches for the network; those of downloads ask a server of their own and take this back."""
    monkeypatch.setenv("LGKD_OFFLINE", "1")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The number of threads changes the last bits of sums, so that exactness needs it fixed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def own_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that a test registers or imports from a folder of its own is left to the next one."""
    path, modules = list(sys.path), set(sys.modules)
    monkeypatch.setattr(registry, "_REGISTERED", {})
    for name in ("my_terms", "broken_terms"):
        assert name not in modules, f"{name} was left by another test"
    yield
    sys.path[:] = path
    for name in ("my_terms", "broken_terms"):
        sys.modules.pop(name, None)


@pytest.fixture
def golden() -> Callable[[str], Any]:
    """Reads `tests/golden/NAME.json`: {"source": where it comes from, "values": ...}."""

    def read(name: str) -> Any:
        content = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
        assert content["source"], f"{name}.json must say where its numbers come from"
        return content["values"]

    return read


SMALL = {
    # Small images and few blocks, so that a forward takes milliseconds: (image size, options).
    "deit_tiny": (32, {"patch_size": 8, "depth": 3}),
    "pvt_v2_b0": (64, {"depths": (1, 1, 1, 1)}),
    "pit_ti": (64, {"depth": (1, 1, 1)}),
    "convit_tiny": (32, {"patch_size": 8, "depth": 3, "local_up_to_layer": 2}),
}


@pytest.fixture
def small_student() -> Callable[..., tuple[nn.Module, int]]:
    """A small student of one of the four families, and its image size."""

    def make(name: str = "deit_tiny", *, classes: int = 5, **options: Any) -> tuple[nn.Module, int]:
        size, small = SMALL[name]
        torch.manual_seed(1)
        return create_student(name, num_classes=classes, image_size=size, **{**small, **options}), size

    return make


class ConvStudent(nn.Module):
    """A student with everything that a careless forward would change: BatchNorm, dropout, frozen parts."""

    lgkd_taps = ("early", "middle", "late")

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.GELU())
        self.middle = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.5))
        self.late = nn.Sequential(nn.Conv2d(8, 10, 3, stride=2, padding=1), nn.BatchNorm2d(10))
        self.head = nn.Linear(10, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.late(self.middle(self.early(images))).mean(dim=(2, 3)))


@pytest.fixture
def conv_student() -> ConvStudent:
    torch.manual_seed(2)
    return ConvStudent()


@pytest.fixture
def teacher() -> Teacher:
    """A ResNet-8 for 32 px whose BatchNorm statistics are those of no batch in particular."""
    torch.manual_seed(3)
    model = CifarResNet(8, 5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 1.5)
    return Teacher(model, image_size=32)


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """Random images and labels, the same at every call."""

    def make(size: int | tuple[int, int] = 32, *, count: int = 4, classes: int = 5, seed: int = 4) -> Batch:
        height, width = (size, size) if isinstance(size, int) else size
        chance = torch.Generator().manual_seed(seed)
        images = torch.randn(count, 3, height, width, generator=chance)
        return Batch(images, torch.randint(0, classes, (count,), generator=chance))

    return make


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Generated pictures, a teacher, a guided and an unguided student; made once, only read."""
    return the_world(tmp_path_factory)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Processes in which a training begins at once."""
    commands = sorted({f"lgkd.cli.{module}" for module, _ in COMMANDS.values()})
    libraries = ("matplotlib.pyplot", "scipy.stats", "sklearn.datasets")
    made = Nursery("lgkd.api", *commands, *libraries, "tests.support.training", "tests.support.unrendered")
    yield made
    made.close()


@pytest.fixture
def here(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and the world's store, which is only read."""
    monkeypatch.setenv("LGKD_HOME", str(world.home))
    monkeypatch.chdir(tmp_path)
    return tmp_path
