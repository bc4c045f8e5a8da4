"""`lgkd compare`: what belongs together, what may be compared, and what is said of it."""

import csv
import json
import math
import re
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from lgkd.cli import run as lgkd
from lgkd.config import load_recipe
from lgkd.errors import InputError, TakenError
from lgkd.runs.compare import compare
from lgkd.runs.compare.summary import summary_lines
from lgkd.runs.folder import claim
from tests import CHECKOUT
from tests.support.comparing import make_run, make_seeds
from tests.support.screen import shown_on, terminal
from tests.support.unrendered import real_figures

ALONE, GUIDED = [0.60, 0.62, 0.61, 0.58], [0.66, 0.65, 0.69, 0.63]


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """Four seeds, each unguided and guided, in one folder."""
    make_seeds(tmp_path / "both", ALONE)
    return make_seeds(tmp_path / "both", GUIDED, guided=True)


def words_of(*places: Path, **more: Path) -> str:
    found = compare(*places, **more)
    return "\n".join([*summary_lines(found), *found.remarks])


def test_runs_that_differ_only_by_seed_become_mean_spread_and_interval(both: Path) -> None:
    found = compare(both)
    assert [(group.label, group.seeds) for group in found.groups] == [
        ("deit_tiny unguided", [0, 1, 2, 3]),
        ("deit_tiny by resnet8", [0, 1, 2, 3]),
    ]
    for group, ends in zip(found.groups, (ALONE, GUIDED), strict=True):
        theirs = stats.t.interval(0.95, 3, loc=np.mean(ends), scale=stats.sem(ends))
        assert (group.top1.low, group.top1.high) == pytest.approx(theirs)
        assert group.top1.mean == pytest.approx(statistics.mean(ends)) and group.sd == pytest.approx(
            np.std(ends, ddof=1)
        )


def test_no_accuracy_is_said_to_reach_below_0_or_above_100(tmp_path: Path) -> None:
    make_seeds(tmp_path / "wide", [0.1, 0.6])
    make_seeds(tmp_path / "wide", [0.9, 0.4], guided=True)
    found = compare(tmp_path / "wide")
    assert [(group.top1.low, group.top1.high) for group in found.groups] == [(0, 1), (0, 1)]
    gain = found.differences[0].interval
    assert gain.low is not None and gain.low < -1  # of a difference the interval is left as it is


def test_the_gain_is_paired_by_seed(both: Path) -> None:
    (gain,) = compare(both).differences
    theirs = stats.ttest_rel(GUIDED, ALONE).confidence_interval(0.95)
    assert gain.paired and (gain.group.letter, gain.reference.letter) == ("B", "A")
    assert (gain.interval.low, gain.interval.high) == pytest.approx((theirs.low, theirs.high))
    assert [(seed, round(value, 2)) for seed, value in gain.by_seed] == [(0, 0.06), (1, 0.03), (2, 0.08), (3, 0.05)]
    lines = words_of(both)
    assert lines.startswith(
        "B - A: +5.50 points, 95% t-interval +2.19 to +8.81, paired over 4 seeds (+6.00, +3.00, +8.00, +5.00)."
    )
    assert "The interval does not include 0. It assumes roughly normal differences, which 4 seeds cannot show." in lines


def test_other_seeds_are_compared_unpaired_and_that_is_said(tmp_path: Path) -> None:
    alone = make_seeds(tmp_path / "alone", ALONE)
    guided = make_seeds(tmp_path / "guided", GUIDED[:3], guided=True, first=10)
    (gain,) = compare(alone, guided).differences
    theirs = stats.ttest_ind(GUIDED[:3], ALONE, equal_var=False).confidence_interval(0.95)
    assert not gain.paired and gain.by_seed == []
    assert (gain.interval.low, gain.interval.high) == pytest.approx((theirs.low, theirs.high))
    lines = words_of(alone, guided)
    assert "(Welch's), not paired." in lines
    assert "Not paired, since the seeds differ (A: 0, 1, 2, 3; B: 10, 11, 12)" in lines


