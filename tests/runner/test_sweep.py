"""`--seeds` and `--with-baseline`: a run each in one folder, stopped and gone on with as one."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

import lgkd
from lgkd._internal.safetensors_io import load_weights
from lgkd.cli import run
from lgkd.config import load_recipe
from lgkd.errors import InputError, TakenError
from lgkd.runs.compare import compare
from lgkd.training.signals import StopCondition
from tests.support.forking import Nursery
from tests.support.launching import lgkd as launched
from tests.support.small import (
    DISTILL,
    TINY_OPTIONS,
    TRAIN,
    World,
    one_thread,
    pause_after,
    snapshot,
)

MEMBERS = ["seed0-guided", "seed0-unguided", "seed1-guided", "seed1-unguided"]
FILES = ["comparison.csv", "comparison.json", "comparison.png"]


def words(world: World, out: Path | str, seeds: str = "0,1", *more: str) -> list[str]:
    return [*DISTILL, "--dataset", str(world.pictures), "--out", str(out), "--seeds", seeds, "--with-baseline", *more]


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A series that nothing disturbed, and what it printed; only read."""
    folder = tmp_path_factory.mktemp("series") / "whole"
    printed: list[str] = []
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setenv("LGKD_HOME", str(world.home))
        patch.setattr("sys.stdout.write", printed.append)
        assert run(words(world, folder)) == 0
    yield folder, "".join(printed)


def same_end(one: Path, other: Path) -> bool:
    mine, theirs = (load_weights(folder / "student.safetensors") for folder in (one, other))
    return mine.keys() == theirs.keys() and all((mine[name] == theirs[name]).all() for name in mine)


def about(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_every_seed_has_a_guided_and_an_unguided_run_and_the_comparison_lies_beside_them(whole) -> None:
    folder, _ = whole
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, *MEMBERS])
    for name in MEMBERS:
        info = about(folder / name)
        assert (info["seed"], info["kind"]) == (int(name[4]), "distill" if name.endswith("-guided") else "train")
    assert (
        json.loads((folder / "comparison.json").read_text()) == compare(*(folder / name for name in MEMBERS)).as_dict()
    )


def test_a_member_is_what_the_command_makes_alone(world: World, whole) -> None:
    assert same_end(whole[0] / "seed0-guided", world.guided_run)


def test_a_guided_and_an_unguided_run_of_a_seed_differ_in_nothing_but_the_guide(
    world: World, whole, here: Path
) -> None:
    (difference,) = compare(whole[0]).differences
    assert difference.reference.is_baseline_of(difference.group) and compare(whole[0]).remarks == ()
    # A guide of no weight changes nothing, so that first weights, batches and augmentation are the same.
    assert run(words(world, "x", "3", "--set", "guide.terms.0.weight=0")) == 0
    assert same_end(Path("x/seed3-guided"), Path("x/seed3-unguided"))


def test_the_gain_is_shown_by_seed_with_its_interval(whole) -> None:
    folder, printed = whole
    (difference,) = compare(folder).differences
    ends = {name: about(folder / name)["results"]["test_top1"] for name in MEMBERS}
    gains = [ends[f"seed{seed}-guided"] - ends[f"seed{seed}-unguided"] for seed in (0, 1)]
    assert [gain for _, gain in difference.by_seed] == pytest.approx(gains)
    assert f"B - A: {sum(gains) / 2 * 100 + 0.0:+.2f} points, 95% t-interval " in printed
    assert f"paired over 2 seeds ({', '.join(f'{100 * gain + 0.0:+.2f}' for gain in gains)})" in printed
    assert printed.rstrip().endswith(f"kept in {folder}")


def test_finished_runs_are_kept_and_another_seed_is_added(world: World, here: Path, capsys, whole) -> None:
    first = words(world, "mine", "0")
    assert run(first) == 0
    before = snapshot(Path("mine/seed0-guided"), Path("mine/seed0-unguided"))
    capsys.readouterr()
    assert run([word for word in words(world, "mine") if word != "--quiet"]) == 0
    assert "seed0-guided is finished: " in capsys.readouterr().err
    assert snapshot(Path("mine/seed0-guided"), Path("mine/seed0-unguided")) == before
    assert all(same_end(Path("mine") / name, whole[0] / name) for name in MEMBERS)


def test_a_baseline_can_be_added_later(world: World, here: Path, whole) -> None:
    without = [word for word in words(world, "mine", "0") if word != "--with-baseline"]
    assert run(without) == 0
    assert sorted(path.name for path in Path("mine").iterdir()) == sorted([*FILES, MEMBERS[0]])
    assert run(words(world, "mine", "0")) == 0
    assert all(same_end(Path("mine") / name, whole[0] / name) for name in MEMBERS[:2])


