"""Rank students for a data set, for `lgkd students --for`."""

from pathlib import Path

from lgkd.autofit.request import TIME, Request
from lgkd.cli.display import console, say, show_json, show_table
from lgkd.runner.options import Options
from lgkd.runner.resolve import check_dataset
from lgkd.runner.time_budget import parse_time


def show_ranking(
    dataset: str,
    *,
    time: str | None,
    teacher: str | None,
    data_dir: Path | None,
    device: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Print the students that suit a data set and a time, the best first, with the evidence.

    Args:
        dataset: a name or a folder.
        time: of the student's training, as text; 1h if None.
        teacher: a trained teacher of the data set, for the attention score.
        data_dir, device, offline: as for a training.
        as_json: print JSON.
    """
    asked: Options = {"data_dir": data_dir, "device": device, "offline": offline, "time": time}
    request = Request(dataset, {name: value for name, value in asked.items() if value}, teacher=None)  # type: ignore[arg-type]
    check_dataset(dataset, data_dir, offline=offline)
    seconds = parse_time(request.options.get("time") or TIME)
    from lgkd.autofit.choose_student import EVIDENCE, SCORE_EVIDENCE, rank_students

    found = rank_students(request, teacher=teacher, timing=lambda name: say(f"timing {name}"))
    evidence = [*EVIDENCE, *([SCORE_EVIDENCE] if teacher is not None else [])]
    if as_json:
        show_json(
            {
                "format": 1,
                "dataset": dataset,
                "seconds": seconds,
                "students": [one.as_dict() for one in found],
                "evidence": evidence,
            }
        )
        return
    scored = [] if teacher is None else ["attention score"]
    show_table(
        f"students for guided training on {dataset}, in {seconds:,.0f} s, the best first",
        ("student", "options", "parameters", "ms a step", "steps", "epochs", *scored),
        [
            (
                one.name,
                ", ".join(f"{key}={value}" for key, value in one.options.items()),
                f"{one.parameters:,}",
                f"{1000 * one.seconds_a_step:,.1f}",
                f"{one.steps:,}",
                f"{one.epochs:,.1f}",
                *([] if one.attention_score is None else [f"{one.attention_score:.2e}"]),
            )
            for one in found
        ],
        right=range(2, 6 + len(scored)),
    )
    console().print("")
    for sentence in evidence:
        console().print(sentence)
