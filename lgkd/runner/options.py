"""What can be chosen of a training, and what it comes to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from torch import nn

from lgkd.config import Recipe
from lgkd.training.callbacks import Callback


class Options(TypedDict, total=False):
    """Options that mean the same in `train_teacher`, `train` and `distill`, and on the command line.

    Attributes:
        data_dir: where a named data set lies.
        recipe: a shipped name, a YAML file, or a `Recipe`.
        epochs, batch_size, image_size, precision: instead of the recipe's.
        compile: whether student, teacher and terms are compiled as one graph; if not given, on a GPU where the
            training is long enough for that to pay.
        cuda_graphs: whether the compiled step is recorded and replayed on a GPU, which pays where batches are small.
        overrides: "a.b=value" each, as `--set`; they win over everything else.
        seed: of weights, order, augmentation and dropout; 0 if not given.
        device: "cpu", "cuda" or "cuda:N"; a GPU if there is one.
        deterministic: on a GPU, only algorithms that give the same bits again; slower. A CPU gives them anyway, at
            an equal number of threads.
        fraction, images_per_class: train on a class-balanced part of the images.
        subset_seed: which part; the same for all seeds unless given.
        extra: a folder CLASS/* of more training images, such as generated ones; its classes are the data set's
            or some of them.
        extra_share: of every batch that comes from `extra`, between 0 and 1; 0.5 if not given. An epoch is one
            pass over the data set's own images.
        val_fraction: hold out this share of every class of the training images, and keep the student
            of the epoch that does best on them; the test split selects nothing.
        leave_out_near_copies: do not train on images that are nearly a test image or an earlier training image,
            as `lgkd check` finds them; the test split stays whole.
        cached: read what the teachers say from caches of `cache_teacher` and do not run them: "auto" for those in
            the store, or a folder for each teacher.
        approximate: serve from a cache what it can follow only approximately, too, such as mixup; the error against
            the teacher itself is said.
        out: the run's folder; by default one under runs/ that is named after the choices.
        offline: download nothing; a data set that is not here is an error.
        max_time: save and raise `Paused` after so many seconds; the same call goes on.
        track: trackers that are told of every epoch: names such as "tensorboard", or objects of your own with a
            `name` and `log(values, step=...)`; docs/trackers.md. One that fails is left out and stops nothing.
        force: go on with an unfinished run although recipe, data or versions differ.
        watchers: told of the training's progress.
        progress: called with (done, total) images while a data set is decoded.
        downloading: called with (name, done, total) bytes while a file of it is downloaded.
        say: called with a sentence that the user should hear.
    """

    data_dir: str | Path | None
    recipe: str | Path | Recipe
    epochs: int | None
    batch_size: int | None
    image_size: int | None
    precision: str | None
    compile: bool | None
    cuda_graphs: bool
    overrides: Sequence[str]
    seed: int
    device: str | None
    deterministic: bool
    fraction: float | None
    images_per_class: int | None
    subset_seed: int
    extra: str | Path | None
    extra_share: float | None
    val_fraction: float | None
    leave_out_near_copies: bool
    cached: str | Path | Sequence[str | Path] | None
    approximate: bool
    out: str | Path | None
    offline: bool
    max_time: float | None
    track: Sequence[Any]
    force: bool
    watchers: Sequence[Callback]
    progress: Callable[[int, int], None] | None
    downloading: Callable[[str, int, int], None] | None
    say: Callable[[str], None] | None


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        student: the trained model (of a teacher's training: the teacher), in eval mode, on the CPU.
        metrics: one row an epoch, as in metrics.csv; the last one is what is reported.
        folder: where everything is kept.
        info: the content of run.json.
    """

    student: nn.Module
    metrics: list[dict[str, float]]
    folder: Path
    info: dict[str, Any] = field(repr=False)

    @property
    def top1(self) -> float:
        """Top-1 accuracy on the test split, 0 to 1, after the last epoch or the one chosen on held-out images."""
        return float(self.info["results"]["test_top1"])
