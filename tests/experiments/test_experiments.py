"""Named experiments as they are written down, and their rows in a Markdown file; nothing is trained here."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from lgkd.cli import run
from lgkd.data.catalogue import CATALOGUE
from lgkd.errors import InputError
from lgkd.experiments.catalogue import EXPERIMENTS
from lgkd.experiments.catalogue.evening import EVENING
from lgkd.experiments.catalogue.field import FIELD
from lgkd.experiments.catalogue.folders import FOLDERS
from lgkd.experiments.layout import read_about
from lgkd.experiments.markdown import check_results, gain_words, mean_and_spread, section, took, write_results
from lgkd.experiments.results import Outcome, Row
from lgkd.experiments.select import choose_arms, find_experiment, turns_of
from lgkd.experiments.spec import Arm, Borrowed, Experiment, Quoted
from lgkd.models.registry import MODELS, canonical
from lgkd.runs.statistics import Interval, Summary
from tests import CHECKOUT
from tests.support.reproducing import recipe_of

ARMS = [pytest.param(one, arm, id=f"{one.name}-{arm.key}") for one in EXPERIMENTS.values() for arm in one.arms]
DIGITS = EXPERIMENTS["digits"]
ASKED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("registers", "multiscale", "gaussian-mask"), ()),
    "sam": ("sam", "schedule"),
    "schedule-free": ("optimizer",),
}
"""Arms of the field whose student, or whose parts of the recipe that are named, are another's on purpose."""


def steps_of(experiment: Experiment, arm: Arm) -> int:
    """Counted by hand: images of the part, whole batches an epoch, epochs."""
    info, recipe = CATALOGUE[experiment.dataset], recipe_of(arm)
    images = info.classes * arm.images_per_class if arm.images_per_class else info.train * (arm.fraction or 1)
    return math.floor(images / recipe.batch_size) * recipe.schedule.epochs


@pytest.mark.parametrize(("experiment", "arm"), ARMS)
def test_every_arm_has_a_recipe_that_can_be_and_a_model_that_is_known(experiment: Experiment, arm: Arm) -> None:
    recipe = recipe_of(arm)
    guided = recipe.guide is not None and any(term.reads_teacher for term in recipe.guide.terms)
    assert guided == (arm.teacher is not None)
    assert recipe.trains == arm.role
    if arm.model != "lgkd.quickstart:small_vit":
        assert MODELS[canonical(arm.model)].role == arm.role


@pytest.mark.parametrize(("experiment", "arm"), ARMS)
def test_an_arm_and_the_one_it_is_compared_with_differ_in_nothing_but_what_is_asked(
    experiment: Experiment, arm: Arm
) -> None:
    if arm.against is None:
        return
    other = experiment.arm(arm.against)
    assert (arm.model, arm.seeds) == (other.model, other.seeds)
    assert arm.options == other.options or (experiment in FIELD and arm.key in ASKED and not other.options)
    assert (arm.fraction, arm.images_per_class) == (other.fraction, other.images_per_class)
    kept = {"about", "source", "expect", "guide"}
    ours, theirs = (recipe_of(one).model_dump(exclude=kept) for one in (arm, other))
    if experiment.name == "cifar100-10pct-plus":  # it asks what the optimiser is worth; the rate is the same
        assert (ours["optimizer"].pop("name"), theirs["optimizer"].pop("name")) == ("muon", "adamw")
        assert (ours["optimizer"].pop("momentum"), theirs["optimizer"].pop("momentum")) == (0.95, 0.9)
    if experiment in EVENING:  # at equal minutes, of which the guided student's teacher had its part
        schedules = [one.pop("schedule") for one in (ours, theirs)]
        assert all(one["epochs"] is None for one in schedules)
        assert schedules[0]["steps"] * 1.5 < schedules[1]["steps"]
    if experiment in FIELD:
        for key in ("optimizer", "sam", "schedule") if arm.key in ASKED else ():
            assert (ours.pop(key) != theirs.pop(key)) == (key in ASKED[arm.key]), key
        if arm.against == "unguided" and arm.teacher is not None:
            assert (ours["optimizer"].pop("lr"), theirs["optimizer"].pop("lr")) == (1e-2, 3e-3)
    # Each at its own best rate.
    if experiment in (*FOLDERS, *EVENING) or experiment.name == "cifar100-10pct-label-free":
        assert (ours["optimizer"].pop("lr"), theirs["optimizer"].pop("lr")) == (1e-2, 3e-3)
    assert ours == theirs


def test_students_of_two_cores_take_780_steps_of_64_and_all_their_teachers_the_same() -> None:
    small = [one for one in EXPERIMENTS.values() if one.scale == "2 cores" and one not in (*FOLDERS, *EVENING)]
    arms = [(one, arm) for one in small for arm in one.arms if arm.key != "sam"]
    found = {(arm.role, steps_of(one, arm), recipe_of(arm).batch_size) for one, arm in arms}
    assert steps_of(FIELD[0], FIELD[0].arm("sam")) == 390  # of two passes each
    assert len(small) == 7 and found == {("student", 780, 64), ("teacher", 3120, 64)}


