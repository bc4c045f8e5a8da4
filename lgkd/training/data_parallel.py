"""Average gradients over processes during the backward pass, by DistributedDataParallel through Accelerate."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lgkd.distillation.tasks import Batch, Step, Task
from lgkd.training.autograd_graph import graph_nodes

# Their modules treat every batch alike, so that a weight takes part in every step or in none.
_STATIC = ("torch", "timm", "lgkd")


class _Whole(nn.Module):
    """Adapt a task to DistributedDataParallel: only the loss is returned with a graph."""

    def __init__(self, task: Task, weights: list[nn.Parameter]) -> None:
        super().__init__()
        self.task = task
        self._weights = weights

    def forward(self, batch: Batch | None) -> tuple[Tensor, Step | None]:
        if batch is None:
            return _zero(self._weights), None
        step: Step = self.task(batch)
        return step.loss, Step(step.loss.detach(), step.logits.detach(), step.parts)


class ParallelTask:
    """Wrap a task so that its backward pass averages every gradient over processes.

    The task and its names are unchanged; the wrapper around it is created at the first step, and again when a term
    has ended. Every step searches for weights that take part in one process and not in another, unless student and
    terms consist of modules that are known to treat all batches alike.

    Args:
        task: the task, with equal weights in all processes.
        accelerator: wraps it.
    """

    def __init__(self, task: Task, accelerator: Accelerator) -> None:
        self.task, self.accelerator = task, accelerator
        self._static = is_static(task)
        self._wrapped: nn.Module | None = None
        self._active: tuple[str, ...] = ()
        self.finds_unused = True

    def ready(self, batch: Batch) -> None:
        """Create the wrapper if there is none for the active terms; called by all processes, before random draws."""
        active = self.task.active_terms
        if self._wrapped is not None and active == self._active:
            return
        self.close()
        self._active = active
        # An ended term's projections no longer take part.
        ended = _weights_of_ended_terms(self.task)
        taking_part = [weight for weight in self.task.parameters() if weight.requires_grad and id(weight) not in ended]
        self.finds_unused = not (self._static and self._all_used(taking_part, batch))
        whole = _Whole(self.task, taking_part)
        if self.finds_unused:
            # torch would warn of the search in every step in which all weights take part.
            whole.never_used = nn.Parameter(taking_part[0].new_zeros(()))
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(  # type: ignore[no-untyped-call]
            whole, [name for name, weight in whole.named_parameters() if id(weight) in ended]
        )
        self.accelerator.ddp_handler = DistributedDataParallelKwargs(
            find_unused_parameters=self.finds_unused,
            # Buffers of known modules are equal everywhere: statistics over the batch of all processes, and constants.
            broadcast_buffers=not self._static,
        )
        with warnings.catch_warnings():
            # torch 2.14 calls the argument by another name, which Accelerate does not know yet.
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            self._wrapped = self.accelerator.prepare_model(whole)
        if not self.finds_unused:
            self._settle_buckets(taking_part)

    def __call__(self, batch: Batch) -> Step:
        """Run one forward pass; only the loss of the result has a graph."""
        assert self._wrapped is not None
        loss, step = self._wrapped(batch)
        return Step(loss, step.logits, step.parts)

    @contextmanager
    def averaging(self, wanted: bool) -> Iterator[None]:
        """Average gradients over processes inside, if wanted; else keep them local until a pass that averages."""
        if wanted:
            yield
            return
        with self.accelerator.no_sync(self._wrapped):
            yield

    def close(self) -> None:
        """Remove the wrapper and its hooks on the weights."""
        self._wrapped = None
        self.accelerator._models.clear()

    def _all_used(self, weights: list[nn.Parameter], batch: Batch) -> bool:
        """Return True if the loss depends on every weight, by a trial forward pass; equal in all processes."""
        buffers = [(buffer, buffer.clone()) for buffer in self.task.buffers()]
        with self.accelerator.autocast():
            loss = self.task.forward(batch).loss
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        used = _weights_of_graph(loss)
        flags = torch.tensor([float(id(weight) in used) for weight in weights])
        dist.all_reduce(flags, op=dist.ReduceOp.MIN)
        return bool(flags.all())

    def _settle_buckets(self, weights: list[nn.Parameter]) -> None:
        """Sort the gradients into their buckets now, by one step of zeros.

        torch sorts them again after the first step, in the order in which they were computed. A resumed run would have
        its own first step, and with three processes the order of a sum changes its last bits.
        """
        assert self._wrapped is not None
        self._wrapped(None)[0].backward()
        for weight in weights:
            weight.grad = None


def is_static(task: Task) -> bool:
    """Return True for a static graph: student and terms consist of modules that treat all batches alike."""
    return all(map(is_known, [task.student, *task.terms.values()]))


def is_known(part: nn.Module) -> bool:
    """Return True for a model that consists of modules of torch, timm and lgkd."""
    return all(type(module).__module__.partition(".")[0] in _STATIC for module in part.modules())


def _zero(weights: list[nn.Parameter]) -> Tensor:
    """Return 0 with a graph whose gradients are computed in the reverse order of the weights."""
    total = weights[0].new_zeros(())
    for weight in weights:
        total = total + weight.sum() * 0
    return total


def _weights_of_ended_terms(task: Task) -> set[int]:
    """Return the identities of the weights that only ended terms use."""
    ended: set[int] = set()
    going_on = {id(weight) for weight in task.student.parameters()}
    active = task.active_terms
    for name, loss in task.terms.items():
        (going_on if name in active else ended).update(id(weight) for weight in loss.parameters())
    return ended - going_on


def _weights_of_graph(loss: Tensor) -> set[int]:
    """Return the identities of the weights that a backward pass from the loss would reach."""
    return {id(node.variable) for node in graph_nodes(loss) if hasattr(node, "variable")}
