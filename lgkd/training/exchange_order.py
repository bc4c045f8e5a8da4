"""Verify that all processes make the exchanges of a step, of BatchNorm and of terms across the batch, in one order.

Messages carry no names. If a user's model takes different branches in different processes, the statistics of one
BatchNorm would be added to those of another, or a process would wait forever.
"""

from hashlib import blake2b

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lgkd.distillation.tasks import Task
from lgkd.errors import ModelError
from lgkd.training.autograd_graph import graph_nodes


class ExchangeOrder:
    """Announce every exchange of a step to the other processes in advance, at the cost of a small message each.

    Args:
        task: provides the names of its BatchNorm modules.
        group: process group of the exchanges, including tensors on the CPU.
    """

    def __init__(self, task: Task, group: "dist.ProcessGroup | None") -> None:
        self._group = group
        self._models = {"student": task.student, **task.frozen_models}
        self._named: list[tuple[Tensor, str]] = []
        self._sums = 0

    def next_sum(self) -> int:
        """Number a sum over processes, through which a gradient may flow."""
        self._sums += 1
        return self._sums

    def check_norm(self, values_BC: Tensor, running_mean: Tensor | None, weight: Tensor | None) -> None:
        """Verify that all processes are at one BatchNorm in training; `values_BC` is its input."""
        name = self.name_of(running_mean, weight) or "without a name"
        self.check(f"BatchNorm {name} of {values_BC.shape[1]} channels")

    def name_of(self, running_mean: Tensor | None, weight: Tensor | None) -> str | None:
        """Return the name of the BatchNorm that has these tensors; None for one outside the models.

        A cast or a checkpoint replaces tensors, and Python gives the number of a freed one to another; so the tensors
        themselves are kept and compared, and looked up anew where they are unknown.
        """
        for _ in range(2):
            for tensor, name in self._named:
                if tensor is running_mean or tensor is weight:
                    return name
            self._named = [
                (tensor, f"{model}.{name}")
                for model, whole in self._models.items()
                for name, module in whole.named_modules()
                if isinstance(module, nn.modules.batchnorm._BatchNorm)
                for tensor in (module.running_mean, module.weight)
                if tensor is not None
            ]
        return None

    def check_backward(self, loss: Tensor) -> None:
        """Verify that all processes are at the end of a forward pass, and exchange the same in the backward pass.

        Args:
            loss: of the pass. A BatchNorm on which it does not depend exchanges nothing in the backward pass.
        """
        reached = sorted(_sums_of_graph(loss))
        self.check("the end of the forward pass", f"{reached}")

    def check(self, what: str, more: str = "") -> None:
        """Verify that all processes are about to make one exchange.

        Args:
            what: description of the exchange.
            more: text that must also be equal.

        Raises:
            ModelError: a process is at another one; raised in all of them.
        """
        code = int.from_bytes(blake2b(f"{what} {more}".encode(), digest_size=7).digest())
        ends = torch.tensor([code, -code])
        dist.all_reduce(ends, op=dist.ReduceOp.MAX, group=self._group)
        highest, lowest = ends.tolist()
        if highest != -lowest:
            raise ModelError(
                f"in one step the processes take different branches: this one has come to {what}, another one "
                f"to something else{' or with other BatchNorms behind its loss' if more else ''}; expected every "
                "BatchNorm in training, and every term across the batch, to be reached by all processes in one order, "
                "for they share the batch. Train in one process, or move the BatchNorm ahead of the branches"
            )


def _sums_of_graph(loss: Tensor) -> set[int]:
    """Return the numbers of the sums over processes in the backward pass of a loss."""
    numbers = (getattr(node, "number_of_sum", None) for node in graph_nodes(loss))
    return {number for number in numbers if number is not None}
