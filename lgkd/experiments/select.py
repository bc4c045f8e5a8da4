"""Select an experiment, its arms and seeds, and order the trainings. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lgkd._internal.text import did_you_mean
from lgkd.data.catalogue import CATALOGUE
from lgkd.data.names import Subset
from lgkd.errors import InputError, MissingError
from lgkd.experiments.catalogue import EXPERIMENTS
from lgkd.experiments.spec import Arm, Experiment
from lgkd.runner.find_teacher import teacher_name
from lgkd.runs.compare.layout import check_seeds


@dataclass(frozen=True)
class Turn:
    """Represent one training in the queue.

    Attributes:
        arm: its definition.
        seed: of weights, order and augmentation.
    """

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """Return its folder below the experiment's."""
        return f"{self.arm.key}/seed{self.seed}"


def find_experiment(name: str) -> Experiment:
    """Return the experiment of that name.

    Raises:
        InputError: there is none.
    """
    if name not in EXPERIMENTS:
        raise InputError(
            f"no experiment is called {name!r}; {did_you_mean(name, EXPERIMENTS)}; lgkd reproduce lists all"
        )
    return EXPERIMENTS[name]


def choose_arms(experiment: Experiment, keys: Sequence[str] | None) -> tuple[Arm, ...]:
    """Return the arms of these keys with the teachers that they need, in the experiment's order; all if none are named.

    Raises:
        InputError: it has no such arm.
    """
    if keys is None:
        return experiment.arms
    known = [arm.key for arm in experiment.arms]
    for key in keys:
        if key not in known:
            raise InputError(f"{experiment.name} has no arm {key!r}; {did_you_mean(key, known)}")
    wanted = set(keys) | {arm.teacher for arm in experiment.arms if arm.key in keys}
    return tuple(arm for arm in experiment.arms if arm.key in wanted)


def turns_of(experiment: Experiment, arms: Sequence[Arm], seeds: Sequence[int] | None) -> list[Turn]:
    """Order the trainings: first those shared by all seeds, then seed by seed, to complete a comparison early.

    Raises:
        InputError: invalid seeds.
    """
    chosen = check_seeds(seeds if seeds is not None else experiment.seeds)
    shared = [Turn(arm, seed) for arm in arms if arm.seeds is not None for seed in arm.seeds]
    return shared + [Turn(arm, seed) for seed in chosen for arm in arms if arm.seeds is None]


def dataset_of(experiment: Experiment, arm: Arm) -> str:
    """Return the name of the data set of an arm."""
    return arm.dataset or experiment.dataset


def images_of(experiment: Experiment, arm: Arm, data_dir: str | Path | None) -> str | Path:
    """Return the data set of an arm: a name of the catalogue, or a folder below `data_dir`.

    Raises:
        MissingError: there is no such folder.
    """
    name = dataset_of(experiment, arm)
    if name in CATALOGUE:
        return name
    folder = Path(data_dir).expanduser() / name if data_dir is not None else None
    if folder is None or not folder.is_dir():
        found = f"there is no folder {folder}" if folder is not None else "no --data-dir is given"
        raise MissingError(
            f"{experiment.name} needs the images of {name}, and {found}; expected a folder with {name}/train/CLASS/* "
            f"and {name}/test/CLASS/*, as --data-dir"
        )
    return folder


def subset_of(arm: Arm) -> str | None:
    """Return the subset of images that an arm sees, in the words of a run's folder."""
    return Subset(arm.fraction, arm.images_per_class).text


def kept_as(arm: Arm) -> str:
    """Return the name under which the teacher of an arm is stored."""
    return teacher_name(arm.model, subset_of(arm))
