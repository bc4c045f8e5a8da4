"""Run one bench, from choices to figures; for `lgkd bench` and notebooks."""

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from lgkd.benchmark.baseline_process import Rival
from lgkd.benchmark.flops import count_flops, measure_peak
from lgkd.benchmark.options import Choices, check_file, check_plain
from lgkd.benchmark.profile import time_shares, write_profile
from lgkd.benchmark.subject import Subject
from lgkd.benchmark.timer import Spread, Timing, measure
from lgkd.errors import InputError
from lgkd.runs.folder import environment, now
from lgkd.training.peak_memory import PeakMemory
from lgkd.training.precision import choose_device

FORMAT = 1
_SECONDS_OF_SHARES = 1.0
_PROFILED_STEPS = 3
_SWEPT_PARTS = ("data", "whole")

Say = Callable[[str], None]


def bench(
    choices: Choices,
    *,
    steps: int | None = None,
    repeats: int = 5,
    against: str | None = None,
    profile: str | Path | None = None,
    command: str | None = None,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Measure one training.

    Args:
        choices: what is measured.
        steps: of a lap; None for as many as take about half a second.
        repeats: laps of every part, taken in turn.
        against: "plain" for a comparison with a loop written by hand, in the same rounds.
        profile: a text file for the costliest operations.
        command: as typed, for the document.
        say: called with the current stage.

    Returns:
        A JSON document; docs/performance.md explains every figure.

    Raises:
        InputError: an option is out of range or does not fit the others.
    """
    _check(steps, repeats)
    if against is not None:
        _check_against(choices, against)
    if profile is not None:
        check_file(Path(profile), "--profile")
    device = choose_device(choices.device)
    memory = PeakMemory(device)
    with ExitStack() as stack:
        say("building the training")
        subject = stack.enter_context(closing(Subject(choices)))
        subject.whole()
        began = time.perf_counter()
        subject.whole()
        a_step = time.perf_counter() - began
        peak_memory = memory.read()
        say("counting its arithmetic")
        batch = subject.fixed()
        flops = count_flops(lambda: subject.train(batch))
        shares = time_shares(subject, steps or max(1, min(100, round(_SECONDS_OF_SHARES / a_step))))
        peak = measure_peak(device, subject.plan.precision)
        if subject.compiled:
            subject.compile()
        parts, rival = subject.parts(), None
        if against is not None:
            say("starting the plain loop")
            rival = stack.enter_context(Rival(choices))
            parts += rival.parts()
        say(f"timing {', '.join(part.name for part in parts)}")
        timings = measure(parts, steps=steps, repeats=repeats)
        step = Spread.of(timings["whole"].seconds).median
        document: dict[str, Any] = {
            **_heading(choices, subject, command),
            "repeats": repeats,
            "parts": {name: one.as_dict() for name, one in timings.items() if not name.startswith("plain")},
            "guidance_overhead": _overhead(timings),
            "shares_of_time": shares,
            "arithmetic": {
                "flops_per_step": flops,
                "flops_per_image": flops / subject.batch_size,
                "flops_per_second": flops / step,
                "peak_flops_per_second": peak.flops,
                "peak_matrix_size": peak.size,
                "share_of_peak": flops / step / peak.flops,
            },
            "memory": {"peak_bytes": peak_memory, "kind": memory.kind},
        }
        if rival is not None:
            document["against"] = {"plain": _comparison(timings) | rival.about()}
        if profile is not None:
            say("profiling")
            document["profile"] = write_profile(subject.whole, device, Path(profile), steps=steps or _PROFILED_STEPS)
    return document


def sweep(
    choices: Choices,
    attribute: str,
    values: list[int],
    *,
    steps: int | None = None,
    repeats: int = 5,
    command: str | None = None,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Measure the cost as the work grows: data and whole step for every value of one choice.

    Args:
        choices: what is measured.
        attribute: of `Choices`, the one that varies.
        values: ascending.
        steps, repeats, command, say: as for `bench`.

    Raises:
        InputError: a value is out of range.
    """
    _check(steps, repeats)
    varied = [replace(choices, **{attribute: value}) for value in values]  # type: ignore[arg-type]
    rows: list[dict[str, Any]] = []
    heading: dict[str, Any] = {}
    for value, chosen in zip(values, varied, strict=True):
        say(f"{attribute} {value:,}")
        memory = PeakMemory(choose_device(choices.device))
        with closing(Subject(chosen)) as subject:
            if subject.compiled:
                subject.compile()
            timings = measure(subject.parts(_SWEPT_PARTS), steps=steps, repeats=repeats)
            heading = heading or _heading(choices, subject, command)
            rows.append(
                {
                    "value": value,
                    "parts": {name: one.as_dict() for name, one in timings.items()},
                    "memory": {"peak_bytes": memory.read(), "kind": memory.kind},
                }
            )
    return {**heading, "repeats": repeats, "varied": attribute, "rows": rows}


def _check(steps: int | None, repeats: int) -> None:
    for word, value in (("--steps", steps), ("--repeats", repeats)):
        if value is not None and value < 1:
            raise InputError(f"{word} is {value}, expected at least 1")


def _check_against(choices: Choices, against: str) -> None:
    if against != "plain":
        raise InputError(f"--against is {against!r}; known: plain")
    check_plain(choices)


def _heading(choices: Choices, subject: Subject, command: str | None) -> dict[str, Any]:
    """Return the measured model, device and date."""
    return {
        "format": FORMAT,
        "command": command,
        "date": now(),
        "machine": environment(subject.device),
        "choices": choices.about(),
        "batch_size": subject.batch_size,
        "image_size": list(subject.image_size),
        "precision": subject.plan.precision,
        "compiled": subject.compiled,
        "parameters": sum(parameter.numel() for parameter in subject.model.parameters()),
    }


def _overhead(timings: dict[str, Timing]) -> dict[str, float] | None:
    """Compute the time of a guided step over that of an unguided one; None without a guide."""
    if "guided" not in timings:
        return None
    return timings["student"].over(timings["guided"]).as_dict()


def _comparison(timings: dict[str, Timing]) -> dict[str, Any]:
    """Compute the plain loop's own figures, and our speed-up, round by round."""
    plain = {name.removeprefix("plain "): one for name, one in timings.items() if name.startswith("plain ")}
    ours = {name: timings[name.partition(" ")[0]] for name in plain}
    return {
        "parts": {name: one.as_dict() for name, one in plain.items()},
        "times_as_fast": {name: ours[name].over(one).as_dict() for name, one in plain.items()},
    }