def test_one_seed_is_never_called_a_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = make_run(tmp_path / "alone", 0.6)
    guided = make_run(tmp_path / "guided", 0.7, guided=True)
    assert words_of(alone) == "One seed is not a result (A): train with --seeds 0,1,2 for a spread."
    assert words_of(alone, guided) == (
        "B - A: +10.00 points with one seed, which gives no interval and is not a result.\n"
        "Equal steps: A and B were trained for 5 steps each."
    )
    more = make_seeds(tmp_path / "more", GUIDED, guided=True, first=1)
    assert "+5.75 points. One seed gives no interval, so this is not a result." in words_of(alone, more)
    kept = compare(alone, guided).as_dict()
    assert [group["is_a_result"] for group in kept["groups"]] == [False, False]
    assert kept["differences"][0]["is_a_result"] is False and kept["differences"][0]["low"] is None
    assert lgkd(["compare", str(alone), str(guided)]) == 0
    shown = capsys.readouterr().out
    assert (shown.count("no result"), shown.count("is not a result")) == (2, 1)


def test_the_last_epoch_is_the_headline_and_the_best_one_is_labelled(both: Path, capsys) -> None:
    found = compare(both)
    assert [group.best.mean - group.top1.mean for group in found.groups] == pytest.approx([0.05, 0.05])
    assert lgkd(["compare", str(both)]) == 0
    text = capsys.readouterr().out
    assert "top-1 after the last epoch, in %" in text and re.search(
        r"^A +deit_tiny unguided +4 +60.25 .* 65.25$", text, re.M
    )
    assert "best: of the best epoch on the test split, as papers print; selected on the data\nit is measured on" in text


def test_an_epoch_chosen_on_held_out_images_has_a_column_of_its_own(tmp_path: Path, capsys) -> None:
    held = make_run(
        tmp_path / "held",
        0.7,
        0.5,
        dataset={"val_images": 20},
        results={"selected_on": "val", "epoch": 1, "test_top1": 0.7},
    )
    (group,) = compare(held).groups
    assert group.top1.mean == 0.5 and group.chosen is not None and group.chosen.mean == 0.7
    assert lgkd(["compare", str(held)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^A +deit_tiny unguided +1 +50.00 +- +no result +70.00 +70.00$", shown, re.M)
    assert "held out: of the epoch that is best on held-out images, by top-1 accuracy\n" in shown


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"dataset": {"fingerprint": "0" * 64}}, f"dataset.fingerprint: {'f' * 64} (A), {'0' * 64} (B)"),
        (
            {"dataset": {"name": "cifar10", "classes": 12}},
            "dataset.name: digits (A), cifar10 (B); dataset.classes: 10 (A), 12",
        ),
        ({"dataset": {"test_images": 7}}, "dataset.test_images: 599 (A), 7 (B)"),
    ],
)
def test_runs_that_were_measured_on_other_images_are_refused(tmp_path: Path, changes: dict, told: str) -> None:
    one, other = make_run(tmp_path / "one", 0.5), make_run(tmp_path / "other", 0.6, **changes)
    with pytest.raises(InputError, match=r"measured on different images.*compare runs on one data set") as caught:
        compare(one, other)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"dataset": {"subset": "fraction 0.5, seed 0"}},
            "the runs differ in dataset.subset: all (A), fraction 0.5 (B)",
        ),
        ({"dataset": {"train_images": 100}}, "the runs differ in dataset.train_images: 200 (A), 100 (B)"),
        ({"dataset": {"val_images": 20}}, "the runs differ in dataset.val_images: none (A), 20 (B)"),
        ({"student": {"image_size": [64, 64]}}, "the runs differ in student.image_size: [32, 32] (A), [64, 64] (B)"),
        ({"overrides": {"batch_size": 64}}, "A and B also differ in batch_size: 128 (A), 64 (B)"),
        ({"precision": "bf16"}, "A and B also differ in precision: fp32 (A), bf16 (B)"),
    ],
)
def test_runs_that_learned_otherwise_are_compared_with_a_warning_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict, told: str
) -> None:
    alone = make_run(tmp_path / "alone", 0.5, 0.6)
    guided = make_run(tmp_path / "guided", 0.6, 0.7, guided=True, **changes)
    assert told in compare(alone, guided).remarks
    assert lgkd(["compare", str(alone), str(guided)]) == 0
    assert f"Beware: {told}." in capsys.readouterr().out