@pytest.mark.parametrize("steps", [2, 8])
def test_a_series_that_is_paused_goes_on_and_ends_as_the_undisturbed_one(
    world: World, here: Path, monkeypatch, whole, steps: int
) -> None:
    with monkeypatch.context() as patch:
        pause_after(patch, steps)  # six steps a run: in the first, and in the second
        assert run(words(world, "mine", "0")) == 75
    states = [about(path)["status"] for path in sorted(Path("mine").glob("seed*"))]
    assert states == ["finished"] * (steps // 6) + ["running"]
    assert run(words(world, "mine", "0")) == 0
    assert all(same_end(Path("mine") / name, whole[0] / name) for name in MEMBERS[:2])


def test_the_time_limit_counts_for_all_runs_together(world: World, here: Path, monkeypatch, capsys) -> None:
    command = words(world, "mine", "0", "--max-time", "0")
    assert run(command) == 75
    assert "paused after 0 seconds and saved; run the same command again to resume" in capsys.readouterr().err
    monkeypatch.setattr(StopCondition, "reason", lambda self: None)  # as if the clock ran out while a run was put away
    assert run(command) == 75
    assert "paused after 0 seconds between two runs; run the same command again to resume" in capsys.readouterr().err
    assert [about(path)["status"] for path in Path("mine").glob("seed*")] == ["finished"]
    assert run(command) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 75)])
def test_a_signal_in_a_run_or_between_two_ends_with_its_code(
    world: World, here: Path, monkeypatch, capsys, whole, number: int, code: int
) -> None:
    from lgkd.runner import runner
    from lgkd.runner.record import CsvLogger

    looks, real = [0], runner.prepare_data

    def prepare(*arguments, **options):
        looks[0] += 1
        if looks[0] == 2:
            signal.raise_signal(number)
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "prepare_data", prepare)
        assert run(words(world, "mine", "0")) == code
    err = capsys.readouterr().err
    assert "between two runs; run the same command again to resume" in err or number == signal.SIGINT
    assert about(Path("mine/seed0-guided"))["status"] == "finished" and not Path("mine/seed0-unguided").exists()
    with monkeypatch.context() as patch:
        patch.setattr(CsvLogger, "on_start", lambda *_: signal.raise_signal(number))
        assert run(words(world, "mine", "0")) == code
    assert "and saved; run the same command again to resume" in capsys.readouterr().err
    assert about(Path("mine/seed0-unguided"))["status"] == "running"
    assert run(words(world, "mine", "0")) == 0
    assert all(same_end(Path("mine") / name, whole[0] / name) for name in MEMBERS[:2])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_finished_run_of_another_training_is_no_part_of_the_series(world: World, here: Path, capsys, whole) -> None:
    assert run(words(world, whole[0], "0,1", "--epochs", "3")) == 2
    err = capsys.readouterr().err
    assert "holds a finished run (deit_tiny guided by resnet8 on pictures, seed 0) that differs from this one" in err
    assert "epochs: was 2, now 3" in err and "Choose another --out to start a new run" in err


@pytest.mark.parametrize("command", ["resume", "evaluate"])
def test_where_one_run_is_expected_a_folder_of_several_is_told(
    whole, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert run([command, str(whole[0])]) == 2
    err = capsys.readouterr().err
    assert f"holds several runs; name one of them, such as {whole[0] / 'seed0-guided'}" in err
    assert "(to resume all of them, repeat the command that started them)" in err


def test_a_folder_of_something_else_is_refused(world: World, here: Path, capsys) -> None:
    Path("notes").mkdir()
    Path("notes/a.txt").write_text("mine")
    Path("file").write_text("mine")
    for out, told in (
        (
            "notes",
            "notes already holds a.txt and no runs of a sweep (seed0-guided and similar); nothing was touched.",
        ),
        ("file", "file is a file, expected a folder for several runs; choose another --out"),
        (str(world.guided_run), "is the folder of one run, and several need one of their own; choose another --out"),
    ):
        assert run(words(world, out)) == 2
        assert told in capsys.readouterr().err
    assert Path("notes/a.txt").read_text() == "mine" and len(list(Path("notes").iterdir())) == 1


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--seeds", "1;2"], "--seeds '1;2' is not a list of whole numbers; write it like --seeds 0,1,2"),
        (["--seeds", "1,1"], "the seed 1 is given twice"),
        (["--seeds", "1,2", "--seed", "3"], "--seed 3 and --seeds 1,2 were both given; choose one"),
    ],
)
def test_seeds_that_make_no_sense_are_told_before_anything_is_made(
    world: World, here: Path, capsys, more: list[str], told: str
) -> None:
    assert run([*DISTILL, "--dataset", str(world.pictures), *more]) == 2
    assert told in capsys.readouterr().err
    assert not Path("runs").exists()


