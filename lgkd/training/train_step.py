"""Run an optimiser step: forward, backward, guard, update, average; on one device or several."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from lgkd._internal.distributed import gather, join
from lgkd._internal.out_of_memory import lack_of_memory
from lgkd._internal.rng import seed_generators, seed_of
from lgkd.distillation.tasks import Batch, Lookup, Step, as_task
from lgkd.errors import InputError
from lgkd.models.sdpa import quick_attention
from lgkd.models.stochastic_depth import quick_drop_path
from lgkd.training.buffers import copy_buffers, restore_buffers
from lgkd.training.compile import Compile, CompiledSizes, compile_task, hide_missing_runtime
from lgkd.training.compile_blocks import CompiledBlocks
from lgkd.training.config import Plan
from lgkd.training.data_parallel import ParallelTask, is_known, is_static
from lgkd.training.determinism import fastest_convolutions
from lgkd.training.distributed_step import DistributedStep, looks_across, own_group, same_start
from lgkd.training.exchange_order import ExchangeOrder
from lgkd.training.lookahead import SlowWeights
from lgkd.training.memory import no_remedy_for_memory
from lgkd.training.metrics import RunningMean
from lgkd.training.nonfinite import NonFiniteGuard, masked_step
from lgkd.training.optim import make_optimizer
from lgkd.training.sam import SharpnessAware
from lgkd.training.schedule_free import AveragedStudent, ScheduleFreeAdamW
from lgkd.training.state import optimizer_tensors, restore_optimizer

_UPDATE_NEEDS = (
    "weights, gradients, the optimiser's moments and the average are in memory together, whatever the batch size; use "
    "a smaller model, an optimiser with fewer moments (sgd), no ema, or a larger device"
)

_Pass: TypeAlias = list[tuple[Step, Batch]]
"""Micro-batches of a pass over a batch, each with its results."""


class Engine:
    """Run the steps of a task on a device, with its optimiser and its average.

    Args:
        task: a `Task`, or a module with a `student` and `forward(batch) -> Step`; moved to the device and
            trained in place.
        plan: settings of the training.
        names: returns the names of samples from their indices in the data set.
        lookup: returns `Batch.taught` for samples from a cache, so that it is not computed.
    """

    def __init__(
        self, task: nn.Module, plan: Plan, *, names: Callable[[Tensor], list[str]], lookup: Lookup | None = None
    ) -> None:
        task = as_task(task)
        _, device = join(plan.device)
        if torch.device(device).type == "cuda" and torch.device(device).index is not None:
            # Accelerate uses the current device, independent of the requested index.
            torch.cuda.set_device(device)
        # Accelerate's state is global to the process; a previous run may have left another precision.
        AcceleratorState._reset_state(reset_partial_state=True)
        precision = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[plan.precision]
        if torch.device(device).type not in ("cpu", "cuda"):
            # Accelerate knows no device of a backend that is registered with torch; it takes the one that is set.
            PartialState(cpu=True).device = torch.device(device)
        self.accelerator = Accelerator(mixed_precision=precision, cpu=torch.device(device).type != "cuda")
        self.task, self.plan, self.lookup = task, plan, lookup
        self.device = self.accelerator.device
        self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
        if plan.accumulate > 1 and task.across_batch:
            raise InputError(
                f"accumulate is {plan.accumulate}, and a term compares the images of a batch with each other, so the "
                "batch cannot be split; set accumulate to 1"
            )
        task.to(self.device)
        self._until_closed = ExitStack()
        self._until_closed.enter_context(quick_attention(task.student, self.device, plan.precision))
        self._until_closed.enter_context(fastest_convolutions(self.device))
        self.raw_optimizer = make_optimizer(task, plan.optimizer, compiled=bool(plan.compile))
        self.compiled: CompiledSizes | None = None
        if plan.compile:
            self.compile(plan.compile, cuda_graphs=plan.cuda_graphs)
        task.on_train_start(plan.length, warmup=plan.schedule.warmup_epochs)
        if plan.precision != "fp32":
            task.cast_frozen(torch.bfloat16 if plan.precision == "bf16" else torch.float16)
        self.optimizer = self.accelerator.prepare_optimizer(self.raw_optimizer)
        # Gradients are averaged while they are made; a process alone has no use for that.
        self.parallel = ParallelTask(task, self.accelerator) if self.processes > 1 else None
        if self.processes > 1:
            same_start([*task.parameters(), *task.buffers()])
        self.ema = (
            ModelEmaV3(task.student, decay=plan.ema.decay, use_warmup=plan.ema.warmup, foreach=True)
            if plan.ema is not None
            else None
        )
        self.average = (
            AveragedStudent(task.student, self.raw_optimizer)
            if isinstance(self.raw_optimizer, ScheduleFreeAdamW)
            else None
        )
        self.slow_weights = (
            SlowWeights(task.student, plan.lookahead, plan.steps) if plan.lookahead is not None else None
        )
        self.sam = SharpnessAware(task, plan.sam) if plan.sam is not None else None
        if not plan.compile:
            # After the average is copied, whose passes are evaluations.
            self._until_closed.enter_context(quick_drop_path(task.student, self.device))
        # Shares of a batch need each other only where something looks across it.
        self._joined = self.processes > 1 and looks_across(task)
        self._group = own_group() if self._joined else None
        # torch's, timm's and lgkd's own modules treat all batches alike; within a compiled step nothing can be asked.
        known = is_static(task) and all(map(is_known, task.frozen_models.values()))
        checks = self._joined and not plan.compile and not known
        self._order = ExchangeOrder(task, self._group) if checks else None
        self.guard = NonFiniteGuard(names, gather)
        self.accumulate = plan.accumulate
        # Images of a batch, pieces and terms whose steps have not run out of memory.
        self._fitting = set[tuple[int, int, tuple[str, ...]]]()

    def compile(self, what: Compile = True, *, cuda_graphs: bool = False) -> None:
        """Compile the next steps: the whole task, or the repeated blocks of its student."""
        if what:
            hide_missing_runtime()
        if what == "blocks":
            self.compiled = CompiledSizes(CompiledBlocks(self.task.student))
        elif what:
            self.compiled = CompiledSizes()
            compile_task(self.task, cuda_graphs=cuda_graphs)

    @property
    def eval_model(self) -> nn.Module:
        """Return the model to evaluate: the average of the student if there is one, else the student."""
        if self.average is not None:
            return self.average.model()
        return self.ema.module if self.ema is not None else self.task.student

    def step(self, batch: Batch, epoch: int, place: int, meters: RunningMean) -> None:
        """Make one update from this process's share of a global batch.

        If memory runs out, the micro-batch is halved, the effective batch stays, and the step is repeated.
        """
        number = epoch * self.plan.steps_per_epoch + place
        since_first = number + self.plan.epochs_before * self.plan.steps_per_epoch
        rate = self.plan.rate(number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        self.task.set_epoch(number / self.plan.steps_per_epoch)
        index = batch.index
        assert index is not None
        # A compiled step has no input on the host.
        batch = replace(batch, index=self.task.places(index, self.device))
        if self.plan.channels_last:
            batch = replace(batch, images=batch.images.contiguous(memory_format=torch.channels_last))
        if self.lookup is not None:
            batch = replace(batch, taught=self.lookup(index, self.plan.epochs_before + epoch))
        if self.parallel is not None:
            with self._across():
                self.parallel.ready(batch.split(min(self.accumulate, len(batch.images)))[0])
        made, last = self._gradients_that_fit(batch, since_first)
        with no_remedy_for_memory("while the weights were updated", _UPDATE_NEEDS):
            bad, whole = self._update(last, number)
        for step, part in made:
            meters.add(step, part)
        self.guard.watch(bad, whole, index, epoch, place)

    def _gradients_that_fit(self, batch: Batch, since_first: int) -> tuple[_Pass, _Pass]:
        """Compute the gradients, in smaller micro-batches if memory runs out.

        Returns:
            The pass at the weights, whose losses are logged, and the one whose gradients update them: the same, except
            with SAM.
        """
        # Dropout and stochastic depth must not depend on how the run got here.
        seed = seed_of(self.plan.seed, "step", since_first, self.rank)
        while True:
            size = (len(batch.images), self.accumulate, self.task.active_terms)
            begun: list[Tensor] = []
            try:
                # A pass that runs out of memory may have moved running statistics and memories, which the repeated one
                # begins with. A size that has fitted once is taken to fit, since copies cost time.
                if self.sam is not None or size not in self._fitting:
                    begun = copy_buffers(self.task)
                made = self._passes(batch, seed, begun)
            except (RuntimeError, MemoryError) as error:
                if lack_of_memory(error) is None:
                    raise
                if begun:
                    restore_buffers(self.task, begun)
                self._halve(len(batch.images), error)
            else:
                self._fitting.add(size)
                return made

    def _passes(self, batch: Batch, seed: int, begun: Sequence[Tensor]) -> tuple[_Pass, _Pass]:
        """Pass a batch through the student once, or with SAM twice, with the same random draws and first buffers."""
        seed_generators(seed, self.device)
        first = self._gradients(batch)
        if self.sam is None:
            return first, first
        with self.sam.perturbed(lambda norm: self._everywhere(self.guard.judge(_joined(first), norm)), begun):
            seed_generators(seed, self.device)
            return first, self._gradients(batch, [part for _, part in first])

    def _update(self, made: _Pass, number: int) -> tuple[Tensor, Step]:
        """Update weights and average from the gradients; return the verdict of the guard, and the step as a whole."""
        norm = self._clip()
        whole = _joined(made)
        if self.accelerator.scaler is None:
            bad = self._everywhere(self.guard.judge(whole, norm))
            masked_step(self.optimizer, bad)
        else:
            # Overflowing gradients are normal in fp16; the scaler skips them and lowers its scale.
            bad = self._everywhere(self.guard.judge(whole, torch.zeros_like(norm)))
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.slow_weights is not None:
            self.slow_weights.after_step(number + 1)
        if self.ema is not None:
            self.ema.update(self.task.student, step=number + self.plan.epochs_before * self.plan.steps_per_epoch)
        return bad, whole

    def _gradients(self, batch: Batch, parts: Sequence[Batch] | None = None) -> _Pass:
        """Run forward and backward in `accumulate` micro-batches, each weighted by its images.

        With several processes the last backward pass averages the accumulated gradients, so that a share's loss is
        multiplied by the number of processes.

        Args:
            batch: this process's share of a global batch.
            parts: the micro-batches of an earlier pass of it, with the results of the frozen models.
        """
        made = []
        whole, pieces = self._sizes(batch.images)
        run: Callable[[Batch], Step] = self.task if self.parallel is None else self.parallel
        if self.compiled is not None:
            self.compiled.begin(len(batch.images), pieces, self.task.active_terms)
        with self._across() as together:
            for number, part in enumerate(parts or batch.split(pieces), 1):
                with self._averaging(number == pieces):
                    with self.accelerator.autocast(), self._compiled(part):
                        if self.sam is not None:
                            part = self.task.run_frozen(part)
                        step = run(part)
                    if together is not None:
                        together.check_backward(step.loss)
                    self._backward(step.loss, self.processes * len(part.images) / whole)
                kept = Step(step.loss.detach(), step.logits.detach(), step.parts)
                # The next micro-batch's CUDA graph overwrites the results of this one.
                made.append((kept.copy() if self.plan.cuda_graphs else kept, part))
                if self.plan.cuda_graphs and number == 1 < pieces:
                    self._own_gradients()
        return made

    def _backward(self, loss: Tensor, share: float) -> None:
        """Run the backward pass of a micro-batch, weighted by its share; a whole batch needs no multiplication by 1."""
        if share != 1:
            loss = loss * share
        if self.accelerator.scaler is None:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self.accelerator.backward(loss)

    def _compiled(self, part: Batch) -> AbstractContextManager[object]:
        return self.compiled.run(len(part.images)) if self.compiled is not None else nullcontext()

    def _own_gradients(self) -> None:
        """Copy the first micro-batch's gradients out of the memory of its CUDA graph, which the next one overwrites.

        The gradients of the next ones are added to the copies.
        """
        for weight in self.task.parameters():
            if weight.grad is not None:
                weight.grad = weight.grad.clone()

    def _across(self) -> AbstractContextManager[DistributedStep | None]:
        """Return the context that synchronises the shares of a batch, if the step depends on the whole batch."""
        return DistributedStep(self.task, self._group, self._order) if self._joined else nullcontext()

    def _averaging(self, wanted: bool) -> AbstractContextManager[Any]:
        return self.parallel.averaging(wanted) if self.parallel is not None else nullcontext()

    def _sizes(self, images: Tensor) -> tuple[int, int]:
        """Return the images of the global batch, and the micro-batches: equally many in all processes."""
        if self.processes == 1:
            return len(images), min(self.accumulate, len(images))
        # On the host, so that no step waits for a GPU. Shares differ by one image at most.
        shares = torch.zeros(self.processes, dtype=torch.int64)
        shares[self.rank] = len(images)
        dist.all_reduce(shares)
        return int(shares.sum()), min(self.accumulate, int(shares.min()))

    def _halve(self, images: int, error: Exception) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.processes > 1:
            raise InputError(
                "a process ran out of memory; with several of them one cannot repeat a step. Use a larger "
                "`accumulate` or a smaller --batch-size"
            ) from error
        if self.task.across_batch:
            raise InputError(
                "memory ran out, and the batch cannot be split because a term compares the images of a batch "
                "with each other; use a smaller --batch-size"
            ) from error
        if self.accumulate >= images:
            raise InputError(
                "memory ran out with a single image a piece; use smaller images, a smaller model or a larger device"
            ) from error
        self.accumulate = min(2 * self.accumulate, images)

    def _clip(self) -> Tensor:
        """Return the norm of the whole gradient, and clip it to the plan's maximum."""
        parameters = [p for p in self.task.parameters() if p.grad is not None]
        if self.accelerator.scaler is not None:
            if self.plan.clip_norm is None:
                return torch.zeros((), device=self.device)
            self.accelerator.unscale_gradients()
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        if self.plan.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.plan.clip_norm, norm, foreach=True)
        return norm

    def _everywhere(self, bad: Tensor) -> Tensor:
        """Return 1 if any process has found a non-finite value, else 0."""
        if self.processes > 1:
            dist.all_reduce(bad, op=dist.ReduceOp.MAX)
        return bad

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors of a checkpoint by part: the task's, the optimiser's, the average."""
        parts = self.task.checkpoint_tensors() | {"optimizer": optimizer_tensors(self.task, self.raw_optimizer)}
        if self.slow_weights is not None:
            parts["lookahead"] = self.slow_weights.state_dict()
        return parts if self.ema is None else parts | {"ema": self.ema.module.state_dict()}

    def load_state_dict(self, parts: Mapping[str, dict[str, Tensor]]) -> None:
        """Restore `state_dict()`."""
        self.task.load_checkpoint_tensors(parts)
        if self.ema is not None:
            self.ema.module.load_state_dict(parts["ema"])
        if self.slow_weights is not None:
            self.slow_weights.load_state_dict(parts["lookahead"])
        restore_optimizer(self.task, self.raw_optimizer, parts["optimizer"])

    def finish(self) -> None:
        """Copy the slow or averaged weights to the student, at the end of the training."""
        if self.slow_weights is not None:
            self.slow_weights.finish()
        if self.eval_model is not self.task.student:
            self.task.student.load_state_dict(self.eval_model.state_dict())

    def close(self) -> None:
        """Restore the task to a plain module."""
        self._until_closed.close()
        if self.parallel is not None:
            self.parallel.close()
        self.task._compiled_call_impl = None  # a trained task is a plain module
        if self.processes == 1:
            AcceleratorState._reset_state(reset_partial_state=True)


def _joined(made: _Pass) -> Step:
    """Join the micro-batches of a pass."""
    if len(made) == 1:
        return made[0][0]
    images = sum(len(part.images) for _, part in made)
    return Step(
        torch.stack([step.loss.detach() * (len(part.images) / images) for step, part in made]).sum(),
        torch.cat([step.logits.detach() for step, _ in made]),
        {name: torch.stack([step.parts[name] for step, _ in made]).sum() for name in made[0][0].parts},
    )
