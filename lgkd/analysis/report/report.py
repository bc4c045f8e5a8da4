"""Write a report of finished runs: one HTML file, and its figures as PNG beside it."""

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lgkd._internal.atomic_io import write_atomic
from lgkd._internal.metric_rules import MAP
from lgkd.analysis.report.context import Known
from lgkd.analysis.report.page import GENERATOR, write_page
from lgkd.analysis.report.selection import choose
from lgkd.data.catalogue import CATALOGUE
from lgkd.data.dataset import DataSet
from lgkd.errors import InputError, MissingError, TakenError
from lgkd.runner.loaded_run import Opened, open_run
from lgkd.runs.compare.find import Finished
from lgkd.runs.folder import ENV, RECIPE, make_folder, read_student
from lgkd.training.evaluate import Answers, answer

REPORT = "report.html"


def write_report(
    runs: str | Path | Sequence[str | Path],
    baselines: str | Path | Sequence[str | Path] = (),
    *,
    out: str | Path | None = None,
    dataset: str | Path | DataSet | None = None,
    data_dir: str | Path | None = None,
    device: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Write a report of a run: one HTML file that needs no network, and its figures as PNG in a folder of its name.

    Args:
        runs: a run's folder, or those of several that differ only by seed; the one with the lowest seed is shown in
            detail. A folder that holds guided and unguided runs gives both runs and baselines.
        baselines: unguided runs to compare with.
        out: the file; by default `report.html` in the folder of the run that is shown.
        dataset, data_dir, device: as for `evaluate`; the student is run over its test split.
        say: called with each message for the user.

    Returns:
        The file.

    Raises:
        InputError: no finished run is there, or the runs are of different kinds.
        TakenError: `out` exists and is not a report.
    """
    return report_on(runs, baselines, out=out, dataset=dataset, data_dir=data_dir, device=device, say=say)


def report_on(
    runs: str | Path | Sequence[str | Path],
    baselines: str | Path | Sequence[str | Path] = (),
    *,
    out: str | Path | None = None,
    dataset: str | Path | DataSet | None = None,
    data_dir: str | Path | None = None,
    device: str | None = None,
    say: Callable[[str], None] | None = None,
    again: str | None = None,
) -> Path:
    """Write a report as `write_report` does.

    Args:
        runs, baselines, out, dataset, data_dir, device, say: as for `write_report`.
        again: the command that trained the runs, where it is not one of a training.
    """
    notify = say or (lambda _: None)
    chosen = choose(_listed(runs), _listed(baselines), say)
    file = Path(out) if out is not None else chosen.main.folder / REPORT
    check_place(file)
    why_not, opened, ours, theirs = "", None, None, None
    several = chosen.main.headline == MAP
    if several:
        _check_own_images(chosen.main, dataset)
    try:
        if not several:  # whose scores by class are in the run
            _check_named(chosen.main, dataset)
            opened = open_run(chosen.main.folder, dataset=dataset, data_dir=data_dir, device=device)
            if dataset is not None:
                notify(f"class by class, confusion, calibration and examples: {opened.scored}")
            ours = _answers(opened)
            if chosen.beside is not None:
                theirs = _answers(_beside(chosen.beside, opened, device))
    except MissingError as error:
        why_not = f"Left out, for the test images are missing: {error}."
        notify(f"class by class, confusion, calibration and examples are left out: {error}")
    main = chosen.main
    known = Known(
        chosen=chosen,
        classes=opened.classes if opened is not None else read_student(main.folder)["classes"],
        answers=ours,
        baseline_answers=theirs,
        images=opened.data.test if opened is not None else None,
        why_not=why_not,
        scored=opened.scored if opened is not None and dataset is not None else "",
        recipe=_read(main, RECIPE) or "not available",
        env=_environment(main),
        again=again,
    )
    pictures: dict[str, Any] = {}
    page = write_page(known, pictures.__setitem__)
    make_folder(file.parent)
    folder = make_folder(file.with_suffix(""))
    for name, figure in pictures.items():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
            figure.savefig(folder / f"{name}.png")
    write_atomic(file, page.encode())
    return file


def _check_own_images(run: Finished, dataset: object) -> None:
    """Refuse other images for a report on several labels an image, which shows the scores of the run.

    Raises:
        InputError: another data set is named.
    """
    if dataset is not None:
        raise InputError(
            f"--dataset {dataset} is for reports on one label an image, and {run.folder} gives several; expected none: "
            "score other images by `lgkd evaluate`"
        )


def _check_named(run: Finished, dataset: object) -> None:
    """Refuse objects passed in Python, which cannot be loaded again; the report is written without them.

    Raises:
        MissingError: the student or its data set has no name.
    """
    about = run.info["dataset"]
    if read_student(run.folder)["name"] is None:
        raise MissingError("the student is a module that was made in Python; a report needs one that a name builds")
    if dataset is None and about["path"] is None and about["name"] not in CATALOGUE:
        raise MissingError("the data set was loaded in Python; name one of the same classes by --dataset")


def check_place(file: Path) -> None:
    """Validate that a report may be written there: to a new file, or over an older report.

    Raises:
        InputError: not a name of an HTML file; TakenError: something else is there.
    """
    if file.suffix != ".html":
        raise InputError(f"--out is {file}, expected a name that ends in .html")
    folder = file.with_suffix("")
    if folder.exists() and not folder.is_dir():
        raise TakenError(f"{folder} is a file, expected the folder of the figures; choose another --out")
    if not file.exists():
        return
    try:
        with file.open(encoding="utf-8") as stream:
            ours = GENERATOR in stream.read(4096)
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise TakenError(f"{file} is not a report of lgkd and would be overwritten; choose another --out")


def _listed(places: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    return [places] if isinstance(places, str | Path) else places


def _beside(run: Finished, opened: Opened, device: str | None) -> Opened:
    """Open the baseline's run on the images that are already loaded."""
    data = opened.data
    whole = DataSet(data.key, data.classes, data.train, data.test, data.fingerprint, ())
    return open_run(run.folder, dataset=whole, device=device)


def _answers(opened: Opened) -> Answers:
    return answer(opened.student, opened.batches(), precision=opened.precision, channels_last=opened.channels_last)


def _read(run: Finished, name: str) -> str | None:
    try:
        return (run.folder / name).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _environment(run: Finished) -> dict[str, Any]:
    try:
        found = json.loads(_read(run, ENV) or "{}")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{run.folder / ENV} cannot be read as JSON ({error}); it is damaged") from None
    return found if isinstance(found, dict) else {}
