"""Processes that take different ways, stop or go on, end with the same weights; one that waits for ever has failed."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import CHECKOUT
from tests.support.forking import Nursery
from tests.support.launching import torchrun
from tests.support.several import NEVER, NORMS, STUDENTS, WAYS, forked_batch, make_forked

SCRIPT = CHECKOUT / "tests" / "support" / "several.py"
SECONDS = 240
"""More than the trainings take, and less than anybody would wait."""


@pytest.fixture(scope="module", params=[2, 3])
def found(
    request: pytest.FixtureRequest, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What each of two or three processes found."""
    out = tmp_path_factory.mktemp("several")
    done = torchrun(nursery, request.param, SCRIPT, str(out))
    _, problems = done.communicate(timeout=SECONDS)
    assert done.returncode == 0, problems[-3000:]
    assert "Warning" not in problems
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(request.param)]


def by_hand(way: str, processes: int) -> dict[str, Tensor]:
    """Two steps down the gradient of the mean over all images, each share through the way that it takes."""
    model = make_forked(way)
    pieces = WAYS[way]["accumulate"]
    shares = [forked_batch(rank, pieces) for rank in range(processes)]
    whole = sum(len(images) for images, _ in shares)
    for _ in range(2):
        loss = torch.zeros(())
        for images, targets in shares:
            for part, labels in zip(images.tensor_split(pieces), targets.tensor_split(pieces), strict=True):
                loss = loss + nn.functional.cross_entropy(model(part), labels, reduction="sum") / whole
        gradients = torch.autograd.grad(loss, [*model.parameters()])
        with torch.no_grad():
            for weight, gradient in zip(model.parameters(), gradients, strict=True):
                weight -= 0.5 * gradient
    return dict(model.named_parameters())


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_processes_that_take_different_branches_end_with_equal_weights(found: list[dict[str, Any]], way: str) -> None:
    # What a process has seen is no weight, and its own.
    first, *others = ({name: value for name, value in one[way].items() if "seen" not in name} for one in found)
    for other in others:
        assert all(torch.equal(value, other[name]) for name, value in first.items())
    if way != "norm":  # whose statistics are those of all processes
        for name, value in by_hand(way, len(found)).items():
            assert (first[f"student.{name}"] - value).abs().max() < 1e-6, name
    begun = make_forked(way).state_dict()
    for name in ("left.0.weight", "right.0.weight", "head.weight"):
        assert not torch.equal(first[f"student.{name}"], begun[name]), "both ways were taken"


HEADS = {
    "equal": ("BatchNorm student.left.1 of 6 channels", "BatchNorm student.right.1 of 6 channels"),
    "unequal": ("BatchNorm student.left.1 of 6 channels", "BatchNorm student.right.1 of 9 channels"),
    "one": ("BatchNorm student.left.1 of 6 channels", "the end of the forward pass"),
    "thrown away": ("the end of the forward pass", "the end of the forward pass"),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", NORMS)
def test_a_batch_norm_that_not_all_processes_reach_ends_in_all_of_them_with_an_error(
    found: list[dict[str, Any]], way: str
) -> None:
    for rank, one in enumerate(found):
        said = one["refusals"][way]
        assert said.startswith(
            f"in one step the processes take different branches: this one has come to {HEADS[way][rank % 2]}, another"
        )
        assert said.endswith("Train in one process, or move the BatchNorm ahead of the branches")


@pytest.mark.slow
@pytest.mark.parametrize("student", STUDENTS)
def test_a_run_that_was_stopped_three_times_ends_to_the_bit_as_one_that_was_not(
    found: list[dict[str, Any]], student: str
) -> None:
    for one in found:
        whole, parts = one[f"{student} whole"], [one[f"{student} part {number}"] for number in range(4)]
        assert [part["paused"] for part in parts] == [True, True, True, False]
        assert whole["steps"] == sum(part["steps"] for part in parts) == 15
        assert [part["steps"] for part in parts] == [3, 2, 2, 8], (
            "within an epoch of five steps, at its end, and within"
        )
        assert whole["digest"] == parts[-1]["digest"]
        assert whole["rows"] == parts[-1]["rows"]
        assert all(torch.equal(value, parts[-1]["weights"][name]) for name, value in whole["weights"].items())
        others = found[0][f"{student} whole"]["weights"]
        assert all(torch.equal(value, others[name]) for name, value in whole["weights"].items())


@pytest.mark.slow
def test_when_one_process_is_asked_to_stop_all_stop_after_the_same_step(found: list[dict[str, Any]]) -> None:
    asked = [one["asked"] for one in found]
    assert [one["paused"] for one in asked] == [True] * len(found)
    steps = {one["steps"] for one in asked}
    assert len(steps) == 1 and 3 <= steps.pop() < NEVER
    assert len({one["digest"] for one in asked}) == 1
