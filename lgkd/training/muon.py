"""Step timm's Muon on a device by stacks: all matrices of one shape are orthogonalised together."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.optim.muon import _COEFFICIENTS, Muon, get_lr_scale, resolve_ns_coefficients
from torch import Tensor

Coefficients = Sequence[tuple[float, float, float]]


def orthogonalised(
    stacks: Sequence[Tensor], coefficients: Coefficients, eps: float, dtype: torch.dtype = torch.bfloat16
) -> list[Tensor]:
    """Orthogonalise matrices by Newton-Schulz iterations, as `timm.optim.muon.zeropower_via_newtonschulz`.

    Args:
        stacks: (n, rows, columns) each, all with the same number of rows, which is no larger than that of columns.
        coefficients: of each iteration.
        eps: smallest norm that a matrix is divided by.
        dtype: of the computation and the results.
    """
    values = [stack.to(dtype) for stack in stacks]
    values = [x / x.norm(2, dim=(-2, -1), keepdim=True).clamp_(min=eps) for x in values]
    counts = [len(x) for x in values]
    for a, b, c in coefficients:
        grams = [torch.bmm(x, x.mT) for x in values]
        # The square products of all shapes together.
        gram = torch.cat(grams) if len(grams) > 1 else grams[0]
        changes = torch.baddbmm(gram, gram, gram, beta=b, alpha=c).split(counts)  # type: ignore[no-untyped-call]
        values = [torch.baddbmm(x, change, x, beta=a) for x, change in zip(values, changes, strict=True)]
    return values


class StackedMuon(Muon):
    """Take timm's Muon's steps with a number of launches that depends on the shapes, not on the number of matrices.

    State and settings are timm's, and results up to the rounding of bfloat16. On a CPU the step is timm's own.

    Args:
        params, options: those of timm's.
        compiled: compile the iterations.
    """

    def __init__(self, params: Any, *, compiled: bool = False, **options: Any) -> None:
        super().__init__(params, **options)
        self._orthogonalised: Callable[[Sequence[Tensor], Coefficients, float], list[Tensor]] = (
            torch.compile(orthogonalised, dynamic=False) if compiled else orthogonalised
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step."""
        stacked = [group for group in self.param_groups if _can_be_stacked(group)]
        if not stacked:
            return super().step(closure)  # type: ignore[no-untyped-call]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in stacked:
            self._step_stacks(group)
        everything = self.param_groups
        self.param_groups = [group for group in everything if not any(group is one for one in stacked)]
        try:
            if self.param_groups:
                super().step()  # type: ignore[no-untyped-call]
        finally:
            self.param_groups = everything
        return loss

    def _step_stacks(self, group: dict[str, Any]) -> None:
        """Step the matrices of a group, as timm does one by one."""
        weights = [weight for weight in group["params"] if weight.grad is not None]
        if not weights:
            return
        gradients = [weight.grad for weight in weights]
        for weight in weights:
            state = self.state[weight]
            state.setdefault("use_muon", True)
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        momenta = [self.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_lerp_(momenta, gradients, 1.0 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"]) if group["nesterov"] else momenta

        given = resolve_ns_coefficients(group["ns_coefficients"], _COEFFICIENTS)
        coefficients = (given + [given[-1]] * group["ns_steps"])[: group["ns_steps"]]
        matrices = [update.flatten(1) for update in updates]
        for shapes in _alike(matrices).values():
            stacks = [
                torch.stack([*(matrices[place] for place in lying), *(matrices[place].T for place in standing)])
                for lying, standing in shapes.values()
            ]
            made = self._orthogonalised(stacks, coefficients, group["eps"])
            for (lying, standing), stack, values in zip(shapes.values(), stacks, made, strict=True):
                values = values.to(stack.dtype)
                # In the layout of their weights, so that they are added in one launch.
                parts = [*values[: len(lying)], *(values[len(lying) :].mT.contiguous() if standing else ())]
                targets = [weights[place] for place in (*lying, *standing)]
                parts = [part.view(weight.shape) for part, weight in zip(parts, targets, strict=True)]
                scale = get_lr_scale(stack.shape, group["adjust_lr_fn"])
                torch._foreach_add_(targets, parts, alpha=-group["lr"] * scale)


_Shapes = dict[int, tuple[list[int], list[int]]]


def _alike(matrices: Sequence[Tensor]) -> dict[int, _Shapes]:
    """Group matrices by their shorter and their longer side: those that lie, and those that are to be transposed."""
    groups: dict[int, _Shapes] = {}
    for place, matrix in enumerate(matrices):
        rows, columns = matrix.shape
        shapes = groups.setdefault(min(rows, columns), {})
        shapes.setdefault(max(rows, columns), ([], []))[rows > columns].append(place)
    return groups


def _can_be_stacked(group: dict[str, Any]) -> bool:
    """Return True for matrices on a device, with the settings of a recipe."""
    return (
        group.get("use_fallback") is False
        and group["params"][0].device.type != "cpu"
        # Of either shape the same: a matrix and its transpose are stacked.
        and group["adjust_lr_fn"] == "match_rms_adamw"
        and (group.get("algo", "muon"), group["conv_mode"]) == ("muon", "flatten")
        and not group.get("scale_eps")
        and group["safety_factor"] == 1.0
    )
