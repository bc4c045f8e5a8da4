"""The command line on the stand-in: every recipe, and everything that reads a run."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from lgkd._internal.paths import recipe_names
from lgkd.cli import run
from lgkd.config import load_recipe
from tests.support.bench import TYPED
from tests.support.bench import small_products as small_products
from tests.support.costs import is_cost
from tests.support.small import DISTILL, QUICK, TINY, TRAIN, World, make_pictures, pause_after
from tests.support.standin import counting

pytestmark = pytest.mark.standin


def on(words: list[str], where: str) -> list[str]:
    """The same command on another device."""
    place = words.index("--device") + 1
    return [*words[:place], where, *words[place + 1 :]]


def metrics(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [{key: float(cell) for key, cell in row.items() if cell and not is_cost(key)} for row in rows]


@pytest.fixture(scope="module")
def trained(device: str, world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guided run that was made on the device."""
    folder = tmp_path_factory.mktemp("standin") / "guided"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LGKD_HOME", str(world.home))
        assert run([*on(DISTILL, device), "--dataset", str(world.pictures), "--out", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("recipe", [name for name in recipe_names() if load_recipe(name).guide is not None])
def test_every_recipe_distils_to_the_digits_of_the_cpu(device: str, here: Path, world: World, recipe: str) -> None:
    rows = {}
    for where in ("cpu", device):
        out = here / where
        words = ["--recipe", recipe, "--epochs", "1", "--dataset", str(world.pictures), "--out", str(out)]
        words += ["--student-option", "distillation_token=true"] if recipe == "deit-distillation" else []
        assert run([*on(DISTILL, where), *words]) == 0
        rows[where] = metrics(out)
    for ours, theirs in zip(rows[device], rows["cpu"], strict=True):
        # A difference of two shares of about a third: their rounding, not its own size, bounds it.
        assert ours.pop("test_ece") == pytest.approx(theirs.pop("test_ece"), abs=2e-5)
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("recipe", [name for name in recipe_names() if load_recipe(name).trains == "teacher"])
def test_every_recipe_of_a_teacher_trains_to_the_digits_of_the_cpu(
    device: str, here: Path, world: World, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LGKD_HOME", str(here / "home"))
    rows = {}
    for where in ("cpu", device):
        words = ["train-teacher", "resnet8", str(world.pictures), *on(QUICK, where), "--image-size", "16", "--quiet"]
        assert run([*words, "--recipe", recipe, "--out", str(here / where), "--replace"]) == 0
        rows[where] = metrics(here / where)
    for ours, theirs in zip(rows[device], rows["cpu"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-7)


def test_an_unguided_student_with_ema_mixing_and_accumulation_does(device: str, here: Path, world: World) -> None:
    rows = {}
    for where in ("cpu", device):
        settings = ["ema={decay: 0.9}", "mix.mixup=0.8", "mix.cutmix=1.0", "accumulate=2", "clip_norm=1.0"]
        words = [word for setting in settings for word in ("--set", setting)]
        assert run([*on(TRAIN, where), *words, "--dataset", str(world.pictures), "--out", str(here / where)]) == 0
        rows[where] = metrics(here / where)
    for ours, theirs in zip(rows[device], rows["cpu"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-7)


def test_a_paused_run_is_resumed_to_the_digit(
    device: str, here: Path, world: World, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*on(DISTILL, device), "--dataset", str(world.pictures), "--out", str(here / "run")]
    with monkeypatch.context() as patch:
        pause_after(patch, 4)
        assert run(words) == 75
    assert run(words) == 0
    assert metrics(here / "run") == metrics(trained)
    weights = [(folder / "student.safetensors").read_bytes() for folder in (here / "run", trained)]
    assert weights[0] == weights[1]


def test_a_cached_teacher_does(device: str, here: Path, world: World) -> None:
    data = ["--dataset", str(world.pictures)]
    made = ["cache-teacher", "--student", "deit_tiny", "--teacher", "resnet8", *TINY, "--views", "2", "--quiet"]
    assert run([*made, *data, "--storage", "fp32", "--device", device, "--out", str(here / "cache")]) == 0
    out = ["--set", "view.fixed=2", "--out"]
    assert run([*on(DISTILL, device), *data, "--cached", str(here / "cache"), *out, str(here / "cached")]) == 0
    assert run([*on(DISTILL, device), *data, *out, str(here / "online")]) == 0
    for ours, theirs in zip(metrics(here / "cached"), metrics(here / "online"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_everything_that_reads_a_run_does(
    device: str, here: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {}
    picture = next((make_pictures(here / "more", test=1) / "test").rglob("*.png"))
    for where in ("cpu", device):
        capsys.readouterr()
        assert run(["evaluate", str(trained), "--device", where, "--json"]) == 0
        scores = json.loads(capsys.readouterr().out)
        assert run(["predict", str(trained), str(picture), "--device", where, "--json"]) == 0
        answers[where] = scores, json.loads(capsys.readouterr().out)
    flat = {
        where: np.array([number for answer in both for number in numbers(answer)]) for where, both in answers.items()
    }
    np.testing.assert_allclose(flat[device], flat["cpu"], rtol=1e-4, atol=1e-5)
    assert run(["inspect", str(trained), "--device", device, "--out", str(here / "inspected")]) == 0
    assert run(["report", str(trained), "--device", device, "--out", str(here / "report.html")]) == 0
    assert run(["export", str(trained), "--out", str(here / "exported")]) == 0
    assert run(["compare", str(trained)]) == 0


def numbers(value: object) -> list[float]:
    """All numbers of a JSON document, in order; no times."""
    if isinstance(value, dict):
        return [number for key, inner in value.items() if "second" not in key for number in numbers(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in numbers(inner)]
    return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


def test_a_bench_does(device: str, here: Path) -> None:
    with counting() as seen:
        assert run([*on(TYPED, device), "--out", str(here / "bench.json")]) == 0
    assert seen.launches.total() > 1000
    assert json.loads((here / "bench.json").read_text(encoding="utf-8"))["parts"]
