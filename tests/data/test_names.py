"""A subset as a value, as text in cards and run.json, and as options; and errors that carry values, not sentences."""

import pickle

import pytest

from lgkd.data.names import Subset
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
    ]:
        with pytest.raises(InputError, match=message):
            Subset(**words)  # type: ignore[arg-type]


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
