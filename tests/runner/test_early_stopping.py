"""Early stopping of a run: the recipe's key, --patience, and what run.json, reports and cards say."""

import json
from pathlib import Path
from typing import Any

import pytest

import lgkd
from lgkd.analysis.report.selection import choose
from lgkd.analysis.report.sentences import cost, summary
from lgkd.autofit.request import Request
from lgkd.cli import run
from lgkd.config import EarlyStopping, load_recipe, parse_recipe
from lgkd.errors import InputError, RecipeError
from lgkd.runner import execute
from lgkd.runner.resolve import resolve_recipe
from lgkd.runs.early_stop import StoppedEarly, stopped_early, trained_epochs
from lgkd.runs.folder import read_metrics, read_run
from tests.support.forking import Nursery
from tests.support.launching import guided
from tests.support.launching import lgkd as launched
from tests.support.scoring import scores
from tests.support.small import TINY_OPTIONS, TRAIN, World

# On the held-out images: no better after the second epoch. By balanced accuracy: always better.
HELD = [(0.3, 0.1), (0.8, 0.2), (0.7, 0.3), (0.6, 0.4), (0.9, 0.5), (0.9, 0.6)]


@pytest.fixture
def here(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LGKD_HOME", str(world.home))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scripted(monkeypatch: pytest.MonkeyPatch, epochs: int = 6) -> None:
    """Replace the evaluations of the next training: held-out images by `HELD`, the test split ever better."""
    answers = []
    for place in range(epochs):
        answers += [scores(*HELD[place], 0.5), scores(0.1 + 0.1 * place, 0.5, 0.5)]
    answers.append(scores(0.2, 0.5, 0.5))
    monkeypatch.setattr(execute, "score_split", lambda *_, **__: answers.pop(0))


def words(world: World, out: str, *more: str) -> list[str]:
    pictures = ["--dataset", str(world.pictures), "--val-fraction", "0.25", "--epochs", "6", "--out", out]
    return [*TRAIN, *pictures, "--set", "schedule.warmup_epochs=0", *more]


def test_a_run_that_is_stopped_early_says_so_everywhere(
    world: World, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch)
    assert run(words(world, "mine", "--patience", "2")) == 0
    printed = " ".join(capsys.readouterr().out.split())
    info = read_run(Path("mine"))
    assert (info["status"], info["epochs"], len(read_metrics(Path("mine")))) == ("finished", 6, 4)
    assert info["results"]["epoch"] == 2 and info["results"]["selected_by"] == "top1"
    # A cosine over six epochs, which is stepped by epoch: the fourth has (1 + cos(pi 3/6)) / 2 of the peak.
    assert info["results"]["stopped_early"] == {
        "epoch": 4, "epochs": 6, "patience": 2, "metric": "top1", "rate": pytest.approx(0.5, abs=0.01),
    }  # fmt: skip
    sentence = (
        "stopped early after epoch 4 of 6: top-1 accuracy on held-out images did not improve in 2 evaluations; the "
        "learning rate was still 50% of its peak, since its schedule is that of the whole training"
    )
    assert sentence in printed and str(stopped_early(info)) == sentence
    # A comparison reads it, and says so; its epochs are those that were trained.
    assert run(["compare", "mine", str(world.unguided_run), "--json"]) in (0, 2)
    capsys.readouterr()
    found = lgkd.compare(here / "mine")
    assert any(remark.endswith(sentence) for remark in found.remarks)
    assert found.as_dict()["groups"][0]["runs"][0]["epochs"] == 4
    chosen = choose([here / "mine"], [])
    shown = summary(chosen)
    assert ": 4 of 6 epochs on 18 images" in shown[0] and f"{sentence[0].upper()}{sentence[1:]}." in shown
    assert ("epochs, steps", "4, 8") in cost(info, read_metrics(Path("mine")), here / "mine")
    lgkd.export(here / "mine", here / "sent", formats=["safetensors"])
    card = (here / "sent" / "README.md").read_text()
    assert "epoch 2 of 4, the best on 6 held-out images by top-1 accuracy" in card
    assert "| epochs | 4 |" in card and "| ended | stopped early after epoch 4 of 6\\: top-1 accuracy" in card


def test_the_metric_is_that_of_select_by(world: World, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch)
    assert run(words(world, "mine", "--patience", "2", "--select-by", "balanced_accuracy")) == 0
    info = read_run(Path("mine"))
    assert len(read_metrics(Path("mine"))) == 6 and "stopped_early" not in info["results"]
    assert trained_epochs(info) == 6 and stopped_early(info) is None


def test_the_warm_up_is_not_judged(world: World, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch)
    assert run(words(world, "mine", "--patience", "2", "--set", "schedule.warmup_epochs=3")) == 0
    # Judged are the epochs 4, 5 (better) and 6: the plan ends first.
    assert len(read_metrics(Path("mine"))) == 6


def test_more_epochs_follow_those_that_were_trained(world: World, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        scripted(patch)
        assert run(words(world, "mine", "--patience", "2")) == 0
    with monkeypatch.context() as patch:
        scripted(patch)
        assert run(["resume", "mine", "--extend", "5", "--out", "more", "--quiet"]) == 0
    info = read_run(Path("more"))
    assert info["init"]["epochs_before"] == 4, "not six"
    assert info["results"]["stopped_early"]["epoch"] == 4 and info["results"]["stopped_early"]["epochs"] == 5
    with monkeypatch.context() as patch:
        scripted(patch)
        lgkd.resume(here / "more", extend=2, out=here / "again")
    assert read_run(Path("again"))["init"]["epochs_before"] == 8


def test_it_is_never_judged_on_the_test_split(world: World, here: Path) -> None:
    options: dict[str, Any] = {"student_options": TINY_OPTIONS, "epochs": 1, "image_size": 16}
    expected = r"early_stopping\.patience is 3, and no images are held out to judge the training on; hold out some with"
    with pytest.raises(InputError, match=expected):
        lgkd.train("deit_tiny", world.pictures, patience=3, **options)
    with pytest.raises(InputError, match="patience is 10"):
        lgkd.train("deit_tiny", world.pictures, overrides=["early_stopping={}"], **options)
    with pytest.raises(InputError, match=expected):
        Request(world.pictures, {"patience": 3})
    assert Request(world.pictures, {"patience": 3, "val_fraction": 0.2}).as_dict()["patience"] == 3
    with pytest.raises(InputError, match="patience is 7"):
        Request(world.pictures, {}, teacher_overrides=("early_stopping.patience=7",))


def test_the_option_is_the_recipes_key() -> None:
    more = ["early_stopping.min_delta=0.01"]
    found = resolve_recipe("supervised", trains="student", guided=False, patience=4, overrides=more)
    assert found.early_stopping == EarlyStopping(4, 0.01)
    with pytest.raises(RecipeError, match="--patience must be >= 1 \\(got 0\\)"):
        resolve_recipe("supervised", trains="student", guided=False, patience=0)
    text = "by_length:\n- {from_epochs: 5, set: {early_stopping: {patience: 3}}}\n"
    with pytest.raises(RecipeError, match="needs held-out images, which a recipe does not choose"):
        parse_recipe((Path(__file__).parents[2] / "recipes" / "supervised.yaml").read_text() + text)
    assert load_recipe("supervised").early_stopping is None


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 6}, {"epoch": 0}, {"epochs": "6"}, {"patience": True}, {"metric": "loss"}, {"rate": 2.0},
        {"rate": float("nan")}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_record_is_none(change: dict[str, Any]) -> None:
    proper = {"epoch": 4, "epochs": 6, "patience": 2, "metric": "top1", "rate": 0.5}
    assert stopped_early({"results": {"stopped_early": proper}}) == StoppedEarly(**proper)
    assert stopped_early({"results": {"stopped_early": proper | change}}) is None
    assert stopped_early({}) is None and stopped_early({"results": {"stopped_early": [1]}}) is None


def test_a_guided_and_an_unguided_training_that_ended_early_have_no_equal_steps(
    world: World, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = guided(world, "--val-fraction", "0.25", "--epochs", "6", "--with-baseline", "--patience", "2")
    calls = [0]

    def score(*_: Any, **__: Any) -> Any:
        place = calls[0] // 2 % 6
        calls[0] += 1
        return scores(*HELD[place], 0.5)

    monkeypatch.setattr(execute, "score_split", score)
    assert run([*words, "--set", "schedule.warmup_epochs=0", "--quiet"]) == 0
    found = lgkd.compare(here / "mine")
    assert found.differences[0].equal is None
    assert sum("stopped early" in remark for remark in found.remarks) >= 1


@pytest.mark.slow
def test_two_processes_stop_together_at_the_epoch_that_their_scores_give(
    nursery: Nursery, world: World, tmp_path: Path
) -> None:
    more = ["--val-fraction", "0.25", "--epochs", "12", "--patience", "2", "--set", "schedule.warmup_epochs=0"]
    process = launched(nursery, world, tmp_path, *guided(world, *more, "--nproc", "2"))
    _, problems = process.communicate(timeout=280)
    assert process.returncode == 0, problems
    info = json.loads((tmp_path / "mine" / "run.json").read_text())
    assert info["processes"] == 2
    rows, best, waited = read_metrics(tmp_path / "mine"), -1.0, 0
    for row in rows:
        assert waited < 2, "it trained on"
        waited = 0 if row["val_top1"] > best else waited + 1
        best = max(best, row["val_top1"])
    assert waited == 2 and info["results"]["stopped_early"]["epoch"] == len(rows) < 12
