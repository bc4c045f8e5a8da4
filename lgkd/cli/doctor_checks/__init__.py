"""Check this machine for `lgkd doctor`: findings and advice. Nothing is written, nothing is downloaded."""

from collections.abc import Iterator
from pathlib import Path

from lgkd.cli.doctor_checks.assets import look_at_data, look_at_teachers
from lgkd.cli.doctor_checks.finding import Finding
from lgkd.cli.doctor_checks.packages import look_at_extras, look_at_packages, look_at_python
from lgkd.cli.doctor_checks.resources import look_at_disk, look_at_memory


def examine(*, data_dir: Path | None = None) -> Iterator[Finding]:
    """Run all checks, in the order of importance.

    Args:
        data_dir: another folder of named data sets.
    """
    yield from look_at_python()
    packages = list(look_at_packages())
    yield from packages
    if any(finding.what == "torch" and finding.state == "problem" for finding in packages):
        yield Finding("device", "problem", "unknown without torch", "install torch first, see above")
    else:
        # torch takes seconds to import, and may fail to.
        from lgkd.cli.doctor_checks.compute import look_at_devices, look_at_threads

        yield from look_at_devices()
        yield from look_at_threads()
    yield from look_at_memory()
    yield from look_at_disk()
    yield from look_at_extras()
    yield from look_at_data(data_dir)
    yield from look_at_teachers()
