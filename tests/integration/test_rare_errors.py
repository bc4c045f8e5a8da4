"""Errors that only a rare state of the machine or of a file brings about, each raised at its place."""

import io
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from lgkd._internal import distributed
from lgkd.analysis.report import report
from lgkd.benchmark.baseline_process import Rival
from lgkd.data import decode, image_folder
from lgkd.data.sources import archives, download, publisher_files
from lgkd.distillation.guide import Guide
from lgkd.distillation.tasks import Guided
from lgkd.errors import DataError, InputError, TapError
from lgkd.models.default_taps import classifier_name
from lgkd.runner.cache_teacher import cache_features
from lgkd.runner.loaded_run import open_run
from lgkd.training.evaluate import answer
from tests.support.small import World


def test_a_guided_task_has_a_guide_and_a_weight_that_is_not_negative() -> None:
    with pytest.raises(InputError, match=r"needs at least one guide, got none; use Supervised\(student\)"):
        Guided(nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"classification weight is -1\.0, expected a number >= 0"):
        Guided(nn.Linear(2, 2), Guide.__new__(Guide), classification_weight=-1.0)


def test_a_model_without_a_linear_layer_has_no_embedding() -> None:
    with pytest.raises(TapError, match=r"Flatten has no linear layer .*; a model of your own can state it"):
        classifier_name(nn.Flatten())


def test_answers_to_no_images_are_none() -> None:
    with pytest.raises(DataError, match="there are no images to score; expected at least one batch"):
        answer(nn.Linear(2, 2), [])


def test_a_damaged_environment_of_a_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "env.json").write_text("{")
    with pytest.raises(InputError, match=r"env\.json cannot be read as JSON \(.*\); it is damaged"):
        report._environment(SimpleNamespace(folder=tmp_path))


def test_images_that_do_not_fit_into_memory_are_told_in_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "empty", full)
    with pytest.raises(DataError, match="need 3 GiB of memory, more than there is: choose a smaller max_side"):
        decode.in_memory((3, 1 << 30))


def test_processes_need_a_gpu_each_and_must_all_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    two = distributed.Place(rank=1, count=2, local=1)
    monkeypatch.setattr(distributed, "place", lambda: two)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match=r"process 1 of this machine has no GPU of its own \(1 found\); start as many"):
        distributed.join("cuda")
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    with pytest.raises(InputError, match=r"2 processes were expected, 3 met; see docs/processes\.md"):
        distributed.join("cpu")


def test_a_plain_loop_that_died_is_told() -> None:
    rival = Rival.__new__(Rival)
    rival._here = SimpleNamespace(recv=lambda: (_ for _ in ()).throw(EOFError))
    with pytest.raises(InputError, match="the plain loop's process has ended without a message; try a smaller"):
        rival._answer()


def test_a_cache_is_written_by_one_process() -> None:
    runner = SimpleNamespace(session=SimpleNamespace(process=SimpleNamespace(count=2)))
    with pytest.raises(InputError, match="a cache is written by one process; leave out --nproc and torchrun"):
        cache_features(runner, SimpleNamespace())


def test_a_member_that_is_shorter_than_it_says_is_named() -> None:
    archive = SimpleNamespace(extractfile=lambda _: io.BytesIO(b"ab"))
    member = tarfile.TarInfo("labels.txt")
    member.size = 3
    with pytest.raises(DataError, match=r"a\.tgz is cut in labels\.txt: remove it, or put the whole one"):
        archives._content(Path("a.tgz"), archive, member)


def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = "cannot read x: no such device; check the folder"
    with pytest.raises(DataError, match=found), publisher_files._reading(Path("x")):
        raise OSError(19, "no such device")

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error", str(tmp_path))

    monkeypatch.setattr(image_folder.os, "scandir", broken)
    with pytest.raises(DataError, match=r"cannot read .*: Input/output error; check the folder and its links"):
        image_folder.images_below(tmp_path)


def test_a_connection_that_breaks_is_tried_again(tmp_path: Path) -> None:
    def broken(_: int) -> bytes:
        raise ConnectionResetError(104, "Connection reset by peer")

    fetch = SimpleNamespace(size=10)
    with pytest.raises(download._Failed, match="Connection reset by peer") as error:
        download._Source._copy(fetch, SimpleNamespace(read=broken), io.BytesIO(), 0, tmp_path)
    assert error.value.again


def test_a_run_is_not_opened_on_its_own_data_set_once_that_has_other_classes(
    world: World, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lgkd.runner.loaded_run.data_of", lambda *_: "digits")
    with pytest.raises(InputError, match="knows 3 classes, digits has 10 and they differ; evaluate on a data set with"):
        open_run(world.guided_run)
