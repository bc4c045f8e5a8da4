"""`lgkd report` and `lgkd inspect` look at another folder as `lgkd evaluate` does: at all of its labelled images."""

import json
import shutil
from pathlib import Path

import pytest

from lgkd.cli import run
from tests.support.small import CLASSES, World, make_pictures

COUNT = 12


@pytest.fixture
def flat(world: World, here: Path) -> Path:
    """A folder that holds CLASS folders alone, without splits."""
    return (make_pictures(here / "made", train=COUNT, test=1) / "train").rename(here / "flat")


def evaluated(world: World, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    capsys.readouterr()
    assert run(["evaluate", str(world.unguided_run), "--dataset", str(folder), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("left", [CLASSES, CLASSES[1:]])
def test_a_report_looks_at_all_labelled_images(
    world: World, flat: Path, capsys: pytest.CaptureFixture[str], left: tuple[str, ...]
) -> None:
    for name in set(CLASSES) - set(left):
        shutil.rmtree(flat / name)
    assert run(["report", str(world.unguided_run), "--dataset", str(flat), "--out", "report.html"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    scored = evaluated(world, flat, capsys)
    count = COUNT * len(left)
    assert scored["images"] == count and scored["scored"].startswith(f"all {count} labelled images of {flat}")
    assert f"class by class, confusion, calibration and examples: {scored['scored']}" in said
    page = Path("report.html").read_text(encoding="utf-8")
    assert page.count(f"Measured on {scored['scored']}.") == 3
    assert f"; {round(count * scored['top1'])} of {count} images are on the diagonal" in page


def test_a_baseline_is_asked_about_the_same_images(
    world: World, flat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["report", str(world.guided_run), "--baseline", str(world.unguided_run), "--dataset", str(flat)]
    assert run([*words, "--out", "report.html"]) == 0
    assert f"Of {3 * COUNT} test images " in Path("report.html").read_text(encoding="utf-8")


def test_an_inspection_looks_at_all_labelled_images(
    world: World, flat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(world.unguided_run), "--dataset", str(flat), "--out", "seen"]) == 0
    found = capsys.readouterr()
    scored = evaluated(world, flat, capsys)
    assert f"measured on {scored['scored']}" in " ".join(found.err.split())
    assert f"top-1 on {3 * COUNT} test images" in " ".join(found.out.split())
    assert json.loads(Path("seen/inspect.json").read_text())["measured_on"] == {
        "test_images": 3 * COUNT, "of": 3 * COUNT, "scored": scored["scored"],
    }  # fmt: skip


def test_classes_that_the_student_does_not_know_are_refused_by_all_three(
    world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_pictures(here / "more", (*CLASSES, "spots"), train=2, test=2) / "train"
    for words in (["evaluate"], ["report"], ["inspect", "--out", "seen"]):
        command, *more = words
        assert run([command, str(world.unguided_run), *more, "--dataset", str(folder)]) == 2
        assert "has 1 class that the student does not know: spots" in capsys.readouterr().err
