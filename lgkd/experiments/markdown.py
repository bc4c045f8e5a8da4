"""Write an experiment's outcome as a section of a Markdown file, leaving all other bytes unchanged."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from lgkd._internal.atomic_io import write_atomic
from lgkd.data.catalogue import CATALOGUE, bundled
from lgkd.errors import InputError
from lgkd.experiments.results import Outcome, Row
from lgkd.experiments.spec import Experiment
from lgkd.runs.statistics import Interval, Summary, in_percent

_HEAD = b"# Results\n"
_MEASURED = (
    "arm", "seeds", "last epoch", "best epoch on test", "gain, paired by seed", "teacher", "a run took", "device",
    "commit",
)  # fmt: skip
_BALANCED = ("balanced, last epoch", "gain in balanced accuracy")
_QUOTED = ("arm", "quoted top-1", "of what", "source")


def check_results(file: Path, experiment: Experiment) -> None:
    """Validate that rows can be written into a file, before hours are spent.

    Raises:
        InputError: it is a folder, cannot be read, or its marks of this experiment do not match.
    """
    _apart(_read(file), experiment, file)


def write_results(file: Path, outcome: Outcome) -> None:
    """Replace an experiment's section, or add it at the end; all other bytes are kept.

    Raises:
        InputError: as `check_results`.
    """
    content = _read(file)
    before, after = _apart(content, outcome.experiment, file)
    write_atomic(file, before + section(outcome).encode() + after)


def section(outcome: Outcome) -> str:
    """Return the section with its marks: the experiment, its measurements, and separately the quoted figures."""
    experiment = outcome.experiment
    begin, end = _marks(experiment)
    measured = _measured_table([*outcome.rows, *outcome.pools])
    quoted = [
        (row.arm.label, f"{one.top1:.2f}", one.what, one.source) for row in outcome.rows for one in row.arm.quoted
    ]
    parts = [
        begin,
        f"## {experiment.name}",
        f"{experiment.question} Data: {experiment.dataset}, {experiment.part}. Command: `{command(outcome)}`.",
        measured,
    ]
    if quoted:
        parts += ["Quoted, not measured here:", _table(_QUOTED, quoted)]
    parts += [*experiment.notes, end]
    return "\n\n".join(parts)


def command(outcome: Outcome) -> str:
    """Return the command that repeats the rows."""
    experiment = outcome.experiment
    words = ["lgkd", "reproduce", experiment.name]
    rows = [row for row in outcome.rows if row.runs]
    if rows and len(rows) < len(outcome.rows):
        teachers = {row.arm.teacher for row in rows}
        words += ["--arms", ",".join(row.arm.key for row in rows if row.arm.key not in teachers) or rows[0].arm.key]
    seeds = sorted({seed for row in rows if row.arm.seeds is None for seed in row.seeds})
    if seeds and seeds != sorted(experiment.seeds):
        words += ["--seeds", ",".join(map(str, seeds))]
    info = CATALOGUE.get(experiment.dataset)
    needs_files = info is None or not bundled(info)
    return " ".join(words + (["--data-dir", "DATA"] if needs_files else []))


def _measured_table(rows: Sequence[Row]) -> str:
    """Build the table of arms; with columns of balanced accuracies where those of an arm differ from its top-1."""
    if not any(balanced_differs(row) for row in rows):
        return _table(_MEASURED, map(_measured, rows))
    place, gain = _MEASURED.index("last epoch") + 1, _MEASURED.index("gain, paired by seed") + 1

    def wider(cells: Sequence[str], accuracy: str, difference: str) -> list[str]:
        return [*cells[:place], accuracy, *cells[place:gain], difference, *cells[gain:]]

    return _table(
        wider(_MEASURED, *_BALANCED),
        (wider(_measured(row), mean_and_spread(row.balanced), _gain(row, row.balanced_gain)) for row in rows),
    )


def balanced_differs(row: Row) -> bool:
    """Return True where the balanced accuracy of a row differs from its top-1, as with unequal classes."""
    top1, balanced = row.top1, row.balanced
    return top1 is not None and balanced is not None and abs(top1.mean - balanced.mean) > 1e-6


def _measured(row: Row) -> Sequence[str]:
    if not row.runs:
        return (row.arm.label, *[""] * (len(_MEASURED) - 1))
    return (
        row.arm.label,
        seeds_in_words(row),
        mean_and_spread(row.top1),
        mean_and_spread(row.best),
        _gain(row, row.gain),
        row.teacher or "",
        _times(row),
        row.devices,
        ", ".join(row.commits),
    )


def seeds_in_words(row: Row) -> str:
    """Format the seeds of an arm, or the number of runs of a pool, in which each seed comes several times."""
    seeds = row.seeds
    return f"{len(seeds)} runs" if len(set(seeds)) < len(seeds) else ", ".join(map(str, seeds))


def _gain(row: Row, gain: Interval | None) -> str:
    return f"{gain_words(gain)} over {row.arm.against}" if gain is not None else ""


def mean_and_spread(summary: Summary | None) -> str:
    """Format percent, with the standard deviation over the seeds where there are several."""
    if summary is None:
        return ""
    mean = in_percent(summary.mean)
    return mean if summary.sd is None else f"{mean} ± {in_percent(summary.sd)}"


def gain_words(gain: Interval | None) -> str:
    """Format a gain in points, with the 95 % interval where there is one."""
    if gain is None:
        return ""
    mean = _points(gain.mean)
    if gain.low is None or gain.high is None:
        return f"{mean} (one seed)"
    return f"{mean} ({_points(gain.low)} to {_points(gain.high)})"


def _points(gain: float) -> str:
    return in_percent(gain, signed=True, digits=1)


def took(seconds: float | None) -> str:
    """Format a duration, as in "4.2 min"."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _times(row: Row) -> str:
    """Format a run's duration, and its processor time on a CPU, which other work on the machine changes less."""
    spent = row.processor_seconds
    on_gpu = any(run.info["device"] != "cpu" for run in row.runs)
    return took(row.seconds) if spent is None or on_gpu else f"{took(row.seconds)}, {took(spent)} of processor time"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    """Return one line that cannot end the cell or the section: names of processors and teachers are free text."""
    plain = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return plain.replace("|", "\\|").replace("<", "&lt;")


def _marks(experiment: Experiment) -> tuple[str, str]:
    return (
        f"<!-- lgkd reproduce {experiment.name}: written by the command, and replaced when it is run again -->",
        f"<!-- end of {experiment.name} -->",
    )


def _read(file: Path) -> bytes:
    if file.is_dir():
        raise InputError(f"{file} is a folder, expected a Markdown file; choose another --results")
    if not file.exists():
        if not file.parent.is_dir():
            raise InputError(f"there is no folder {file.parent} for {file.name}; make it, or choose another --results")
        return _HEAD
    return file.read_bytes()


def _apart(content: bytes, experiment: Experiment, file: Path) -> tuple[bytes, bytes]:
    """Split the content before and after the experiment's section; at the end where there is none yet."""
    begin, end = (mark.encode() for mark in _marks(experiment))
    counts = content.count(begin), content.count(end)
    if counts == (0, 0):
        gap = b"" if content.endswith(b"\n\n") or not content else b"\n" if content.endswith(b"\n") else b"\n\n"
        return content + gap, b"\n"
    first, last = content.find(begin), content.find(end)
    if counts != (1, 1) or last < first:
        raise InputError(
            f"{file} has {counts[0]} beginnings and {counts[1]} ends of {experiment.name}, expected one of each in "
            "that order; correct or remove these marks, or choose another --results"
        )
    return content[:first], content[last + len(end) :]
