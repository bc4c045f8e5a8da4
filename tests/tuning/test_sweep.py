"""`lgkd sweep`: the journal, what is resumed, two processes, and that the test split is never asked."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import lgkd
from lgkd.cli import run
from lgkd.config import load_recipe
from lgkd.errors import InputError, NonFiniteError, TakenError
from lgkd.runner import execute
from lgkd.runs.folder import read_metrics, read_run
from lgkd.tuning import sweep as sweeps
from lgkd.tuning.space import read_space
from lgkd.tuning.study import JOURNAL, Study
from lgkd.tuning.sweep import run_sweep
from tests.support.scoring import scores
from tests.support.small import TINY_OPTIONS, World, pause_after, snapshot
from tests.support.sweeping import request

pytest.importorskip("optuna")
SPACE = read_space(["optimizer.lr=log:1e-4..1e-1", "batch_size=8,16"])
LR = "optimizer.lr=log:1e-4..1e-2"


@pytest.fixture
def here(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LGKD_HOME", str(world.home))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# The journal


def search(folder: Path, trials: int, *, anew: bool = False, seed: int = 0) -> list[dict[str, Any]]:
    """Search for a rate of 0.01; with `anew` the journal is opened again for every trial."""
    folder.mkdir()
    study = Study(folder, SPACE, seed=seed)
    for _ in range(trials):
        study = Study(folder, SPACE, seed=seed) if anew else study
        with study.claimed(trials, may_start=True) as trial:
            assert trial is not None
            study.finish(trial, 1.0 - abs(trial.values["optimizer.lr"] - 0.01), {"seconds": 1.0})
    return [dict(one.values) for one in study.trials()]


def test_an_interrupted_search_draws_what_an_undisturbed_one_does(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", 14)
    assert search(tmp_path / "parts", 14, anew=True) == whole
    assert search(tmp_path / "other", 3, seed=1) != whole[:3]
    assert len({one["optimizer.lr"] for one in whole}) == 14, "no draw is repeated"


def test_trials_of_stopped_processes_are_resumed_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    first, second = (Study(tmp_path, SPACE, seed=0) for _ in range(2))
    with first.claimed(2, may_start=True) as one:
        with second.claimed(2, may_start=True) as other:
            assert one is not None and other is not None and (one.number, other.number) == (0, 1)
            with Study(tmp_path, SPACE, seed=0).claimed(2, may_start=True) as none:
                assert none is None, "both trials are being trained"
        with second.claimed(2, may_start=False) as again:
            assert again == other, "it was left without a score"
            second.finish(again, 0.5, {})
    with second.claimed(2, may_start=True) as left:
        assert left == one
        second.give_up(left, {"reason": "worse"}, pruned=True)
        second.finish(left, 0.9, {})  # by another process that was slow: the first word counts
    assert [(found.state, found.score) for found in first.trials()] == [("pruned", None), ("finished", 0.5)]
    with first.claimed(3, may_start=False) as none:
        assert none is None


def test_a_journal_of_another_space_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    search(tmp_path / "one", 1)
    with pytest.raises(
        InputError, match=r"journal\.log has a trial of another search space \(batch_size, optimizer\.lr\)"
    ):
        Study(tmp_path / "one", read_space(["optimizer.lr=log:1e-4..1e-2"]), seed=0)
    with pytest.raises(InputError, match="another search space"):
        Study(tmp_path / "one", read_space(["optimizer.lr=log:1e-4..1e-2", "batch_size=8,16"]), seed=0)
    file = tmp_path / "one" / JOURNAL
    file.write_bytes(b'{"op_code": 99, "nothing": }\n' + file.read_bytes())
    with pytest.raises(InputError, match=r"journal\.log cannot be read by Optuna \(.+\); it is damaged"):
        Study(tmp_path / "one", SPACE, seed=0)


# The trainings


def words(world: World, *more: str) -> list[str]:
    student = [word for key, value in TINY_OPTIONS.items() for word in ("--student-option", f"{key}={value}")]
    return [
        "sweep", "supervised", "--dataset", str(world.pictures), "--student", "deit_tiny", *student, "--search", LR,
        "--image-size", "16", "--epochs", "2", "--batch-size", "8", "--precision", "fp32", "--device", "cpu",
        "--val-fraction", "0.25", "--out", "mine", *more,
    ]  # fmt: skip


def test_a_sweep_is_resumed_is_judged_on_held_out_images_and_writes_the_best_recipe(
    world: World, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words(world, "--trials", "2", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["trials"]) == 2 and found["held_out_images"] == 6 and "test" not in json.dumps(found["trials"])
    for row in found["trials"]:
        folder = Path("mine/trials") / f"{row['trial']:04}"
        info = read_run(folder)
        held = [epoch["val_top1"] for epoch in read_metrics(folder)]
        assert row["score"] == max(held) and info["results"]["selected_on"] == "val"
        assert load_recipe(folder / "recipe.yaml").optimizer.lr == row["optimizer.lr"]
    assert found["best"] == found["trials"][0] and found["best"]["score"] >= found["trials"][1]["score"]
    best = load_recipe(Path(found["recipe"]))
    assert best.optimizer.lr == found["best"]["optimizer.lr"] and "held-out images" in best.about
    assert best.source == "lgkd sweep, seed 0, over optimizer.lr=log:0.0001..0.01"
    with Path("mine/trials.csv").open() as stream:
        assert [row["optimizer.lr"] for row in csv.DictReader(stream)] == [
            str(one["optimizer.lr"]) for one in found["trials"]
        ]
    # The same command has nothing to do; more trials are more; another space is another sweep.
    before = snapshot(Path("mine/trials"))
    assert run(words(world, "--trials", "2", "--quiet")) == 0
    assert snapshot(Path("mine/trials")) == before
    assert "selected it among 2 trials" in " ".join(capsys.readouterr().out.split())
    with monkeypatch.context() as patch:
        pause_after(patch, 1)
        assert run(words(world, "--trials", "3", "--quiet")) == 75
    assert run(words(world, "--trials", "3", "--quiet")) == 0
    assert read_run(Path("mine/trials/0002"))["resumed"] == 1
    assert run(words(world, "--trials", "3", "--quiet", "--search", "drop_path=0.0..0.1")) == 2
    assert "mine holds a sweep of other arguments" in capsys.readouterr().err
    # An undisturbed sweep draws the same settings, and finds the same scores.
    capsys.readouterr()
    assert run([*words(world, "--trials", "3", "--json"), "--out", "other"]) == 0
    other = json.loads(capsys.readouterr().out)
    shown = json.loads(Path("mine/sweep.json").read_text())["outcome"]
    assert [(row["trial"], row["optimizer.lr"], row["score"]) for row in other["trials"]] == [
        (row["trial"], row["optimizer.lr"], row["score"]) for row in shown["trials"]
    ]


def test_folders_that_hold_something_else_are_refused(world: World, here: Path) -> None:
    made = request(world, LR, options={"val_fraction": 0.25, "out": here / "taken"})
    (here / "taken").write_text("precious")
    with pytest.raises(TakenError, match="is a file, expected a folder for a sweep"):
        run_sweep(made)
    (here / "taken").unlink()
    (here / "taken").mkdir()
    (here / "taken" / "notes.txt").write_text("precious")
    with pytest.raises(TakenError, match=r"already holds notes\.txt and no sweep\.json; nothing was touched"):
        run_sweep(made)
    (here / "taken" / "sweep.json").write_text("{")
    with pytest.raises(InputError, match=r"sweep\.json cannot be read \(.+\); it is damaged, choose another --out"):
        run_sweep(made)
    (here / "taken" / "sweep.json").write_text('{"request": 3}')
    with pytest.raises(InputError, match=r"sweep\.json holds no request of a sweep; it is damaged"):
        run_sweep(made)
    assert (here / "taken" / "notes.txt").read_text() == "precious"


class Fails:
    """Stand in for `Runner`: every training ends with an error."""

    error: Exception = NonFiniteError("loss is nan")

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def run(self, **_: Any) -> Any:
        raise self.error


def test_a_diverged_trial_is_avoided_and_trainings_that_cannot_start_end_the_sweep(
    world: World, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    options = {"val_fraction": 0.25, "out": here / "mine", "say": said.append}
    monkeypatch.setattr(sweeps, "Runner", Fails)
    found = run_sweep(request(world, LR, options=options, trials=4))
    assert [row["state"] for row in found.trials] == ["pruned"] * 4 and found.best is None and found.recipe is None
    assert sum("diverged: loss is nan" in one for one in said) == 4
    monkeypatch.setattr(Fails, "error", InputError("no such layer"))
    with pytest.raises(InputError, match="no such layer"):
        run_sweep(request(world, LR, options={**options, "out": here / "other"}, trials=9))
    states = [one.state for one in Study(here / "other", read_space([LR]), seed=0).trials()]
    assert states == ["failed"] * 3


def test_no_trial_starts_that_would_take_all_beyond_the_time(
    world: World, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = staticmethod(lambda _began, reason: {"seconds": 10.0, "reason": reason})
    monkeypatch.setattr(sweeps, "Runner", Fails)
    monkeypatch.setattr(sweeps._Sweep, "_about", about)
    # Each takes 10 s: two are 20 s, and a third would end at 30.
    found = run_sweep(request(world, LR, options={"val_fraction": 0.25, "out": here / "mine"}, trials=9, seconds=29.0))
    assert len(found.trials) == 2


def test_a_trial_below_the_median_is_pruned(world: World, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [0]

    def score(*_: Any, **__: Any) -> Any:
        # Two splits in each of two epochs, and the test split again with the first epoch's student, which is kept.
        trial = asked[0] // 5
        asked[0] += 1
        return scores(0.9 - 0.1 * min(trial, 5), 0.5, 0.5)

    monkeypatch.setattr(execute, "score_split", score)
    assert run(words(world, "--trials", "6", "--prune", "--quiet", "--set", "schedule.warmup_epochs=0")) == 0
    shown = json.loads(Path("mine/sweep.json").read_text())["outcome"]["trials"]
    assert [row["state"] for row in sorted(shown, key=lambda row: row["trial"])] == ["finished"] * 5 + ["pruned"]
    assert not (here / "mine" / "trials" / "0005" / "checkpoint").exists()
    assert asked[0] == 5 * 5 + 2, "it ended after its first epoch"


def test_the_recipe_of_the_best_trial_trains_again(world: World, here: Path) -> None:
    assert run(words(world, "--trials", "1", "--quiet")) == 0
    again = lgkd.train(
        "deit_tiny", world.pictures, recipe=here / "mine" / "best.yaml", student_options=TINY_OPTIONS,
        val_fraction=0.25, device="cpu", out=here / "again",
    )  # fmt: skip
    trial = read_run(here / "mine" / "trials" / "0000")
    assert again.info["results"]["val_top1"] == trial["results"]["val_top1"]
    assert read_metrics(here / "again")[-1]["loss"] == read_metrics(here / "mine" / "trials" / "0000")[-1]["loss"]
