"""Robustness of runs: measures by hand and by loops, intervals paired by image, and the command."""

import csv
import io
import json
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from lgkd.analysis.inspect.corruptions import STRENGTHS, corrupt
from lgkd.analysis.robustness import output
from lgkd.analysis.robustness.measures import (
    Accuracies,
    accuracies,
    corruption_errors,
    equal_weights,
    percentile_interval,
    relative_corruption_errors,
    resampled_weights,
)
from lgkd.analysis.robustness.robustness import KINDS, Robustness, measure_robustness, summarise_answers
from lgkd.api import evaluate
from lgkd.cli import run
from lgkd.data.dataset import DataSet
from lgkd.data.load import load_dataset
from lgkd.runs.compare import compare
from lgkd.runs.statistics import paired_interval
from lgkd.training.evaluate import Scores
from tests.support.comparing import make_run, make_seeds
from tests.support.small import World, make_pictures
from tests.support.unrendered import real_figures

OWN = Accuracies(torch.tensor(0.8), torch.tensor([[0.7, 0.5], [0.8, 0.6]]))
REFERENCE = Accuracies(torch.tensor(0.6), torch.tensor([[0.5, 0.3], [0.6, 0.2]]))


def test_measures_by_hand() -> None:
    assert float(OWN.mean_corrupted) == pytest.approx(0.65)
    assert float(OWN.relative_drop) == pytest.approx(0.15 / 0.8)
    # Errors 0.3 + 0.5 of 0.5 + 0.7, and 0.2 + 0.4 of 0.4 + 0.8.
    assert corruption_errors(OWN, REFERENCE).tolist() == pytest.approx([0.8 / 1.2, 0.6 / 1.2])
    # Increases 0.1 + 0.3 of 0.1 + 0.3, and 0 + 0.2 of 0 + 0.4.
    assert relative_corruption_errors(OWN, REFERENCE).tolist() == pytest.approx([1, 0.5])
    assert corruption_errors(REFERENCE, REFERENCE).tolist() == pytest.approx([1, 1])


def test_measures_without_a_value_are_not_numbers() -> None:
    perfect = Accuracies(torch.tensor(1.0), torch.ones(2, 2))
    assert corruption_errors(OWN, perfect).isnan().all()
    assert relative_corruption_errors(OWN, perfect).isnan().all()
    none = Accuracies(torch.tensor(0.0), torch.zeros(2, 2))
    assert none.relative_drop.isnan()
    assert percentile_interval(1.0, torch.tensor([0.5, float("nan")]), 9).low is None


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
@pytest.mark.parametrize("balanced", [False, True])
def test_accuracies_of_a_split_and_of_its_resamples_are_those_of_scikit_learn(balanced: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 20 + [1] * 7 + [3] * 3)
    guesses = torch.randint(0, 4, (2, 1 + 2 * 3, 30), generator=draw)
    right = guesses == labels
    score = balanced_accuracy_score if balanced else accuracy_score
    weights = [equal_weights(labels, balanced=balanced), *resampled_weights(labels, balanced=balanced, resamples=6)]
    counts = [torch.ones(1, 30), *(30 * one for one in resampled_weights(labels, balanced=False, resamples=6))]
    assert sum(map(len, weights)) == 7
    for weights_SN, counts_SN in zip(weights, counts, strict=True):
        found = accuracies(right, weights_SN, 2)
        assert found.corrupted.shape == (len(weights_SN), 2, 2, 3)
        for sample, times in enumerate(counts_SN.round().long()):
            chosen = np.repeat(np.arange(30), times.numpy())
            for one in range(2):
                said = [score(labels[chosen], guesses[one, place][chosen]) for place in range(7)]
                assert float(found.clean[sample, one]) == pytest.approx(said[0])
                assert found.corrupted[sample, one].flatten().tolist() == pytest.approx(said[1:])


def test_resamples_are_those_of_every_call_and_give_the_standard_error() -> None:
    labels = torch.zeros(400, dtype=torch.int64)
    first, second = (torch.cat([*resampled_weights(labels, balanced=False)]) for _ in range(2))
    assert torch.equal(first, second) and len(first) == 2000
    gains = (torch.arange(400) % 4).double() - 1  # -1, 0, 1, 2: a mean of 0.5 and a deviation of the root of 1.25
    found = percentile_interval(0.5, first @ gains, 400)
    half = 1.96 * (1.25 / 400) ** 0.5
    assert (found.low, found.high) == (pytest.approx(0.5 - half, abs=0.01), pytest.approx(0.5 + half, abs=0.01))


def answers(comparison_runs: int, labels: torch.Tensor) -> torch.Tensor:
    chances = torch.linspace(0.4, 0.8, comparison_runs)[:, None, None]
    draws = torch.rand(comparison_runs, 1 + 5 * len(KINDS), len(labels), generator=torch.Generator().manual_seed(1))
    return draws < chances


