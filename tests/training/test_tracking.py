"""Trackers are told of every epoch once, and whatever becomes of them the run does not notice."""

import inspect
import json
import re
import signal
import threading
import time
from pathlib import Path

import pytest

import lgkd
from lgkd._internal.launch import STUCK
from lgkd.cli import run
from lgkd.config.trackers import INSIDE, KNOWN, TRACKED, check_trackers
from lgkd.errors import InputError, MissingError
from lgkd.runner.record import CsvLogger
from lgkd.runs.folder import read_metrics, read_run
from lgkd.training.callbacks import EpochRow
from lgkd.training.tracking import PATIENCE_VARIABLE, Tracking
from tests.support.small import QUICK, TINY, TINY_OPTIONS, World

WORDS = ["train", "--student", "deit_tiny", *TINY, *QUICK]
CHOICES = {"image_size": 16, "batch_size": 8, "precision": "fp32", "device": "cpu", "student_options": TINY_OPTIONS}


class Own:
    """A tracker of one's own: a name and `log` are all that it needs."""

    def __init__(self, name: str = "mine", fault: Exception | None = None, wait: float = 0.0) -> None:
        self.name, self.fault, self.wait = name, fault, wait
        self.told: list[tuple[int, dict[str, float]]] = []

    def log(self, values: dict[str, float], step: int) -> None:
        time.sleep(self.wait)
        if self.fault is not None:
            raise self.fault
        self.told.append((step, values))


class Whole(Own):
    """One with all that Accelerate's have."""

    def start(self) -> None:
        self.told.append(("start", {}))

    def store_init_configuration(self, values: dict[str, object]) -> None:
        self.told.append(("about", values))

    def finish(self) -> None:
        self.told.append(("finish", {}))


def follow(folder: Path, *trackers: Own, epochs: int, said: list[str] | None = None) -> list[str]:
    """So many epochs, told from the first one on as the loop does after a resume."""
    said = [] if said is None else said
    about, say = {"seed": 3}, said.append
    folder.mkdir(exist_ok=True)
    with Tracking(folder, trackers, about=about, values=lambda row: {"loss": row.train["loss"]}, say=say) as tracking:
        tracking.on_start(epochs, 1)
        for epoch in range(1, epochs + 1):
            tracking.on_step(epoch - 1, 0, {}, 1.0)
            tracking.on_epoch(EpochRow(epoch=epoch, lr=0.1, train={"loss": 1 / epoch}))
    return said


@pytest.fixture(autouse=True)
def _nothing_is_stuck():
    yield
    STUCK.clear()


def test_every_epoch_is_told_with_its_number_as_the_step(tmp_path: Path) -> None:
    own, whole = Own(), Whole("whole")
    assert follow(tmp_path, own, whole, epochs=3) == []
    rows = [(1, {"loss": 1.0}), (2, {"loss": 0.5}), (3, {"loss": 1 / 3})]
    assert own.told == rows
    assert whole.told == [("start", {}), ("about", {"seed": 3}), *rows, ("finish", {})]


def test_what_was_told_in_an_earlier_part_of_the_run_is_not_told_again(tmp_path: Path) -> None:
    first, second, late = Whole(), Whole(), Whole("late")
    follow(tmp_path, first, epochs=2)
    follow(tmp_path, second, late, epochs=4)
    assert [step for step, _ in second.told] == ["start", 3, 4, "finish"]
    assert [step for step, _ in late.told] == ["start", "about", 1, 2, 3, 4, "finish"]
    kept = json.loads((tmp_path / TRACKED).read_text())["trackers"]
    assert {name: entry["epoch"] for name, entry in kept.items()} == {"mine": 4, "late": 4}


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1}', '{"format": 1, "trackers": {"mine": {"epoch": "1"}}}'])
def test_a_record_that_is_damaged_is_told_of_and_all_is_told_again(tmp_path: Path, content: str) -> None:
    (tmp_path / TRACKED).write_text(content)
    own = Own()
    said = follow(tmp_path, own, epochs=2)
    assert said == [f"{tmp_path / TRACKED} cannot be read; every epoch is logged to trackers again"]
    assert [step for step, _ in own.told] == [1, 2]


def test_a_tracker_that_fails_is_told_of_in_one_sentence_and_left_out(tmp_path: Path) -> None:
    faulty, sound = Own("faulty", ConnectionError("no\nroute to host")), Own("sound")
    said = follow(tmp_path, faulty, sound, epochs=3)
    assert said == [
        "the tracker faulty failed at epoch 1 (ConnectionError: no route to host); the training continues without it "
        "and metrics.csv is whole; see its own documentation"
    ]
    assert [step for step, _ in sound.told] == [1, 2, 3]


