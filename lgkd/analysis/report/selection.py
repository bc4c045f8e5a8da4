"""Select the runs of a report and their baseline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lgkd.errors import InputError
from lgkd.runs.compare.comparability import check_comparable, remarks_on, remarks_on_pair
from lgkd.runs.compare.comparison import Difference
from lgkd.runs.compare.find import Finished, find_runs
from lgkd.runs.compare.groups import Group, group_runs


@dataclass(frozen=True)
class Chosen:
    """Hold the runs of a report.

    Attributes:
        ours: the reported runs; they differ only by seed.
        baseline: the runs that they are compared with, if any.
    """

    ours: Group
    baseline: Group | None

    @property
    def main(self) -> Finished:
        """Return the run that is shown in detail: the one with the lowest seed."""
        return self.ours.runs[0]

    @property
    def beside(self) -> Finished | None:
        """Return the baseline's run of the same seed and images; its first where there is none."""
        if self.baseline is None:
            return None
        alike = [run for run in self.baseline.runs if run.pair == self.main.pair]
        return alike[0] if alike else self.baseline.runs[0]

    @property
    def difference(self) -> Difference | None:
        """Return the difference of the runs from the baseline."""
        return Difference(self.baseline, self.ours) if self.baseline is not None else None

    @property
    def remarks(self) -> list[str]:
        """Return sentences on other differences."""
        if self.baseline is None:
            return []
        pair = (self.baseline, self.ours)
        return [*remarks_on(pair), *remarks_on_pair(*pair)]


def choose(
    runs: Sequence[str | Path], baselines: Sequence[str | Path] = (), say: Callable[[str], None] | None = None
) -> Chosen:
    """Find and group the runs.

    Args:
        runs: folders of runs that differ only by seed, or folders that hold such. Guided and unguided runs together
            are runs and their baseline.
        baselines: folders of the runs that they are compared with.
        say: called with a message on skipped unfinished runs.

    Raises:
        InputError: a folder that holds no finished run, runs that differ in more than seed, or runs on other images.
    """
    ours, others = find_runs(runs, say), find_runs(baselines, say) if baselines else []
    folders = {run.folder.resolve() for run in others}
    groups = group_runs([*(run for run in ours if run.folder.resolve() not in folders), *others])
    reference = [group for group in groups if any(run.folder.resolve() in folders for run in group.runs)]
    shown = [group for group in groups if group not in reference]
    if not others and len(shown) == 2:
        reference = [one for one in shown if any(one.is_baseline_of(other) for other in shown)]
        shown = [group for group in shown if group not in reference]
    for what, found in (("runs", shown), ("baselines", reference)):
        if len(found) > 1:
            names = "; ".join(f"{group.letter}: {group.label}" for group in found)
            raise InputError(
                f"the {what} differ in more than their seeds ({names}); a report is of one kind of run and one "
                "baseline, `lgkd compare` takes any number"
            )
    if not shown:
        raise InputError("the runs differ from the baseline in nothing; name a guided run, and an unguided --baseline")
    if reference:
        check_comparable([reference[0], shown[0]])
    return Chosen(shown[0], reference[0] if reference else None)