def test_unequal_numbers_of_epochs_are_warned_of(tmp_path: Path) -> None:
    alone, guided = make_run(tmp_path / "alone", 0.6), make_run(tmp_path / "guided", 0.6, 0.7, guided=True)
    assert compare(alone, guided).remarks == ("the runs differ in epochs: 1 (A), 2 (B)",)


def test_a_matched_pair_has_no_warning(both: Path) -> None:
    assert compare(both).remarks == ()


def test_extra_images_make_no_other_test_split(tmp_path: Path) -> None:
    extra = {"path": "/made", "images": 9, "share": 0.5, "fingerprint": "e" * 64}
    one = make_run(tmp_path / "one", 0.5)
    other = make_run(tmp_path / "other", 0.6, dataset={"extra": extra, "fingerprint": "1" * 64})
    assert [remark.partition(":")[0] for remark in compare(one, other).remarks] == [
        "the runs differ in dataset.extra.fingerprint",
        "the runs differ in dataset.extra.share",
    ]


def test_seeds_that_draw_their_own_part_of_the_images_belong_together_and_are_paired_by_it(tmp_path: Path) -> None:
    for seed in (0, 1):
        part = {"subset": f"20 images per class, seed {seed}"}
        make_run(tmp_path / f"seed{seed}-unguided", 0.5 + seed / 10, seed=seed, dataset=part)
        make_run(tmp_path / f"seed{seed}-guided", 0.6 + seed / 10, seed=seed, guided=True, dataset=part)
    (gain,) = compare(tmp_path).differences
    assert gain.paired and gain.interval.mean == pytest.approx(0.1)
    make_run(tmp_path / "x" / "seed0", 0.7, guided=True, dataset={"subset": "20 images per class, seed 5"})
    make_run(tmp_path / "x" / "seed1", 0.7, seed=1, guided=True, dataset={"subset": "20 images per class, seed 5"})
    alone = [tmp_path / f"seed{seed}-unguided" for seed in (0, 1)]
    assert not compare(*alone, tmp_path / "x").differences[0].paired


def test_a_repeated_run_is_no_second_measurement(both: Path, tmp_path: Path) -> None:
    shutil.copytree(both / "seed0-guided", tmp_path / "again")
    with pytest.raises(
        InputError, match=r"are the same training with seed 0; a repeated run is not a second measurement"
    ):
        compare(both, tmp_path / "again")
    assert compare(both, both / "seed0-guided", both).as_dict() == compare(both).as_dict()


def test_names_tell_groups_apart_by_recipe_or_by_the_fields_that_differ(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", 0.5, guided=True),
        make_run(tmp_path / "b", 0.5, guided=True, overrides={"batch_size": 64}),
        make_run(tmp_path / "c", 0.5, guided=True, overrides={"batch_size": 32}, recipe="mine"),
    ]
    assert [group.label for group in compare(*runs).groups] == [
        "deit_tiny by resnet8, locality-guidance, batch_size=128",
        "deit_tiny by resnet8, locality-guidance, batch_size=64",
        "deit_tiny by resnet8, mine",
    ]


