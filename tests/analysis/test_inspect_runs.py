"""`lgkd inspect`: a folder of pictures and tables that agree with each other and with `lgkd evaluate`."""

import csv
import json
from pathlib import Path

import pytest
import torch

from lgkd.analysis.inspect.figures import energy
from lgkd.analysis.inspect.inspect import Inspection, find_teacher, inspect_run
from lgkd.analysis.inspect.output import check_folder, read_places
from lgkd.api import evaluate
from lgkd.cli import run
from lgkd.data.dataset import DataSet
from lgkd.data.load import load_dataset
from lgkd.errors import InputError, MissingError, TakenError
from lgkd.runner.loaded_run import open_run
from tests.support.small import World, make_pictures, snapshot
from tests.support.unrendered import real_figures

FILES = {
    "attention-distance.csv", "attention-distance.png", "similarity.csv", "similarity.png", "corruptions.csv",
    "corruptions.png", "attention-maps.png", "feature-maps.png", "inspect.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("more") / "pictures", test=16)


@pytest.fixture(scope="module")
def found(world: World, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    with pytest.MonkeyPatch.context() as patch, real_figures():
        patch.setenv("LGKD_HOME", str(world.home))
        before = snapshot(world.guided_run, world.unguided_run)
        inspection = inspect_run(
            world.guided_run,
            world.unguided_run,
            out=tmp_path_factory.mktemp("inspected") / "it",
            dataset=pictures,
            most=48,
        )
        assert snapshot(world.guided_run, world.unguided_run) == before
        return inspection


def rows(found: Inspection, name: str) -> list[dict[str, str]]:
    with (found.folder / name).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_an_inspection_holds_these_files(found: Inspection) -> None:
    assert {path.name for path in found.folder.iterdir()} == FILES
    assert found.remarks == ()
    for name in FILES:
        if name.endswith(".png"):
            assert (found.folder / name).read_bytes().startswith(b"\x89PNG")


def test_guided_and_unguided_stand_side_by_side(found: Inspection, world: World) -> None:
    assert [one.who for one in found.students] == ["guided", "baseline"]
    about = json.loads((found.folder / "inspect.json").read_text())
    assert about["runs"]["baseline"]["folder"] == str(world.unguided_run)
    assert about["teacher"] == "resnet8"
    scored = about["measured_on"].pop("scored")
    assert about["measured_on"] == {"test_images": 48, "of": 48} and scored.startswith(("the 48 test", "all 48 label"))
    assert len(about["shown"]) == 4


def test_every_head_of_every_block_has_its_distance(found: Inspection) -> None:
    table = rows(found, "attention-distance.csv")
    # Two students of three blocks with two heads each.
    assert len(table) == 12
    for row in table:
        student = next(one for one in found.students if one.who == row["who"])
        assert float(row["distance_px"]) == pytest.approx(student.distances[row["layer"]][int(row["head"])], abs=1e-4)
        assert 0 < float(row["distance_px"]) < 16 * 2**0.5


def test_every_block_is_compared_with_every_stage(found: Inspection) -> None:
    table = rows(found, "similarity.csv")
    assert {row["teacher_layer"] for row in table} == {"stage1", "stage2", "stage3"}
    assert len(table) == 2 * 3 * 3
    assert all(-0.5 < float(row["cka"]) <= 1.0001 for row in table)


def test_accuracy_on_the_images_as_they_are_is_that_of_evaluate(
    found: Inspection, world: World, pictures: Path, here: Path
) -> None:
    assert found.accuracies["guided"] == pytest.approx(evaluate(world.guided_run, dataset=pictures).top1)
    assert found.accuracies["baseline"] == pytest.approx(evaluate(world.unguided_run, dataset=pictures).top1)
    table = rows(found, "corruptions.csv")
    assert len(table) == 2 + 2 * 5 * 5
    assert float(table[0]["top1"]) == pytest.approx(found.accuracies["guided"])


def test_accuracy_under_noise_is_that_of_a_data_set_with_noise(found: Inspection, world: World, pictures: Path) -> None:
    from lgkd.analysis.inspect.corruptions import corrupt

    data = load_dataset(pictures)
    noisy = DataSet(data.name, data.classes, data.train, corrupt(data.test, "gaussian noise", 5), "", ())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LGKD_HOME", str(world.home))
        expected = evaluate(world.guided_run, dataset=noisy).top1
    assert found.corrupted["gaussian noise"]["guided"][4] == pytest.approx(expected)


def test_without_a_teacher_similarity_is_left_out_in_words(
    world: World, pictures: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["inspect", str(world.unguided_run), "--dataset", str(pictures), "--most", "32", "--out", "seen"]
    assert run([*words, "--images", "0,5"]) == 0
    out, err = capsys.readouterr()
    assert "the teacher is missing" in err
    assert not (here / "seen" / "similarity.csv").exists()
    assert "plots and tables in seen" in out
    assert max(len(line) for line in out.splitlines()) <= 80
    assert check_folder(here / "seen") == here / "seen"  # an older inspection is written over


def test_the_teacher_may_be_a_run_or_a_name(world: World, here: Path) -> None:
    opened = open_run(world.unguided_run)
    by_run, by_name = find_teacher(world.teacher_run, opened), find_teacher("resnet8", opened)
    assert by_run is not None and by_name is not None
    images = torch.randn(2, 3, 16, 16)
    assert torch.allclose(by_run(images), by_name(images), atol=1e-5)
    assert by_run.mean.tolist() == by_name.mean.tolist()
    with pytest.raises(MissingError, match="resnet20"):
        find_teacher("resnet20", opened)


def test_a_cnn_is_inspected_but_for_its_attention(world: World, pictures: Path, here: Path) -> None:
    told: list[str] = []
    found = inspect_run(world.teacher_run, out=here / "cnn", dataset=pictures, most=32, say=told.append)
    assert any("no attention distance of stage1, stage2, stage3: it computes no attention" in one for one in told)
    assert not (here / "cnn" / "attention-distance.csv").exists()
    assert (here / "cnn" / "feature-maps.png").exists()
    assert found.students[0].who == "this run"


def test_bad_choices_touch_nothing(world: World, pictures: Path, here: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "notes.txt").write_text("mine")
    (here / "file").write_text("mine")
    before = snapshot(here)
    with pytest.raises(TakenError, match="is not the folder of an inspection; nothing was touched"):
        inspect_run(world.guided_run, out=here / "mine")
    with pytest.raises(TakenError, match="is a file, expected a folder that is new or empty"):
        check_folder(here / "file")
    with pytest.raises(InputError, match="5 images were asked for to measure on, expected 32 or more"):
        inspect_run(world.guided_run, out=here / "new", most=5)
    with pytest.raises(InputError, match="the test split has no image 99; give places from 0 to 47"):
        inspect_run(world.guided_run, out=here / "new", dataset=pictures, images=[0, 99])
    with pytest.raises(InputError, match=r"--images is '3,x', expected places in the test split, such as 0,17,300"):
        read_places("3,x")
    assert read_places("3, 17") == [3, 17]
    assert snapshot(here) == before


def test_energy_is_what_differs_from_the_mean_of_a_map() -> None:
    flat = torch.ones(3, 2, 2)
    assert energy(flat).tolist() == [[0, 0], [0, 0]]
    flat[0, 0, 0] = 5  # the mean of that channel is 2
    assert energy(flat).tolist() == [[3, 1], [1, 1]]
