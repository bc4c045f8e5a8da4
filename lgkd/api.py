"""What the command line and notebooks call: train a teacher, a student alone, a guided student; look at runs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn

from lgkd.build import is_convolutional, load_trained_teacher, make_test_batches, prepare_data
from lgkd.cached.folder import Storage
from lgkd.caching import Cached, Wanted, cache_features
from lgkd.data.catalogue import CATALOGUE
from lgkd.data.check import CheckReport, check_dataset_images
from lgkd.data.images import DataSet
from lgkd.errors import InputError, LgkdError, MissingError, TakenError
from lgkd.importing import import_teacher
from lgkd.job import Job
from lgkd.models.factory import create_model, create_student, create_teacher
from lgkd.models.frozen import Teacher
from lgkd.models.trust import check_named_in, trust
from lgkd.options import Options, Run
from lgkd.runs import RECIPE, RUN, STUDENT, STUDENT_WEIGHTS, describe, read_metrics, read_run, read_student
from lgkd.scoring import Scores, score
from lgkd.trainer.precision import choose_device
from lgkd.weights import fill, load_weights

__all__ = [
    "Cached",
    "CheckReport",
    "Options",
    "Run",
    "cache_teacher",
    "check",
    "create_student",
    "create_teacher",
    "distill",
    "evaluate",
    "import_teacher",
    "load_run",
    "load_student",
    "load_teacher",
    "resume",
    "train",
    "train_teacher",
]

_ASKED_AGAIN: dict[str, Any] = {
    **dict.fromkeys(("fraction", "val_fraction", "extra_share"), int | float),
    **dict.fromkeys(("images_per_class", "subset_seed", "seed"), int),
    **dict.fromkeys(("extra", "device"), str),
    **dict.fromkeys(("deterministic", "offline", "compile", "cuda_graphs", "approximate"), bool),
    "cached": list,
}
# What a run's folder may ask of those who resume it: nothing that leads elsewhere than into that folder.
_CALL: dict[str, Callable[[Any], bool]] = {
    "model_options": lambda value: isinstance(value, dict),
    "teachers": lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
    "taps": lambda value: isinstance(value, list | None),
    "replace": lambda value: isinstance(value, bool),
    "options": lambda value: (
        isinstance(value, dict)
        and all(key in _ASKED_AGAIN and isinstance(one, _ASKED_AGAIN[key]) for key, one in value.items())
    ),
}


def train_teacher(
    teacher: str = "resnet56",
    dataset: str | Path | DataSet = "cifar100",
    *,
    teacher_options: Mapping[str, Any] | None = None,
    replace: bool = False,
    **options: Unpack[Options],
) -> Run:
    """Train a teacher and keep it, with its card, in the user's store.

    `load_teacher(name, dataset=...)` and `distill(teacher=name)` find it there. One that was trained
    on a part of the images is kept beside the one that saw all of them.

    Args:
        teacher: as `lgkd teachers` lists them, `timm:NAME` or `package.module:factory`.
        dataset: a name, a folder of images, or a loaded `DataSet`.
        teacher_options: reach the constructor.
        replace: exchange a teacher of that name that is already in the store.

    Raises:
        TakenError: the store has such a teacher already, and `replace` is False.
    """
    trust(teacher)
    return Job("teacher", teacher, teacher_options, dataset, {"recipe": "teacher", **options}).run(replace=replace)


def train(
    student: str | nn.Module = "pvt_v2_b0",
    dataset: str | Path | DataSet = "cifar100",
    *,
    student_options: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> Run:
    """Train a student without a teacher: the baseline. Its recipe is that of `distill` less the guide.

    Args:
        student: as `lgkd students` lists them, `timm:NAME`, `package.module:factory`, or a module.
        dataset: a name, a folder of images, or a loaded `DataSet`.
        student_options: reach the constructor.
    """
    trust(student)
    return Job("student", student, student_options, dataset, {"recipe": "supervised", **options}).run()


def distill(
    student: str | nn.Module = "pvt_v2_b0",
    teacher: str | Teacher | Sequence[str | Teacher] = "resnet56",
    dataset: str | Path | DataSet = "cifar100",
    *,
    taps: Sequence[str] | None = None,
    student_options: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> Run:
    """Train a student that a frozen teacher guides, or several.

    Args:
        student: as `lgkd students` lists them, `timm:NAME`, `package.module:factory`, or a module.
        teacher: the name of a trained teacher of that data set, or a `Teacher`; or a list of these, each with its
            own size, normalisation and layers.
        dataset: a name, a folder of images, or a loaded `DataSet`.
        taps: layers of the student, as many as the teacher has; its first, middle and last block if
            not given.
        student_options: reach the constructor.

    Raises:
        MissingError: no such teacher is trained for the data set; holds the command that trains it.
    """
    job = Job("student", student, student_options, dataset, {"recipe": "locality-guidance", **options})
    several = isinstance(teacher, Sequence) and not isinstance(teacher, str)
    teachers: list[str | Teacher] = [*teacher] if several else [teacher]  # type: ignore[list-item, misc]
    trust(student, *teachers)
    return job.run(teachers=teachers, taps=taps)


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
    """Write down what a teacher says of every training image, so that `distill(cached=...)` need not run it.

    Args:
        student, teacher, dataset, taps, student_options, options: as for the `distill` that it is for. Of the student
            only the size of its images counts; any other of that size can be trained from the cache.
        views: augmented views of each image, which the training shows in turn, one an epoch; `view.fixed` of the
            recipe, or 10, if not given.
        replay: cache each image once, whole; crop and mirror are replayed on the maps.
        storage: "fp16" or "fp32".
        max_gb: size in 10^9 bytes above which nothing is written.
        folder: of the cache; by default one in the store, where `cached="auto"` finds it.
        caching: called with (done, total) views of images.

    Returns:
        The caches, one for each teacher; those that lay ready are not made again.
    """
    job = Job("student", student, student_options, dataset, {"recipe": "locality-guidance", **options})
    place = Path(folder).expanduser() if folder is not None else None
    wanted = Wanted(views, replay, storage, place, max_gb, caching)
    teachers = [teacher] if isinstance(teacher, str | Teacher) else list(teacher)
    trust(student, *teachers)
    return cache_features(job, teachers, wanted, taps=taps)


def resume(folder: str | Path, **options: Unpack[Options]) -> Run:
    """Go on with a run that was stopped, from its last good checkpoint.

    Args:
        folder: of the run; run.json and recipe.yaml say what is trained.
        options: only `max_time`, `force`, `device`, `data_dir`, `watchers`, `progress` and `say` make sense here.

    Raises:
        TakenError: the run is finished, or data, recipe or versions differ from when it began.
        InputError: no run lies there, or it was started from objects made in Python; repeat that call instead. Or the
            folder names code that nobody else has named, see `lgkd.models.trust`.
    """
    place = Path(folder)
    info = read_run(place)
    if info["status"] == "finished":
        raise TakenError(
            f"{place} is finished ({describe(info)}); there is nothing to go on with; `lgkd evaluate` looks at it"
        )
    call = info.get("call")
    if not isinstance(call, dict):
        raise InputError(
            f"{place} was started in Python from objects that have no name; repeat that call with out={str(place)!r}"
        )
    wrong = [key for key, fits in _CALL.items() if key not in call or not fits(call[key])]
    if wrong:
        raise InputError(
            f"{place / RUN} lacks a proper call.{wrong[0]}; it is damaged or something else, repeat the command that "
            "began it"
        )
    check_named_in(place / RUN, info["student"]["name"])
    about = info["dataset"]
    chosen: Options = {
        "recipe": place / RECIPE,
        "data_dir": about["data_dir"],
        "out": place,
        **call["options"],
        **options,
    }
    role: Literal["teacher", "student"] = "teacher" if info["kind"] == "teacher" else "student"
    dataset = about["path"] or about["name"]
    job = Job(role, info["student"]["name"], call["model_options"], dataset, chosen)
    return job.run(teachers=call["teachers"], taps=call["taps"], replace=bool(call["replace"]))


def check(dataset: str | Path | DataSet, *, data_dir: str | Path | None = None, offline: bool = False) -> CheckReport:
    """Look at every image of a data set before training on it.

    Args:
        dataset: a name, a folder of images, or a loaded `DataSet`.
        data_dir: where a named data set lies.
        offline: download nothing.

    Returns:
        Counts, sizes, broken and odd files, copies and leaks; `problems` keep a training from starting,
        `remarks` do not.

    Raises:
        InputError: there is no such data set; MissingError: it is not where it was looked for.
    """
    return check_dataset_images(dataset, data_dir=data_dir, offline=offline)


def load_teacher(name: str, dataset: str | Path = "cifar100", *, subset: str | None = None) -> Teacher:
    """A trained teacher: frozen, with its image size, normalisation, taps and card.

    Args:
        name: what it was trained as.
        dataset: the data set it was trained on.
        subset: which part of it, in the words of its card, where it was not all.

    Raises:
        MissingError: there is none; the message holds the command that trains it.
    """
    trust(name)
    return load_trained_teacher(name, dataset, subset=subset)


def load_run(folder: str | Path, *, model: nn.Module | None = None) -> Run:
    """A finished run from its folder; `model` as for `load_student`."""
    place = Path(folder)
    info = read_run(place)
    return Run(load_student(place, model=model), read_metrics(place), place, info)


def load_student(folder: str | Path, *, model: nn.Module | None = None) -> nn.Module:
    """The trained student of a run, in eval mode, on the CPU.

    Args:
        folder: a run's folder; student.json and student.safetensors are read, nothing else.
        model: an untrained model to fill, for runs of a module that was handed over in Python.

    Raises:
        InputError: no finished run lies there, or its weights do not fit; or it names code that nobody else has
            named, see `lgkd.models.trust`.
    """
    place = Path(folder)
    info = read_student(place)
    if model is None:
        if info["name"] is None:
            raise InputError(
                f"{place} is the run of a {info['class']} made in Python; hand one over as "
                "load_student(folder, model=...) to fill it with the trained weights"
            )
        check_named_in(place / STUDENT, info["name"])
        with torch.random.fork_rng(devices=[]):
            model = create_model(
                info["name"],
                num_classes=info["num_classes"],
                image_size=(info["image_size"][0], info["image_size"][1]),
                options=info["options"],
            )
    fill(model, load_weights(place / STUDENT_WEIGHTS, info["weights_sha256"]), str(place / STUDENT_WEIGHTS))
    return model.eval()


def evaluate(
    run: str | Path | Run,
    *,
    dataset: str | Path | DataSet | None = None,
    data_dir: str | Path | None = None,
    device: str | None = None,
    model: nn.Module | None = None,
) -> Scores:
    """Score a trained student on the test split: accuracy, calibration, agreement with its teacher.

    Args:
        run: a run or its folder.
        dataset: another data set of the same classes; by default the one it was trained on.
        data_dir: where a named data set lies.
        device: "cpu", "cuda" or "cuda:N".
        model: as for `load_student`.

    Raises:
        InputError: no finished run lies there, or the data set has other classes.
        MissingError: its data set is not where it was.
    """
    folder = run.folder if isinstance(run, Run) else Path(run)
    info, about = read_run(folder), read_student(folder)
    if dataset is None:
        dataset, data_dir = _data_of(info, folder), data_dir or info["dataset"]["data_dir"]
    data = prepare_data(dataset, normalize="imagenet", data_dir=data_dir)
    if list(data.classes) != about["classes"]:
        raise InputError(
            f"{folder} knows {len(about['classes'])} classes, {data.source} has {len(data.classes)} and they differ; "
            "evaluate on a data set with the same classes"
        )
    chosen = choose_device(device)
    student = (run.student if isinstance(run, Run) else load_student(folder, model=model)).to(chosen)
    mean, std = tuple(about["mean"]), tuple(about["std"])
    size = (about["image_size"][0], about["image_size"][1])
    batches = make_test_batches(
        data.test, image_size=size, mean=mean, std=std, interpolation=about["interpolation"], device=chosen
    )
    # With the number format of the training, on the same kind of device, the figure is that of run.json.
    same_device = torch.device(chosen).type == torch.device(info["device"]).type
    try:
        return score(
            student,
            batches,
            precision=info["precision"] if same_device else "fp32",
            channels_last=is_convolutional(student),
            other=_teacher_of(info, mean, std, chosen),
        )
    finally:
        student.to("cpu")


def _data_of(info: Mapping[str, Any], folder: Path) -> str | Path:
    """The name or folder of the data that a run was trained on."""
    name, path = info["dataset"]["name"], info["dataset"]["path"]
    if path is None and name not in CATALOGUE:
        raise InputError(f"{folder} was trained on {name}, loaded in Python; say what to evaluate on with dataset=")
    if path is not None and not Path(path).is_dir():
        raise MissingError(f"the data that {folder} was trained on is not at {path} any more; name it with --dataset")
    return Path(path) if path is not None else str(name)


def _teacher_of(
    info: Mapping[str, Any], mean: Sequence[float], std: Sequence[float], device: str
) -> Callable[[Tensor], Tensor] | None:
    """The run's teacher as a function of the student's images, if it is still at hand."""
    if not info.get("teacher") or not info["teacher"].get("name"):
        return None
    try:
        teacher = load_trained_teacher(
            info["teacher"]["name"], info["dataset"]["name"], subset=info["teacher"].get("subset")
        ).to(device)
    except LgkdError:
        return None
    if teacher.card is None or teacher.card.weights_sha256 != info["teacher"]["sha256"]:
        return None
    ours = torch.tensor(mean, device=device).view(3, 1, 1), torch.tensor(std, device=device).view(3, 1, 1)
    return lambda images: teacher(teacher.view(images, *ours))
