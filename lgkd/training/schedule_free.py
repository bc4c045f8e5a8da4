"""Implement schedule-free AdamW: weights are averaged from the first step on, and the learning rate never falls.

Letters: y the weights of the forward pass, z those that the gradient moves, x their average.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


class ScheduleFreeAdamW(torch.optim.Optimizer):
    """Step the weights y by AdamW without a schedule; x, their running average, is the result at every step.

    With g the gradient at y, v the mean of its square (as in Adam), lr the rate, and c = lr_max^2 / (sum of lr_max^2)
    where lr_max is the largest rate so far:

        d = g / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay y
        z <- z - lr d
        x <- (1 - c) x + c z
        y <- beta1 x + (1 - beta1) z

    The state is z, v and the counters; the weights themselves are y, from which with z follows x, so that it is not
    stored. Each weight counts its own steps.

    Source: Defazio et al., The Road Less Scheduled, arXiv 2405.15682; the shares of the average in the warm-up, and the
    decay at y, as in github.com/facebookresearch/schedule_free.

    Args:
        groups: of parameters, each with its `weight_decay`.
        lr: learning rate; the loop sets it at every step.
        betas: share of x in y, above 0, and decay of the mean square.
        eps: added to the denominator.
    """

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step from the gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weights in self._of_equal_progress(group):
                self._step(group, weights)
        return loss

    def average_of(self, weight: Tensor) -> Tensor:
        """Return x of a weight; the weight itself before its first step."""
        state = self.state.get(weight)
        if not state:
            return weight.detach()
        beta1 = next(group["betas"][0] for group in self.param_groups if any(one is weight for one in group["params"]))
        return torch.lerp(weight.detach(), state["z"], 1 - 1 / beta1)

    def _of_equal_progress(self, group: dict[str, Any]) -> Iterator[list[Tensor]]:
        """Yield the weights of a group that have a gradient, those with equal counters together."""
        found: dict[tuple[float, ...], list[Tensor]] = {}
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if not state:
                state["z"] = weight.detach().clone(memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
                # On the host and in double precision, so that a resumed training has the same counters.
                for name in _COUNTERS:
                    state[name] = torch.zeros((), dtype=torch.float64)
            found.setdefault(tuple(state[name].item() for name in _COUNTERS), []).append(weight)
        yield from found.values()

    def _step(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        """Step weights that have made equally many steps."""
        states = [self.state[weight] for weight in weights]
        lr, (beta1, beta2) = group["lr"], group["betas"]
        made, largest, total = (states[0][name].item() for name in _COUNTERS)
        largest = max(largest, lr)
        total += largest**2
        for state in states:
            for name, value in zip(_COUNTERS, (made + 1, largest, total), strict=True):
                state[name].fill_(value)
        share = largest**2 / total if total else 0.0
        z, squares = [state["z"] for state in states], [state["exp_avg_sq"] for state in states]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        scales = torch._foreach_div(squares, 1 - beta2 ** (made + 1))
        torch._foreach_sqrt_(scales)
        torch._foreach_add_(scales, group["eps"])
        ways = torch._foreach_div(gradients, scales)
        if group["weight_decay"]:
            torch._foreach_add_(ways, weights, alpha=group["weight_decay"])
        torch._foreach_lerp_(weights, z, share)
        torch._foreach_add_(weights, ways, alpha=lr * (beta1 * (1 - share) - 1))
        torch._foreach_sub_(z, ways, alpha=lr)


_COUNTERS = ("step", "largest_lr", "sum_of_squared_lr")


class AveragedStudent:
    """Keep a copy of a student for its averaged weights x, which are evaluated and are the result.

    Args:
        student: trained by `optimizer`; without BatchNorm, whose statistics would be those of y.
        optimizer: has z of its weights.
    """

    def __init__(self, student: nn.Module, optimizer: ScheduleFreeAdamW) -> None:
        self._student, self._optimizer = student, optimizer
        self._module = deepcopy(student).requires_grad_(False).eval()

    @torch.no_grad()
    def model(self) -> nn.Module:
        """Return the copy, with the averaged weights of now."""
        for own, weight in zip(self._module.parameters(), self._student.parameters(), strict=True):
            own.copy_(self._optimizer.average_of(weight))
        for copied, buffer in zip(self._module.buffers(), self._student.buffers(), strict=True):
            copied.copy_(buffer)
        return self._module
