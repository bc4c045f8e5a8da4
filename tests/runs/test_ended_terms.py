"""A term that ended before its training did is told wherever the run's result is: nothing ends unnoticed."""

import html
import json
from pathlib import Path

import pytest

from lgkd.analysis.report.report import write_report
from lgkd.cli import run
from lgkd.runs.ended_terms import ended_terms
from lgkd.runs.folder import read_metrics, read_run, write_metrics
from tests.support.comparing import make_run
from tests.support.small import DISTILL, World

REASON = "its loss changes by -5.4% per window, the threshold is -0.1"


def rows(epochs: int, **lasted: int) -> list[dict[str, float]]:
    """Rows of metrics.csv, in which each part of the loss has a value up to its epoch."""
    return [
        {"epoch": epoch, "loss": 1.0, **{f"loss_{name}": 1.0 for name, last in lasted.items() if epoch <= last}}
        for epoch in range(1, epochs + 1)
    ]


def test_what_ended_is_found_in_the_rows_of_an_older_run_and_its_reason_in_run_json() -> None:
    older = {"results": {"test_top1": 0.1}}
    told = {"results": {"ended_terms": [{"term": "blocks", "epoch": 2, "reason": REASON}]}}
    alone = rows(300, classification=300, blocks=2)
    (found,) = ended_terms(older, alone)
    assert str(found) == "blocks ended after epoch 2 of 300; the student was trained on labels alone from then on"
    (found,) = ended_terms(told, alone)
    assert str(found) == (
        f"blocks ended after epoch 2 of 300: {REASON}; the student was trained on labels alone from then on"
    )
    beside = [str(one) for one in ended_terms(older, rows(9, classification=9, kd=7, blocks=2, hint=9))]
    assert beside == ["blocks ended after epoch 2 of 9", "kd ended after epoch 7 of 9"]
    last = [one.last for one in ended_terms(older, rows(9, classification=9, kd=7, blocks=2))]
    assert last == [False, True], "the guide is at its end with the last of its terms"
    for nothing in (rows(9, classification=9, blocks=9), rows(9, classification=9), []):
        assert ended_terms(told, nothing) == []


@pytest.mark.parametrize(
    "results",
    [
        None,
        {},
        {"ended_terms": 3},
        {"ended_terms": [3, {}, {"term": 1}]},
        {"ended_terms": [{"term": "kd", "reason": 4}]},
    ],
)
def test_whatever_a_strangers_run_json_says_of_ends_is_no_error(results: object) -> None:
    (found,) = ended_terms({"results": results}, rows(3, classification=3, kd=1))
    assert (found.term, found.epoch, found.reason) == ("kd", 1, None)
    told = {"results": {"ended_terms": [{"term": "kd", "reason": "up\x1b[2Jside\ndown"}]}}
    (found,) = ended_terms(told, rows(3, classification=3, kd=1))
    assert str(found).isprintable()


def test_a_run_whose_guide_ended_says_so_at_its_end_in_run_json_in_its_report_and_beside_others(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LGKD_HOME", str(world.home))
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "run"
    terms = "guide.terms=[{kind: locality, schedule: {until: 1}}]"
    words = [*DISTILL, "--dataset", str(world.pictures), "--set", terms, "--out", str(out)]
    assert run(words) == 0
    reason = "it was scheduled for 1 epoch"
    sentence = f"guidance_linear ended after epoch 1 of 2: {reason}; the student was trained on labels alone"
    assert sentence in capsys.readouterr().out
    assert read_run(out)["results"]["ended_terms"] == [
        {"term": "guidance_linear", "epoch": 1, "reason": "it was scheduled for 1 epoch"}
    ]
    assert read_run(world.guided_run)["results"]["ended_terms"] == []
    assert "ended_terms" not in read_run(world.unguided_run)["results"]
    page = write_report(out, world.unguided_run).read_text(encoding="utf-8")
    assert sentence in html.unescape(page).partition("</section>")[0], "the summary is the first section"
    assert run(["compare", str(world.unguided_run), str(out), "--json"]) == 0
    remarks = json.loads(capsys.readouterr().out)["remarks"]
    assert any(remark.startswith(f"in B, seed 0, {sentence}") for remark in remarks), remarks


def test_every_seed_of_a_series_whose_guide_ended_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for seed in (0, 1):
        folder = make_run(tmp_path / f"seed{seed}", 0.2, 0.4, 0.3, seed=seed, guided=True)
        known = read_metrics(folder)
        parts = rows(3, classification=3, blocks=1 + seed)
        write_metrics(folder, [one | other for one, other in zip(known, parts, strict=True)])
    assert run(["compare", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    for seed in (0, 1):
        assert f"Beware: in A, seed {seed}, blocks ended after epoch {1 + seed} of 3; the student" in shown
