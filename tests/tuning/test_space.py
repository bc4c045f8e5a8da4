"""What a search space is written as, and what a sweep refuses before anything is trained."""

import math
from pathlib import Path

import pytest

from lgkd.config import load_recipe
from lgkd.errors import InputError, MissingError, RecipeError
from lgkd.tuning import request as requests
from lgkd.tuning.outcome import Swept, standard_error
from lgkd.tuning.request import SweepRequest
from lgkd.tuning.space import Choices, Range, assignments, read_space
from tests.support.small import World
from tests.support.sweeping import request


def test_ranges_and_choices_are_read_as_they_are_written() -> None:
    space = read_space(
        [
            "optimizer.lr=log:1e-4..1e-2",
            "drop_path=0.0..0.2",
            "batch_size=8..64",
            "ema=null,true",
            "precision=fp32,bf16",
        ]
    )
    assert space == {
        "optimizer.lr": Range(1e-4, 1e-2, log=True),
        "drop_path": Range(0.0, 0.2),
        "batch_size": Range(8, 64),
        "ema": Choices((None, True)),
        "precision": Choices(("fp32", "bf16")),
    }
    assert [space[key].ends for key in ("batch_size", "precision")] == [(8, 64), ("fp32", "bf16")]
    assert space["batch_size"].value(16.0) == 16 and isinstance(space["batch_size"].value(16.0), int)
    assert {key: str(part) for key, part in space.items()}["optimizer.lr"] == "log:0.0001..0.01"
    assert str(space["ema"]) == "null,true"


def test_a_number_is_trained_with_as_it_is_shown_and_stays_within_its_range() -> None:
    part = Range(1.23456e-4, 9.87654e-3, log=True)
    assert part.value(0.00123456) == 0.001235
    assert part.value(9.87654e-3) == 9.87654e-3 and part.value(1.23456e-4) == 1.235e-4
    space = {"optimizer.lr": part, "precision": Choices(("fp32", "bf16"))}
    assert assignments(space, {"optimizer.lr": 0.5, "precision": "bf16"}) == ["optimizer.lr=0.5", "precision=bf16"]


def test_a_file_is_read_and_words_replace_its_keys(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("optimizer.lr: log:1e-4..1e-2\nbatch_size: [8, 16]\n")
    assert read_space(["batch_size=4..8"], file) == {
        "optimizer.lr": Range(1e-4, 1e-2, log=True),
        "batch_size": Range(4, 8),
    }
    for text, expected in (("- 1\n", "maps no keys"), ("a: [1\n", "space.yaml: "), ("a: 5\n", "two or more different")):
        file.write_text(text)
        with pytest.raises(InputError, match=expected):
            read_space((), file)
    with pytest.raises(MissingError, match="expected a YAML file with a search space, as --space"):
        read_space((), tmp_path / "none.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        read_space((), tmp_path)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("lr", "has no KEY=SPACE; write it like optimizer.lr=log:1e-4..1e-2"),
        ("=1..2", "has no KEY=SPACE"),
        ("a=1..", "is no range"),
        ("a=log:5", "is no range"),
        ("a=x..y", "has ends that are no numbers"),
        ("a=2..1", "has no values, expected a smaller number before"),
        ("a=0..inf", "has no values|has ends"),
        ("a=log:0..1", "starts at 0, and a logarithm needs numbers above 0"),
        ("a=1", "two or more different values"),
        ("a=1,1", "two or more different values"),
        ("a=[1],2", "two or more different values"),
    ],
)
def test_what_cannot_be_read_is_refused(word: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        read_space([word])


def test_an_empty_space_is_refused() -> None:
    with pytest.raises(InputError, match="the search space has 0 keys, expected 1 to 50; name some by --search"):
        read_space()


def test_both_ends_of_a_range_have_to_fit_the_recipe(world: World) -> None:
    pytest.importorskip("optuna")
    with pytest.raises(RecipeError, match=r"--search optimizer\.lr=0\.1\.\.1000 cannot be used: .*must be <= 100"):
        request(world, "optimizer.lr=0.1..1000.0")
    with pytest.raises(RecipeError, match="unknown key"):
        request(world, "optimiser.lr=0.1..1.0")
    with pytest.raises(RecipeError, match="--search sampler=shuffled,odd cannot be used"):
        request(world, "sampler=shuffled,odd")
    made = request(world, "optimizer.lr=log:1e-4..1e-2", options={"val_fraction": 0.25, "overrides": ["drop_path=0.1"]})
    assert made.overrides({"optimizer.lr": 0.002}) == ["drop_path=0.1", "optimizer.lr=0.002"]
    assert made.resolved({"optimizer.lr": 0.002}).optimizer.lr == 0.002
    assert made.folder == Path("runs/sweep_deit_tiny_pictures_supervised")


def test_impossible_requests_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")
    lr = "optimizer.lr=log:1e-4..1e-2"
    with pytest.raises(InputError, match="judges settings on held-out images, and there are none; give --val-fraction"):
        request(world, lr, options={})
    with pytest.raises(InputError, match="--trials is 0, expected 1 to 10000"):
        request(world, lr, trials=0)
    with pytest.raises(InputError, match="lgkd sweep has no option 'folds'; "):
        request(world, lr, options={"val_fraction": 0.25, "folds": 5})
    with pytest.raises(InputError, match="--select-by is 'auc'"):
        request(world, lr, options={"val_fraction": 0.25, "select_by": "auc"})
    with pytest.raises(RecipeError, match="trains a teacher, expected one for a student"):
        SweepRequest("teacher", world.pictures, "deit_tiny", read_space([lr]), {"val_fraction": 0.25})
    monkeypatch.setattr(requests, "find_spec", lambda name: None)
    with pytest.raises(
        MissingError, match=r"a sweep needs optuna, which is not installed; get it with: pip install 'lg"
    ):
        request(world, lr)


def test_the_budget_is_no_part_of_what_is_searched(world: World) -> None:
    pytest.importorskip("optuna")
    one = request(world, "drop_path=0.0..0.2", trials=3)
    assert one.as_dict() == request(world, "drop_path=0.0..0.2", trials=30, seconds=60.0).as_dict()
    assert one.as_dict() != request(world, "drop_path=0.0..0.3").as_dict()
    assert one.as_dict() != request(world, "drop_path=0.0..0.2", options={"val_fraction": 0.5}).as_dict()
    assert one.as_dict()["recipe"]["optimizer"]["lr"] == load_recipe("supervised").optimizer.lr


def test_the_standard_error_is_the_binomial_one_and_trials_within_it_are_counted(tmp_path: Path) -> None:
    assert standard_error(0.5, 100) == pytest.approx(0.05)
    assert standard_error(0.9, 400) == pytest.approx(math.sqrt(0.09 / 400))
    rows = [
        {"trial": number, "state": "finished", "score": score} for number, score in enumerate((0.9, 0.89, 0.86, 0.5))
    ]
    found = Swept(
        tmp_path, "top1", [*rows, {"trial": 4, "state": "failed", "score": None}], rows[0], tmp_path / "b", 100, 0.03
    )
    first, second, third = found.sentences
    assert first == "best: trial 0, top-1 accuracy 90.00% on 100 held-out images, which selected it among 4 trials"
    assert second.endswith("on so many images is 3.00 points; 1 other trial is within it")
    assert "the test split was not asked" in third and f"--recipe {tmp_path / 'b'} --seeds 0,1,2" in third
    assert Swept(tmp_path, "top1", [], None, None, 0, None).sentences == [
        "no trial is finished, so there is no best recipe"
    ]