def test_groups_of_seeds_are_means_and_the_reference_is_that_of_all_its_seeds(tmp_path: Path) -> None:
    make_seeds(tmp_path / "runs", [0.5, 0.6])
    make_seeds(tmp_path / "runs", [0.7, 0.8], guided=True)
    comparison = compare(tmp_path / "runs")
    labels = torch.arange(60) % 3
    right = answers(4, labels)
    levels, (effects,) = summarise_answers(comparison, right, labels, "top1")
    error = 1 - right.double().mean(dim=2)[:, 1:].reshape(4, len(KINDS), 5)
    clean = right[:, 0].double().mean(dim=1)
    for seed in range(2):
        expected = [float(error[2 + seed, kind].sum() / error[:2, kind].sum() * 2) for kind in range(len(KINDS))]
        assert levels["B"][seed].mce == pytest.approx(sum(expected) / len(KINDS))
        assert levels["A"][seed].mce is None
        assert levels["B"][seed].clean == pytest.approx(float(clean[2 + seed]))
        assert levels["A"][seed].by_kind["jpeg"] == pytest.approx((1 - error[seed, KINDS.index("jpeg")]).tolist())
    mce = [level.mce for level in levels["B"]]
    assert effects["mce"].over_images.mean == pytest.approx(sum(one for one in mce if one is not None) / 2)
    corrupted = [[level.corrupted for level in levels[letter]] for letter in "AB"]
    assert effects["corrupted"].over_seeds == paired_interval(*corrupted)
    gain = effects["corrupted"].over_images
    assert gain.mean == pytest.approx(float(error[:2].mean() - error[2:].mean()))
    assert gain.low is not None and gain.high is not None and gain.low < gain.mean < gain.high
    by_kind = [effects[f"corrupted {kind}"].over_images.mean for kind in KINDS]
    assert sum(by_kind) / len(KINDS) == pytest.approx(gain.mean)
    drops = [1 - level.corrupted / level.clean for level in (*levels["A"], *levels["B"])]
    assert effects["relative_drop"].over_images.mean == pytest.approx((sum(drops[2:]) - sum(drops[:2])) / 2)


def test_equal_answers_have_no_difference_and_no_interval_of_any_width(tmp_path: Path) -> None:
    make_run(tmp_path / "a", 0.5)
    make_run(tmp_path / "b", 0.5, guided=True)
    labels = torch.arange(40) % 2
    right = answers(1, labels).expand(2, -1, -1)
    _, (effects,) = summarise_answers(compare(tmp_path / "a", tmp_path / "b"), right, labels, "balanced_accuracy")
    gain, mce = effects["corrupted"].over_images, effects["mce"].over_images
    assert (gain.mean, gain.low, gain.high) == (0, 0, 0)
    assert (mce.mean, mce.low, mce.high) == pytest.approx((1, 1, 1))
    seeds = effects["corrupted"].over_seeds
    assert seeds is not None and seeds.low is None  # one training each


@pytest.fixture(scope="module")
def unequal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_pictures(tmp_path_factory.mktemp("more") / "pictures", test=14)
    for number in range(10):
        (folder / "test" / "rows" / f"{number}.png").unlink()
    return folder


@pytest.fixture(scope="module")
def measured(
    world: World, unequal: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Robustness, Path]:
    """The document of `--json`, what it was made of, and the folder of the files."""
    folder, made = tmp_path_factory.mktemp("measured"), list[Robustness]()

    def keep(*words: Any, **options: Any) -> Robustness:
        made.append(measure_robustness(*words, **options))
        return made[0]

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
        patch.setenv("LGKD_HOME", str(world.home))
        patch.setattr("lgkd.analysis.robustness.robustness.measure_robustness", keep)
        words = ["robustness", str(world.guided_run), str(world.unguided_run), "--dataset", str(unequal), "--json"]
        assert run([*words, "--csv", str(folder / "r.csv"), "--png", str(folder / "r.png")]) == 0
    return json.loads(out.getvalue()), made[0], folder


def test_the_document_has_what_evaluate_finds(
    world: World, unequal: Path, measured: tuple[dict[str, Any], Robustness, Path], here: Path
) -> None:
    found, _, _ = measured
    assert list(found["metrics"]) == ["top1", "balanced_accuracy"]
    assert found["measured_on"]["test_images"] == 32
    top1, balanced = (about["groups"] for about in found["metrics"].values())
    for place, folder in enumerate((world.unguided_run, world.guided_run)):
        scores = evaluate(folder, dataset=unequal)
        assert isinstance(scores, Scores)
        assert top1[place]["clean"]["mean"] == pytest.approx(scores.top1)
        assert balanced[place]["clean"]["mean"] == pytest.approx(scores.balanced_accuracy)
    data = load_dataset(unequal)
    noisy = DataSet(data.name, data.classes, data.train, corrupt(data.test, "gaussian noise", 4), "", ())
    scores = evaluate(world.guided_run, dataset=noisy)
    assert isinstance(scores, Scores)
    assert top1[1]["runs"][0]["by_corruption"]["gaussian noise"][3] == pytest.approx(scores.top1)
    (difference,) = found["metrics"]["top1"]["differences"]
    gain = top1[1]["corrupted"]["mean"] - top1[0]["corrupted"]["mean"]
    assert difference["corrupted"]["value"] == pytest.approx(gain) and difference["corrupted"]["over_seeds"] is None


