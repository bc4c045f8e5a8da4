"""Training options of the Python API, and their selection for `lgkd resume`. No torch."""

from collections.abc import Callable, Mapping, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any, Final

from lgkd.config.options import CommandOptions, Option, read_options
from lgkd.config.trackers import INSIDE
from lgkd.data.groups import Groups
from lgkd.runner.timm_teacher import PRETRAINED
from lgkd.training.callbacks import Callback


class Options(CommandOptions, total=False):
    """Declare the options shared by `train_teacher`, `train` and `distill`, and by the command line."""

    # fmt: off
    watchers: Annotated[Sequence[Callback], Option("callbacks of the training.")]
    progress: Annotated[Callable[[int, int], None] | None, Option(
        "called with (done, total) images while a data set is decoded.")]
    downloading: Annotated[Callable[[str, int, int], None] | None, Option(
        "called with (name, done, total) bytes while a file of it is downloaded.")]
    say: Annotated[Callable[[str], None] | None, Option("called with messages for the user.")]
    # fmt: on


OPTIONS: Final = read_options(Options)
"""Map every option's name to its description, in the order of `--help`."""


def _documented() -> str:
    lines = [f"    {name}: {option.about}" for name, option in OPTIONS.items()]
    return "\n".join([cleandoc(Options.__doc__ or ""), "", "Attributes:", *lines, ""])


Options.__doc__ = _documented()


def saved_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Select the options that run.json keeps for `lgkd resume`, as JSON values.

    Paths become absolute. Trackers that send elsewhere have to be named again: a folder that was passed on must not
    start them.
    """
    saved = {name: options[name] for name, option in OPTIONS.items() if option.kept and name in options}
    if saved.get("cached") is None:
        saved.pop("approximate", None)
    for name, value in saved.items():
        if OPTIONS[name].kind is Path and value is not None:
            saved[name] = str(Path(value).expanduser().resolve())
    if (weights := saved.get("teacher_weights")) is not None:
        listed = [weights] if isinstance(weights, str | Path) else weights
        places = [one if one == PRETRAINED else str(Path(one).expanduser().resolve()) for one in listed]
        saved["teacher_weights"] = places or None
    if saved.get("stored_side") is not None:
        saved["stored_side"] = str(saved["stored_side"])
    if (groups := Groups.parse(saved.get("groups"))) is not None:
        saved["groups"] = groups.text
    saved["track"] = [one for one in saved.get("track") or () if isinstance(one, str) and one in INSIDE] or None
    return {name: value for name, value in saved.items() if value is not None}


def are_saved_options(options: Any) -> bool:
    """Check options of a run.json: names and types that `saved_options` writes, and trackers that stay inside."""
    return (
        isinstance(options, dict)
        and all(name in OPTIONS and OPTIONS[name].kept and OPTIONS[name].fits(one) for name, one in options.items())
        and all(name in INSIDE for name in options.get("track", ()))
    )
