"""Show the times in which a training reached an accuracy."""

from collections.abc import Mapping
from typing import Any

from lgkd.cli.display import console, duration, show_table
from lgkd.runs.statistics import in_percent


def show_to_accuracy(document: Mapping[str, Any]) -> None:
    """Print the trainings as a table, and what each kind needed in a sentence."""
    choices, machine, images = document["choices"], document["machine"], document["images"]
    out = console()
    pair = f"{choices['student']} and {choices['teacher']}" if choices["teacher"] else choices["student"]
    out.print(f"{pair} on {choices['dataset']}, recipe {choices['recipe']}, {images['train']:,} images")
    out.print(
        f"{machine['gpu'] or machine['processor']}, {machine['threads']} of {machine['cores']} threads, "
        f"torch {machine['packages']['torch']}, lgkd {machine['packages']['lgkd']}, seed {document['seeds'][0]}"
    )
    wanted = document["target"]["accuracy"]
    show_table(
        f"top-1 on {images['held_out']:,} held-out training images, {in_percent(wanted)}% wanted; time as m:s",
        ("training", "steps", "top-1", "time", "+teacher", "processor", "+teacher"),
        (
            (
                f"{row['kind']} {duration(row['time'])}",
                f"{row['steps']:,}",
                f"{in_percent(row['accuracy'])}%{'' if row['reached'] else ' -'}",
                *(_clock(row[key]) for key in ("seconds", "total_seconds", "cpu_seconds", "total_cpu_seconds")),
            )
            for row in document["rows"]
        ),
        right=range(1, 7),
    )
    out.print()
    for kind, row in document["reached"].items():
        out.print(_sentence(kind, row, document))
    if (teacher := document["teacher"]) is not None and teacher["stored"]:
        out.print(
            f"The teacher {teacher['name']} is that of the store: its training is not counted, and it may have seen "
            "the held-out images."
        )
    out.print(f"How it was measured: {document['protocol']}. One seed, so repeat it with other seeds for a spread.")


def _sentence(kind: str, row: Mapping[str, Any] | None, document: Mapping[str, Any]) -> str:
    if row is None:
        return f"{kind}: not reached in {document['target']['longest']}, the longest training."
    teacher = f", of which {_minutes(row['teacher_seconds'])} the teacher's" if row["teacher_seconds"] else ""
    return (
        f"{kind}: {in_percent(row['accuracy'])}% in {_minutes(row['total_seconds'])}{teacher}, "
        f"{_minutes(row['total_cpu_seconds'])} of processor time."
    )


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes"