def test_a_tracker_that_asks_python_to_end_ends_itself_alone(tmp_path: Path) -> None:
    said = follow(tmp_path, Own("leaving", SystemExit(3)), epochs=2)
    assert [line.partition(";")[0] for line in said] == ["the tracker leaving failed at epoch 1 (SystemExit: 3)"]


def test_a_tracker_that_does_not_answer_is_left_out_after_its_time(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(PATIENCE_VARIABLE, "0.2")
    silent, sound = Own("silent", wait=3.0), Own("sound")
    begun = time.monotonic()
    said = follow(tmp_path, silent, sound, epochs=3)
    assert time.monotonic() - begun < 2.5, "it was waited for"
    assert [line.partition(";")[0] for line in said] == ["the tracker silent has not answered for 0.2 s at epoch 1"]
    assert [step for step, _ in sound.told] == [1, 2, 3]
    assert STUCK == ["silent"]


def test_one_thread_calls_all_trackers_and_another_one_only_where_that_hangs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(PATIENCE_VARIABLE, "0.2")
    threads: dict[str, set[int]] = {"first": set(), "hanging": set(), "last": set()}
    release = threading.Event()

    class Seen(Own):
        def start(self) -> None:
            threads[self.name].add(threading.get_ident())
            if self.name == "hanging":
                release.wait(30)

        def log(self, values: dict[str, float], step: int) -> None:
            super().log(values, step)
            threads[self.name].add(threading.get_ident())

    first, hanging, last = (Seen(name) for name in threads)
    assert follow(tmp_path / "a", first, last, epochs=2) == []
    assert threads["first"] == threads["last"] and len(threads["first"]) == 1
    assert threading.get_ident() not in threads["first"]
    for seen in threads.values():
        seen.clear()
    told = follow(tmp_path / "b", first, hanging, last, epochs=2)
    release.set()
    assert [line.partition(";")[0] for line in told] == ["the tracker hanging has not answered for 0.2 s at its start"]
    assert hanging.told == []
    assert [step for step, _ in first.told] == [step for step, _ in last.told] == [1, 2, 1, 2]
    (before,), (after,) = threads["hanging"], threads["last"]
    assert before != after and threads["first"] == {before, after}
    assert STUCK == ["hanging"]


def test_a_tracker_that_fails_at_its_end_is_told_of_and_the_next_one_is_closed(tmp_path: Path) -> None:
    failing, whole = Whole("failing"), Whole("whole")
    failing.finish = lambda: 1 / 0
    (told,) = follow(tmp_path, failing, whole, epochs=1)
    assert told.startswith(
        "the tracker failing failed at the end of the training (ZeroDivisionError: division by zero)"
    )
    assert whole.told[-1] == ("finish", {})


def test_a_slow_tracker_is_waited_for_and_keeps_no_epoch_waiting(tmp_path: Path) -> None:
    slow = Own("slow", wait=0.1)
    said: list[str] = []
    with Tracking(tmp_path, [slow], about={}, values=lambda row: row.train, say=said.append) as tracking:
        begun = time.monotonic()
        for epoch in range(1, 6):
            tracking.on_epoch(EpochRow(epoch=epoch, lr=0.1, train={"loss": 1.0}))
        assert time.monotonic() - begun < 0.4
    assert [step for step, _ in slow.told] == [1, 2, 3, 4, 5]
    assert said == []


def test_names_are_looked_at_before_anything_is_read(monkeypatch, capsys) -> None:
    monkeypatch.setattr("lgkd.config.trackers.find_spec", lambda name: None)
    assert run([*WORDS, "--dataset", "digits", "--track", "tensorbord"]) == 2
    assert capsys.readouterr().err == "lgkd: there is no tracker 'tensorbord'; did you mean 'tensorboard'?\n"
    assert run([*WORDS, "--dataset", "digits", "--track", "tensorboard"]) == 3
    assert capsys.readouterr().err == (
        "lgkd: the tracker tensorboard is not installed; get it by: pip install 'lgkd[tensorboard]', or leave out "
        "--track tensorboard\n"
    )


def test_what_is_no_tracker_is_refused() -> None:
    with pytest.raises(InputError, match="a tracker is a int, expected a name, or an object with a `name` and a"):
        check_trackers([3])
    with pytest.raises(InputError, match="the tracker mine is named twice; name it once"):
        check_trackers([Own(), Own()])
    with pytest.raises(InputError, match=r"track is 'wandb', expected a list of trackers, such as \['wandb'\]"):
        check_trackers("wandb")
    with pytest.raises(MissingError, match="the tracker comet_ml is not installed; get it by: pip install 'comet_ml'"):
        check_trackers([Own(), "comet_ml"])


def test_all_trackers_of_accelerate_are_known_and_take_what_they_are_given(tmp_path: Path) -> None:
    tracking = pytest.importorskip("accelerate.tracking")
    assert KNOWN.keys() == tracking.LOGGER_TYPE_TO_CLASS.keys()
    for name, known in KNOWN.items():
        options = known.begin(tmp_path, "0a1b") | known.again("0a1b")
        project = options.pop("project", "lgkd")
        inspect.signature(tracking.LOGGER_TYPE_TO_CLASS[name]).bind(project, **options)
    assert {"tensorboard", "aim", "dvclive"} == INSIDE


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar below a folder of TensorBoard's, as TensorBoard itself reads it; nothing is thinned out."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    everything = {accumulator.SCALARS: 0}
    events = accumulator.EventAccumulator(str(folder), size_guidance=everything, purge_orphaned_data=False)
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_the_rows_of_metrics_after_a_pause_too(world: World, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("tensorboard")
    out = tmp_path / "run"
    write = CsvLogger.on_epoch

    def write_and_pause(self: CsvLogger, row: EpochRow) -> None:
        write(self, row)
        if row.epoch == 2:  # by the training's own thread: a tracker's may lag behind the last epoch
            signal.raise_signal(signal.SIGUSR1)

    with monkeypatch.context() as patch, pytest.raises(lgkd.errors.Paused):
        patch.setattr(CsvLogger, "on_epoch", write_and_pause)
        lgkd.train("deit_tiny", world.pictures, epochs=4, out=out, track=["tensorboard", Own()], **CHOICES)
    assert read_run(out)["call"]["options"]["track"] == ["tensorboard"]
    assert run(["resume", str(out), "--quiet"]) == 0
    found, rows = scalars(out / "tensorboard"), read_metrics(out)
    assert len(rows) == 4
    assert found.keys() == rows[0].keys() - {"epoch", "test_top5"}, "of three classes, top-5 says nothing"
    for tag, points in found.items():
        assert points == [(row["epoch"], pytest.approx(row[tag])) for row in rows], tag
    files = list((out / "tensorboard").iterdir())
    assert not [path for path in files if path.is_dir()], "one run, one folder of events"
    named = [re.fullmatch(r"events\.out\.tfevents\.\d+\.(.+)\.\d+\.\d+", file.name) for file in files]
    assert [found and found[1] for found in named] == ["lgkd"] * 2, "whose machine it was is nobody's business"


def test_a_run_that_is_tracked_ends_as_one_that_is_not_and_says_no_path(world: World, tmp_path: Path) -> None:
    own = Whole()
    done = lgkd.train("deit_tiny", world.pictures, epochs=2, out=tmp_path / "run", track=[own], **CHOICES)
    mine, its = (folder / "student.safetensors" for folder in (done.folder, world.unguided_run))
    assert mine.read_bytes() == its.read_bytes()
    about = dict(own.told)["about"]
    assert about["student.name"] == "deit_tiny"
    assert about["recipe.optimizer.name"] == "adamw"
    assert about["dataset.classes"] == 3
    assert all(isinstance(value, bool | int | float | str) for value in about.values())
    assert str(tmp_path.parent) not in json.dumps(about)
    assert str(world.pictures.parent) not in json.dumps(about)
    told = [values for step, values in own.told if isinstance(step, int)]
    shown = [{key: value for key, value in row.items() if key != "test_top5"} for row in done.metrics]
    assert [{"epoch": place, **values} for place, values in enumerate(told, 1)] == shown


def test_a_run_that_was_passed_on_cannot_ask_for_a_tracker_that_sends_elsewhere(
    world: World, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "run"
    assert run([*WORDS, "--dataset", str(world.pictures), "--quiet", "--out", str(out), "--max-time", "0"]) == 75
    file = out / "run.json"
    content = json.loads(file.read_text())
    content["call"]["options"]["track"] = ["wandb"]
    file.write_text(json.dumps(content))
    assert run(["resume", str(out)]) == 2
    assert "run.json lacks a proper call.options; it is damaged or something else" in capsys.readouterr().err


def test_a_run_whose_tracker_is_not_here_goes_on_without_it(world: World, tmp_path: Path, capsys, monkeypatch) -> None:
    pytest.importorskip("tensorboard")
    out = tmp_path / "run"
    words = [*WORDS, "--dataset", str(world.pictures), "--out", str(out), "--max-time", "0", "--track", "tensorboard"]
    assert run(words) == 75
    monkeypatch.setattr("lgkd.config.trackers.find_spec", lambda name: None)
    capsys.readouterr()
    assert run(["resume", str(out)]) == 0
    sentence = "the run had the tracker tensorboard, which is not installed here; it continues without it\n"
    assert sentence in capsys.readouterr().err
