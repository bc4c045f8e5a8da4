"""Provide the functions behind the command line and for notebooks: train, distill, resume, evaluate, export."""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from lgkd.data.checks.report import CheckReport, check_dataset_images
from lgkd.data.dataset import DataSet
from lgkd.deploy.export import Exported, export_run
from lgkd.deploy.inference.classify import classify
from lgkd.deploy.inference.image_files import find_images
from lgkd.deploy.inference.load import open_source
from lgkd.deploy.inference.locate import find_source
from lgkd.deploy.inference.predict import Prediction
from lgkd.deploy.options import MAX_DROP, check_new_or_empty
from lgkd.distillation.teacher_cache.storage import Storage
from lgkd.models.teacher import Teacher
from lgkd.models.trust import trust
from lgkd.runner.build import load_trained_teacher
from lgkd.runner.cache_teacher import Cached, CacheSpec, cache_features
from lgkd.runner.fit_time import train_within_time
from lgkd.runner.loaded_run import evaluate as evaluate
from lgkd.runner.options import Options
from lgkd.runner.resolve import ResolvedConfig, Role, resolve
from lgkd.runner.resume import resolve_extension, resolve_saved
from lgkd.runner.run import Run
from lgkd.runner.runner import Runner
from lgkd.runner.sweep import Series, SweepSpec, Watch, train_all
from lgkd.runs.equal_length import Equal
from lgkd.runs.folder import read_metrics, read_run, read_student
from lgkd.runs.load_student import load_student
from lgkd.training.precision import choose_device


def train_teacher(
    teacher: str = "resnet56",
    dataset: str | Path | DataSet = "cifar100",
    *,
    teacher_options: Mapping[str, Any] | None = None,
    replace: bool = False,
    **options: Unpack[Options],
) -> Run:
    """Train a teacher and store it, with its card, in the user's store.

    `load_teacher(name, dataset=...)` and `distill(teacher=name)` find it there. One that was trained
    on a subset of the images is stored beside the one that saw all of them.

    Args:
        teacher: as `lgkd teachers` lists them, `timm:NAME` or `package.module:factory`.
        dataset: a name, a folder of images, or a loaded `DataSet`.
        teacher_options: passed to the constructor.
        replace: replace a teacher of that name in the store.

    Raises:
        TakenError: the store has such a teacher already, and `replace` is False.
    """
    options.setdefault("recipe", "teacher")
    return train_within_time(_resolve("teacher", teacher, dataset, options, teacher_options, replace=replace))