def test_teachers_of_parts_of_the_images_saw_the_images_of_their_students() -> None:
    looked_at = 0
    for one in EXPERIMENTS.values():
        for arm in one.arms:
            if arm.teacher is not None and one.borrowed is None:
                teacher = one.arm(arm.teacher)
                looked_at += 1
                assert (teacher.fraction, teacher.images_per_class) == (arm.fraction, arm.images_per_class)
    assert looked_at > 10


def test_the_full_experiments_train_as_long_as_the_papers_and_come_in_the_order_of_their_worth() -> None:
    full = [one for one in EXPERIMENTS.values() if one.scale == "full"]
    assert [one.name for one in full] == [
        "cifar100-resnet56",
        "cifar100-deit-tiny",
        "cifar100-pvtv2",
        "cifar100-deit-tiny-adaptive",
        "cifar100-deit-tiny-logits",
        "cifar100-dhvt",
        "cifar100-deit-tiny-plus",
        "cifar100-teachers",
    ]
    epochs = {arm.key: recipe_of(arm).schedule.epochs for one in full for arm in one.arms}
    assert epochs.pop("plus-100") == 100 and set(epochs.values()) == {300}
    assert all(arm.fraction is arm.images_per_class is None for one in full for arm in one.arms)
    paper = recipe_of(EXPERIMENTS["cifar100-deit-tiny"].arm("locality-batch"))
    assert paper.guide is not None and paper.guide.teacher_bn == "batch" and paper.batch_size == 128
    assert EXPERIMENTS["cifar100-deit-tiny"].borrowed == Borrowed("resnet56", "cifar100-resnet56", "resnet56")


def test_what_is_quoted_is_what_the_sources_say(golden) -> None:
    quoted = {
        f"{one.name}/{arm.key}": [figure.top1 for figure in arm.quoted]
        for one in EXPERIMENTS.values()
        for arm in one.arms
        if arm.quoted
    }
    early = {tuple(arm.early.top1) for one in EXPERIMENTS.values() for arm in one.arms if arm.early is not None}
    values = golden("published_cifar")
    assert quoted == values["top1"]
    assert early == {tuple((epoch, top1) for epoch, top1 in values["deit_tiny_logits_by_epoch"])}
    assert all(
        figure.source and figure.what for one in EXPERIMENTS.values() for arm in one.arms for figure in arm.quoted
    )


def test_the_list_fits_into_eighty_columns_and_json_has_every_arm(capsys, monkeypatch) -> None:
    assert run(["reproduce"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[2:-1]] == list(EXPERIMENTS)
    assert run(["reproduce", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in listed] == list(EXPERIMENTS)
    arms = {(one["name"], arm["arm"]) for one in listed for arm in one["arms"]}
    assert arms == {(one.name, arm.key) for one in EXPERIMENTS.values() for arm in one.arms}


def test_turns_begin_with_what_all_seeds_share_and_then_finish_one_seed_before_the_next() -> None:
    turns = turns_of(DIGITS, DIGITS.arms, [4, 2])
    assert [turn.name for turn in turns] == [
        "teacher/seed0", "unguided/seed4", "guided/seed4", "unguided/seed2", "guided/seed2",
    ]  # fmt: skip


def test_an_arm_brings_the_teacher_that_it_needs() -> None:
    curve = EXPERIMENTS["cifar100-images-per-class"]
    assert [arm.key for arm in choose_arms(curve, ["locality-25", "unguided-10"])] == [
        "unguided-10", "teacher-25", "locality-25",
    ]  # fmt: skip
    assert choose_arms(curve, None) == curve.arms


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["digitz"], "no experiment is called 'digitz'; did you mean 'digits'?"),
        (["digits", "--arms", "guidet"], "digits has no arm 'guidet'; did you mean 'guided'"),
        (["digits", "--seeds", "1,1"], "the seed 1 is given twice"),
    ],
)
def test_a_mistyped_choice_is_told_before_anything_is_made(
    words: list[str], told: str, capsys, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["reproduce", *words]) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arms", "told"),
    [
        ((DIGITS.arms[1], DIGITS.arms[1]), "the experiment wrong has two things called 'unguided'; name one otherwise"),
        (DIGITS.arms[1:], "wrong: no teacher 'teacher' comes before the arm guided"),
        ((DIGITS.arms[0], DIGITS.arms[2]), "wrong: an arm is compared with 'unguided', which is not one of its arms"),
    ],
)
def test_an_experiment_that_contradicts_itself_cannot_be_made(arms: tuple[Arm, ...], told: str) -> None:
    with pytest.raises(InputError, match=told):
        replace(DIGITS, name="wrong", arms=arms)


# Rows in a file.


def outcome(name: str = "one", *, question: str = "Why?") -> Outcome:
    """Nothing of it was run."""
    arm = Arm("a", "an arm", "resnet8", "teacher", role="teacher", quoted=(Quoted(70.43, "of | it", "<somebody>"),))
    experiment = Experiment(name, "title", question, "full", "cifar100", "all", (0,), "long", (arm,))
    return Outcome(experiment, Path(), (Row(arm),))