def test_the_table_and_the_picture_are_written(measured: tuple[dict[str, Any], Robustness, Path]) -> None:
    found, _, folder = measured
    with (folder / "r.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 2 * (1 + 5 * len(STRENGTHS))
    values = [float(row["accuracy"]) for row in rows if row["metric"] == "top1" and row["group"] == "B"]
    about = found["metrics"]["top1"]["groups"][1]
    assert about["corrupted"]["mean"] == pytest.approx(np.mean(values[1:]))
    assert about["clean"]["mean"] == pytest.approx(values[0])
    assert (folder / "r.png").read_bytes().startswith(b"\x89PNG")


@real_figures()
def test_long_names_leave_the_panels_their_room(
    measured: tuple[dict[str, Any], Robustness, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, widths = measured[1], list[float]()
    real = output.finish

    def look(figure: Any, axes: Any, path: Path) -> None:
        real(figure, axes, path)
        widths.extend(axis.get_position().width for axis in axes)

    monkeypatch.setattr(output, "finish", look)
    groups = [replace(one, label=f"vit_128 by fastnet_small, {'teacher.sha256=0123456789ab, ' * 6}") for one in
              found.comparison.groups]  # fmt: skip
    named = replace(found, comparison=replace(found.comparison, groups=tuple(groups)))
    output.draw_robustness(named, tmp_path / "long.png")
    # Shares of the figure's width; 0.35 where no room was left and the layout was given up.
    assert len(widths) == 2 and min(widths) > 0.38


def test_the_tables_of_a_terminal(
    measured: tuple[dict[str, Any], Robustness, Path],
    world: World,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("lgkd.analysis.robustness.robustness.measure_robustness", lambda *_, **__: measured[1])
    words = ["robustness", str(world.guided_run), str(world.unguided_run)]
    (here / "r.csv").write_text("mine")
    assert run([*words, "--csv", "r.csv"]) == 2
    assert "r.csv exists already" in capsys.readouterr().err and (here / "r.csv").read_text() == "mine"
    assert run([*words, "--csv", "r.csv", "--replace"]) == 0
    out = capsys.readouterr().out
    about = measured[0]["metrics"]["balanced_accuracy"]
    assert "balanced accuracy on 32 test images, in %" in out and "kept in r.csv" in out
    assert f"{100 * about['groups'][1]['corrupted']['mean']:.2f}" in out
    assert "B - A: one training each" in out and "not figures of CIFAR-C or ImageNet-C" in out


def test_a_run_alone_has_no_reference_and_no_difference(world: World, here: Path) -> None:
    told: list[str] = []
    found = measure_robustness(world.unguided_run, say=told.append)
    assert found.effects == {"top1": []} and found.levels["top1"]["A"][0].mce is None
    assert found.images == 12 and told[0].startswith("measured on the 12 test images")


def test_a_relative_mce_without_a_value_is_said(world: World, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lgkd.analysis.robustness.robustness._right", lambda _, images: torch.ones(len(images)) > 0)
    found = measure_robustness(world.unguided_run, world.guided_run, most=40)
    assert "the relative mCE is not defined, as A loses nothing" in found.remarks[-1]
    assert found.levels["top1"]["B"][0].mce is None and found.summary("top1", found.comparison.groups[1], "mce") is None


def test_runs_without_common_test_images_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make_run(tmp_path / "a", 0.5, dataset={"subset": "fold 1 of 5, seed 0"})
    second = make_run(tmp_path / "b", 0.5, dataset={"subset": "fold 2 of 5, seed 0"})
    assert run(["robustness", str(first), str(second)]) == 2
    assert "is tested on fold 2" in capsys.readouterr().err
    assert run(["robustness", str(first), "--most", "5"]) == 2
    assert "5 images were asked for to measure on, expected 32 or more" in capsys.readouterr().err
    several = make_run(tmp_path / "several", 0.5, dataset={"multi_label": True})
    info = json.loads((several / "run.json").read_text())
    info["results"]["test_map"] = info["results"]["best_epoch_on_the_test_split"]["test_map"] = 0.5
    (several / "run.json").write_text(json.dumps(info))
    (several / "metrics.csv").write_text("epoch,lr,loss,test_map\n1,0.1,1.0,0.5\n")
    assert run(["robustness", str(several)]) == 2
    assert "gives several labels an image, and corruption errors are of one" in capsys.readouterr().err