def train(
    student: str | nn.Module = "pvt_v2_b0",
    dataset: str | Path | DataSet = "cifar100",
    *,
    student_options: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> Run:
    """Train a student without a teacher, as a baseline. Its recipe is that of `distill` without the guide.

    A guide whose terms all read the student alone, such as masked images, stays.

    Args:
        student: as `lgkd students` lists them, `timm:NAME`, `package.module:factory`, or a module.
        dataset: a name, a folder of images, or a loaded `DataSet`.
        student_options: passed to the constructor.
    """
    options.setdefault("recipe", "supervised")
    return train_within_time(_resolve("student", student, dataset, options, student_options))


def distill(
    student: str | nn.Module = "pvt_v2_b0",
    teacher: str | Teacher | Sequence[str | Teacher] = "resnet56",
    dataset: str | Path | DataSet = "cifar100",
    *,
    taps: Sequence[str] | None = None,
    student_options: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> Run:
    """Train a student guided by one or several frozen teachers.

    Args:
        student: as `lgkd students` lists them, `timm:NAME`, `package.module:factory`, or a module.
        teacher: the name of a trained teacher of that data set, or a `Teacher`; or a list of these, each with its
            own size, normalisation and layers.
        dataset: a name, a folder of images, or a loaded `DataSet`.
        taps: layers of the student, as many as the teacher has; its first, middle and last block if
            not given. Or pairs "STUDENT:TEACHER", which name the teacher's layers, too.
        student_options: passed to the constructor.

    Raises:
        MissingError: no such teacher is trained for the data set; the message holds the command that trains it.
    """
    options.setdefault("recipe", "locality-guidance")
    return train_within_time(_resolve("student", student, dataset, options, student_options, teacher, taps))


def train_series(
    student: str = "pvt_v2_b0",
    dataset: str | Path | DataSet = "cifar100",
    *,
    seeds: Sequence[int] = (0, 1, 2),
    student_options: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
    **options: Unpack[Options],
) -> Series:
    """Train a student without a teacher, once with each seed, and compare the runs; as `lgkd train --seeds`.

    Args:
        student: its name; every seed starts with a new one.
        dataset: a name, a folder of images, or a loaded `DataSet`.
        seeds: at least one, each once. Finished ones are kept when the call is repeated.
        student_options: passed to the constructor.
        watch: makes a context manager with the callbacks of a run from its title; see `lgkd.runner.sweep.Watch`.
        options: as for `train`; `out` is the folder of all runs, `max_time` counts for all together. With `folds` every
            seed is trained once for each fold.
    """
    options.setdefault("recipe", "supervised")
    config = _resolve("student", student, dataset, options, student_options, several=True)
    return train_all(SweepSpec(config, tuple(seeds)), watch=watch)


def distill_series(
    student: str = "pvt_v2_b0",
    teacher: str | Teacher | Sequence[str | Teacher] = "resnet56",
    dataset: str | Path | DataSet = "cifar100",
    *,
    seeds: Sequence[int] = (0, 1, 2),
    with_baseline: bool = False,
    equal: Equal = "steps",
    taps: Sequence[str] | None = None,
    student_options: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
    **options: Unpack[Options],
) -> Series:
    """Train a guided student once with each seed; as `lgkd distill --seeds`.

    Args:
        student: its name; every seed starts with a new one.
        teacher, dataset, taps, student_options: as for `distill`.
        seeds: at least one, each once. Finished ones are kept when the call is repeated.
        with_baseline: also train the same student unguided with each seed: the same recipe otherwise.
        equal: with a baseline and `time`: "steps" trains the unguided student for the steps of the guided one,
            "minutes" for as many as fit in the same time.
        watch: makes a context manager with the callbacks of a run from its title; see `lgkd.runner.sweep.Watch`.
        options: as for `distill`; `out` is the folder of all runs, `max_time` counts for all together. With `folds`
            every seed is trained once for each fold, with the fold's own teachers.

    Returns:
        The runs' folders, and their `comparison`: mean, spread, interval, and the gain, paired by seed.

    Raises:
        MissingError: no such teacher is trained for the data set; the message holds the command that trains it.
    """
    options.setdefault("recipe", "locality-guidance")
    config = _resolve("student", student, dataset, options, student_options, teacher, taps, several=True)
    return train_all(SweepSpec(config, tuple(seeds), with_baseline, equal), watch=watch)


def cache_teacher(
    student: str | nn.Module = "pvt_v2_b0",
    teacher: str | Teacher | Sequence[str | Teacher] = "resnet56",
    dataset: str | Path | DataSet = "cifar100",
    *,
    views: int | None = None,
    replay: bool = False,
    storage: Storage = "fp16",
    max_gb: float | None = None,
    folder: str | Path | None = None,
    caching: Callable[[int, int], None] | None = None,
    taps: Sequence[str] | None = None,
    student_options: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> list[Cached]:
    """Cache a teacher's outputs for every training image, so that `distill(cached=...)` need not run it.

    Args:
        student, teacher, dataset, taps, student_options, options: as for the later `distill`. Of the student
            only the image size counts; any other student of that size can be trained from the cache.
        views: augmented views of each image, which the training shows in turn, one per epoch; `view.fixed` of the
            recipe, or 10, if not given.
        replay: cache each image once, whole; crop and mirror are replayed on the maps.
        storage: "fp16" or "fp32".
        max_gb: size in 10^9 bytes above which nothing is written.
        folder: of the cache; by default one in the store, where `cached="auto"` finds it.
        caching: called with (done, total) views of images.

    Returns:
        The caches, one for each teacher; existing ones are reused.
    """
    options.setdefault("recipe", "locality-guidance")
    spec = CacheSpec(views, replay, storage, Path(folder).expanduser() if folder else None, max_gb, caching)
    spec.check_teachers(1 if isinstance(teacher, str | Teacher) else len(teacher))
    config = _resolve("student", student, dataset, options, student_options, teacher, taps)
    return cache_features(Runner(config), spec)


def resume(
    folder: str | Path, *, dataset: str | Path | None = None, extend: int | None = None, **options: Unpack[Options]
) -> Run:
    """Resume a stopped run from its last good checkpoint, or train a finished one for more epochs.

    Args:
        folder: of the run; run.json and recipe.yaml describe the training.
        dataset: where its images are now, if they were moved; they have to be the same images.
        extend: epochs to train a finished run for, in a new folder (`out`, by default its name with `_extended`): from
            its last checkpoint, with the optimiser's state; the learning rate starts again, without warm-up.
        options: only `max_time`, `force`, `device`, `data_dir`, `watchers`, `progress`, `say` and `track` make
            sense here; trackers that wrote into the folder continue without being named.

    Raises:
        TakenError: the run is finished, or data, recipe or versions differ from its start.
        InputError: there is no run, or it was started from objects made in Python; repeat that call instead. Or the
            folder names untrusted code, see `lgkd.models.trust`.
    """
    if extend is not None:
        return Runner(resolve_extension(Path(folder), extend, options, dataset)).run()
    return Runner(resolve_saved(Path(folder), options, dataset)).run()


def check(dataset: str | Path | DataSet, *, data_dir: str | Path | None = None, offline: bool = False) -> CheckReport:
    """Check every image of a data set before training.

    Args:
        dataset: a name, a folder of images, or a loaded `DataSet`.
        data_dir: folder of a named data set.
        offline: download nothing.

    Returns:
        Counts, sizes, broken and unusual files, copies and leaks; `problems` keep a training from starting,
        `remarks` do not.

    Raises:
        InputError: there is no such data set; MissingError: it was not found.
    """
    return check_dataset_images(dataset, data_dir=data_dir, offline=offline)


def load_teacher(name: str, dataset: str | Path = "cifar100", *, subset: str | None = None) -> Teacher:
    """Load a trained teacher: frozen, with its image size, normalisation, taps and card.

    Args:
        name: its name in the store.
        dataset: the data set it was trained on.
        subset: the subset of its training, as in its card, where it was not all.

    Raises:
        MissingError: there is none; the message holds the command that trains it.
    """
    trust(name)
    return load_trained_teacher(name, dataset, subset=subset)


def load_run(folder: str | Path, *, model: nn.Module | None = None) -> Run:
    """Load a finished run from its folder; `model` as for `load_student`."""
    place = Path(folder)
    info = read_run(place)
    return Run(load_student(place, model=model), read_metrics(place), place, info)


def predict(
    source: str | Path | Run,
    images: str | Path | Sequence[str | Path],
    *,
    top_k: int = 3,
    explain: str | Path | None = None,
    device: str | None = None,
    model: nn.Module | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """Classify images, which are resized and normalised as in evaluation; in fp32.

    Args:
        source: a run, its folder, the folder of an export, or a student.onnx or student.safetensors in one.
        images: files, folders (every image at any depth) and patterns such as "photos/*.jpg"; tables and data sets of
            Hugging Face.
        top_k: classes per image, the most likely first.
        explain: a new or empty folder; a PNG per image is written there, with the overlay of what the most likely class
            was read from (an occlusion map).
        device: "cpu", "cuda" or "cuda:N"; an ONNX file always runs on the CPU.
        model: as for `load_student`.
        progress: called with (done, total) images.

    Returns:
        One per file, in order; with the reason for a file that cannot be read, and with the true class of images in
        a labelled folder: one whose sub-folders are all named as classes of the student.

    Raises:
        InputError: there is no student or no image, a file is damaged or not one of lgkd's, or it names untrusted
            code.
        MissingError: an ONNX file is named, and the extra `onnx` is not installed.
        TakenError: the folder to explain in holds something.
    """
    folder = None if explain is None else Path(explain).expanduser()
    if folder is not None:
        check_new_or_empty(folder, "explain=", "to draw to")
    names = [images] if isinstance(images, str | Path) else list(images)
    files = find_images(names, fault=warnings.warn)
    if isinstance(source, Run):
        model = model or _untrained(source)
        source = source.folder
    opened = open_source(find_source(source), device=choose_device(device), model=model)
    return classify(opened, names, files, top_k=top_k, explain=folder, say=warnings.warn, progress=progress)


def export(
    run: str | Path | Run,
    out: str | Path | None = None,
    *,
    formats: Sequence[str] | None = None,
    images: str | Path | Sequence[str | Path] | None = None,
    data_dir: str | Path | None = None,
    opset: int | None = None,
    verify: bool = False,
    max_drop: float = MAX_DROP,
    force: bool = False,
    model: nn.Module | None = None,
    say: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Export a run's student to formats that need no lgkd, with its classes, its preprocessing and a model card.

    Every file is compared with the student on real images; if a logit differs by more than 1e-4, nothing is written.
    Files in fp16 and int8 are judged by their accuracy on the test split instead.

    Args:
        run: a finished run or its folder.
        out: the new folder; by default exports/NAME of the run.
        formats: of "safetensors", "onnx", "onnx-fp16", "onnx-int8" and "torch-export"; all of 32 bits if not given,
            ONNX only where its extra is installed. int8 is calibrated on training images.
        images: images to verify on: files, folders and patterns; by default images of the run's test split.
        data_dir: folder of a named data set.
        opset: version of ONNX's operators; by default that of torch's exporter.
        verify: also measure the accuracy of every file on the run's test split.
        max_drop: points of accuracy that a file in fp16 or int8 may lose, without `force`; else nothing is written.
        model: as for `load_student`.
        say: called with messages for the user.
        progress: called with (done, total) images while a data set is decoded.

    Raises:
        TakenError: something exists there already.
        ModelError: the student cannot be exported to a format, or a copy differs from it or loses accuracy.
        MissingError: the extra is not installed, or the images of the run are not here.
    """
    if isinstance(run, Run):
        model = model or _untrained(run)
        run = run.folder
    wanted_images = [images] if isinstance(images, str | Path) else images
    return export_run(
        Path(run), out, wanted=formats, images=wanted_images, data_dir=data_dir, model=model,
        say=say or (lambda _: None), progress=progress, opset=opset, verify=verify, max_drop=max_drop, force=force,
    )  # fmt: skip


def _resolve(
    role: Role,
    model: str | nn.Module,
    dataset: str | Path | DataSet,
    options: Options,
    model_options: Mapping[str, Any] | None,
    teacher: str | Teacher | Sequence[str | Teacher] = (),
    taps: Sequence[str] | None = None,
    *,
    replace: bool = False,
    several: bool = False,
) -> ResolvedConfig:
    """Resolve a call; the names in it are trusted to import code."""
    listed = isinstance(teacher, Sequence) and not isinstance(teacher, str)
    teachers: list[str | Teacher] = [*teacher] if listed else [teacher]  # type: ignore[list-item, misc]
    trust(model, *teachers)
    return resolve(
        role, model, dataset, options, model_options=model_options, teachers=teachers, taps=taps, replace=replace,
        several=several,
    )  # fmt: skip


def _untrained(run: Run) -> nn.Module | None:
    """Copy the student of a run that was made in Python and has no name, to load weights into."""
    return copy.deepcopy(run.student) if read_student(run.folder)["name"] is None else None
