"""`lgkd students --for`: the order, the attention score, and what the command prints."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from lgkd.analysis.attention_score import attention_score
from lgkd.autofit import choose_student
from lgkd.autofit.choose_student import RankedStudent, ranked
from lgkd.cli import run
from lgkd.models.factory import create_model
from lgkd.models.teacher import Teacher
from tests.support.small import World


def one(name: str, parameters: int, epochs: float) -> RankedStudent:
    return RankedStudent(name, {}, parameters, 0.1, 100, epochs, None)


def test_parameters_rank_where_the_epochs_are_enough_and_epochs_elsewhere() -> None:
    students = [one("a", 1, 300), one("b", 9, 29.9), one("c", 3, 30), one("d", 2, 31), one("e", 99, 2)]
    assert [found.name for found in ranked(students)] == ["c", "d", "a", "b", "e"]


def test_the_attention_score_is_that_of_the_last_maps_by_their_definition() -> None:
    torch.manual_seed(0)
    student = create_model("vit_96", num_classes=3, image_size=16, options={"patch_size": 2, "embed_dim": 12}).eval()
    mean, std = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)
    teacher = Teacher(create_model("resnet8", num_classes=3, image_size=32), image_size=32, mean=mean, std=std)
    images = torch.randn(4, 3, 16, 16)
    seen: list[torch.Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _module, _given, output: seen.append(output))
        for module in (student.blocks[-1], teacher.model.get_submodule(teacher.taps[-1]))
    ]
    with torch.no_grad():
        student(images)
        teacher(nn.functional.interpolate(images, size=32, mode="bilinear"))
    for hook in hooks:
        hook.remove()
    tokens, theirs = seen
    ours = tokens.transpose(1, 2).reshape(4, 12, 8, 8)
    assert theirs.shape[-2:] == (8, 8)
    total = 0.0
    for image in range(4):
        maps = [(each[image] ** 2).mean(dim=0).flatten() for each in (ours, theirs)]
        first, second = (each / each.norm() for each in maps)
        total += float(((first - second) ** 2).sum())
    found = attention_score(student, teacher, images, mean=mean, std=std)
    assert found == pytest.approx(-total / (4 * 64), rel=1e-4)
    assert not student.blocks[-1]._forward_hooks


def test_the_command_ranks_by_timed_steps(
    world: World, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choose_student, "CANDIDATES", ("vit_96", "deit_tiny"))
    words = ["students", "--for", str(world.pictures), "--time", "40s", "--teacher", "resnet8", "--device", "cpu"]
    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seconds"] == 40 and len(found["evidence"]) == 4
    assert {student["name"]: student["options"] for student in found["students"]} == {
        "vit_96": {}, "deit_tiny": {"patch_size": 4},
    }  # fmt: skip
    for student in found["students"]:
        assert student["steps"] > 0 and student["seconds_a_step"] > 0 and -1 < student["attention_score"] < 0
        assert student["steps"] * student["seconds_a_step"] <= 40
    assert not list(here.iterdir())


def test_without_a_teacher_there_is_no_score(
    world: World, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choose_student, "CANDIDATES", ("vit_96",))
    assert run(["students", "--for", str(world.pictures), "--time", "20s", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "in 20 s, the best first" in shown and "Kendall's tau 0.55" in shown and "attention score" not in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vit_96", "--for", "photos/"], "--for photos/ ranks several students, and vit_96 was named; leave one of"),
        (["--time", "1h"], "--time 1h is for a ranking, and no images are named; add --for, like --for photos/"),
        (["--teacher", "resnet8"], "--teacher resnet8 is for a ranking, and no images are named"),
    ],
)
def test_words_that_do_not_fit_are_refused(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert run(["students", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
