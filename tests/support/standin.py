"""The device "standin": host memory under a name of its own, which refuses and counts what a GPU would.

`load()` builds `standin.cpp` (about 20 s of one core, once for a source, a torch and an interpreter) and registers the
device with torch, which lasts as long as the process.
"""

import hashlib
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from filelock import FileLock

NAME = "standin"
fake_cuda_was_here = False
"""True once fake CUDA tensors were made in this process, after which the device cannot be used in it."""
_SOURCE = Path(__file__).with_suffix(".cpp")


class NotBuiltError(RuntimeError):
    """The device cannot be built here."""


def _folder() -> Path:
    """Where the library of this source, torch and interpreter is built: below the user's cache, else in /tmp."""
    told = "\n".join((torch.__version__, sys.version, _SOURCE.read_text(encoding="utf-8")))
    key = hashlib.sha256(told.encode()).hexdigest()[:16]
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        folder = cached / "lgkd-tests" / f"standin-{key}"
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"lgkd-standin-{os.getuid()}-{key}"
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _build(folder: Path) -> Path:
    library = folder / "lgkd_standin.so"
    with FileLock(folder / "build.lock"):
        if library.is_file():
            return library
        from torch.utils.cpp_extension import load

        # ninja's own command is beside the interpreter, which is not always on the path.
        os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
        missing = [name for name in (os.environ.get("CXX", "g++"), "ninja") if shutil.which(name) is None]
        if missing:
            raise NotBuiltError(f"{' and '.join(missing)} not found; the tests of the stand-in device need both")
        attempt = folder / f"attempt-{os.getpid()}"
        attempt.mkdir()
        flags = ["-O1", "-g0", "-Wno-deprecated-declarations"]
        load("lgkd_standin", [str(_SOURCE)], build_directory=str(attempt), extra_cflags=flags, is_python_module=False)
        # A build that is killed leaves an attempt, never a half-written library.
        (attempt / library.name).replace(library)
        shutil.rmtree(attempt, ignore_errors=True)
    return library


@cache
def load() -> str:
    """Register the device with torch; returns its name.

    Raises:
        NotBuiltError: there is no compiler.
    """
    assert not fake_cuda_was_here, "fake CUDA tensors were made in this process; run tests/standin in one of its own"
    library = _build(_folder())
    if not hasattr(torch.ops.standin, "counted"):
        torch.ops.load_library(library)
    torch.utils.rename_privateuse1_backend(NAME)
    torch.ops.standin.register_hooks()
    module = ModuleType(f"torch.{NAME}")
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "mem_get_info": lambda device=None: (2**34, 2**34),
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "_is_in_bad_fork": lambda: False,
        # Draws are those of the CPU's generator, which torch seeds beside this one.
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: None,
        "get_amp_supported_dtype": lambda: [torch.bfloat16, torch.float16],
    }.items():
        setattr(module, name, value)
    torch._register_device_module(NAME, module)
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
    return NAME


class Counts:
    """What was asked of the device within a context.

    Attributes:
        launches: by operation.
        waits: by reason: the host waited there for all that was queued.
        uploads, downloads: copies from and to the host.
    """

    def __init__(self) -> None:
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.uploads = self.downloads = 0

    def summary(self) -> dict[str, int]:
        """The figures that are kept as data."""
        return {
            "launches": self.launches.total(),
            "uploads": self.uploads,
            "downloads": self.downloads,
            "synchronisations": self.waits.total(),
        }


@contextmanager
def counting() -> Iterator[Counts]:
    """Count what is asked of the device inside."""
    counts = Counts()
    torch.ops.standin.reset()
    try:
        yield counts
    finally:
        for what, times in torch.ops.standin.counted().items():
            kind, _, name = what.partition(" ")
            if kind == "launch":
                counts.launches[name] += times
            elif kind == "wait":
                counts.waits[name] += times
            elif kind == "upload":
                counts.uploads += times
            else:
                counts.downloads += times
