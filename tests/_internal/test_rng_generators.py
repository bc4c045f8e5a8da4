"""Random generators of torch: a run seeds its own, and leaves the user's as they were."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lgkd._internal.rng import preserved_generators, seed_generators, seeded
from lgkd.config import load_recipe
from lgkd.runner.build import make_student
from lgkd.training import loop
from tests.support.training import make_task, train


class Cuda:
    """CUDA's generators, one number each, as `torch.cuda` seeds and reads them."""

    def __init__(self) -> None:
        self.states, self.current = [10, 11], 1

    def _place(self, device: Any) -> int:
        index = torch.device("cuda", device).index if isinstance(device, int) else torch.device(device).index
        return self.current if index is None else index

    def current_device(self) -> int:
        return self.current

    def device_count(self) -> int:
        return len(self.states)

    def manual_seed(self, seed: int) -> None:
        self.states[self.current] = seed

    def manual_seed_all(self, seed: int) -> None:
        self.states = [seed] * len(self.states)

    def get_rng_state(self, device: Any = "cuda") -> Tensor:
        return torch.tensor(self.states[self._place(device)])

    def set_rng_state(self, state: Tensor, device: Any = "cuda") -> None:
        self.states[self._place(device)] = int(state)

    def _is_in_bad_fork(self) -> bool:
        return False


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    fake = Cuda()
    for name in ("current_device", "device_count", "manual_seed", "manual_seed_all", "get_rng_state", "set_rng_state"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    return fake


@pytest.mark.parametrize(("device", "inside"), [("cuda", [10, 5]), ("cuda:1", [10, 5]), ("cpu", [10, 11])])
def test_a_devices_generator_is_seeded_inside_and_restored(cuda: Cuda, device: str, inside: list[int]) -> None:
    before = torch.get_rng_state()
    with preserved_generators(device):
        seed_generators(5, torch.device(device))
        assert cuda.states == inside
        assert torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(5).get_state())
    assert cuda.states == [10, 11] and torch.equal(torch.get_rng_state(), before)


def test_a_model_is_drawn_on_the_cpu_and_no_device_is_reseeded(cuda: Cuda) -> None:
    before = torch.get_rng_state()
    with seeded(5):
        drawn = torch.rand(3)
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(5)))
    for drop_path in (0.0, 0.1):
        recipe = load_recipe("supervised").model_copy(update={"drop_path": drop_path})
        students = [make_student("resnet8", recipe, classes=3, seed=1, options={}) for _ in range(2)]
        assert all(torch.equal(*pair) for pair in zip(*(one.parameters() for one in students), strict=True))
    assert cuda.states == [10, 11] and torch.equal(torch.get_rng_state(), before)


def test_a_training_leaves_every_generator_as_it_was(cuda: Cuda) -> None:
    task = make_task()
    cuda.states = [10, 11]
    before = torch.get_rng_state()
    train(None, task=task)
    assert cuda.states == [10, 11] and torch.equal(torch.get_rng_state(), before)


def test_a_training_on_a_gpu_preserves_its_generator(monkeypatch: pytest.MonkeyPatch, cuda: Cuda) -> None:
    def engine(*_: Any, **__: Any) -> Any:
        seed_generators(5, torch.device("cuda"))
        raise ZeroDivisionError

    task = make_task()
    cuda.states = [10, 11]
    monkeypatch.setattr(loop, "Engine", engine)
    with pytest.raises(ZeroDivisionError):
        train(None, task=task, device="cuda")
    assert cuda.states == [10, 11]
