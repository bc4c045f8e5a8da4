"""Guard a step: an update that is not finite never reaches the weights, and the host is notified one step later."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lgkd.distillation.tasks import Step
from lgkd.errors import NonFiniteError


@dataclass
class _Look:
    """Hold the pending verdict of a step on its way to the host."""

    epoch: int
    place: int
    bad: Tensor
    ready: torch.Event | None
    step: Step
    index: Tensor


class NonFiniteGuard:
    """Mask a non-finite update on the device, and notify the host one step later.

    No step waits for it: the verdict is copied asynchronously and read when the next step has been
    queued, so the training stops within two steps and the weights are those of the last good one.
    An optimiser that is not fused cannot skip by itself; see `masked_step`.

    Args:
        names: returns the names of samples from their indices in the data set.
        gather: gathers the values of all processes, so that all read the same verdict.
    """

    def __init__(
        self, names: Callable[[Tensor], list[str]], gather: Callable[[list[str]], list[list[str]]] = lambda own: [own]
    ) -> None:
        self._names = names
        self._gather = gather
        self._looks: deque[_Look] = deque()

    def judge(self, step: Step, norm: Tensor) -> Tensor:
        """Return a scalar float on the device: 1 if loss or gradient is not finite, else 0."""
        loss = step.loss.detach()
        # A number minus itself is 0 if it is finite, else NaN: four launches instead of eleven.
        return ((loss - loss) + (norm - norm)).nan_to_num_(nan=1.0).float()

    def watch(self, bad: Tensor, step: Step, index: Tensor, epoch: int, place: int) -> None:
        """Send a verdict to the host; read the previous one."""
        ready = None
        if bad.device.type != "cpu":
            host = torch.empty((), pin_memory=True)
            host.copy_(bad, non_blocking=True)
            ready = torch.Event(bad.device)
            ready.record()
        else:
            host = bad
        self._looks.append(_Look(epoch, place, host, ready, step, index))
        while len(self._looks) > (1 if ready is not None else 0):
            self._read(self._looks.popleft())

    def settle(self) -> None:
        """Read every pending verdict, before weights are saved or evaluated."""
        while self._looks:
            self._read(self._looks.popleft())

    def _read(self, look: _Look) -> None:
        if look.ready is not None:
            look.ready.synchronize()
        # Read by NumPy: no operation of torch that could wait for a device.
        if not look.bad.numpy().any():
            return
        parts = [name for name, value in look.step.parts.items() if not math.isfinite(value.item())]
        rows = (~torch.isfinite(look.step.logits.detach()).all(dim=1)).nonzero().flatten().cpu()
        samples = self._names(look.index[rows]) if len(rows) else []
        parts = list(dict.fromkeys(part for some in self._gather(parts) for part in some))
        samples = [name for some in self._gather(samples) for name in some]
        shown = f"; samples {', '.join(samples[:5])}{', ...' if len(samples) > 5 else ''}" if samples else ""
        raise NonFiniteError(
            f"non-finite values in epoch {look.epoch + 1}, step {look.place + 1}: "
            f"{', '.join(parts) if parts else 'the gradient'} not finite{shown}. The update was not made and the last "
            "checkpoint is good; try a lower optimizer.lr, a clip_norm of 1, or --precision fp32"
        )


def masked_step(optimizer: Any, bad: Tensor) -> None:
    """Step the optimiser unless `bad` is 1, without synchronising with the host: fused optimisers check it themselves.

    For others the host checks it on a CPU; on a device the weights are restored after the step.
    """
    raw = getattr(optimizer, "optimizer", optimizer)
    if not raw.defaults.get("fused"):
        if bad.device.type != "cpu":
            _restored_step(optimizer, raw, bad)
        elif not bad:
            optimizer.step()
        return
    raw.found_inf, raw.grad_scale = bad, None
    try:
        optimizer.step()
    finally:
        del raw.found_inf, raw.grad_scale


def _restored_step(optimizer: Any, raw: Any, bad: Tensor) -> None:
    """Step the optimiser, and restore the weights on the device if `bad` is 1.

    The moments are not, so the weights are restored after every later step as well; the host ends the training.
    """
    bad = raw.bad_so_far = torch.maximum(bad, getattr(raw, "bad_so_far", bad))
    weights = [weight.detach() for group in raw.param_groups for weight in group["params"] if weight.grad is not None]
    before = torch.cat([weight.reshape(-1) for weight in weights])
    optimizer.step()
    after = torch.cat([weight.reshape(-1) for weight in weights])
    kept = torch.split(torch.where(bad > 0, before, after), [weight.numel() for weight in weights])
    torch._foreach_copy_(weights, [part.view(weight.shape) for part, weight in zip(kept, weights, strict=True)])
