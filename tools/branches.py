"""How much of a room its own tests run, branches included.

    python -m tools.branches [ROOM...]       all rooms without a name; ends with 1 where one is below 95 %

Each room is measured with the test files that are about it, and no others. What is left, and why, is in
dev/LOG.md.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
BAR = 95.0

ROOMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "taps": ("lgkd/distillation/taps.py", ("taps", "default_taps", "guides_of_all_kinds")),
    "guide": (
        "lgkd/distillation/guide.py,lgkd/distillation/teacher_runner.py",
        ("guide", "guides_of_all_kinds", "guide_in_parts", "guide_reads", "distillation_token"),
    ),
    "losses": (
        "lgkd/losses/*",
        ("hint_losses", "logit_losses", "map_losses", "relation_losses", "loss_details", "loss_corners", "terms_learn"),
    ),
    "training": (
        "lgkd/training/*",
        (
            "loop",
            "train_step",
            "devices",
            "tracking",
            "fuzz_tensors",
            "checkpoint",
            "determinism",
            "resume",
            "compile",
            "tasks",
            "messages_of_training",
            "step_costs",
            "processes",
        ),
    ),
    "config": (
        "lgkd/config/*",
        ("validate", "schema", "overrides", "registry", "shipped_recipes", "term_sections", "schedules"),
    ),
}
"""Its files, and the names of the tests that are about it."""

# Processes that a test starts count too.
_SETTINGS = "[run]\nbranch = True\nparallel = True\npatch = subprocess\nsource_pkgs = lgkd\ndata_file = {folder}/data\n"


def measured(room: str, folder: Path) -> dict[str, float]:
    """What coverage.py finds of one room: lines, branches, and both together, in per cent; and the places left out."""
    files, tests = ROOMS[room]
    (folder / "settings").write_text(_SETTINGS.format(folder=folder), encoding="utf-8")
    coverage = [sys.executable, "-m", "coverage"]
    settings = f"--rcfile={folder / 'settings'}"
    names = [str(path) for name in tests for path in (TOP / "tests").rglob(f"test_{name}.py")]
    run = [*coverage, "run", settings, "-m", "pytest", "-q", "-p", "no:cacheprovider", *names]
    subprocess.run(run, cwd=TOP, check=True)
    subprocess.run([*coverage, "combine", "-q", settings], cwd=TOP, check=True)
    report = folder / "report.json"
    subprocess.run([*coverage, "json", "-q", settings, f"--include={files}", "-o", str(report)], cwd=TOP, check=True)
    subprocess.run([*coverage, "report", "-m", "--skip-covered", settings, f"--include={files}"], cwd=TOP, check=True)
    totals: dict[str, float] = json.loads(report.read_text(encoding="utf-8"))["totals"]
    return totals


def main(rooms: list[str]) -> int:
    enough = True
    rows = []
    for room in rooms or list(ROOMS):
        with tempfile.TemporaryDirectory() as folder:
            found = measured(room, Path(folder))
        branches, reached = found["num_branches"], found["covered_branches"]
        share = 100 * reached / branches
        enough &= share > BAR and found["percent_covered"] > BAR
        rows.append(f"{room:8} {share:5.1f} % of {branches} branches, {found['percent_covered']:5.1f} % with lines")
    print("\n".join(rows))
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
