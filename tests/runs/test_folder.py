"""A run's folder: complete, plain, readable, and enough to go on with without lgkd."""

import csv
import json
import os
import stat
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

import lgkd
from lgkd._internal.atomic_io import sha256_of
from lgkd.cli import run
from lgkd.config import parse_recipe
from lgkd.errors import InputError, TakenError
from lgkd.runner.resolve import resolve_recipe
from lgkd.runner.run_folder import run_folder
from lgkd.runs.folder import check_free, claim, read_metrics, read_run, write_metrics
from tests.support.costs import is_cost
from tests.support.small import CLASSES, DISTILL, TINY_OPTIONS, TRAIN, World

FILES = {
    "checkpoint",
    "run.json",
    "recipe.yaml",
    "env.json",
    "metrics.csv",
    "student.safetensors",
    "student.json",
    "curves.png",
    "MANIFEST.json",
}


def read_json(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def runs_of(world: World) -> list[Path]:
    return [world.teacher_run, world.guided_run, world.unguided_run]


def test_a_run_holds_these_files_and_no_others(world: World) -> None:
    for folder in runs_of(world):
        assert {path.name for path in folder.iterdir()} == FILES


def test_nothing_in_a_run_is_a_pickle(world: World) -> None:
    for folder in runs_of(world):
        for path in (path for path in folder.rglob("*") if path.is_file()):
            head = path.read_bytes()[:4]
            if path.suffix == ".safetensors":  # begins with a length, which may be any bytes; then JSON
                assert path.read_bytes()[8:9] == b"{", path
            else:
                assert not head.startswith((b"\x80", b"PK")), path


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_files_can_be_read_by_whom_the_umask_says(world: World) -> None:
    umask = os.umask(0)
    os.umask(umask)
    kept = world.home / "teachers" / "pictures" / "resnet8"
    for folder in (*runs_of(world), kept):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask
        for path in (path for path in folder.rglob("*") if path.is_file()):
            assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, path


def test_run_json_says_who_was_trained_on_what(world: World) -> None:
    info = read_json(world.guided_run, "run.json")
    card = read_json(world.home / "teachers" / "pictures" / "resnet8", "card.json")
    assert info["kind"] == "distill"
    assert info["status"] == "finished"
    assert info["started"] <= info["finished"]
    assert info["student"]["name"] == "deit_tiny"
    assert info["student"]["options"] == TINY_OPTIONS
    assert info["student"]["image_size"] == [16, 16]
    assert info["teacher"]["kept_as"] == "resnet8"
    assert info["teacher"]["sha256"] == card["weights_sha256"]
    assert info["teacher"]["batch_norm"] == "running"
    assert [(pair["student"], pair["teacher"]) for pair in info["pairs"]] == [
        ("blocks.0", "stage1"), ("blocks.1", "stage2"), ("blocks.2", "stage3"),
    ]  # fmt: skip
    assert info["pairs"][0]["student_map"] == [32, 4, 4]
    assert info["pairs"][0]["grid"] == [16, 16]
    assert info["dataset"] == {
        "name": "pictures", "path": str(world.pictures.resolve()), "data_dir": None,
        "fingerprint": card["fingerprint"], "classes": 3, "train_images": 24, "test_images": 12,
        "val_images": None, "subset": None, "extra": None, "greys": None, "near_copies_left_out": None,
        "groups": None,
    }  # fmt: skip
    assert (info["recipe"], info["seed"], info["device"], info["precision"]) == ("locality-guidance", 0, "cpu", "fp32")
    assert (info["epochs"], info["steps_per_epoch"]) == (2, 3)
    assert read_json(world.teacher_run, "run.json")["kind"] == "teacher"
    unguided = read_json(world.unguided_run, "run.json")
    assert (unguided["kind"], unguided["teacher"], unguided["pairs"]) == ("train", None, [])


def test_results_are_those_of_the_last_epoch(world: World) -> None:
    for folder in runs_of(world):
        results = read_json(folder, "run.json")["results"]
        rows = read_metrics(folder)
        assert results["epoch"] == rows[-1]["epoch"] == 2
        assert results["test_top1"] == rows[-1]["test_top1"]
        assert results["selected_on"] is None
        best = results["best_epoch_on_the_test_split"]
        assert best["test_top1"] == max(row["test_top1"] for row in rows)
        assert rows[best["epoch"] - 1]["test_top1"] == best["test_top1"]


def test_metrics_have_a_row_an_epoch_and_a_column_for_every_part(world: World) -> None:
    with (world.guided_run / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert list(rows[0]) == [
        "epoch", "lr", "loss", "train_accuracy", "loss_classification", "loss_guidance_linear", "test_top1",
        "test_top5", "test_loss", "test_ece", "test_balanced_accuracy", "test_macro_f1", "test_auroc", "seconds",
        "evaluation_seconds", "images_per_second", "memory_mb", "processor_seconds",
    ]  # fmt: skip
    for row in rows:
        # The recipe's weight of the guidance is 2.5, as in the paper's code.
        parts = float(row["loss_classification"]) + 2.5 * float(row["loss_guidance_linear"])
        assert float(row["loss"]) == pytest.approx(parts, rel=1e-5)
        assert float(row["test_top5"]) == 1
    with (world.unguided_run / "metrics.csv").open(newline="") as stream:
        assert "loss_guidance_linear" not in next(csv.reader(stream))


def test_the_recipe_beside_the_weights_is_the_one_that_was_used(world: World) -> None:
    for folder, name, guided in (
        (world.guided_run, "locality-guidance", True),
        (world.unguided_run, "supervised", False),
    ):
        used = resolve_recipe(
            name, trains="student", guided=guided, epochs=2, batch_size=8, image_size=16, precision="fp32"
        )
        assert parse_recipe((folder / "recipe.yaml").read_text()) == used
        assert (used.guide is not None) == guided
    # 20 of 300 epochs of warm-up, in a training of 2.
    assert used.schedule.warmup_epochs == pytest.approx(2 * 20 / 300, abs=1e-4)


def test_an_unguided_run_with_a_guided_recipe_says_that_it_had_no_guide(world: World, here: Path) -> None:
    words = [*TRAIN, "--recipe", "locality-guidance", "--dataset", str(world.pictures), "--out", "mine"]
    assert run(words) == 0
    assert parse_recipe((here / "mine" / "recipe.yaml").read_text()).guide is None
    ours, theirs = (load_file(folder / "student.safetensors") for folder in (here / "mine", world.unguided_run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_environment_is_written_down_without_secrets(world: World) -> None:
    for folder in runs_of(world):
        env = read_json(folder, "env.json")
        assert (
            env["packages"]["torch"] == torch.__version__.split("+")[0] or env["packages"]["torch"] == torch.__version__
        )
        assert env["device"] == "cpu"
        assert env["data_fingerprint"] == read_json(folder, "run.json")["dataset"]["fingerprint"]
        assert set(env["variables"]) <= {
            "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "WORLD_SIZE",
        }  # fmt: skip
        for path in (path for path in folder.rglob("*") if path.is_file()):
            assert b"hf_not_to_be_written_down" not in path.read_bytes(), path


def test_a_student_needs_neither_lgkd_nor_a_teacher(world: World) -> None:
    """The weights go straight into timm's own model, and give the accuracy of the run."""
    about = read_json(world.guided_run, "student.json")
    assert about["classes"] == list(CLASSES)
    assert about["weights_sha256"] == sha256_of(world.guided_run / "student.safetensors")
    model = timm.create_model(
        "deit_tiny_patch16_224", num_classes=about["num_classes"], img_size=about["image_size"][0], **about["options"]
    )
    model.load_state_dict(load_file(world.guided_run / "student.safetensors"))
    model.eval()
    test = lgkd.load_dataset(world.pictures).test
    mean, std = (torch.tensor(about[key]).view(3, 1, 1) for key in ("mean", "std"))
    images = torch.nn.functional.interpolate(
        test.pixels.float() / 255, size=about["image_size"], mode=about["interpolation"], antialias=True
    ).clamp(0, 1)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model((images - mean) / std), test.labels)
    expected = read_json(world.guided_run, "run.json")["results"]["test_loss"]
    assert float(loss) == pytest.approx(expected, abs=2e-3)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(world: World, here: Path) -> None:
    for name, seed in (("again", "0"), ("other", "1")):
        assert run([*DISTILL, "--dataset", str(world.pictures), "--out", name, "--seed", seed]) == 0
    first, again, other = (
        load_file(f / "student.safetensors") for f in (world.guided_run, here / "again", here / "other")
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])
    assert [{k: v for k, v in row.items() if not is_cost(k)} for row in read_metrics(here / "again")] == [
        {k: v for k, v in row.items() if not is_cost(k)} for row in read_metrics(world.guided_run)
    ]


def test_a_folder_that_is_new_or_empty_can_be_claimed(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new/below"):
        assert claim(tmp_path / name).is_dir()


@pytest.mark.parametrize(
    ("file", "content", "found"),
    [
        ("notes.txt", "", "a file or folder not of an lgkd run (notes.txt)"),
        ("run.json", "{", "a file or folder not of an lgkd run (run.json)"),
        ("run.json", '{"format": 1}', "a file or folder not of an lgkd run (run.json)"),
        (".hidden", "", "a file or folder not of an lgkd run (.hidden)"),
    ],
)
def test_a_folder_that_holds_something_is_taken(tmp_path: Path, file: str, content: str, found: str) -> None:
    (tmp_path / file).write_text(content)
    for refuse in (check_free, claim):
        with pytest.raises(TakenError) as caught:
            refuse(tmp_path)
        assert found in str(caught.value)
        assert "nothing was touched" in str(caught.value)
    assert (tmp_path / file).read_text() == content


def test_an_unfinished_run_is_called_so(world: World, tmp_path: Path) -> None:
    info = {**read_json(world.unguided_run, "run.json"), "status": "running"}
    (tmp_path / "run.json").write_text(json.dumps(info))
    assert not check_free(tmp_path)
    with pytest.raises(TakenError, match=r"an unfinished run \(deit_tiny on pictures, seed 0\)"):
        claim(tmp_path)


def test_a_folder_below_a_file_cannot_be_claimed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        claim(tmp_path / "file" / "run")


def test_metrics_leave_out_what_an_epoch_did_not_measure(tmp_path: Path) -> None:
    rows = [{"epoch": 1, "loss": 2.5}, {"epoch": 2, "loss": 2.0, "test_top1": 0.5}]
    write_metrics(tmp_path, rows)
    assert (tmp_path / "metrics.csv").read_text() == "epoch,loss,test_top1\n1,2.5,\n2,2.0,0.5\n"
    assert read_metrics(tmp_path) == rows
    assert read_metrics(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("choices", "name"),
    [
        (("pvtv2", "cifar100", None, "resnet56", "locality-guidance", 0),
         "pvt_v2_b0_cifar100_by-resnet56_locality-guidance_seed0"),
        (("deit_tiny", "cifar100", "fraction 0.1, seed 2", None, "supervised", 3),
         "deit_tiny_cifar100_fraction-0.1-seed-2_supervised_seed3"),
        (("timm:a/b.c", "photos of cats/", None, None, "my/own.yaml", 0), "timm-a-b.c_photos-of-cats_own_seed0"),
        (("pkg.mod:Net", "cifar10", None, "resnet8--5-images-per-class-seed-0", "x", 0),
         "pkg.mod-Net_cifar10_by-resnet8--5-images-per-class-seed-0_x_seed0"),
        (("pvtv2", "cifar100", None, None, "supervised", 0, "made/by a model"),
         "pvt_v2_b0_cifar100_with-by-a-model_supervised_seed0"),
    ],
)  # fmt: skip
def test_a_run_is_named_after_its_choices(choices: tuple, name: str) -> None:
    assert run_folder(*choices) == Path("runs") / name


def test_a_run_that_was_passed_on_is_read_elsewhere(world: World, tmp_path: Path) -> None:
    import shutil

    moved = shutil.copytree(world.guided_run, tmp_path / "elsewhere" / "mine")
    assert read_run(moved) == read_run(world.guided_run)
    assert isinstance(lgkd.load_student(moved), torch.nn.Module)
