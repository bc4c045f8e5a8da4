"""Make the step of several processes equal the step of one: batch statistics, terms across the batch, the start.

Gradients are averaged elsewhere, by `lgkd.training.data_parallel`. Both communicate during the backward pass, in an
order that depends on the weights that take part, so this module uses a separate process group.

Letters in shapes: B batch, C channels.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from functools import lru_cache
from typing import Any, Self, TypeAlias

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lgkd.distillation.tasks import Task
from lgkd.training.exchange_order import ExchangeOrder

Group: TypeAlias = "dist.ProcessGroup | None"
"""Process group for separate exchanges; None: the default group of all processes."""

PATIENCE = timedelta(minutes=10)
"""Time that a process waits within a step for the others, which are at the same step."""


def own_group() -> Group:
    """Return the group in which the current processes exchange values within a step; called by all of them."""
    return _second_group(dist.group.WORLD)


@lru_cache(maxsize=1)
def _second_group(_first: Group) -> Group:
    made = dist.new_group(timeout=PATIENCE)
    return made if isinstance(made, dist.ProcessGroup) else None


class _Sum(torch.autograd.Function):
    """Apply an all-reduce whose backward pass all-reduces the gradient."""

    @staticmethod
    def forward(context: Any, values: Tensor, group: Group, number: int | None) -> Tensor:
        context.group, context.number_of_sum = group, number
        values = values.clone()
        dist.all_reduce(values, group=group)
        return values

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        whole = gradients[0].contiguous().clone()
        dist.all_reduce(whole, group=context.group)
        return whole, None, None


def sum_over_processes(values: Tensor, group: Group = None, order: ExchangeOrder | None = None) -> Tensor:
    """Sum over processes, with a gradient; `order` numbers the sum."""
    number = order.next_sum() if order is not None else None
    return _Sum.apply(values, group, number)  # type: ignore[no-any-return, no-untyped-call, unused-ignore]


def gather_batch(values_B: Tensor, group: Group = None, order: ExchangeOrder | None = None) -> Tensor:
    """Gather the rows of all processes, in the order of ranks, with a gradient; shares may differ in length."""
    if order is not None:
        order.check(f"a term across the batch, on values of shape {tuple(values_B.shape[1:])}")
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=values_B.device)
    sizes[dist.get_rank()] = len(values_B)
    dist.all_reduce(sizes, group=group)
    lengths = sizes.tolist()
    before, after = sum(lengths[: dist.get_rank()]), sum(lengths[dist.get_rank() + 1 :])
    rest = values_B.shape[1:]
    # Each process adds its rows to zeros: a gather of unequal lengths that every backend supports.
    parts = [values_B.new_zeros(before, *rest), values_B, values_B.new_zeros(after, *rest)]
    return sum_over_processes(torch.cat(parts), group, order)


def looks_across(task: Task) -> bool:
    """Return True if a step depends on how the batch is split: by BatchNorm, or by a term across the batch."""
    # Frozen models keep their mode.
    frozen = [norm for model in task.frozen_models.values() for norm in _batch_norms(model) if norm.training]
    return task.across_batch or bool(frozen or _batch_norms(task.student))


def _batch_norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


class DistributedStep(TorchFunctionMode):
    """Synchronise BatchNorm and terms across the batch over processes inside the context.

    BatchNorm in training normalises by the batch of all processes (as SyncBatchNorm, but on every device and for every
    class that calls `F.batch_norm`), including frozen models; terms that compare the images of a batch receive the maps
    of all processes.

    Args:
        task: the task whose terms may depend on the whole batch.
        group: process group of the exchanges; None: the default group.
        order: verifies that all processes make the same exchanges; None: this is known.
    """

    def __init__(self, task: Task, group: Group = None, order: ExchangeOrder | None = None) -> None:
        super().__init__()
        self._group, self._order = group, order
        self._across = [loss for loss in task.terms.values() if getattr(loss, "across_batch", False)]
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        for loss in self._across:
            self._hooks.callback(loss.register_forward_pre_hook(lambda _, given: self._gathered(given)).remove)
        return super().__enter__()  # type: ignore[no-any-return, no-untyped-call]

    def __exit__(self, *exc: Any) -> None:
        self._hooks.close()
        super().__exit__(*exc)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.batch_norm and _in_training(*args, **(kwargs or {})):
            return _batch_norm(*args, **(kwargs or {}), group=self._group, order=self._order)
        return func(*args, **(kwargs or {}))

    def check_backward(self, loss: Tensor) -> None:
        """Verify that the backward pass of a loss makes the same exchanges in all processes, if that is not known."""
        if self._order is not None:
            self._order.check_backward(loss)

    def _gathered(self, given: Any) -> Any:
        """Gather the rows of all processes for every tensor among a term's arguments."""
        if isinstance(given, Tensor):
            return gather_batch(given, self._group, self._order)
        return type(given)(self._gathered(value) for value in given) if isinstance(given, list | tuple) else given


def _in_training(
    _values: Tensor, _mean: Tensor | None, _variance: Tensor | None, *more: Any, training: bool | None = None, **_: Any
) -> bool:
    return training if training is not None else len(more) > 2 and bool(more[2])


def _batch_norm(
    values_BC: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,  # noqa: ARG001
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    group: Group = None,
    order: ExchangeOrder | None = None,
) -> Tensor:
    """Compute `F.batch_norm` in training, over the batch of all processes."""
    if order is not None:
        order.check_norm(values_BC, running_mean, weight)
    wide = values_BC if values_BC.dtype == torch.float64 else values_BC.float()
    over = [0, *range(2, wide.ndim)]
    shape = [1, -1, *[1] * (wide.ndim - 2)]
    count = wide.new_full((1,), wide.numel() / wide.shape[1])
    sums = sum_over_processes(torch.cat([wide.sum(over), count]), group, order)
    mean, count = sums[:-1] / sums[-1], sums[-1].detach()
    # In two passes: the difference of two large squares would lose precision.
    centred = wide - mean.view(shape)
    variance = sum_over_processes(centred.square().sum(over), group, order) / count
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            running_var.lerp_((variance * count / (count - 1).clamp(min=1)).to(running_var.dtype), momentum)
    scale = (variance + eps).rsqrt()
    made = centred * (scale if weight is None else scale * weight).view(shape)
    return (made if bias is None else made + bias.view(shape)).to(values_BC.dtype)


def same_start(tensors: Iterable[Tensor]) -> None:
    """Broadcast the weights of the first process to all, independent of their random initialisation."""
    for tensor in tensors:
        value = tensor.detach().contiguous()
        if value.dtype == torch.bool:  # not every backend supports bool
            value = value.to(torch.uint8)
        dist.broadcast(value, src=0)
        with torch.no_grad():
            tensor.copy_(value)
