"""Arguments of a fit that are refused, its folder, and fit.json files that are not whole."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import lgkd
from lgkd.autofit.command import fit_command
from lgkd.autofit.facts import gather_facts
from lgkd.autofit.folder import FIT, State, find_state
from lgkd.autofit.inputs import Facts
from lgkd.autofit.plan import make_plan
from lgkd.autofit.request import Request
from lgkd.cli.app import load_command
from lgkd.cli.fit import longer_command, outcome_lines
from lgkd.errors import InputError, ModelError, RecipeError, TakenError
from tests.support.data import distinct, images, made, noise, save, two_splits
from tests.support.small import make_pictures


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"cached": "auto"}, InputError, r"lgkd\.fit has no option 'cached'"),
        ({"epoch": 3}, InputError, r"lgkd\.fit has no option 'epoch'; did you mean 'epochs'"),
        ({"time": "soon"}, InputError, "--time is 'soon', expected seconds"),
        ({"time": "1h", "epochs": 3}, InputError, "both set the length of the training"),
        ({"student": "vit_97"}, ModelError, "no model is called 'vit_97'; did you mean 'vit_96'"),
        ({"teacher": "fastnet"}, ModelError, "no model is called 'fastnet'; did you mean"),
        ({"recipe": "teacher-fast"}, RecipeError, "trains a teacher, expected one for a student"),
        ({"recipe": "supervised"}, RecipeError, "has no guide"),
        ({"teacher_recipe": "fast"}, RecipeError, "trains a student, expected one for a teacher"),
        ({"teacher_overrides": ["optimizer.rl=1"]}, RecipeError, "unknown key"),
        ({"seeds": [0, 0]}, InputError, "the seed 0 is given twice"),
        ({"data_dir": "nowhere"}, lgkd.errors.MissingError, "there is no folder nowhere"),
    ],
)
def test_arguments_are_refused_before_anything_is_read(
    options: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message):
        lgkd.fit("digits", out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_loaded_data_set_is_refused() -> None:
    loaded = made(images(distinct(0, 4), [0, 1, 0, 1], "train"), images(distinct(1, 2), [0, 1], "test"))
    with pytest.raises(InputError, match="the data set is a DataSet, expected a name or a folder"):
        lgkd.fit(loaded)  # type: ignore[arg-type]


def test_the_length_is_an_hour_unless_it_is_given() -> None:
    assert Request("digits", {}).seconds == 3600
    assert Request("digits", {"time": "20m"}).seconds == 1200
    assert Request("digits", {"epochs": 3}).seconds is None


def test_the_request_holds_what_is_compared_and_nothing_else(tmp_path: Path) -> None:
    two_splits(tmp_path / "photos")
    plain = Request(tmp_path / "photos", {"time": "60m"})
    same = Request(
        str(tmp_path / "photos" / ".." / "photos"),
        {"time": 3600.0, "max_time": 5.0, "device": "cpu", "track": ["tensorboard"], "fraction": None, "overrides": ()},
    )
    assert plain.as_dict() == same.as_dict()
    others = [
        Request(tmp_path / "photos", {"fraction": 0.5}),
        Request(tmp_path / "photos", {"overrides": ["optimizer.lr=1"]}),
        Request(tmp_path / "photos", {"recipe": "guidance-plus"}),
        Request(tmp_path / "photos", {"recipe": lgkd.load_recipe("fast")}),
        Request(tmp_path / "photos", {}, baseline=True),
        Request(tmp_path / "photos", {}, student="pvtv2"),
        Request(tmp_path / "photos", {}, flip=False),
        Request("digits", {}),
    ]
    dicts = [json.dumps(one.as_dict(), sort_keys=True) for one in (plain, *others)]
    assert len(set(dicts)) == len(dicts)
    assert others[5].as_dict()["student"] == "pvt_v2_b0", "an alias is the same student"


def test_the_unguided_student_has_its_own_rate_unless_one_is_given() -> None:
    assert Request("digits", {}).baseline_overrides == ("optimizer.lr=3e-3",)
    assert Request("digits", {"overrides": ["view.erase=0.1"]}).baseline_overrides == ("optimizer.lr=3e-3",)
    assert Request("digits", {"overrides": ["optimizer.lr = 2e-3"]}).baseline_overrides == ()
    assert Request("digits", {"recipe": "guidance-plus"}).baseline_overrides == ()


def test_the_default_folder_is_named_after_data_set_and_subset() -> None:
    assert Request("digits", {}).folder == Path("runs/fit_digits")
    assert Request("digits", {"images_per_class": 5}).folder == Path("runs/fit_digits_5-images-per-class-seed-0")


def test_facts_of_a_folder(tmp_path: Path) -> None:
    for split, counts in (("train", (5, 2, 3)), ("test", (1, 1, 2))):
        for name, count in zip("abc", counts, strict=True):
            for number in range(count):
                grey = noise(number, 30, 20)[..., :1].repeat(3, axis=-1) if name == "a" else noise(number, 50, 40)
                save(tmp_path / split / name / f"{number}.png", grey)
    found = gather_facts(Request(tmp_path, {}))
    assert (found.classes, found.train, found.fewest, found.median, found.most, found.test) == (3, 10, 2, 3.0, 5, 4)
    # Six images are 20 px wide and eight are 40.
    assert (found.short_side, found.grey, found.test_is_made, found.held_out) == (40, False, False, 0)
    assert found.ratio == 2.5
    half = gather_facts(Request(tmp_path, {"images_per_class": 2, "val_fraction": 0.5}))
    assert (half.train, half.held_out, half.fewest, half.most) == (3, 3, 1, 1)


def test_facts_of_grey_images_and_of_a_folder_without_a_test_split(tmp_path: Path) -> None:
    from PIL import Image

    for name in "ab":
        for number in range(5):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(noise(number)[..., 0]).save(tmp_path / name / f"{number}.png")
    found = gather_facts(Request(tmp_path, {}))
    assert found.grey and found.test_is_made and (found.train, found.test) == (8, 2)
    digits = gather_facts(Request("digits", {}))
    assert digits.grey and digits.short_side == 8 and not digits.test_is_made


@pytest.fixture
def state(tmp_path: Path) -> State:
    request = Request("digits", {"epochs": 1})
    facts = gather_facts(request)
    folder = tmp_path / "out"
    folder.mkdir()
    return State.begin(folder, request.as_dict(), facts, make_plan(facts, request.wishes))


def test_the_state_is_read_as_it_was_written(state: State) -> None:
    found = find_state(state.folder, state.request)
    assert (
        found is not None
        and found.facts == state.facts
        and asdict(found) == json.loads(json.dumps(asdict(found), default=str)) | {"folder": found.folder}
    )


@pytest.mark.parametrize(
    "damage",
    [
        "{",
        "[]",
        {"format": 2},
        {"facts": {}},
        {"facts": None},
        {"seconds": "long"},
        {"seconds": -1.0},
        {"length": {"steps": 3}},
        {"results": []},
        {"left_out": {"report": 1}},
        {"request": None},
        {"facts.train": "many"},
        {"facts.train": True},
        {"facts.gpu": 3},
        {"facts.threads": -1},
    ],
)
def test_a_damaged_file_is_refused(state: State, damage: Any) -> None:
    file = state.folder / FIT
    if isinstance(damage, dict):
        content = json.loads(file.read_text())
        for key, value in damage.items():
            outer, _, inner = key.partition(".")
            content = {**content, outer: {**content[outer], inner: value} if inner else value}
        damage = json.dumps(content)
    file.write_text(damage)
    with pytest.raises(InputError, match=r"fit\.json (cannot be read as JSON|is not as lgkd wrote it).*another --out"):
        find_state(state.folder, state.request)


def test_a_file_names_no_model(state: State) -> None:
    """A plan in a file is not used: the student of a resumed fit follows from the facts."""
    file = state.folder / FIT
    content = json.loads(file.read_text())
    content["plan"]["student"] = "os:system"
    file.write_text(json.dumps(content))
    found = find_state(state.folder, state.request)
    assert found is not None and make_plan(found.facts, Request("digits", {"epochs": 1}).wishes).student == "vit_128"


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path / "pictures", train=3, test=1)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(TakenError, match="is a file, expected a folder for a fit"):
        lgkd.fit(pictures, out=tmp_path / "file")
    with pytest.raises(TakenError, match=r"already holds mine\.txt and no fit\.json; nothing was touched"):
        lgkd.fit(pictures, out=tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def fitted(**results: Any) -> lgkd.Fitted:
    accuracy = {"top1": 0.5, "low": 0.41, "high": 0.59, "images": 120, "balanced_accuracy": None}
    return lgkd.Fitted(
        folder=Path("runs/fit_a"),
        student=Path("runs/fit_a/students/seed0-guided"),
        report=Path("runs/fit_a/report.html"),
        export=Path("runs/fit_a/export"),
        results={
            "guided": accuracy, "teacher": accuracy, "unguided": None, "gain": None, "seeds": [0], "seconds": 1100.0,
            "promised": 1200.0, **results,
        },
        left_out={},
        plan={},
    )  # fmt: skip


def test_the_end_is_a_few_lines_of_eighty_columns() -> None:
    accuracy = {"top1": 0.5, "low": 0.41, "high": 0.59, "images": 120, "balanced_accuracy": 0.456}
    gain = {"mean": 0.101, "low": -0.02, "high": 0.22, "interval_over": "images"}
    lines = outcome_lines(fitted(guided=accuracy, unguided=accuracy, gain=gain), ["fit", "a", "--time", "20m"])
    assert lines == [
        "guided   50.00 % of 120 test images (41.0 to 59.0), 45.60 % balanced",
        "unguided 50.00 % of 120 test images (41.0 to 59.0), 45.60 % balanced",
        "teacher  50.00 % of 120 test images (41.0 to 59.0)",
        "gain     +10.10 points (-2.0 to +22.0) by the guide",
        "         by the test images alone; one seed cannot tell, use --seeds 0,1,2",
        "time     18m20s of 20m",
        "folder   runs/fit_a (report.html, export, students, teacher)",
        "next",
        "  lgkd predict runs/fit_a/export IMAGES",
        "  lgkd export runs/fit_a/students/seed0-guided --format torch-export",
        "  lgkd fit a --time 1h20m --out runs/fit_a-1h20m",
    ]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("words", "longer"),
    [
        (["fit", "my photos"], "lgkd fit 'my photos' --time 1h20m --out runs/fit_a-1h20m"),
        (["fit", "a", "--time=20m", "--seeds", "0", "--out", "b"], "lgkd fit a --seeds 0 --time 1h20m "
         "--out runs/fit_a-1h20m"),
        (None, None),
    ],
)  # fmt: skip
def test_the_command_of_more_time(words: list[str] | None, longer: str | None) -> None:
    assert longer_command(words, fitted()) == longer
    # Three hours are an evening: no proposed command takes longer.
    evening = None if longer is None else longer.replace("1h20m", "3h")
    assert longer_command(words, fitted(promised=3600.0)) == evening
    assert longer_command(words, fitted(promised=3 * 3600.0)) is None
    assert longer_command(["fit", "a", "--epochs", "3"], fitted(promised=None)) is None


@pytest.mark.parametrize(
    ("words", "made", "promised", "whole"),
    [
        ("--time 20m --folds 5 --groups level:1", True, 1200.0, "--groups level:1 --time 20m --out runs/fit_a-20m"),
        # A given test split: the groups would divide nothing.
        ("--time 5h --folds=5 --groups level:1", False, 18000.0, "--time 5h --out runs/fit_a-5h"),
        ("--groups level:1 --val-fraction 0.1 --folds 5", False, 3600.0,
         "--groups level:1 --val-fraction 0.1 --time 1h --out runs/fit_a-1h"),
        ("--epochs 3 --folds 5", True, None, "--epochs 3 --out runs/fit_a-whole"),
    ],
)  # fmt: skip
def test_after_folds_the_command_of_one_fit(words: str, made: bool, promised: float | None, whole: str) -> None:
    done = fitted(promised=promised, folds=5, test_is_made=made)
    assert longer_command(["fit", "a", *words.split()], done) == f"lgkd fit a {whole}"


def test_the_command_of_a_fit_is_taken_by_lgkd_with_all_that_was_asked(tmp_path: Path) -> None:
    options: Any = {"time": "20m", "images_per_class": 5, "overrides": ["view.erase=0.1"], "image_size": 32}
    request = Request(
        make_pictures(tmp_path / "my photos"), options, student="pvtv2", student_options={"drop_path_rate": 0.1},
        teacher_overrides=("optimizer.lr=1e-2",), baseline=True, seeds=(0, 1), flip=False,
    )  # fmt: skip
    _, name, *words = shlex.split(str(fit_command(request, "again")))
    given = load_command(name).make_context(name, [*words]).params
    wanted = {
        "dataset": "my photos/", "time": "20m", "images_per_class": 5, "image_size": 32, "baseline": True,
        "seeds": "0,1", "flip": False, "student": "pvt_v2_b0", "student_option": ["drop_path_rate=0.1"],
        "teacher_set": ["optimizer.lr=1e-2"], "teacher": None, "epochs": None,
    }  # fmt: skip
    assert name == "fit" and {key: given[key] for key in wanted} == wanted
    assert "--set view.erase=0.1" in " ".join(words) and words[-2:] == ["--out", "again"]
    assert fit_command(Request("digits", {"recipe": lgkd.load_recipe("fast")}), "again") is None
    assert fit_command(Request("digits", {"epochs": 2}), "again") == "lgkd fit digits --epochs 2 --out again"


def test_facts_are_numbers_and_words(state: State) -> None:
    assert all(isinstance(value, int | float | str | None) for value in asdict(state.facts).values())
    assert isinstance(state.facts, Facts)
