"""Probes of frozen features: against a hook of the module, a loop over images, and scikit-learn."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import lgkd
from lgkd.analysis.probe import classifiers
from lgkd.analysis.probe.classifiers import STRENGTHS, linear_probe, neighbour_votes
from lgkd.analysis.probe.probe import read_embeddings
from lgkd.cli import run
from lgkd.errors import DataError, InputError
from lgkd.runner.loaded_run import open_run
from tests.support.labels import make_table
from tests.support.small import CLASSES, World, make_pictures


def clouds(classes: int, count: int, width: int, seed: int, noise: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of overlapping classes."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(count)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    return centres[labels] + noise * torch.randn(len(labels), width, generator=draw), labels


def test_features_are_what_the_head_is_given(world: World) -> None:
    opened = open_run(world.unguided_run)
    student = opened.student.train()
    seen: list[torch.Tensor] = []
    hook = student.head.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    student.eval()
    logits = []
    with torch.no_grad():
        for images, _ in opened.batches():
            logits.append(student(images))
    hook.remove()
    student.train()
    features, labels = read_embeddings(student, opened.batches(), image_size=opened.image_size)
    assert torch.equal(features, torch.cat(seen)) and torch.equal(labels, opened.data.test.labels)
    assert torch.equal(student.head(features), torch.cat(logits))
    assert student.training and not student.head._forward_pre_hooks


def test_weighted_votes_are_those_of_a_loop() -> None:
    train, labels = clouds(4, 15, 6, seed=0)
    test, _ = clouds(4, 10, 6, seed=1)
    weighted, equal = neighbour_votes(train, labels, test, classes=4, neighbours=20, temperature=0.07)
    for place, one in enumerate(test.tolist()):
        norm = math.hypot(*one)
        near = sorted(
            (
                (sum(a * b for a, b in zip(one, other, strict=True)) / norm / math.hypot(*other), int(label))
                for other, label in zip(train.tolist(), labels, strict=True)
            ),
            reverse=True,
        )[:20]
        votes: Counter[int] = Counter()
        for similarity, label in near:
            votes[label] += math.exp(similarity / 0.07)  # type: ignore[assignment]
        assert int(weighted[place]) == max(votes, key=votes.__getitem__)
        counts = Counter(label for _, label in near)
        assert int(equal[place]) == min(counts, key=lambda label: (-counts[label], label))
    assert not torch.equal(weighted, equal)


def test_votes_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers, "_CHUNK", 7)
    train, labels = clouds(5, 30, 8, seed=2)
    test, _ = clouds(5, 20, 8, seed=3)
    found = neighbour_votes(train, labels, test, classes=5, neighbours=9, temperature=0.07)
    for mine, weights in zip(found, (lambda far: np.exp((1 - far) / 0.07), "uniform"), strict=True):
        theirs = KNeighborsClassifier(9, weights=weights, metric="cosine", algorithm="brute")
        assert (
            mine.tolist() == theirs.fit(train.double().numpy(), labels.numpy()).predict(test.double().numpy()).tolist()
        )


def test_fewer_images_than_neighbours_all_vote() -> None:
    train = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    weighted, equal = neighbour_votes(
        train, torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.1]]), classes=2, neighbours=20, temperature=0.07
    )
    assert weighted.tolist() == [0] and equal.tolist() == [1]


def small_differences(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes that only a small difference of two large features tells apart, which takes large weights."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(2).repeat(count)
    common = torch.randn(2 * count, 1, generator=draw)
    shift = torch.stack([0.1 * (2.0 * labels - 1), torch.zeros(2 * count)], dim=1)
    return common + shift + 0.05 * torch.randn(2 * count, 2, generator=draw), labels


def test_the_linear_probe_is_scikit_learns_with_the_strength_of_the_held_out_images() -> None:
    chosen = []
    for parts in (
        [clouds(4, count, 20, seed, noise=3.0) for count, seed in ((12, 4), (30, 5), (25, 6))],
        [small_differences(count, seed) for count, seed in ((30, 4), (40, 5), (25, 6))],
    ):
        (train, labels), (held, truths), (test, _) = ((one[0].double().numpy(), one[1].numpy()) for one in parts)
        found = linear_probe(parts[0], parts[1], parts[2][0])
        best: tuple[float, float] = (-1.0, 0.0)
        scale = StandardScaler().fit(train)
        for strength in STRENGTHS:
            model = LogisticRegression(C=1 / (strength * len(train)), max_iter=5000, tol=1e-8)
            score = float(model.fit(scale.transform(train), labels).score(scale.transform(held), truths))
            best = max(best, (score, strength), key=lambda one: one[0])
        assert (found.held_out_top1, found.strength) == pytest.approx(best)
        both, all_labels = np.concatenate([train, held]), np.concatenate([labels, truths])
        whole = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (best[1] * len(both)), max_iter=5000))
        assert found.predicted.tolist() == whole.fit(both, all_labels).predict(test).tolist()
        assert found.converged
        chosen.append(found.strength)
    assert chosen[0] > chosen[1]


def test_without_held_out_images_the_strength_is_not_chosen() -> None:
    train, test = clouds(3, 10, 4, seed=7), clouds(3, 10, 4, seed=8)
    found = linear_probe(train, None, test[0])
    assert found.held_out_top1 is None and found.strength == classifiers.DEFAULT_STRENGTH
    assert float((found.predicted == test[1]).float().mean()) > 0.5


def test_a_fit_that_is_cut_short_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers, "_MOST_ITERATIONS", 1)
    assert not linear_probe(clouds(3, 10, 4, seed=7), None, clouds(3, 2, 4, seed=8)[0]).converged


def test_one_class_cannot_be_told_apart() -> None:
    features, labels = clouds(1, 5, 3, seed=0)
    with pytest.raises(DataError, match="of 1 class, expected 2 or more to tell apart; name a data set"):
        linear_probe((features, labels), None, features)


def test_two_runs_are_probed_on_the_same_images(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["probe", str(world.guided_run), str(world.unguided_run)]
    assert run(words) == 0
    shown = capsys.readouterr().out
    assert "24 training and 12 test images of pictures: top-1 in %" in shown
    assert "deit_tiny by resnet8, seed 0" in shown and "20-NN" in shown
    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["runs"]
    assert [Path(one["folder"]) for one in found] == [world.unguided_run, world.guided_run]
    assert found == [one.as_dict() for one in lgkd.probe([world.unguided_run, world.guided_run])]
    for one in found:
        assert one["train_images"] == 24 and one["width"] == 32 and one["held_out_top1"] is not None
        assert {one[key] * 12 % 1 for key in ("knn", "knn_plain", "linear")} == {0}


def test_a_probe_is_the_classifiers_on_the_features(world: World) -> None:
    """With nothing held out the whole probe can be written in ten lines."""
    (found,) = lgkd.probe(world.unguided_run, val_fraction=0, neighbours=5)
    opened = open_run(world.unguided_run)
    train, test = (
        read_embeddings(opened.student, opened.batches(images), image_size=opened.image_size)
        for images in (opened.data.train, opened.data.test)
    )
    weighted, equal = neighbour_votes(*train, test[0], classes=3, neighbours=5, temperature=0.07)
    right = [
        float((one == test[1]).double().mean())
        for one in (weighted, equal, linear_probe(train, None, test[0]).predicted)
    ]
    assert [found.knn, found.knn_plain, found.linear] == right
    assert [found.knn_balanced, found.knn_plain_balanced, found.linear_balanced] == pytest.approx(right)
    assert found.held_out_top1 is None and found.seed == 0 and found.label.endswith("on pictures, seed 0")


def test_other_images_may_have_other_classes(world: World, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_pictures(here / "more", (*CLASSES, "spots"), train=4, test=2)
    words = ["probe", str(world.unguided_run), "--dataset", str(folder), "--images-per-class", "3", "--json"]
    assert run(words) == 0
    (found,) = json.loads(capsys.readouterr().out)["runs"]
    assert (found["train_images"], found["test_images"], found["dataset"]) == (12, 8, "more")


def test_seeds_are_summarised(world: World, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.support.small import TRAIN

    assert run([*TRAIN, "--dataset", str(world.pictures), "--seeds", "0,1", "--out", str(here / "two")]) == 0
    capsys.readouterr()
    assert run(["probe", str(here / "two")]) == 0
    shown = capsys.readouterr().out
    assert "mean and standard deviation over seeds" in shown and "seed 0" in shown and "seed 1" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--neighbours", "0"], "--neighbours is 0, expected 1 or more"),
        (["--temperature", "0"], "--temperature is 0, expected a number above 0"),
        (["--val-fraction", "1"], "--val-fraction is 1, expected a number from 0 to below 1"),
    ],
)
def test_numbers_out_of_range_are_refused(
    world: World, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(["probe", str(world.unguided_run), *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_runs_of_different_images_are_refused(world: World, here: Path) -> None:
    folder = make_pictures(here / "fewer", train=2, test=2)
    other = lgkd.train(
        "deit_tiny", folder, student_options={"patch_size": 8, "depth": 3, "embed_dim": 12, "num_heads": 1},
        image_size=16, epochs=1, batch_size=4, out=here / "other", precision="fp32", device="cpu",
    )  # fmt: skip
    with pytest.raises(InputError, match=r"was trained on other images than .*, and all runs are probed on the same"):
        lgkd.probe([world.unguided_run, other])
    assert len(lgkd.probe([world.unguided_run, other], dataset=folder)) == 2


def test_several_labels_an_image_are_refused(world: World, tmp_path: Path) -> None:
    table = make_table(tmp_path / "set")
    with pytest.raises(
        InputError, match=r"has several labels an image.+expected one label an image: use `lgkd evaluate`"
    ):
        lgkd.probe(world.unguided_run, dataset=table)
