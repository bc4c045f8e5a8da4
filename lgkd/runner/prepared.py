"""Hold a prepared training: its process, data, models and plan."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from lgkd._internal.distributed import Place
from lgkd.config import Recipe
from lgkd.data.class_balance import ClassBalance
from lgkd.data.loader import TrainLoader
from lgkd.data.prepare import Data
from lgkd.distillation.guide import Guide
from lgkd.distillation.tasks import Lookup
from lgkd.distillation.teacher_cache.serving import Served
from lgkd.models.fake_quantize import restore
from lgkd.training.callbacks import Callback
from lgkd.training.config import Plan


@dataclass(frozen=True)
class Session:
    """Hold the process that trains.

    Attributes:
        process: which of several processes this one is; the first writes for all.
        device: of this process.
        began: `time.monotonic()` at the start of the command, from which `max_time` counts, in seconds.
        watchers: callbacks of the training; none except in the first process.
        say: called with messages for the user; does nothing except in the first process.
    """

    process: Place
    device: str
    began: float
    watchers: tuple[Callback, ...]
    say: Callable[[str], None]

    @property
    def first(self) -> bool:
        """Return True in the process that writes for all."""
        return self.process.rank == 0


@dataclass(frozen=True)
class Prepared:
    """Hold a training that has been checked and built, and has written nothing.

    Attributes:
        recipe: complete; with a cache, its number of views.
        data, student, guides, loader, plan: of the training; there are no guides for a teacher or an unguided student.
        image_size: (height, width) of the student's images, in pixels.
        served: caches that are read instead of running the teachers.
        lookup: finds the teachers' outputs of samples in the caches.
        info: the content of run.json so far.
        balance: class weights and logit adjustment of the classification loss.
    """

    recipe: Recipe
    data: Data
    student: nn.Module
    guides: tuple[Guide, ...]
    loader: TrainLoader
    plan: Plan
    image_size: tuple[int, int]
    served: Served | None
    info: dict[str, Any]
    balance: ClassBalance
    lookup: Lookup | None = None

    def close(self) -> None:
        """Remove the guides' hooks and the rounding of the student's layers."""
        for guide in self.guides:
            guide.remove()
        restore(self.student)
