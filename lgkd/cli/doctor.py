"""Implement `lgkd doctor`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lgkd import __version__
from lgkd._internal.text import counted
from lgkd.cli import options as o
from lgkd.cli.display import console, line_of, show_json
from lgkd.errors import MissingError

if TYPE_CHECKING:
    from lgkd.cli.doctor_checks.finding import Finding

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}
_FORMAT = 1


def doctor(data_dir: o.DataDir = None, as_json: o.Json = False) -> None:
    """Check the installation and the machine.

    Python, packages, devices, the precision that `auto` selects, threads, memory, disk,
    extras, data sets and teachers. Nothing is written and nothing is downloaded. Exit
    code 3 where there is a problem, 0 where there are only warnings.

    Example: lgkd doctor
    """
    from lgkd.cli.doctor_checks import examine

    findings = []
    for finding in examine(data_dir=data_dir):
        findings.append(finding)
        if not as_json:
            _show(finding)
    counts = {state: sum(finding.state == state for finding in findings) for state in _STYLES}
    if as_json:
        lines = [finding.as_dict() for finding in findings]
        show_json({"format": _FORMAT, "lgkd": __version__, **counts, "lines": lines})
    else:
        console().print()
        console().print(f"{counted(counts['problem'], 'problem')}, {counted(counts['warning'], 'warning')}")
    if counts["problem"]:
        raise MissingError(
            f"this machine has {counted(counts['problem'], 'problem')} ({_named(findings)}); see the advice beside "
            "each of them"
        )


def _show(finding: "Finding") -> None:
    out = console()
    style = _STYLES[finding.state]
    # One after the other, as added texts would all take the style of the first.
    out.print(
        line_of(f"{finding.state:<8}", style), line_of(f"{finding.what}: ", "bold"), line_of(finding.found), sep=""
    )
    if finding.advice:
        out.print(line_of(f"{'':<8}-> {finding.advice}", "" if finding.state == "problem" else "dim"))


def _named(findings: Iterable["Finding"]) -> str:
    return ", ".join(finding.what for finding in findings if finding.state == "problem")
