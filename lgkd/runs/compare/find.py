"""Find finished runs in folders and read the fields that a comparison needs."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lgkd._internal.manifest import MANIFEST, tell_unverified
from lgkd._internal.metric_rules import Headline, headline, headline_of
from lgkd.config import load_recipe
from lgkd.data.names import Subset
from lgkd.errors import InputError
from lgkd.runs.class_results import has_unequal_classes
from lgkd.runs.early_stop import trained_epochs
from lgkd.runs.folder import METRICS, RECIPE, RUN, read_metrics, read_run
from lgkd.runs.identity import identity

_NUMBER = int | float
_OF_A_FOLD = re.compile(
    r"dataset\.(train|test|val)_images|dataset\.near_copies_left_out|steps_per_epoch|"
    r"(teacher|more_teachers\.\d+)\.(sha256|kept_as|subset|test_top1|test_map)"
)
_NEEDED: dict[str, Any] = {
    "epochs": int,
    "dataset": dict,
    "results": dict,
    "results.epoch": int,
    "results.best_epoch_on_the_test_split": dict,
    "results.best_epoch_on_the_test_split.epoch": int,
    "results.training_seconds": _NUMBER,
}


@dataclass(frozen=True)
class Finished:
    """Hold the fields of a finished run that a comparison needs.

    Attributes:
        folder: of the run.
        info: the content of run.json.
        rows: of metrics.csv; the last one is the last epoch.
        identity: the settings that determine the result, by dotted keys, without the seed and what derives from it.
    """

    folder: Path
    info: dict[str, Any] = field(repr=False)
    rows: list[dict[str, float]] = field(repr=False)
    identity: dict[str, Any] = field(repr=False)

    @property
    def seed(self) -> int:
        """Return the seed of weights, order and augmentation."""
        return int(self.info["seed"])

    @property
    def pair(self) -> tuple[int, str]:
        """Return seed and subset; runs equal in both share first weights, batches, augmentation and images."""
        return self.seed, self.info["dataset"].get("subset") or ""

    @property
    def fold(self) -> int | None:
        """Return the fold that it is tested on; None without cross-validation."""
        subset = Subset.parse(self.info["dataset"].get("subset") or "")
        return None if subset is None else subset.fold

    @property
    def headline(self) -> Headline:
        """Return the metric that stands for the result: top-1 accuracy, or mAP of several labels an image."""
        return headline(self.rows[-1])

    @property
    def top1(self) -> float:
        """Return `headline` on the test split after the last epoch, 0 to 1: top-1 accuracy, or mAP."""
        return self.rows[-1][f"test_{self.headline.key}"]

    def metric(self, name: str) -> float | None:
        """Return a metric of the test split after the last epoch, such as "balanced_accuracy"; None if not measured."""
        return self.rows[-1].get(f"test_{name}")

    @property
    def unequal(self) -> bool:
        """Return true if the classes of the test split have unequal numbers of images."""
        return has_unequal_classes(self.info["results"], self.rows[-1])

    @property
    def best(self) -> tuple[float, int]:
        """Return the best `headline` of any epoch, and the epoch: selected on the data it is measured on."""
        found = self.info["results"]["best_epoch_on_the_test_split"]
        return float(found[f"test_{self.headline.key}"]), int(found["epoch"])

    @property
    def chosen(self) -> tuple[float, int] | None:
        """Return `headline` and number of the epoch that is best on held-out images; None where there were none."""
        results = self.info["results"]
        return (
            (float(results[f"test_{self.headline.key}"]), int(results["epoch"])) if results.get("selected_on") else None
        )


def find_runs(places: Iterable[str | Path], say: Callable[[str], None] | None = None) -> list[Finished]:
    """Find the finished runs of folders, each once.

    Args:
        places: folders of runs, or folders that hold several.
        say: called with a message for each unfinished run that is skipped in a folder of several.

    Raises:
        InputError: a folder holds no run, or a run that is not finished.
    """
    found: dict[Path, Finished] = {}
    for place in map(Path, places):
        for folder in _folders(place):
            info = read_run(folder)
            if info["status"] == "finished":
                found.setdefault(folder.resolve(), _read(folder, info))
            elif folder == place:
                raise InputError(f"{place} is not finished; resume it by: lgkd resume {place}")
            elif say is not None:
                say(f"skipped {folder}: it is not finished")
    if not found:
        raise InputError("none of these folders holds a finished run; wait for one, or resume one by `lgkd resume`")
    tell_unverified(*(run.folder for run in found.values() if not (run.folder / MANIFEST).is_file()))
    return list(found.values())


def _folders(place: Path) -> list[Path]:
    """Return the folder itself if it is a run's, otherwise the run folders directly below it."""
    if not place.is_dir() or (place / RUN).is_file():
        return [place]
    folders = sorted((path.parent for path in place.glob(f"*/{RUN}")), key=lambda path: _in_order(path.name))
    if not folders:
        raise InputError(f"{place} holds no {RUN} and no folders of runs; expected the folder of a run or of several")
    return folders


def _in_order(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts seed2 before seed10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _read(folder: Path, info: dict[str, Any]) -> Finished:
    main = f"test_{headline_of(info['dataset'] if isinstance(info.get('dataset'), dict) else {}).key}"
    needed = _NEEDED | {f"results.{main}": _NUMBER, f"results.best_epoch_on_the_test_split.{main}": _NUMBER}
    wrong = [key for key, kind in needed.items() if not isinstance(_at(info, key), kind)]
    if wrong:
        raise InputError(f"{folder / RUN} is marked finished but lacks a proper {wrong[0]}; it is damaged")
    rows = read_metrics(folder)
    epochs = trained_epochs(info)
    if not rows or rows[-1].get("epoch") != epochs or main not in rows[-1]:
        raise InputError(
            f"{folder / METRICS} does not end with epoch {epochs} and its {main}, as that of a finished run "
            "does; it is damaged, take it from a copy"
        )
    return Finished(folder, info, rows, _without_seed(identity(info, load_recipe(folder / RECIPE))))


def _without_seed(values: dict[str, Any]) -> dict[str, Any]:
    """Remove the seed, the subset's seed and fold, and what follows from these, such as a cache's key."""
    kept = {key: value for key, value in values.items() if key != "seed" and not re.match(r"cached\.\d+\.key$", key)}
    text = kept.get("dataset.subset")
    if isinstance(text, str) and (subset := Subset.parse(text)) is not None:
        kept["dataset.subset"] = subset.text_without_seed
        if subset.fold is not None:
            # Runs of a cross-validation differ in these by their folds; as many steps are other numbers of epochs.
            by_steps = kept.get("recipe.schedule.steps") is not None
            kept = {
                key: value
                for key, value in kept.items()
                if not _OF_A_FOLD.fullmatch(key) and not (by_steps and key == "epochs")
            }
    return kept


def _at(value: Any, key: str) -> Any:
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
