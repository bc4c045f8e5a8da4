"""Search the learning rate of an experiment's arms on held-out training images; the test split selects nothing.

python -m tools.search_rates EXPERIMENT --rates 5e-3,1e-2,2e-2 [--arms A,B] [--seed 0] [--held-out 0.2]
    [--set KEY=A,B] [--data-dir DATA] [--out FOLDER]

Trains every student at every rate, and at every value of another key of the recipe if one is given, without the
held-out share of the training images, which its teacher does not see either. Prints the accuracy on it after the last
epoch, as a table. Finished trainings are kept: the same command resumes.
"""

import argparse
import itertools
from dataclasses import replace
from pathlib import Path

from lgkd.errors import InputError, LgkdError
from lgkd.experiments.layout import run_of
from lgkd.experiments.run import reproduce
from lgkd.experiments.select import Turn, choose_arms, find_experiment
from lgkd.experiments.spec import Arm, Experiment
from lgkd.runs.folder import read_metrics


def trials(arm: Arm, rates: list[str], key: str | None, values: list[str]) -> list[Arm]:
    """Return copies of an arm, one for each rate and each value of the other key."""
    made = []
    for rate, value in itertools.product(rates, values if key is not None else [""]):
        changes = [f"optimizer.lr={rate}", *([f"{key}={value}"] if key is not None else [])]
        name = "-".join([arm.key, "lr", rate, *([value] if value else [])]).replace(".", "_")
        label = ", ".join([arm.key, *changes])
        made.append(
            replace(
                arm, key=name, label=label, overrides=(*arm.overrides, *changes), against=None, pool=None, quoted=()
            )
        )
    return made


def search_of(
    experiment: Experiment, arms: list[str], rates: list[str], key: str | None, values: list[str]
) -> Experiment:
    """Return an experiment of all trials, with the teachers that they need."""
    if experiment.borrowed is not None:
        raise InputError(
            f"{experiment.name} borrows the teacher of another experiment, which has seen the held-out images; "
            "expected an experiment that trains its own"
        )
    chosen = [arm for arm in choose_arms(experiment, arms or None) if arm.role == "student"]
    needed = {arm.teacher for arm in chosen}
    teachers = [arm for arm in experiment.arms if arm.role == "teacher" and arm.key in needed]
    students = [trial for arm in chosen for trial in trials(arm, rates, key, values)]
    return replace(experiment, arms=(*teachers, *students))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("experiment")
    parser.add_argument("--rates", required=True)
    parser.add_argument("--arms", default="")
    parser.add_argument("--set", default=None, metavar="KEY=A,B")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", type=float, default=0.2)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    key, _, values = (given.set or "").partition("=")
    experiment = find_experiment(given.experiment)
    search = search_of(
        experiment,
        [one for one in given.arms.split(",") if one],
        given.rates.split(","),
        key or None,
        values.split(","),
    )
    # Part of the folder and of the name that it is checked by: runs with another share are others.
    search = replace(search, name=f"{experiment.name}-search-{given.held_out:g}")
    out = given.out or Path("runs") / "search" / f"{experiment.name}-{given.held_out:g}"
    reproduce(search, out, seeds=[given.seed], options={"val_fraction": given.held_out, "data_dir": given.data_dir})
    print(f"| trial | held out, top-1 % | of {given.held_out:g} of the training images |\n|---|---:|---|")
    for arm in search.arms:
        if arm.role == "student":
            last = read_metrics(run_of(out, Turn(arm, given.seed)))[-1]
            print(f"| {arm.label} | {100 * last['val_top1']:.2f} | seed {given.seed}, epoch {last['epoch']:g} |")


if __name__ == "__main__":
    try:
        main()
    except LgkdError as error:
        raise SystemExit(f"search_rates: {error}") from None
