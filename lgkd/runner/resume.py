"""Read the call that started a run from its folder, to resume the run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lgkd.config.trackers import is_here
from lgkd.errors import InputError, TakenError
from lgkd.models.trust import check_named_in
from lgkd.runner.initial_weights import recorded_initial
from lgkd.runner.options import Options, are_saved_options
from lgkd.runner.resolve import ResolvedConfig, resolve
from lgkd.runner.selection import has_val
from lgkd.runs.equal_length import read_fitted
from lgkd.runs.folder import RECIPE, RUN, check_free, describe, has_checkpoint, is_finished, read_run
from lgkd.runs.load_student import data_of

# Options that a run's folder may request of a resume: none that lead outside that folder.
_CALL: dict[str, Callable[[Any], bool]] = {
    "model_options": lambda value: isinstance(value, dict),
    "teachers": lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
    "taps": lambda value: isinstance(value, list | None),
    "replace": lambda value: isinstance(value, bool),
    "options": are_saved_options,
}


def saved_call(place: Path, info: Mapping[str, Any]) -> dict[str, Any]:
    """Read the call that started an unfinished run: `model_options`, `teachers`, `taps`, `replace` and `options`.

    Args:
        place: the run's folder.
        info: its run.json.

    Raises:
        TakenError: the run is finished.
        InputError: it was stopped before anything was stored, or started from objects made in Python, its run.json is
            damaged, or it names untrusted code, see `lgkd.models.trust`.
    """
    if is_finished(place):
        raise TakenError(
            f"{place} is finished ({describe(info)}); there is nothing to resume; evaluate it by `lgkd evaluate`, or "
            "train it for more epochs by --extend"
        )
    if not (place / RECIPE).is_file() and not has_checkpoint(place):
        raise InputError(
            f"{place} was stopped before its {RECIPE} was written, so there is nothing to resume; repeat the "
            "command that started it"
        )
    return _checked_call(place, info)


def _checked_call(place: Path, info: Mapping[str, Any]) -> dict[str, Any]:
    call = info.get("call")
    if not isinstance(call, dict):
        raise InputError(
            f"{place} was started in Python from objects that have no name; repeat that call with out={str(place)!r}"
        )
    wrong = [key for key, fits in _CALL.items() if key not in call or not fits(call[key])]
    if wrong:
        raise InputError(
            f"{place / RUN} lacks a proper call.{wrong[0]}; it is damaged or something else, repeat the command that "
            "started it"
        )
    check_named_in(place / RUN, info["student"]["name"])
    return call


def resolve_saved(folder: Path, options: Options, dataset: str | Path | None = None) -> ResolvedConfig:
    """Resolve the training of a stopped run from its folder.

    Args:
        folder: of the run; run.json and recipe.yaml describe the training.
        options: new values of some options, which take precedence.
        dataset: where its images are now; by default where they were. Their fingerprint has to be that of the run.

    Raises:
        MissingError: the images are no longer where they were, and `dataset` is not given.
        TakenError, InputError: as `saved_call`, and as for the training itself.
    """
    info = read_run(folder)
    call = saved_call(folder, info)
    about = info["dataset"]
    chosen: Options = {
        "recipe": folder / RECIPE,
        "data_dir": about["data_dir"],
        "out": folder,
        **call["options"],
        **options,
        "track": resumed_trackers(call["options"].get("track", ()), options),
    }
    source = data_of(info, folder) if dataset is None else dataset
    if about.get("val_images") is None and has_val(source):
        chosen["val_fraction"] = 0  # of an earlier version, which did not use a split val
    parent = call["options"].get("init")
    if gone := parent is not None and has_checkpoint(folder) and not Path(parent).exists():
        chosen["init"], chosen["with_optimizer"] = None, False  # the checkpoint has its weights
    config = resolve(
        "teacher" if info["kind"] == "teacher" else "student",
        info["student"]["name"],
        source,
        chosen,
        model_options=call["model_options"],
        teachers=call["teachers"],
        taps=call["taps"],
        replace=bool(call["replace"]),
    )
    if gone:
        config = replace(
            config.with_options(init=parent, with_optimizer=bool(call["options"].get("with_optimizer"))),
            initial=recorded_initial(info.get("init"), folder / RUN),
        )
    return replace(config, fitted=read_fitted(info))


def resolve_extension(folder: Path, epochs: int, options: Options, dataset: str | Path | None = None) -> ResolvedConfig:
    """Resolve more epochs of a finished run, as a new run that continues from its last checkpoint.

    The recipe is that of the run, with `epochs` and without warm-up: the learning rate starts at its peak again, and
    falls over the new epochs. Order, augmentation and dropout follow the epochs of the run.

    Args:
        folder: of the finished run, which is not changed.
        epochs: more of them.
        options: new values of some options, such as `out`, which take precedence.
        dataset: as for `resolve_saved`.

    Raises:
        InputError: the run is not finished, is a teacher's, or was started from objects made in Python.
        TakenError: the new folder is taken.
    """
    info = _finished(folder)
    if info["kind"] == "teacher":
        raise InputError(
            f"{folder} is a teacher's run, and the store has that teacher; give it more epochs by: lgkd train-teacher "
            f"{info['student']['name']} ... --init {folder} --with-optimizer --replace"
        )
    call = _checked_call(folder, info)
    chosen: Options = {
        "data_dir": info["dataset"]["data_dir"],
        "out": folder.with_name(f"{folder.name}_extended"),
        **call["options"],
        "init": folder,
        "with_optimizer": True,
        "recipe": folder / RECIPE,
        "epochs": epochs,
        "overrides": ["schedule.warmup_epochs=0"],
        **options,
        "track": resumed_trackers(call["options"].get("track", ()), options),
    }
    config = _resolve_student(info, folder, call, chosen, dataset)
    check_free(config.folder)
    return config


def resolve_again(folder: Path, options: Options, dataset: str | Path | None = None) -> ResolvedConfig:
    """Resolve the training of a finished run again, to compute its loss; initial weights, caches and trackers are left
    out.

    Args:
        folder: of the finished run, which is not changed.
        options: new values of some options, which take precedence.
        dataset: as for `resolve_saved`.

    Raises:
        InputError: the run is not finished, is a teacher's, or was started from objects made in Python.
        MissingError: the images or the teacher are no longer where they were.
    """
    info = _finished(folder)
    if info["kind"] == "teacher":
        raise InputError(
            f"{folder} is a teacher's run, expected that of a student; name a run of `lgkd distill` or `lgkd train`"
        )
    call = _checked_call(folder, info)
    left_out: Options = {"init": None, "with_optimizer": False, "cached": None, "track": [], "compile": None}
    chosen: Options = {
        "data_dir": info["dataset"]["data_dir"], "out": folder, **call["options"], **left_out,
        "recipe": folder / RECIPE, **options,
    }  # fmt: skip
    return _resolve_student(info, folder, call, chosen, dataset)


def _finished(folder: Path) -> dict[str, Any]:
    """Read run.json of a finished run.

    Raises:
        InputError: the run is not finished.
    """
    info = read_run(folder)
    if not is_finished(folder):
        raise InputError(f"{folder} is not finished; resume it by: lgkd resume {folder}")
    return info


def _resolve_student(
    info: Mapping[str, Any], folder: Path, call: Mapping[str, Any], chosen: Options, dataset: str | Path | None
) -> ResolvedConfig:
    """Resolve the training of a run's student with other options, on its own images or on `dataset`."""
    return resolve(
        "student",
        info["student"]["name"],
        data_of(info, folder) if dataset is None else dataset,
        chosen,
        model_options=call["model_options"],
        teachers=call["teachers"],
        taps=call["taps"],
    )


def resumed_trackers(before: Sequence[str], options: Options) -> list[Any]:
    """Merge saved and requested trackers; those that are not installed are left out."""
    say = options.get("say") or (lambda _: None)
    given = list(options.get("track") or ())
    for name in before:
        if not is_here(name):
            say(f"the run had the tracker {name}, which is not installed here; it continues without it")
        elif name not in given:
            given.append(name)
    return given