def test_a_teacher_of_other_weights_is_another_teacher(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", 0.5, guided=True)
    other = make_run(tmp_path / "other", 0.5, guided=True, seed=1, teacher={"sha256": "b" * 64})
    assert [group.label for group in compare(one, other).groups] == [
        f"deit_tiny by resnet8, teacher.sha256={'a' * 12}",
        f"deit_tiny by resnet8, teacher.sha256={'b' * 12}",
    ]


def test_names_leave_out_what_follows_from_the_number_of_steps(tmp_path: Path) -> None:
    """As of two trainings by --time: steps, the epochs that they make, and the epochs of warm-up all differ."""
    schedule = load_recipe("locality-guidance").schedule
    runs = [
        make_run(
            tmp_path / f"{steps}",
            *[0.5] * (steps // 100),
            guided=True,
            overrides={
                "schedule": schedule.model_copy(update={"epochs": None, "steps": steps, "warmup_epochs": steps / 800})
            },
        )
        for steps in (700, 900)
    ]
    assert [group.label for group in compare(*runs).groups] == [
        "deit_tiny by resnet8, schedule.steps=700",
        "deit_tiny by resnet8, schedule.steps=900",
    ]


def test_each_guided_student_meets_its_own_baseline(tmp_path: Path) -> None:
    places = [
        make_run(tmp_path / f"{name}{guided}", 0.5, guided=guided, student={"name": name})
        for name in ("deit_tiny", "pit_ti")
        for guided in (False, True)
    ]
    found = compare(*places)
    pairs = [(one.reference.label, one.group.label) for one in found.differences]
    assert pairs == [("deit_tiny unguided", "deit_tiny by resnet8"), ("pit_ti unguided", "pit_ti by resnet8")]
    assert "2 differences are shown, each with its own 95% interval" in "\n".join(summary_lines(found))


def test_without_a_baseline_all_meet_the_first_or_the_one_that_is_asked_for(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, 0.5, student={"name": name}) for name in ("one", "two", "three")]
    assert [(d.reference.label, d.group.label) for d in compare(*runs).differences] == [
        ("one unguided", "two unguided"),
        ("one unguided", "three unguided"),
    ]
    found = compare(runs[0], runs[1], against=runs[2])
    assert [(d.reference.label, d.group.label) for d in found.differences] == [
        ("three unguided", "one unguided"),
        ("three unguided", "two unguided"),
    ]
    with pytest.raises(InputError, match=r"--against .* holds 3 kinds of runs .*; name one run to compare with"):
        compare(runs[0], against=tmp_path)


def test_seeds_come_in_the_order_of_numbers(tmp_path: Path) -> None:
    make_seeds(tmp_path / "many", [0.5] * 12)
    assert compare(tmp_path / "many").groups[0].seeds == list(range(12))


def test_what_is_no_finished_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = make_run(tmp_path / "runs" / "done", 0.5)
    under_way = make_run(tmp_path / "runs" / "under-way", 0.5, seed=1, status="running")
    with pytest.raises(InputError, match=r"under-way is not finished; resume it by: lgkd resume .*under-way"):
        compare(under_way)
    assert lgkd(["compare", str(tmp_path / "runs")]) == 0
    assert re.search(r"skipped .*under-way: it is not finished", capsys.readouterr().err)
    shutil.rmtree(done)
    with pytest.raises(InputError, match="none of these folders holds a finished run; wait for one"):
        compare(tmp_path / "runs")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        InputError, match=r"empty holds no run.json and no folders of runs; expected the folder of a run"
    ):
        compare(tmp_path / "empty")
    with pytest.raises(InputError, match=r"there is no folder .*nowhere; expected the folder of a run \(it holds run"):
        compare(tmp_path / "nowhere")
    assert lgkd(["resume", str(tmp_path / "empty")]) == 2
    assert "holds no run.json, so it is not an lgkd run; expected the folder of a run" in capsys.readouterr().err
    with pytest.raises(TakenError) as caught:
        claim(under_way)
    what = "an unfinished run (deit_tiny on digits, seed 1)"
    assert str(caught.value) == f"{under_way} already holds {what}; nothing was touched. Choose another --out"


def test_a_damaged_run_is_told(tmp_path: Path) -> None:
    short = make_run(tmp_path / "short", 0.5, 0.6, epochs=3)
    with pytest.raises(
        InputError, match=r"does not end with epoch 3 and its test_top1, as that of a finished run does"
    ):
        compare(short)
    odd = make_run(tmp_path / "odd", 0.5, results={"best_epoch_on_the_test_split": None})
    with pytest.raises(InputError, match=r"is marked finished but lacks a proper results.best_epoch_on_the_test_split"):
        compare(odd)
    (odd / "run.json").write_text("nonsense")
    told = r"run.json cannot be read as JSON \(Expecting value: .*\); it is damaged or something else"
    with pytest.raises(InputError, match=told):
        compare(odd)
    ends = {"test_top1": 0.5, "best_epoch_on_the_test_split": {"epoch": 1, "test_top1": 0.5}}
    bad = make_run(tmp_path / "bad", math.nan, results=ends)
    with pytest.raises(InputError, match="a measurement is nan"):
        compare(bad).groups[0].top1.mean  # noqa: B018


