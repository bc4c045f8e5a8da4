"""Trainings on a folder, a table and a data set of Hugging Face: the same bits, and a split val that selects."""

import json
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lgkd
from lgkd.autofit.facts import gather_facts
from lgkd.autofit.plan import make_plan
from lgkd.autofit.request import Request
from lgkd.cli import run
from lgkd.config import load_recipe
from lgkd.data.names import Subset
from lgkd.data.prepare import prepare_data
from lgkd.data.stored_side import needed_side
from lgkd.errors import InputError, Paused
from lgkd.runner.dry_run.dataset_outline import count, outline
from tests.support.small import CLASSES, TINY_OPTIONS, make_pictures, pause_after
from tests.support.sources import rows_of, save_hugging_face, write_table

QUICK: dict[str, Any] = {
    "student_options": TINY_OPTIONS, "image_size": 16, "epochs": 2, "batch_size": 8, "precision": "fp32",
    "device": "cpu",
}  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """FOLDER/train, test and val with the same three classes."""
    monkeypatch.chdir(tmp_path)
    folder = make_pictures(tmp_path / "photos", train=4, test=2)
    make_pictures(tmp_path / "more", train=1, test=3)
    shutil.move(tmp_path / "more/test", folder / "val")
    return folder


def trained(source: Any, out: str, **options: Any) -> tuple[bytes, dict[str, Any]]:
    made = lgkd.train("deit_tiny", source, out=out, **{**QUICK, **options})
    return (made.folder / "student.safetensors").read_bytes(), made.info


def test_the_same_images_give_the_same_student_from_every_source(photos: Path, tmp_path: Path) -> None:
    weights, info = trained(photos, "folder")
    table = write_table(photos / "labels.csv", rows_of(photos)[::-1])
    others = {"table": table}
    with suppress(pytest.skip.Exception):
        others["hugging-face"] = save_hugging_face(photos, tmp_path / "hf", CLASSES[::-1])
    for out, source in others.items():
        own, about = trained(str(source), out)
        assert own == weights
        assert about["dataset"]["path"] == str(source.resolve())
        for key in ("fingerprint", "val_fingerprint", "val_images", "train_images", "test_images"):
            assert about["dataset"][key] == info["dataset"][key]
        again = lgkd.evaluate(out)
        assert again.top1 == pytest.approx(about["results"]["test_top1"])
        assert lgkd.evaluate(out, dataset=photos).per_class == lgkd.evaluate("folder", dataset=source).per_class
        guesses = lgkd.predict(out, source)
        assert [one.error for one in guesses] == [None] * len(rows_of(photos))
        assert {one.truth for one in guesses} == set(CLASSES)
        folders = [path for path in photos.iterdir() if path.is_dir()]  # beside the table, which is no image
        by_folder = {one.confidences for one in lgkd.predict(out, folders)}
        assert {one.confidences for one in guesses} == by_folder


def test_a_split_val_selects_the_epoch_and_costs_no_training_images(photos: Path) -> None:
    _, info = trained(photos, "selected", select_by="macro_f1")
    assert info["dataset"]["train_images"] == 12 and info["dataset"]["val_images"] == 9
    assert (info["results"]["selected_on"], info["results"]["selected_by"]) == ("val", "macro_f1")
    assert "val_top1" in info["results"] and info["call"]["options"].get("val_fraction") is None
    _, last = trained(photos, "last", val_fraction=0)
    assert last["dataset"]["val_images"] is None and "val_fingerprint" not in last["dataset"]
    assert last["results"]["selected_on"] is None
    assert last["dataset"]["fingerprint"] == info["dataset"]["fingerprint"], "a teacher of these images fits both"
    with pytest.raises(InputError, match=r"split val of 9 images, which selects the epoch, and --val-fraction 0.2"):
        trained(photos, "both", val_fraction=0.2)
    with pytest.raises(InputError, match=r"--select-by macro_f1 selects an epoch.*or put a split val beside test"):
        trained(photos, "none", val_fraction=0, select_by="macro_f1")


def test_a_run_that_began_on_a_folder_is_resumed_on_its_table(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, _ = trained(photos, "whole", epochs=4)
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        with pytest.raises(Paused):
            trained(photos, "parts", epochs=4)
    moved = photos.rename(photos.with_name("moved"))
    table = write_table(moved / "labels.csv", rows_of(moved))
    made = lgkd.resume("parts", dataset=table)
    assert (made.folder / "student.safetensors").read_bytes() == weights
    assert made.info["dataset"]["path"] == str(table)


def test_a_run_of_an_earlier_version_is_resumed_without_its_val(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It did not use the split: run.json has no images of it."""
    weights, _ = trained(photos, "whole", val_fraction=0, epochs=4)
    with monkeypatch.context() as patch:
        pause_after(patch, 2)
        with pytest.raises(Paused):
            trained(photos, "parts", val_fraction=0, epochs=4)
    info = json.loads(Path("parts/run.json").read_text())
    del info["call"]["options"]["val_fraction"]
    Path("parts/run.json").write_text(json.dumps(info))
    assert (lgkd.resume("parts").folder / "student.safetensors").read_bytes() == weights


def test_what_a_dry_run_a_fit_and_a_check_say_of_val(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in (photos, write_table(photos / "labels.csv", rows_of(photos))):
        found = outline(source, data_dir=None, offline=True)
        assert found.val == 9 and count(found, Subset()).held_out == 9
        request = Request(source, {"time": "60s"})
        facts = gather_facts(request)
        assert facts.val_is_given and facts.held_out == 9
        lines = "\n".join(make_plan(facts, request.wishes).lines)
        assert "the split val: the epoch that does best on it is kept" in lines
        assert run(["check", str(source)]) == 0
        assert "12 train, 6 test, 9 val" in capsys.readouterr().out


def test_a_fit_stores_training_images_no_larger_than_its_views_need(tmp_path: Path) -> None:
    """48 images of 160 px for a student that sees 64 or 96 px; the number of bytes is counted here."""
    draw = np.random.default_rng(0)
    for number in range(48):
        folder = tmp_path / "large" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (160, 160, 3), np.uint8)).save(folder / f"{number}.png")
    request = Request(tmp_path / "large", {"time": "60s"})
    plan = make_plan(gather_facts(request), request.wishes)
    options = request.student_training(plan, None)
    assert options["stored_side"] == "auto" == request.teacher_options(plan)["stored_side"]
    side = needed_side(load_recipe("fast").view, [(plan.image_size, plan.image_size)])
    whole, small = (prepare_data(tmp_path / "large", normalize="imagenet", reduce_to=one) for one in (None, side))
    assert side == plan.image_size < 160
    assert whole.train.pixels.numel() == len(whole.train) * 3 * 160 * 160
    assert small.train.pixels.numel() == len(whole.train) * 3 * side * side and small.test.pixels.shape[-1] == 160
    asked = Request(tmp_path / "large", {"time": "60s", "stored_side": 160})
    assert asked.student_training(plan, None)["stored_side"] == 160
    earlier = make_plan(replace(gather_facts(request), reduces=False), request.wishes)
    assert "stored_side" not in request.student_training(earlier, None), (
        "a fit of an earlier version continues unchanged"
    )


def test_a_fit_may_stop_early_by_a_split_val(photos: Path) -> None:
    assert Request(photos, {"patience": 2}).wishes is not None
    with pytest.raises(InputError, match="no images are held out to judge the training on"):
        _ = Request(photos, {"patience": 2, "val_fraction": 0}).wishes
