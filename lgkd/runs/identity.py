"""Decide whether a folder's unfinished run matches the requested one, and lock it for one process."""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lgkd._internal.atomic_io import json_sha256
from lgkd._internal.locks import LOCK, LockedError, locked
from lgkd.config import Recipe, load_recipe
from lgkd.config.options import COMPARED
from lgkd.errors import BusyError, InputError, TakenError
from lgkd.runs.folder import (
    ENV,
    RECIPE,
    RUN,
    describe,
    has_checkpoint,
    package_version,
    read_metrics,
    read_run,
)

# Fields of run.json that determine what a training computes, besides those of options.
_FIELDS = ("kind", "student", "teacher", "more_teachers", "pairs", "dataset", "steps_per_epoch")
_PACKAGES = ("lgkd", "torch", "torchvision", "timm")
# Fields that determine the weights and their shapes: a checkpoint with other values does not fit.
_SHAPES = re.compile(
    r"kind|student\.(name|parameters|options\..+)|dataset\.classes|"
    r"recipe\.guide\.terms\.\d+\.kind|pairs\.\d+\.(student|teacher)_map"
)
_ELSEWHERE = re.compile(
    r"dataset\.(path|data_dir|extra\.path|groups\.table)|init\.(path|resized)|(teacher|more_teachers\.\d+)\.(run|weights)"
)
"""Fields of run.json that may differ between runs of one training: places, and what follows from other fields."""


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Lock a run's folder against other processes; the system releases the lock when this process ends.

    Raises:
        BusyError: another process holds it.
    """
    try:
        with locked(folder / LOCK):
            yield
    except LockedError:
        raise BusyError(
            f"{folder} is locked by another process that trains into it; wait until it ends, or choose another --out"
        ) from None


def check_resumable(
    folder: Path,
    info: Mapping[str, Any],
    recipe: Recipe,
    *,
    force: bool,
    say: Callable[[str], None],
    unknown: Collection[str] = (),
) -> dict[str, Any]:
    """Return the run.json to resume with: the folder's own, if it is of the same training.

    A run without a checkpoint starts again: nothing of it is needed. A run that has measured an epoch is never
    overwritten by another training.

    Args:
        folder: holds an unfinished run.
        info, recipe: of the requested training.
        force: resume although something differs.
        say: called with each difference in that case.
        unknown: dotted keys of `info` and "recipe" that a dry run cannot know, and that are not compared.

    Raises:
        TakenError: something differs; the message names every field with both values. Nothing was touched.
    """
    old = read_run(folder)
    if not has_checkpoint(folder) and not _has_metrics(folder):
        # It stopped before anything was measured: its files are written again.
        return {**info}
    try:
        before = _identity(old, load_recipe(folder / RECIPE), _versions_of(folder))
    except InputError:
        if has_checkpoint(folder):
            raise
        return {**info}
    now = _identity(info, recipe, {name: package_version(name) for name in _PACKAGES})
    changes = differences(_known(before, unknown), _known(now, unknown))
    if changes and not force:
        advice = "Choose another --out to start a new run (its checkpoint does not fit, so --force would not help)"
        if not any(_SHAPES.fullmatch(change.field) for change in changes):
            advice = "Use --force to resume it anyway, or another --out to start a new run"
        raise TakenError(
            f"{folder} holds an unfinished run ({describe(old)}) that differs from this one; nothing was touched. "
            f"{advice}:\n  {lines_of(changes)}"
        )
    for change in changes:
        say(f"resuming although it differs: {change}")
    # `lgkd resume` takes the complete recipe, so only the first command knows its origin.
    kept = {name: old.get(name) for name in ("started", "recipe", "overrides")}
    data = dict(info["dataset"])
    if data["fingerprint"] == old["dataset"].get("fingerprint"):
        data["name"] = old["dataset"]["name"]  # by which its series is compared, wherever the images are now
    return {**info, **kept, "dataset": data, "resumed": old.get("resumed", 0) + 1}


def check_finished_run(
    folder: Path,
    info: Mapping[str, Any],
    recipe: Recipe,
    *,
    say: Callable[[str], None],
    unknown: Collection[str] = (),
) -> dict[str, Any]:
    """Return the run.json of a folder's finished run, if it is of the requested training.

    Args:
        folder: holds a finished run.
        info, recipe: of the requested training.
        say: called with each package version that differs.
        unknown: as for `check_resumable`.

    Raises:
        TakenError: something differs; the message names every field with both values.
    """
    old = read_run(folder)
    before, now = identity(old, load_recipe(folder / RECIPE)), identity(info, recipe)
    changes = differences(_known(before, unknown), _known(now, unknown))
    if changes:
        raise TakenError(
            f"{folder} holds a finished run ({describe(old)}) that differs from this one; nothing was touched. "
            f"Choose another --out to start a new run:\n  {lines_of(changes)}"
        )
    for change in differences(_versions_of(folder), {name: package_version(name) for name in _PACKAGES}):
        say(f"{folder.name} is finished and was made with other packages: {change}")
    return old


def identity(info: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return the settings that determine what a training computes, by dotted keys, without package versions.

    Args:
        info: the content of run.json.
        recipe: complete.
    """
    values = recipe.model_dump(mode="json", exclude={"about", "source", "expect"})
    # Without this setting test images are resized as with the same interpolation named explicitly.
    values["evaluation"]["interpolation"] = recipe.test_interpolation
    defaults = dict.fromkeys(_FIELDS) | COMPARED
    fields = {key: info.get(key, default) for key, default in defaults.items()}
    flat = dict(_flattened({**fields, "recipe": values}))
    return {key: value for key, value in flat.items() if not _ELSEWHERE.fullmatch(key)}


