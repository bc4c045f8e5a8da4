"""A subset as a value, as text in cards and run.json, and as options; and errors that carry values, not sentences."""

import pickle

import pytest

from lgkd.data.names import Subset, subset_word
from lgkd.errors import DamagedError, InputError, MissingError, MissingTeacherError
from lgkd.runs.compare.find import _without_seed

# The texts are those that every earlier version wrote into cards and run.json.
WRITTEN: list[tuple[Subset, str, str, str]] = [
    (Subset(0.1, seed=3), "fraction 0.1, seed 3", "fraction 0.1", "--fraction 0.1 --subset-seed 3"),
    (Subset(1e-5), "fraction 1e-05, seed 0", "fraction 1e-05", "--fraction 1e-05"),
    (Subset(per_class=20), "20 images per class, seed 0", "20 images per class", "--images-per-class 20"),
    (Subset(without_near_copies=True), "without near copies", "without near copies", "--leave-out-near-copies"),
    (
        Subset(0.5, None, 12, True),
        "fraction 0.5, seed 12, without near copies",
        "fraction 0.5, without near copies",
        "--fraction 0.5 --subset-seed 12 --leave-out-near-copies",
    ),
    (Subset(folds=5, fold=2), "fold 2 of 5, seed 0", "5 folds", "--folds 5"),
    (Subset(folds=5, seed=1), "5 folds, seed 1", "5 folds", "--subset-seed 1 --folds 5"),
    (
        Subset(0.5, None, 2, True, 10, 10, r"name:^(\d+), x"),
        r"fraction 0.5, fold 10 of 10, seed 2, without near copies, grouped by name:^(\d+), x",
        r"fraction 0.5, 10 folds, without near copies, grouped by name:^(\d+), x",
        r"--fraction 0.5 --subset-seed 2 --leave-out-near-copies --folds 10 --groups 'name:^(\d+), x'",
    ),
    (
        Subset(None, 7, folds=2, fold=1, groups="csv:a b.csv@0123abcd"),
        "7 images per class, fold 1 of 2, seed 0, grouped by csv:a b.csv@0123abcd",
        "7 images per class, 2 folds, grouped by csv:a b.csv@0123abcd",
        "--images-per-class 7 --folds 2 --groups 'csv:a b.csv'",
    ),
]


@pytest.mark.parametrize(("subset", "text", "without_seed", "options"), WRITTEN, ids=[one[1] for one in WRITTEN])
def test_a_subset_is_written_and_read(subset: Subset, text: str, without_seed: str, options: str) -> None:
    assert (subset.text, str(subset)) == (text, text)
    assert subset.text_without_seed == without_seed
    assert subset.command_options == options
    assert Subset.parse(text) == subset


@pytest.mark.parametrize("subset", [Subset(), Subset(1.0), Subset(seed=4)])
def test_all_images_have_no_text(subset: Subset) -> None:
    assert (subset.text, subset.text_without_seed, subset.command_options) == (None, None, "")
    assert str(subset) == "all images"


@pytest.mark.parametrize(
    "text",
    [
        "fraction 2, seed 0",
        "fraction 0.10, seed 0",
        "fraction 0.1",
        "fraction 0.1, seed 01",
        "fraction 0.1, seed 0without near copies",
        "fraction ---, seed 0",
        "0 images per class, seed 0",
        ", without near copies",
        "the left half",
        "fold 0 of 3, seed 0",
        "fold 4 of 3, seed 0",
        "fold 1 of 3",
        "1 folds, seed 0",
        "seed 3",
        "grouped by name:(x)",
        "fraction 0.1, seed " + "9" * 5000,
    ],
)
def test_text_of_others_is_not_a_subset(text: str) -> None:
    assert Subset.parse(text) is None


def test_a_subset_is_checked_where_it_is_made() -> None:
    for words, message in [
        ({"fraction": 0.5, "per_class": 3}, "--fraction 0.5 and --images-per-class 3 were both given"),
        ({"fraction": 0.0}, "--fraction is 0, expected a number above 0 and at most 1"),
        ({"fraction": 1.5}, "--fraction is 1.5, expected a number above 0 and at most 1"),
        ({"fraction": float("nan")}, "--fraction is nan, expected a number above 0 and at most 1"),
        ({"per_class": 0}, "--images-per-class is 0, expected at least 1"),
        ({"seed": -1}, "--subset-seed is -1, expected 0 or more"),
        ({"folds": 1}, "--folds is 1, expected at least 2"),
        ({"fold": 1}, "--fold 1 has no number of folds; add --folds, like --folds 5"),
        ({"folds": 3, "fold": 4}, "--fold is 4, expected 1 to 3"),
        ({"folds": 3, "fold": 0}, "--fold is 0, expected 1 to 3"),
    ]:
        with pytest.raises(InputError, match=message):
            Subset(**words)  # type: ignore[arg-type]


def test_a_folder_is_named_by_the_subset_with_a_hash_of_its_groups() -> None:
    one, other = (subset_word(f"fold 2 of 5, seed 0, grouped by name:{'x' * count}(.)") for count in (500, 501))
    assert one.startswith("fold-2-of-5-seed-0-groups-") and len(one) == len("fold-2-of-5-seed-0-groups-") + 8
    assert one != other
    assert subset_word("fraction 0.1, seed 3") == "fraction-0.1-seed-3"
    assert subset_word("mine, and others") == "mine-and-others"


def test_runs_of_a_cross_validation_are_of_one_kind() -> None:
    runs = [
        {
            "dataset.subset": f"fold {fold} of 2, seed 0", "dataset.train_images": fold, "dataset.test_images": -fold,
            "steps_per_epoch": fold, "teacher.sha256": str(fold), "teacher.name": "resnet8", "epochs": 3,
        }
        for fold in (1, 2)
    ]  # fmt: skip
    assert _without_seed(runs[0]) == _without_seed(runs[1])
    assert _without_seed(runs[0]) == {"dataset.subset": "2 folds", "teacher.name": "resnet8", "epochs": 3}


def test_runs_that_differ_in_the_subsets_seed_are_of_one_kind_with_near_copies_left_out_or_not() -> None:
    for form in ("fraction 0.1, seed {}", "fraction 0.1, seed {}, without near copies"):
        one, other = ({"seed": seed, "dataset.subset": form.format(seed), "epochs": 3} for seed in (1, 22))
        assert (
            _without_seed(one) == _without_seed(other) == {"epochs": 3, "dataset.subset": form.replace(", seed {}", "")}
        )
    assert _without_seed({"dataset.subset": "mine, seed 3"}) == {"dataset.subset": "mine, seed 3"}


def test_errors_keep_their_values_between_processes() -> None:
    missing = MissingTeacherError("no teacher", name="resnet8", dataset="digits", command="train it", others=("vgg8",))
    damaged = DamagedError("it is damaged", "train it again")
    for error in (missing, damaged):
        copy = pickle.loads(pickle.dumps(error))
        assert (str(copy), copy.exit_code, vars(copy)) == (str(error), error.exit_code, vars(error))
    assert isinstance(missing, MissingError) and str(damaged) == "it is damaged; train it again"