def test_several_seeds_of_a_baseline_are_a_series_too_and_json_is_all_that_is_printed(
    world: World, here: Path, capsys
) -> None:
    assert run([*TRAIN, "--dataset", str(world.pictures), "--seeds", "0,1", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == "" and found["folder"] == "runs/deit_tiny_pictures_supervised"
    assert found["groups"][0]["seeds"] == [0, 1] and found["differences"] == []
    assert same_end(Path(found["folder"]) / "seed0-unguided", world.unguided_run)


def test_one_seed_with_its_baseline_is_told_to_be_no_result(world: World, here: Path, capsys) -> None:
    single = [*DISTILL, "--dataset", str(world.pictures), "--with-baseline", "--seed", "1"]
    assert run(single) == 0
    out = capsys.readouterr().out
    assert "points with one seed, which gives no interval and is not a result." in out
    folder = Path("runs/deit_tiny_pictures_by-resnet8_locality-guidance")
    assert f"kept in {folder}" in out and (folder / "seed1-unguided" / "run.json").is_file()


def test_a_baseline_of_a_cached_guide_sees_the_same_views_in_turn(world: World, here: Path) -> None:
    plain = ["--set", "mix.mixup=0", "--set", "mix.cutmix=0"]
    options = [
        word for word in DISTILL[1:] if word not in ("--epochs", "2", "--batch-size", "8", "--precision", "fp32")
    ]
    assert (
        run(["cache-teacher", *options, "--dataset", str(world.pictures), *plain, "--views", "2", "--out", "cache"])
        == 0
    )
    assert run(words(world, "mine", "0", *plain, "--cached", "cache")) == 0
    fixed = [load_recipe(Path("mine") / name / "recipe.yaml").view.fixed for name in MEMBERS[:2]]
    assert fixed == [2, 2] and compare("mine").remarks == ()
    assert about(Path("mine/seed0-unguided"))["cached"] is None
    assert run(words(world, "mine", "0", *plain, "--cached", "cache")) == 0


def test_python_has_the_same(world: World, here: Path, whole) -> None:
    teacher = lgkd.load_teacher("resnet8", dataset=world.pictures)
    titles: list[str] = []

    def watch(title: str):
        from contextlib import nullcontext

        titles.append(title)
        return nullcontext({})

    series = lgkd.distill_series(
        "deit_tiny", teacher, world.pictures, seeds=[0], with_baseline=True, student_options=TINY_OPTIONS,
        image_size=16, epochs=2, batch_size=8, precision="fp32", device="cpu", out="mine", watch=watch,
    )  # fmt: skip
    assert titles == ["1/2 seed 0 guided", "2/2 seed 0 unguided"]
    assert series.folders == (Path("mine/seed0-guided"), Path("mine/seed0-unguided"))
    assert all(same_end(folder, whole[0] / folder.name) for folder in series.folders)
    assert series.comparison.as_dict() == lgkd.compare("mine").as_dict()
    with pytest.raises(InputError, match=r"the student is a Linear, which can be trained once; for several seeds give"):
        lgkd.train_series(nn.Linear(1, 1), world.pictures)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="there are no seeds; give at least one"):
        lgkd.train_series("deit_tiny", world.pictures, seeds=[])
    with pytest.raises(InputError, match=r"seed=1 was given beside seeds=.*; leave one of them out"):
        lgkd.train_series("deit_tiny", world.pictures, seed=1)
    with pytest.raises(TakenError, match="is the folder of one run"):
        lgkd.train_series("deit_tiny", world.pictures, out=world.guided_run)


@pytest.mark.slow
def test_two_processes_keep_what_is_finished_and_make_the_rest_of_a_series(
    nursery: Nursery, world: World, tmp_path: Path, whole
) -> None:
    two, kept = tmp_path / "two", [tmp_path / "two" / name for name in MEMBERS[:2]]
    for folder in kept:
        shutil.copytree(whole[0] / folder.name, folder)
    before = snapshot(*kept)
    done = launched(nursery, world, tmp_path, *words(world, two, "0,1", "--nproc", "2"))
    out, problems = done.communicate(timeout=250)
    assert done.returncode == 0, problems[-2000:]
    assert out.count("paired over 2 seeds") == 1
    assert sorted(path.name for path in two.iterdir()) == sorted([*FILES, *MEMBERS])
    assert snapshot(*kept) == before
    assert [about(two / name)["processes"] for name in MEMBERS] == [1, 1, 2, 2]