def checkpoint_identity(info: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return the identity that a checkpoint stores: every setting that determines the result, and their digest.

    Args:
        info: the content of run.json.
        recipe: complete.
    """
    settings = json.loads(json.dumps(identity(info, recipe)))
    return {"settings": settings, "digest": json_sha256(settings)}


def check_checkpoint(
    folder: Path, found: Any, wanted: Mapping[str, Any], *, force: bool, say: Callable[[str], None]
) -> None:
    """Check that a checkpoint belongs to the training that would resume from it.

    Args:
        folder: of the checkpoint.
        found: the identity stored in it; without settings in those of earlier versions, which are accepted.
        wanted: the training's, from `checkpoint_identity`.
        force: resume although something differs.
        say: called with each difference in that case.

    Raises:
        TakenError: something differs; the message names every setting with both values.
    """
    settings = found.get("settings") if isinstance(found, Mapping) else None
    if not isinstance(settings, Mapping):
        return
    if found.get("digest") == wanted["digest"] == json_sha256(settings):
        return
    # A setting unknown to the checkpoint came with a later version, whose default is the earlier behaviour.
    changes = differences(settings, {key: value for key, value in wanted["settings"].items() if key in settings})
    if changes and not force:
        raise TakenError(
            f"{folder} was made by another training than {RUN} and {RECIPE} beside it describe; it was not "
            "touched. Take these files, or the checkpoint, from a copy, or use --force to resume from it "
            f"anyway:\n  {lines_of(changes)}"
        )
    for change in changes:
        say(f"resuming although the checkpoint differs: {change}")


def _identity(info: Mapping[str, Any], recipe: Recipe, versions: Mapping[str, Any]) -> dict[str, Any]:
    return identity(info, recipe) | {f"versions.{name}": version for name, version in versions.items()}


def _has_metrics(folder: Path) -> bool:
    """Return whether a run has measured an epoch, as far as can be read."""
    try:
        return bool(read_metrics(folder))
    except InputError:
        return False


def _known(values: Mapping[str, Any], unknown: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not any(f"{key}.".startswith(f"{one}.") for one in unknown)}


def _versions_of(folder: Path) -> dict[str, Any]:
    try:
        packages = json.loads((folder / ENV).read_text(encoding="utf-8"))["packages"]
        return {name: packages.get(name) for name in _PACKAGES}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"{folder / ENV} cannot be read ({error}); it is damaged, start a new run in another --out"
        ) from None


def _flattened(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flattened(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(inner, Mapping) for inner in value):
        for place, inner in enumerate(value):
            yield from _flattened(inner, f"{path}.{place}")
    else:
        yield path, list(value) if isinstance(value, tuple) else value


class Difference(NamedTuple):
    """Describe a setting, by its dotted key, that differs between a stored run and the requested training."""

    field: str
    stored: Any
    wanted: Any

    def __str__(self) -> str:
        return f"{self.field}: was {json.dumps(self.stored)}, now {json.dumps(self.wanted)}"


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[Difference]:
    """Return every key whose values differ, with both; the name of equal images, which may have moved, may differ."""
    pairs = [Difference(key, stored.get(key), wanted.get(key)) for key in {**stored, **wanted}]
    prints = {values.get("dataset.fingerprint") for values in (stored, wanted)}
    moved = len(prints) == 1 and prints != {None}
    return [pair for pair in pairs if pair.stored != pair.wanted and not (moved and pair.field == "dataset.name")]


def lines_of(changes: Iterable[Difference]) -> str:
    """Format differences for the end of a message, one a line."""
    return "\n  ".join(map(str, changes))
