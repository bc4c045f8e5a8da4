"""The call that began a run, read again from its folder by those who resume it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lgkd.config.trackers import is_here
from lgkd.errors import InputError, TakenError
from lgkd.models.trust import check_named_in
from lgkd.runner.options import Options, are_saved_options
from lgkd.runs.folder import RECIPE, RUN, describe, has_checkpoint, is_finished

# What a run's folder may ask of those who resume it: nothing that leads elsewhere than into that folder.
_CALL: dict[str, Callable[[Any], bool]] = {
    "model_options": lambda value: isinstance(value, dict),
    "teachers": lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
    "taps": lambda value: isinstance(value, list | None),
    "replace": lambda value: isinstance(value, bool),
    "options": are_saved_options,
}


def call_of(place: Path, info: Mapping[str, Any]) -> dict[str, Any]:
    """What an unfinished run was asked for: `model_options`, `teachers`, `taps`, `replace` and `options`.

    Args:
        place: the run's folder.
        info: its run.json.

    Raises:
        TakenError: the run is finished.
        InputError: it was stopped before anything was kept, or started from objects made in Python, its run.json is
            damaged, or it names code that nobody else has named, see `lgkd.models.trust`.
    """
    if is_finished(place):
        raise TakenError(
            f"{place} is finished ({describe(info)}); there is nothing to go on with; `lgkd evaluate` looks at it"
        )
    if not (place / RECIPE).is_file() and not has_checkpoint(place):
        raise InputError(
            f"{place} was stopped before its {RECIPE} was written, so that there is nothing to go on with; repeat the "
            "command that began it"
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
    return call


def trackers_again(before: Sequence[str], options: Options) -> list[Any]:
    """Those that a run had and those that are asked for now; one that this machine lacks is no reason to stop."""
    say = options.get("say") or (lambda _: None)
    given = list(options.get("track") or ())
    for name in before:
        if not is_here(name):
            say(f"the run had the tracker {name}, which is not installed here; it goes on without it")
        elif name not in given:
            given.append(name)
    return given
