"""`lgkd reproduce` at work: a small experiment on the digits, stopped and gone on with, and its rows told by hand."""

import csv
import json
import re
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from lgkd._internal.safetensors_io import load_weights
from lgkd.benchmark.options import Choices
from lgkd.benchmark.synthetic import made_dataset
from lgkd.cli import run
from lgkd.errors import InputError
from lgkd.experiments.catalogue import EXPERIMENTS
from lgkd.experiments.layout import this_commit
from lgkd.experiments.results import look_at
from lgkd.experiments.smoke_test import take_first_steps
from lgkd.experiments.spec import Arm, Borrowed
from lgkd.models.teacher_store import read_card
from lgkd.runner.build import load_kept_teacher
from lgkd.runner.runner import Runner
from lgkd.training.signals import StopCondition
from tests.support.manifests import reseal
from tests.support.reproducing import TINY, recipe_of
from tests.support.small import one_thread, snapshot

RUNS = ["teacher/seed0", "unguided/seed0", "guided/seed0", "unguided/seed1", "guided/seed1"]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(EXPERIMENTS, "tiny", TINY)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The experiment, undisturbed, and what it printed; only read."""
    folder = tmp_path_factory.mktemp("experiment") / "whole"
    printed: list[str] = []
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setenv("LGKD_HOME", str(folder.parent / "home"))
        patch.setitem(EXPERIMENTS, "tiny", TINY)
        patch.setattr("sys.stdout.write", printed.append)
        assert run(["reproduce", "tiny", "--out", str(folder), "--quiet"]) == 0
    yield folder, "".join(printed)


def go(out: Path | str, *more: str) -> int:
    return run(["reproduce", "tiny", "--out", str(out), "--quiet", *more])


def same_end(one: Path, other: Path) -> bool:
    mine, theirs = (load_weights(folder / "student.safetensors") for folder in (one, other))
    return mine.keys() == theirs.keys() and all((mine[name] == theirs[name]).all() for name in mine)


def curve(folder: Path) -> list[float]:
    """Percent of the test split, epoch by epoch, as metrics.csv has it."""
    with (folder / "metrics.csv").open(newline="") as stream:
        return [100 * float(row["test_top1"]) for row in csv.DictReader(stream)]


def cells_of(file: Path, label: str) -> dict[str, str]:
    """The row of a label in the table of measured figures, by the heads of its columns."""
    measured = file.read_text().partition("Quoted, not measured here")[0]
    table = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in measured.splitlines() if line.startswith("|")
    ]
    (row,) = [row for row in table if row[0] == label]
    return dict(zip(table[0], row, strict=True))


def test_the_rows_are_what_metrics_say_by_hand(whole) -> None:
    folder, _ = whole
    curves = {name: curve(folder / name) for name in RUNS}
    for label, key in (("small ViT, unguided", "unguided"), ("small ViT, guided", "guided")):
        cells = cells_of(folder / "results.md", label)
        last = [curves[f"{key}/seed{seed}"][-1] for seed in (0, 1)]
        best = [max(curves[f"{key}/seed{seed}"]) for seed in (0, 1)]
        assert cells["seeds"] == "0, 1"
        assert cells["last epoch"] == f"{statistics.mean(last):.2f} ± {statistics.stdev(last):.2f}"
        assert cells["best epoch on test"] == f"{statistics.mean(best):.2f} ± {statistics.stdev(best):.2f}"
    gains = [curves[f"guided/seed{seed}"][-1] - curves[f"unguided/seed{seed}"][-1] for seed in (0, 1)]
    low, high = stats.t.interval(0.95, 1, loc=statistics.mean(gains), scale=stats.sem(gains))
    told = f"{statistics.mean(gains):+.1f} ({low:+.1f} to {high:+.1f}) over unguided"
    assert cells["gain, paired by seed"] == told
    teacher = cells_of(folder / "results.md", "ResNet-8, the teacher")
    assert teacher["last epoch"] == f"{curves['teacher/seed0'][-1]:.2f}" and teacher["gain, paired by seed"] == ""


def test_a_row_says_who_guided_how_long_it_took_on_what_and_which_code_made_it(whole) -> None:
    folder, _ = whole
    cells = cells_of(folder / "results.md", "small ViT, guided")
    infos = [json.loads((folder / f"guided/seed{seed}/run.json").read_text()) for seed in (0, 1)]
    env = json.loads((folder / "guided/seed0/env.json").read_text())
    top1 = json.loads((folder / "teacher/seed0/run.json").read_text())["results"]["test_top1"]
    took = [info["results"]["training_seconds"] + info["results"]["evaluation_seconds"] for info in infos]
    assert cells["teacher"] == f"resnet8--20-images-per-class-seed-0, {top1:.1%}"
    spent = [info["results"]["processor_seconds"] for info in infos]
    assert cells["a run took"] == f"{statistics.mean(took):.0f} s, {statistics.mean(spent):.0f} s of processor time"
    assert cells["device"] == f"{env['processor']}, 1 thread, fp32"
    assert cells["commit"] == this_commit()


def test_what_others_published_stands_apart_in_the_file_and_on_the_screen(whole) -> None:
    folder, printed = whole
    measured, _, quoted = (folder / "results.md").read_text().partition("Quoted, not measured here:")
    assert "98.76" not in measured and "| small ViT, guided | 98.76 | best epoch | a paper |" in quoted
    table, _, rest = printed.partition("quoted, not measured here")
    assert "98.76" not in table and re.search(r"guided +98.76  best epoch  a paper", rest)
    on_the_way = curve(folder / "guided/seed1")
    assert "guided, seed 1, during training; quoted: another student (somebody)" in rest
    assert re.search(rf"1 +{on_the_way[0]:.2f} +12.34\n +2 +{on_the_way[1]:.2f} +23.45\n", rest)
    assert "50.00" not in rest, "nothing is told of an epoch that was not reached"


def test_what_is_printed_fits_into_eighty_columns(whole) -> None:
    _, printed = whole
    assert max(map(len, printed.partition("quoted, not")[0].splitlines())) <= 80


def test_its_teacher_stays_in_its_folder_and_the_store_is_neither_asked_nor_changed(whole) -> None:
    folder, _ = whole
    assert not (folder.parent / "home" / "teachers").exists()
    kept = folder / "teachers/teacher/seed0/digits/resnet8--20-images-per-class-seed-0"
    teacher = load_kept_teacher(read_card(kept), kept)
    weights = load_weights(folder / "teacher/seed0/student.safetensors")
    assert all((teacher.model.state_dict()[name] == tensor).all() for name, tensor in weights.items())
    guided = json.loads((folder / "guided/seed1/run.json").read_text())["teacher"]
    assert guided["sha256"] == read_card(kept).weights_sha256


def test_paused_in_a_run_and_between_all_runs_it_ends_as_the_undisturbed_one(whole, monkeypatch, capsys) -> None:
    assert go("mine", "--max-time", "0") == 75
    assert "paused after 0 seconds and saved; run the same command again to resume" in capsys.readouterr().err
    assert json.loads(Path("mine/teacher/seed0/run.json").read_text())["status"] == "running"
    assert go("mine", "--dry-run") == 0
    assert re.search(r"teacher/seed0 .* begun\n", capsys.readouterr().out)
    assert not Path("mine/results.md").exists()
    monkeypatch.setattr(StopCondition, "reason", lambda self: None)  # as if the clock ran out while a run was put away
    for done in range(1, len(RUNS)):
        assert go("mine", "--max-time", "0") == 75
        assert "between two runs; run the same command again to resume" in capsys.readouterr().err
        finished = [json.loads((Path("mine") / name / "run.json").read_text())["status"] for name in RUNS[:done]]
        assert finished == ["finished"] * done and not (Path("mine") / RUNS[done]).exists()
    assert go("mine", "--max-time", "0") == 0
    assert all(same_end(Path("mine") / name, whole[0] / name) for name in RUNS)
    rows = [
        [cell for name, cell in cells_of(folder / "results.md", label).items() if name != "a run took"]
        for folder in (Path("mine"), whole[0])
        for label in ("ResNet-8, the teacher", "small ViT, unguided", "small ViT, guided")
    ]
    assert rows[:3] == rows[3:]


def test_what_is_finished_is_not_trained_again(whole, monkeypatch, capsys) -> None:
    shutil.copytree(whole[0], "mine")
    before = snapshot(Path("mine"))
    monkeypatch.setattr(Runner, "run", lambda *_, **__: pytest.fail("trained again"))
    assert run(["reproduce", "tiny", "--out", "mine"]) == 0
    assert "guided/seed1 is finished: " in capsys.readouterr().err
    assert snapshot(Path("mine")) == before


def test_arms_that_were_not_run_are_empty_and_another_seed_is_added_later(whole) -> None:
    assert go("mine", "--arms", "unguided", "--seeds", "1") == 0
    assert sorted(path.name for path in Path("mine").iterdir()) == ["experiment.json", "results.md", "unguided"]
    assert set(list(cells_of(Path("mine/results.md"), "small ViT, guided").values())[1:]) == {""}
    assert cells_of(Path("mine/results.md"), "small ViT, unguided")["last epoch"] == (
        f"{curve(whole[0] / 'unguided/seed1')[-1]:.2f}"
    )
    assert "Command: `lgkd reproduce tiny --arms unguided --seeds 1`" in Path("mine/results.md").read_text()
    assert go("mine", "--arms", "unguided", "--seeds", "0") == 0
    assert cells_of(Path("mine/results.md"), "small ViT, unguided")["seeds"] == "0, 1"
    assert "Command: `lgkd reproduce tiny --arms unguided`" in Path("mine/results.md").read_text()


def test_a_look_shows_what_is_done_and_makes_nothing(whole, capsys) -> None:
    shutil.copytree(whole[0], "mine", ignore=shutil.ignore_patterns("guided"))
    before = snapshot(Path.cwd())
    assert go("mine", "--dry-run") == 0
    out = capsys.readouterr().out
    assert re.search(r"unguided/seed1 .* done\n", out) and re.search(
        r"guided/seed1 +small ViT, guided +quickstart\n", out
    )
    assert "98.76" in out and TINY.question in out
    assert go("mine", "--dry-run", "--json") == 0
    states = json.loads(capsys.readouterr().out)["runs"]
    assert states == {name: "" if name.startswith("guided") else "done" for name in RUNS}
    assert snapshot(Path.cwd()) == before


def test_json_is_all_that_is_printed(whole, capsys) -> None:
    assert run(["reproduce", "tiny", "--out", str(whole[0]), "--json"]) == 0
    out, err = capsys.readouterr()
    arms = {arm["arm"]: arm for arm in json.loads(out)["arms"]}
    assert err == "" and arms["guided"]["quoted"] == [{"top1": 0.9876, "what": "best epoch", "source": "a paper"}]
    found = [run_["top1"] for run_ in arms["guided"]["measured"]["runs"]]
    assert found == pytest.approx([curve(whole[0] / f"guided/seed{seed}")[-1] / 100 for seed in (0, 1)])


def test_a_finished_run_of_other_settings_is_no_part_of_it(whole, monkeypatch, capsys) -> None:
    other = replace(TINY.arms[1], overrides=(*TINY.arms[1].overrides, "optimizer.lr=1e-3"))
    monkeypatch.setitem(EXPERIMENTS, "tiny", replace(TINY, arms=(TINY.arms[0], other, TINY.arms[2])))
    before = snapshot(whole[0])
    assert go(whole[0]) == 2
    err = capsys.readouterr().err
    assert (
        "holds a finished run (lgkd.quickstart:small_vit on digits, seed 0) of other settings than tiny has here" in err
    )
    assert "recipe.optimizer.lr: was 0.002, now 0.001" in err and "Choose another --out to start again" in err
    assert snapshot(whole[0]) == before


def test_a_folder_of_something_else_is_refused(whole, monkeypatch, capsys) -> None:
    Path("notes").mkdir()
    Path("notes/a.txt").write_text("mine")
    Path("damaged").mkdir()
    Path("damaged/experiment.json").write_text('{"format": 1, "experiment": "tiny", "commits": []}')
    Path("cut").mkdir()
    Path("cut/experiment.json").write_text('{"format"')
    for out, told in (
        ("notes", "notes already holds a.txt and no experiment.json; nothing was touched. Choose another --out"),
        ("notes/a.txt", "a.txt is a file, expected a folder for an experiment; choose another --out"),
        ("damaged", "experiment.json does not name an experiment and commits; it is damaged or a different file"),
        (
            "cut",
            "cut/experiment.json cannot be read (Expecting ':' delimiter: line 1 column 10 (char 9)); it is damaged or "
            "a different file",
        ),
    ):
        assert go(out) == 2
        assert told in capsys.readouterr().err
    assert run(["reproduce", "digits", "--out", str(whole[0])]) == 2
    assert f"{whole[0]} holds the experiment tiny, not digits; choose another --out" in capsys.readouterr().err


def test_runs_on_other_images_stand_in_no_common_table(whole) -> None:
    shutil.copytree(whole[0], "mine")
    file = Path("mine/guided/seed1/run.json")
    info = json.loads(file.read_text())
    file.write_text(json.dumps({**info, "dataset": {**info["dataset"], "fingerprint": "other"}}))
    reseal(file.parent)
    with pytest.raises(InputError, match="were measured on different images, so their accuracies cannot be compared"):
        look_at(TINY, Path("mine"))


def test_a_teacher_that_was_lost_is_told_of(whole, capsys) -> None:
    shutil.copytree(whole[0], "mine", ignore=shutil.ignore_patterns("guided", "teachers"))
    assert go("mine", "--seeds", "0") == 2
    assert (
        "teacher/seed0 is finished, but its teacher is not at mine/teachers/teacher/seed0/" in capsys.readouterr().err
    )


BORROWING = replace(
    TINY,
    name="borrowing",
    arms=(replace(TINY.arms[2], teacher="resnet8--20-images-per-class-seed-0", against=None),),
    borrowed=Borrowed("resnet8--20-images-per-class-seed-0", "whole", "teacher"),
)


def test_a_teacher_is_borrowed_from_the_experiment_that_trains_it(whole, monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setitem(EXPERIMENTS, "borrowing", BORROWING)
    out = whole[0].parent / "borrowing"
    assert run(["reproduce", "borrowing", "--out", str(out), "--seeds", "1", "--quiet"]) == 0
    assert same_end(out / "guided/seed1", whole[0] / "guided/seed1")


def test_a_borrowed_teacher_that_is_nowhere_is_told_before_anything_is_made(monkeypatch, capsys) -> None:
    borrowed = Borrowed("resnet8", "whole", "teacher")
    lacking = replace(BORROWING, arms=(replace(BORROWING.arms[0], teacher="resnet8"),), borrowed=borrowed)
    monkeypatch.setitem(EXPERIMENTS, "borrowing", lacking)
    assert run(["reproduce", "borrowing", "--out", "mine/borrowing"]) == 3
    err = capsys.readouterr().err
    assert "borrowing needs the teacher of whole, which is neither at" in err
    assert "train it with: lgkd reproduce whole (or any other resnet8: lgkd train-teacher resnet8 digits" in err
    assert not Path("mine").exists()


# First steps.


def means_add_up(arm: Arm, parts: dict[str, float]) -> None:
    """The loss is the weighted sum of its parts, each term of the recipe among them."""
    guide = recipe_of(arm).guide
    told = {name: value for name, value in parts.items() if name not in ("loss", "accuracy", "classification")}
    terms = guide.terms if guide is not None else ()
    assert len(told) == len(terms)
    weighted = sum(term.weight * value for term, value in zip(terms, told.values(), strict=True))
    classification = (guide.classification_weight if guide is not None else 1.0) * parts["classification"]
    assert parts["loss"] == pytest.approx(classification + weighted, rel=2e-2)


def test_first_steps_are_taken_and_thrown_away(capsys) -> None:
    assert run(["reproduce", "tiny", "--first-steps", "--json"]) == 0
    started = json.loads(capsys.readouterr().out)
    assert [(one["arm"], one["steps"]) for one in started] == [("teacher", 2), ("unguided", 2), ("guided", 2)]
    for arm, one in zip(TINY.arms, started, strict=True):
        means_add_up(arm, one["means"])
    assert list(Path.cwd().iterdir()) == [Path.cwd() / "lgkd-home"] and not Path("lgkd-home/teachers").exists()
    assert run(["reproduce", "tiny", "--first-steps", "--quiet", "--arms", "unguided"]) == 0
    assert re.search(r"unguided +2 +\d+ s  accuracy 0", capsys.readouterr().out)


def test_more_first_steps_than_there_are_is_an_error() -> None:
    short = replace(TINY, arms=(replace(TINY.arms[1], epochs=1),))
    with pytest.raises(InputError, match="unguided of tiny has fewer steps than were asked for; use a smaller batch"):
        take_first_steps(short, steps=2, batch_size=100)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, one in EXPERIMENTS.items() if one.scale != "minutes"])
def test_every_arm_of_every_experiment_starts_on_a_cpu(name: str) -> None:
    experiment = EXPERIMENTS[name]
    images = made_dataset(Choices(teacher="resnet8", images=10_000, source_size=32))
    # Of arms that differ in the number of images alone, those of one number will do.
    arms = [arm for arm in experiment.arms if arm.images_per_class in (None, 10)]
    started = take_first_steps(experiment, arms=[arm.key for arm in arms], dataset=images, steps=1, batch_size=4)
    for arm, one in zip(arms, started, strict=True):
        assert (one.arm, one.steps) == (arm.key, 1)
        means_add_up(arm, one.parts)


@pytest.mark.slow
def test_a_seed_of_the_experiment_of_minutes_is_run_and_guidance_helps_it(capsys) -> None:
    assert run(["reproduce", "digits", "--quiet", "--out", "digits", "--seeds", "0"]) == 0
    teacher, unguided, guided = look_at(EXPERIMENTS["digits"], Path("digits")).rows
    assert teacher.top1 is not None and unguided.top1 is not None and guided.top1 is not None
    # One of three seeds that gained 9.5 points in the mean; this one gained 18.
    assert teacher.top1.mean > guided.top1.mean > unguided.top1.mean > 0.5
    assert "guided: one seed gives no interval and is not a result" in capsys.readouterr().out
