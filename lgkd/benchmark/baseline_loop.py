"""Run the baseline: the loop that one writes by hand with PyTorch and timm.

timm's transforms on PIL images in a `DataLoader`, an eager student, an eager teacher with forward hooks, locality
guidance in a few lines, and the optimisers of torch and timm at their defaults. Nothing of lgkd's loader, guide,
losses, engine or optimiser is in it. It does all that a careful user does: the fastest number of workers, persistent
workers, pinned memory, gradients set to None, cuDNN's search for the fastest convolution, no waiting for the device.

Letters in shapes: B batch, C channels, N tokens, D width, h w map size.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from timm.optim import create_optimizer_v2, param_groups_weight_decay  # type: ignore[attr-defined, unused-ignore]
from torch import Tensor, nn

from lgkd.benchmark.options import Choices
from lgkd.benchmark.subject import load_data, load_pair
from lgkd.benchmark.synthetic import teaching_model
from lgkd.benchmark.timm_pipeline import PillowImages, Pipeline, timm_transform
from lgkd.runner.build import make_student
from lgkd.training.precision import choose_device, choose_precision
from lgkd.training.timing import synchronise

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_TRIAL_STEPS = 2


class Hooks:
    """Record the outputs of named layers, from one forward to the next."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        self._names = names
        self._seen: dict[str, Tensor] = {}
        for name in names:
            model.get_submodule(name).register_forward_hook(self._keep(name))

    def _keep(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self._seen[name] = output

        return hook

    def maps(self) -> list[Tensor]:
        """Return maps as (B,C,h,w); tokens (B,N,D) lose those before the largest square of them."""
        return [_as_map(self._seen[name]) for name in self._names]


def _as_map(output: Tensor) -> Tensor:
    if output.ndim == 4:
        return output
    side = math.isqrt(output.shape[1])
    return output[:, output.shape[1] - side * side :].transpose(1, 2).reshape(len(output), -1, side, side)


class Plain:
    """Run a plain loop with the model, teacher, settings and images of a bench.

    Args:
        choices: what is measured; see `check_plain`.
    """

    def __init__(self, choices: Choices) -> None:
        recipe = choices.resolved
        self.device = choose_device(choices.device)
        self.precision = choose_precision(recipe.precision, self.device)
        data = load_data(choices)
        _, guide, size = load_pair(choices, data)
        self.student = make_student(
            choices.model, recipe, classes=len(data.classes), seed=choices.seed, options=choices.student_options
        ).to(self.device)
        self.teacher: nn.Module | None = None
        self.projections = nn.ModuleList()
        if guide is not None:
            # Only names, sizes and the weight are taken from the guide, so that both descend the same loss.
            assert recipe.guide is not None and choices.teacher is not None
            guide.remove()
            self.weight, self.teacher_size = recipe.guide.terms[0].weight, guide.teacher.image_size
            self.teacher = teaching_model(choices.teacher, data, choices.seed).requires_grad_(False).to(self.device)
            self.teacher.train(recipe.guide.teacher_bn == "batch")
            for pair in guide.pairs:
                self.projections.append(nn.Conv2d(pair.student_map[0], pair.teacher_map[0], 1))
            self.projections.to(self.device)
            self._student_hooks = Hooks(self.student, [pair.student for pair in guide.pairs])
            self._teacher_hooks = Hooks(self.teacher, [pair.teacher for pair in guide.pairs])
        self.student.train()
        groups = param_groups_weight_decay(
            nn.ModuleList([self.student, self.projections]), recipe.optimizer.weight_decay
        )
        optimizer = recipe.optimizer
        # The rate is the least that a warm-up has: timing needs no progress, but finite numbers.
        self.optimizer: torch.optim.Optimizer
        if optimizer.name == "adamw":
            self.optimizer = torch.optim.AdamW(groups, lr=1e-6, betas=optimizer.betas, eps=optimizer.eps)
        elif optimizer.name == "sgd":
            self.optimizer = torch.optim.SGD(groups, lr=1e-6, momentum=optimizer.momentum, nesterov=optimizer.nesterov)
        else:
            settings: dict[str, Any] = {"betas": optimizer.betas}
            if optimizer.name == "muon":
                settings |= {"momentum": optimizer.momentum, "nesterov": optimizer.nesterov}
            self.optimizer = create_optimizer_v2(groups, opt=optimizer.name, lr=1e-6, **settings)
        self.smoothing, self.clip_norm = recipe.label_smoothing, recipe.clip_norm
        mix = recipe.mix
        self.mixup = (
            Mixup(  # type: ignore[no-untyped-call, unused-ignore]
                mixup_alpha=mix.mixup,
                cutmix_alpha=mix.cutmix,
                prob=mix.probability,
                switch_prob=mix.switch,
                label_smoothing=self.smoothing,
                num_classes=len(data.classes),
            )
            if mix.mixup or mix.cutmix
            else None
        )
        self.scaler = torch.amp.GradScaler(torch.device(self.device).type, enabled=self.precision == "fp16")
        self.batch_size = min(recipe.batch_size, len(data.train))
        images = PillowImages(data.train, timm_transform(recipe, size, data))
        self.pipeline = Pipeline(images, batch_size=self.batch_size, device=self.device)
        self._fastest: dict[tuple[str, str], int] = {}
        if torch.device(self.device).type == "cuda":
            torch.backends.cudnn.benchmark = True

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Compute cross entropy, and the distance of the student's maps from the teacher's."""
        loss = F.cross_entropy(self.student(images).float(), targets, label_smoothing=self._own_smoothing(targets))
        if self.teacher is None:
            return loss
        with torch.no_grad():
            self.teacher(F.interpolate(images, self.teacher_size, mode="bilinear", align_corners=False))
        guidance = torch.zeros((), device=images.device)
        pairs = zip(self.projections, self._student_hooks.maps(), self._teacher_hooks.maps(), strict=True)
        for project, ours, theirs in pairs:
            grid = [max(sides) for sides in zip(ours.shape[2:], theirs.shape[2:], strict=True)]
            ours, theirs = (
                F.interpolate(one.float(), grid, mode="bilinear", align_corners=False)
                for one in (project(ours), theirs)
            )
            guidance = guidance + F.mse_loss(ours, theirs)
        return loss + self.weight * guidance

    def _own_smoothing(self, targets: Tensor) -> float:
        # Mixed targets are smoothed already.
        return self.smoothing if targets.ndim == 1 else 0.0

    def step(self, images: Tensor, targets: Tensor, precision: str) -> None:
        """Run one update."""
        if self.mixup is not None:
            images, targets = self.mixup(images, targets)
        kind = torch.device(self.device).type
        with torch.autocast(kind, dtype=_TYPES.get(precision), enabled=precision in _TYPES):
            loss = self.loss(images, targets)
        self.optimizer.zero_grad(set_to_none=True)
        scaled = precision == "fp16"
        (self.scaler.scale(loss) if scaled else loss).backward()  # type: ignore[no-untyped-call]
        if self.clip_norm is not None:
            if scaled:
                self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(
                [p for group in self.optimizer.param_groups for p in group["params"]], self.clip_norm
            )
        if scaled:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()

    def lap(self, kind: str, precision: str, steps: int) -> float:
        """Return the seconds of so many steps: "data" for batches alone, "whole" for the training.

        The first lap of a kind measures whether no workers or one a thread are faster.
        """
        chosen = self._fastest.get((kind, precision))
        if chosen is None:
            trials = {workers: self._run(kind, precision, _TRIAL_STEPS, workers) for workers in self._candidates()}
            chosen = self._fastest[kind, precision] = min(trials, key=lambda workers: trials[workers])
        return self._run(kind, precision, steps, chosen)

    def workers(self) -> dict[str, int]:
        """Return the fastest number of workers, by kind and precision."""
        return {f"{kind} {precision}".strip(): workers for (kind, precision), workers in self._fastest.items()}

    def _candidates(self) -> list[int]:
        return [0, torch.get_num_threads()]

    def _run(self, kind: str, precision: str, steps: int, workers: int) -> float:
        with self.pipeline.opened(workers) as draw:

            def go() -> None:
                batch = draw()
                if kind == "whole":
                    self.step(*batch, precision)

            go()
            synchronise(self.device)
            began = time.perf_counter()
            for _ in range(steps):
                go()
            synchronise(self.device)
            return time.perf_counter() - began
