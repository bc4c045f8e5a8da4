"""The table of training options, and what is made from it: signatures, run.json's call, the report's command."""

import inspect
import json
from pathlib import Path
from typing import Any, Unpack

import pytest

import lgkd
from lgkd.analysis.report.command import _options as in_command
from lgkd.cli import options as o
from lgkd.cli.train import distill, train, train_teacher
from lgkd.config import load_recipe
from lgkd.runner.options import OPTIONS, Options, are_saved_options, saved_options
from lgkd.runs.identity import identity
from tests import GOLDEN

FINISHED = GOLDEN / "run_6cf8da7" / "finished"
COMMANDS: dict[str, Any] = {"distill": distill, "train": train, "train-teacher": train_teacher}
# As the versions before the table wrote and accepted them in run.json, and since.
KEPT: dict[str, list[object]] = {
    "fraction": [0.5, 1],
    "val_fraction": [0.1],
    "extra_share": [0.5],
    "images_per_class": [3],
    "subset_seed": [0],
    "seed": [7],
    "extra": ["/photos"],
    "device": ["cuda:1"],
    "deterministic": [True],
    "offline": [False],
    "compile": [True, False, "blocks"],
    "cuda_graphs": [True],
    "approximate": [True],
    "leave_out_near_copies": [True],
    "init": ["/runs/parent"],
    "with_optimizer": [True],
    "stored_side": ["auto", "160"],
    "teacher_weights": [["pretrained", "/weights.safetensors"]],
    "cached": [["/cache"]],
    "track": [["tensorboard"]],
    "select_by": ["macro_f1"],
}


def test_every_option_of_the_python_api_says_what_it_is() -> None:
    assert set(OPTIONS) == set(lgkd.Options.__annotations__)
    for name, option in OPTIONS.items():
        assert f"\n    {name}: {option.about}" in str(Options.__doc__)
        assert option.kind is None or option.help_line.endswith(".")


def test_every_option_of_the_command_line_is_one_of_distill() -> None:
    parameters = inspect.signature(COMMANDS["distill"]).parameters
    assert [name for name, option in OPTIONS.items() if option.kind is not None] == [
        name for name in parameters if name in OPTIONS
    ]
    assert {name for name in OPTIONS if name not in parameters} == {"watchers", "progress", "downloading", "say"}


@pytest.mark.parametrize("name", ["train", "train-teacher", "distill"])
def test_a_command_has_its_own_recipe_and_no_option_twice(name: str) -> None:
    parameters = inspect.signature(COMMANDS[name]).parameters
    recipe = {"train": "supervised", "train-teacher": "teacher", "distill": "locality-guidance"}[name]
    assert parameters["recipe"].default == recipe
    assert ("cached" in parameters) == (name == "distill")
    assert parameters["seed"].default == 0
    assert parameters["compile"].default is None


def test_a_parameter_of_a_command_stands_before_the_option_that_it_names() -> None:
    @o.with_options(only=("fraction", "seed"), seed=5)
    def command(
        context: object, use: o.Use = None, taps: o.Taps = None, quiet: o.Quiet = False, **options: Unpack[Options]
    ) -> None:
        """Do nothing."""

    parameters = inspect.signature(command).parameters
    assert list(parameters) == ["context", "fraction", "taps", "use", "seed", "quiet"]
    assert parameters["seed"].default == 5


def test_saved_options_are_those_of_earlier_versions_and_accepted_again() -> None:
    assert {name for name, option in OPTIONS.items() if option.kept} >= set(KEPT)
    for name, values in KEPT.items():
        for value in values:
            assert are_saved_options({name: value}), (name, value)
        assert not are_saved_options({name: {"a": 1}}), name


@pytest.mark.parametrize(
    "options",
    [
        {"out": "/elsewhere"},
        {"force": True},
        {"seed": "1"},
        {"compile": "all"},
        {"compile": 1.0},
        {"track": ["wandb"]},
        {"track": [1]},
        {"unheard_of": 1},
        ["seed"],
    ],
)
def test_a_folder_that_was_passed_on_cannot_ask_for_more(options: object) -> None:
    assert not are_saved_options(options)


def test_options_are_saved_as_json_with_absolute_paths_and_trackers_that_stay_inside(tmp_path: Path) -> None:
    chosen: dict[str, Any] = {
        "recipe": "teacher", "fraction": None, "seed": 3, "subset_seed": 0, "extra": tmp_path / ".." / tmp_path.name,
        "deterministic": False, "approximate": False, "cached": None, "track": ["tensorboard", "wandb", object()],
        "max_time": 3.0, "out": tmp_path, "say": print, "init": "parent", "stored_side": 160, "teacher_weights": "w/x",
    }  # fmt: skip
    saved = saved_options(chosen)
    assert saved == {
        "seed": 3, "subset_seed": 0, "extra": str(tmp_path.resolve()), "deterministic": False, "track": ["tensorboard"],
        "init": str(Path("parent").resolve()), "stored_side": "160", "teacher_weights": [str(Path("w/x").resolve())],
    }  # fmt: skip
    assert are_saved_options(json.loads(json.dumps(saved)))


def test_a_cache_is_saved_with_whether_it_may_be_approximate() -> None:
    saved = saved_options({"cached": ["/a"], "approximate": True})
    assert saved == {"cached": ["/a"], "approximate": True}
    assert saved_options({"approximate": True}) == {}


def test_the_command_of_the_report_gives_what_changes_the_run_and_names_folders_by_their_last_part() -> None:
    saved = {
        "fraction": 0.5, "subset_seed": 1, "seed": 9, "extra": "/home/a/more", "compile": False, "cuda_graphs": False,
        "cached": ["/c/one", "/c/two"], "approximate": True, "device": "cpu", "offline": True, "track": ["tensorboard"],
    }  # fmt: skip
    assert in_command(saved) == [
        "--fraction", "0.5", "--subset-seed", "1", "--extra", "more", "--compile", "off", "--cached", "one",
        "--cached", "two", "--approximate", "--device", "cpu",
    ]  # fmt: skip
    assert in_command({"subset_seed": 1}) == []
    assert in_command({"compile": True}) == ["--compile", "whole"]
    assert in_command({"compile": "blocks"}) == ["--compile", "blocks"]


def test_what_an_option_decides_on_is_compared_when_a_run_is_resumed() -> None:
    info = json.loads((FINISHED / "run.json").read_text(encoding="utf-8"))
    info["dataset"] |= {"extra": None, "near_copies_left_out": None, "stored_side": None, "groups": None}
    compared = identity({"deterministic": True, **info}, load_recipe(FINISHED / "recipe.yaml"))
    for name, option in OPTIONS.items():
        key = option.compared
        if key is not None:
            above = {".".join(key.split(".")[:count]) for count in range(1, key.count(".") + 2)}
            below = any(one.startswith(f"{key}.") for one in compared)
            assert below or above & set(compared), name


def test_the_fields_that_are_compared_are_those_of_earlier_versions() -> None:
    info = json.loads((FINISHED / "run.json").read_text(encoding="utf-8"))
    del info["cached"]
    info.pop("deterministic", None)
    compared = identity(info, load_recipe(FINISHED / "recipe.yaml"))
    assert {key.partition(".")[0] for key in compared} == {
        "kind", "student", "teacher", "more_teachers", "pairs", "cached", "dataset", "seed", "precision", "epochs",
        "steps_per_epoch", "deterministic", "recipe", "init", "select_by",
    }  # fmt: skip
    assert compared["cached"] is None and compared["deterministic"] is False and compared["select_by"] is None
