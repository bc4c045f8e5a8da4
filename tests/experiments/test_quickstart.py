"""The quickstart: a fair comparison, told as it came out, in a folder of its own."""

import json
import os
import shlex
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lgkd import api
from lgkd.cli import run as lgkd
from lgkd.cli.app import COMMANDS, load_command
from lgkd.cli.quickstart import NEXT, gain_lines
from lgkd.config import load_recipe
from lgkd.data.load import load_dataset
from lgkd.errors import InputError, Interrupted, TakenError
from lgkd.experiments.quickstart import held_out_digits, quickstart, small_vit, titles
from lgkd.experiments.quickstart_outcome import Outcome, Trial, Who
from lgkd.models.registry import find
from lgkd.runner.time_budget import parse_time
from lgkd.runs.compare import compare
from lgkd.training.callbacks import Callback, EpochRow
from tests.support.unrendered import real_figures


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("LGKD_HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What a newcomer with a former quickstart in the way gets from the command line: the folder and the words."""
    place = tmp_path_factory.mktemp("newcomer")
    (place / "quickstart").mkdir()
    (place / "quickstart" / "results.json").write_text("{}")
    words: list[str] = []
    with pytest.MonkeyPatch.context() as patch, real_figures():
        patch.chdir(place)
        patch.setattr("sys.stdout.write", words.append)
        assert lgkd(["quickstart", "--seeds", "1", "--epochs", "1", "--quiet"]) == 0
    return place, "".join(words)


def outcome(guided: list[float], unguided: list[float], **changes: Any) -> Outcome:
    """An outcome whose curves have two points: 10 % at step 50 and the given end at step 100."""
    ends: dict[Who, list[float]] = {"teacher": [0.9] * len(guided), "unguided": unguided, "guided": guided}
    trials = [
        Trial(who, seed, end, 2.0, ((50, 0.1), (100, end)), Path(f"q/seed{seed}-{who}"))
        for who, all_ends in ends.items()
        for seed, end in enumerate(all_ends)
    ]
    facts: dict[str, Any] = {
        "trials": tuple(trials), "folder": Path("q"), "labels": 200, "images": 599, "split": "test", "steps": 100,
        "full_steps": 100, "overrides": (), "seconds": 60.0, "cpu_seconds": 90.0,
    }  # fmt: skip
    return Outcome(**(facts | changes))


def test_a_former_quickstart_is_kept_and_the_next_folder_taken(typed: tuple[Path, str]) -> None:
    place, words = typed
    assert (place / "quickstart" / "results.json").read_text() == "{}"
    assert "quickstart-2/quickstart.png" in words
    found = {path.name for path in (place / "quickstart-2").iterdir()}
    assert found == {"seed1-teacher", "seed1-unguided", "seed1-guided", "results.json", "quickstart.png"}


def test_it_leaves_the_store_of_teachers_alone(typed: tuple[Path, str], store: Path) -> None:
    assert not (store / "teachers").exists()


def test_what_is_printed_is_what_the_runs_say(typed: tuple[Path, str]) -> None:
    folder, words = typed[0] / "quickstart-2", typed[1]
    kept = json.loads((folder / "results.json").read_text())
    for trial in kept["runs"]:
        run = json.loads((folder / trial["folder"] / "run.json").read_text())
        assert trial["top1"] == run["results"]["test_top1"] and run["seed"] == trial["seed"]
        assert run["dataset"]["subset"] == f"20 images per class, seed {trial['seed']}"
        assert f"{trial['top1']:.2%}" in words
    by = {trial["who"]: trial["top1"] for trial in kept["runs"]}
    gain = by["guided"] - by["unguided"]
    assert kept["gain"]["mean"] == pytest.approx(gain) and f"gain of the guide: {100 * gain:+.2f} points" in words
    assert kept["shortened"] is True and "Shortened to 6 of" in words
    (difference,) = compare(folder).differences
    assert difference.paired and difference.interval.mean == kept["gain"]["mean"]


def test_its_runs_are_ordinary_runs(typed: tuple[Path, str]) -> None:
    folder = typed[0] / "quickstart-2" / "seed1-guided"
    again = api.evaluate(folder, device="cpu")
    assert again.images == 599 and again.top1 == pytest.approx(api.load_run(folder).top1, abs=2 / 599)


def test_the_figure_is_readable_at_800_pixels(typed: tuple[Path, str]) -> None:
    with Image.open(typed[0] / "quickstart-2" / "quickstart.png") as picture:
        assert picture.format == "PNG" and 800 <= picture.width <= 1400


def test_a_guide_of_no_weight_changes_nothing_so_the_pair_is_fair(tmp_path: Path) -> None:
    # First weights, labels, order and augmentation all have to be the same for this to hold.
    found = quickstart(tmp_path / "q", seeds=[3], epochs=1, held_out=True, overrides=["guide.terms.0.weight=0"])
    plain, guided = (load_file(trial.folder / "student.safetensors") for trial in found.trials[1:])
    assert plain.keys() == guided.keys() and all(torch.equal(plain[key], guided[key]) for key in plain)
    assert found.gain.mean == 0 and found.split == "held-out"


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_side_by_side_stopped_and_resumed_the_results_are_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[str] = []

    @contextmanager
    def watch(title: str) -> Iterator[Callback]:
        yield Stopping(title, stopped)

    choices: dict[str, Any] = {"seeds": [3], "epochs": 2}
    in_turn = quickstart(tmp_path / "in turn", **choices)
    monkeypatch.setattr("lgkd.experiments.quickstart.side_by_side", lambda: 2)
    with pytest.raises(Interrupted, match="stopped by SIGINT and saved"):
        quickstart(tmp_path / "beside", **choices, watch=watch)
    assert stopped and not (tmp_path / "beside" / "results.json").exists()
    beside = quickstart(tmp_path / "beside", **choices)
    assert [trial.folder.name for trial in beside.trials] == [trial.folder.name for trial in in_turn.trials]
    for one, other in zip(beside.trials, in_turn.trials, strict=True):
        assert (one.who, one.seed, one.top1, one.curve) == (other.who, other.seed, other.top1, other.curve)
        ours, theirs = (trial.folder / "student.safetensors" for trial in (one, other))
        assert ours.read_bytes() == theirs.read_bytes()
    left = {path.name for path in (tmp_path / "beside").iterdir()}
    assert left == {"seed3-teacher", "seed3-unguided", "seed3-guided", "results.json", "quickstart.png"}
    assert beside.labels == 200 and beside.steps == 12 and beside.cpu_seconds > 0


class Stopping(Callback):
    """Presses Ctrl-C after the first epoch of any training."""

    def __init__(self, title: str, stopped: list[str]) -> None:
        self.title, self.stopped = title, stopped

    def on_epoch(self, row: EpochRow) -> None:
        if not self.stopped:
            self.stopped.append(self.title)
            os.kill(os.getpid(), signal.SIGINT)


def test_the_trainings_are_listed_seed_by_seed() -> None:
    assert titles([4, 2])[:4] == ["seed 4 teacher", "seed 4 unguided", "seed 4 guided", "seed 2 teacher"]


def test_what_it_proposes_has_options_that_exist_and_ends_within_the_hour() -> None:
    assert max(map(len, NEXT.splitlines())) <= 80
    lines = NEXT.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("  ")]
    assert [command[1] for command in commands] == ["fit", "train-teacher", "distill"]
    times = []
    for program, name, *words in commands:
        assert program == "lgkd" and name in COMMANDS
        known = {option for parameter in load_command(name).params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known
        times.append(parse_time(words[words.index("--time") + 1]))
        if name == "fit":
            continue
        trained = words[words.index("--student") + 1] if name == "distill" else words[0]
        assert find(trained) and trained.startswith("vit" if name == "distill" else "fastnet")
        recipe = load_recipe(words[words.index("--recipe") + 1])
        assert recipe.trains == ("student" if name == "distill" else "teacher")
    assert times[0] <= 3600 and sum(times[1:]) <= 3600


def test_threads_are_as_they_were() -> None:
    before = torch.get_num_threads()
    with pytest.raises(InputError):
        quickstart(seeds=[])
    assert torch.get_num_threads() == before


def test_settings_are_chosen_without_the_test_split() -> None:
    digits, chosen = load_dataset("digits"), held_out_digits()
    ours = set(chosen.train.names) | set(chosen.test.names)
    assert ours == set(digits.train.names) and not ours & set(digits.test.names)
    assert not set(chosen.train.names) & set(chosen.test.names)


def test_the_student_is_a_vit_of_sixteen_fixed_places() -> None:
    size = load_recipe("quickstart").view.image_size
    assert size is not None
    student = small_vit(10, size)
    assert student(torch.zeros(2, 3, size, size)).shape == (2, 10)
    places = student.pos_embed
    assert isinstance(places, torch.Tensor) and places.shape == (1, 16, 64) and not places.requires_grad
    apart = torch.cdist(places[0], places[0]) + 10 * torch.eye(16)
    assert apart.min() > 0.5, "two places are hardly told apart"


def test_an_interval_that_includes_zero_is_told_plainly() -> None:
    lines = "\n".join(gain_lines(outcome([0.9, 0.7, 0.8], [0.8, 0.75, 0.79])))
    assert "The interval includes 0: 3 seeds cannot distinguish this gain from zero." in lines
    assert "n = 3, every run is shown, none was picked" in lines and "never on the test split" in lines


def test_a_clear_gain_a_loss_and_one_seed_are_told_as_they_are() -> None:
    clear = gain_lines(outcome([0.90, 0.91, 0.92], [0.80, 0.81, 0.81]))
    assert clear[0].startswith("gain of the guide: +10.33 points, 95% t-interval +8.90 to +11.77")
    assert clear[0].endswith("paired over 3 seeds (+10.00, +10.00, +11.00).")
    assert clear[1].startswith("The interval does not include 0.")
    assert "largest, +10.33 points, after 100 of 100 steps" in clear[2]
    loss = gain_lines(outcome([0.6, 0.6], [0.7, 0.8]))
    assert loss[0].startswith("gain of the guide: -15.00 points")
    single = gain_lines(outcome([0.9], [0.8]))
    assert single[0].endswith("+10.00 points with one seed, which gives no interval and is not a result.")


def test_changed_settings_and_other_images_are_told() -> None:
    changed = "\n".join(gain_lines(outcome([0.9], [0.8], overrides=("optimizer.lr=1e-2",))))
    assert "Settings were changed for this run: optimizer.lr=1e-2." in changed and "chosen" not in changed
    assert "on which the settings were chosen" in gain_lines(outcome([0.9], [0.8], split="held-out"))[-1]


def test_the_widest_gap_is_that_of_the_mean_curves() -> None:
    curves: dict[Who, list[tuple[tuple[int, float], ...]]] = {
        "unguided": [((10, 0.1), (20, 0.5), (30, 0.8)), ((10, 0.1), (20, 0.3), (30, 0.8))],
        "guided": [((10, 0.7), (20, 0.8), (30, 0.9)), ((10, 0.1), (20, 0.8), (30, 0.9))],
        "teacher": [((30, 0.9),), ((30, 0.9),)],
    }
    trials = tuple(
        Trial(who, seed, curve[-1][1], 1.0, curve, Path("q"))
        for who, both in curves.items()
        for seed, curve in enumerate(both)
    )
    found = outcome([0.9], [0.8], trials=trials).widest
    # Means apart: 0.3, 0.4, 0.1; the single widest gap, 0.6 at step 10, is not what is asked for.
    assert (found.place, found.step) == (1, 20) and found.gain == pytest.approx(0.4)


def test_a_folder_that_was_asked_for_and_is_taken_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TakenError, match=r"already holds a file or folder not of an lgkd run.*Choose another --out"):
        quickstart(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--seeds", "1;2"], "--seeds '1;2' is not a list of whole numbers; write it like --seeds 0,1,2"),
        (["--seeds", "4,4"], "the seed 4 is given twice"),
        (["--epochs", "0"], "--epochs must be >= 1 (got 0)"),
        (["--set", "optimizer.rl=1"], "did you mean"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert lgkd(["quickstart", "--out", str(out), *words]) == 2
    assert told in capsys.readouterr().err
    assert not out.exists()


def test_it_is_the_first_command_of_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert lgkd(["--help"]) == 0
    text = capsys.readouterr().out
    assert text.index("\n  quickstart") < text.index("\n  train-teacher")
    assert shutil.which("lgkd") is None or "Start with: lgkd quickstart" in text