def test_equal_ends_of_all_seeds_are_not_called_certain(tmp_path: Path) -> None:
    make_seeds(tmp_path / "x", [0.5, 0.5])
    make_seeds(tmp_path / "x", [0.6, 0.6], guided=True)
    assert "All seeds gave the same, so the interval has no width and says nothing about other seeds." in words_of(
        tmp_path / "x"
    )


def test_the_table_of_numbers_has_every_run_group_and_difference(both: Path, tmp_path: Path) -> None:
    with real_figures():
        assert lgkd(["compare", str(both), "--csv", str(tmp_path / "all.csv"), "--png", str(tmp_path / "all.png")]) == 0
    rows = list(csv.DictReader((tmp_path / "all.csv").open()))
    assert [row["row"] for row in rows] == ["run"] * 8 + ["group"] * 2 + ["difference"]
    assert [float(row["top1"]) for row in rows if row["row"] == "run"] == pytest.approx([*ALONE, *GUIDED])
    gain = rows[-1]
    assert (gain["group"], gain["against"], gain["paired"], gain["seeds"]) == ("B", "A", "yes", "0 1 2 3")
    assert float(gain["low"]) == pytest.approx(stats.ttest_rel(GUIDED, ALONE).confidence_interval(0.95).low)
    with Image.open(tmp_path / "all.png") as picture:
        assert picture.format == "PNG" and 1000 <= picture.width <= 2400


def test_a_file_that_is_there_is_not_written_over(
    both: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("mine")
    assert lgkd(["compare", str(both), "--csv", str(file)]) == 2
    assert "exists already; it was not touched. Choose another name, or add --replace" in capsys.readouterr().err
    assert file.read_text() == "mine"
    assert lgkd(["compare", str(both), "--csv", str(file), "--replace"]) == 0
    assert file.read_text().startswith("row,group,")


def test_json_is_the_comparison_and_nothing_else(both: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lgkd(["compare", str(both), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and json.loads(out) == compare(both).as_dict()


def test_tables_and_sentences_stay_within_80_columns(both: Path, tmp_path: Path) -> None:
    long = "a_student_of_a_very_long_name_that_somebody_gave_it_for_good_reasons"
    for guided in (False, True):
        make_seeds(tmp_path / "x", [0.1, 1.0, 0.55, 0.4], guided=guided, student={"name": f"package:{long}"})
    for place in (both, tmp_path / "x"):
        with terminal() as screen:
            assert lgkd(["compare", str(place)]) == 0
        lines = [line for line in shown_on(screen) if not line.startswith("lgkd: remark:")]
        assert max(map(len, lines)) <= 80


def test_the_page_shows_what_is_printed(both: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lgkd(["compare", str(both)]) == 0
    page = CHECKOUT / "docs" / "compare.md"
    assert f"```\n{capsys.readouterr().out}```" in page.read_text(encoding="utf-8")


def test_evil_names_are_shown_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "[red]x[/]\x1b[2J$\\alpha$"
    make_run(tmp_path / "x", 0.5, student={"name": evil}, dataset={"name": evil})
    assert lgkd(["compare", str(tmp_path / "x"), "--png", str(tmp_path / "x.png")]) == 0
    assert "[red]x[/]\\x1b[2J$\\alpha$ unguided" in capsys.readouterr().out


def test_a_comparison_does_not_wait_for_torch(both: Path) -> None:
    import subprocess
    import sys

    code = (
        f"import sys; from lgkd.cli import run; assert run(['compare', {str(both)!r}, '--json']) == 0; "
        "assert not {'torch', 'timm', 'matplotlib', 'PIL'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