def test_a_row_that_was_not_run_is_empty_and_what_is_quoted_stands_in_a_table_of_its_own() -> None:
    text = section(outcome())
    measured, quoted = text.split("Quoted, not measured here:")
    rows = [line for line in measured.splitlines() if line.startswith("| an arm")]
    cells = [cell.strip() for cell in rows[0].strip("|").split("|")]
    assert len(rows) == 1 and cells[0] == "an arm" and set(cells[1:]) == {""}
    assert "70.43" not in measured
    assert "| an arm | 70.43 | of \\| it | &lt;somebody> |" in quoted


def test_only_an_experiments_own_section_is_replaced_and_everything_else_stays_to_the_byte(tmp_path: Path) -> None:
    file = tmp_path / "results.md"
    before, between, after = b"\xff\r\n# Mine\r\n", b"\r\n\r\n| a | b |\n", b"\n\tend without a newline"
    one, two = (section(outcome(name)).encode() for name in ("one", "two"))
    file.write_bytes(before + one + between + two + after)
    write_results(file, outcome("one", question="Changed?"))
    changed = section(outcome("one", question="Changed?")).encode()
    assert b"Changed?" in changed and file.read_bytes() == before + changed + between + two + after
    write_results(file, outcome("one", question="Changed?"))
    assert file.read_bytes() == before + changed + between + two + after


@pytest.mark.parametrize(
    ("content", "gap"), [(b"# Mine", b"\n\n"), (b"# Mine\n", b"\n"), (b"# Mine\n\n", b""), (b"", b"")]
)
def test_a_new_section_goes_to_the_end(content: bytes, gap: bytes, tmp_path: Path) -> None:
    file = tmp_path / "results.md"
    file.write_bytes(content)
    write_results(file, outcome())
    assert file.read_bytes() == content + gap + section(outcome()).encode() + b"\n"


def test_a_new_file_gets_a_heading(tmp_path: Path) -> None:
    write_results(tmp_path / "new.md", outcome())
    assert (tmp_path / "new.md").read_text() == f"# Results\n\n{section(outcome())}\n"


def test_marks_that_do_not_belong_together_are_refused_and_nothing_is_touched(tmp_path: Path, capsys) -> None:
    begin, end = section(outcome("digits")).splitlines()[0], "<!-- end of digits -->"
    for content, counts in (
        (begin, "1 beginnings and 0 ends"),
        (f"{begin}{end}{end}", "1 beginnings and 2 ends"),
        (f"{end}\n{begin}", "1 beginnings and 1 ends"),
    ):
        file = tmp_path / "results.md"
        file.write_text(content)
        assert run(["reproduce", "digits", "--out", str(tmp_path / "out"), "--results", str(file)]) == 2
        assert f"{file} has {counts} of digits, expected one of each in that order" in capsys.readouterr().err
        assert file.read_text() == content and not (tmp_path / "out").exists()


def test_a_results_file_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder, expected a Markdown file; choose another --results"):
        check_results(tmp_path, DIGITS)
    with pytest.raises(InputError, match=r"there is no folder .*nowhere for a.md; make it, or choose another"):
        check_results(tmp_path / "nowhere" / "a.md", DIGITS)


def test_figures_are_written_as_percent_and_points() -> None:
    assert mean_and_spread(Summary(0.34789, None, 1)) == "34.79"
    assert mean_and_spread(Summary(0.20208, 0.00106, 2)) == "20.21 ± 0.11"
    assert mean_and_spread(None) == gain_words(None) == took(None) == ""
    assert gain_words(Interval(0.1056, -0.0234, 0.2512, 0.95, 2)) == "+10.6 (-2.3 to +25.1)"
    assert gain_words(Interval(-0.001, None, None, 0.95, 1)) == "-0.1 (one seed)"
    assert [took(seconds) for seconds in (7.4, 99, 600, 7200)] == ["7 s", "99 s", "10.0 min", "2.0 h"]


def test_a_name_is_looked_up() -> None:
    assert find_experiment("digits") is DIGITS


def test_the_page_of_results_quotes_what_the_experiments_do() -> None:
    page = (CHECKOUT / "docs" / "results.md").read_text(encoding="utf-8")
    for one in EXPERIMENTS.values():
        begin, end = (section(Outcome(one, Path(), ())).splitlines()[place] for place in (0, -1))
        assert page.count(begin) == page.count(end) == 1, one.name
        there = page[page.index(begin) : page.index(end)]
        for arm in one.arms:
            for figure in arm.quoted:
                assert f"| {arm.label} | {figure.top1:.2f} | {figure.what} |" in there, (one.name, arm.key)


def test_an_experiment_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "experiment.json").write_text("{")
    with pytest.raises(InputError) as told:
        read_about(tmp_path)
    sentence = re.sub(r"\(.*\)", "(...)", str(told.value))
    assert sentence.endswith("experiment.json cannot be read (...); it is damaged or a different file")
