"""Optimisers and which weights decay."""

from typing import Any

import torch
from torch import nn

from lgkd.trainer.plan import OptimizerPlan

# Positions and tokens are no directions in feature space; pulling them to zero has no meaning.
_NO_DECAY = ("cls_token", "pos_embed", "dist_token", "distill_token")


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: weights that decay, and those that do not.

    Not decayed: biases and every other tensor of at most one dimension, class and distillation
    tokens, position embeddings, and what a model of timm's names in `no_weight_decay()`.
    Source: the settings of Locality Guidance, arXiv 2207.10026.
    """
    exempt: set[int] = set()
    for owner in module.modules():
        stated = getattr(owner, "no_weight_decay", None)
        if callable(stated):
            names = set(stated())
            exempt |= {id(parameter) for name, parameter in owner.named_parameters() if name in names}
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        spared = parameter.ndim <= 1 or id(parameter) in exempt or any(part in name for part in _NO_DECAY)
        (kept if spared else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimizer(module: nn.Module, plan: OptimizerPlan) -> torch.optim.Optimizer:
    """AdamW or SGD over everything in `module` that takes a gradient, fused into one pass over the weights."""
    groups = parameter_groups(module, plan.weight_decay)
    if plan.name == "adamw":
        return torch.optim.AdamW(groups, lr=plan.lr, betas=plan.betas, eps=plan.eps, fused=True)
    return torch.optim.SGD(
        groups, lr=plan.lr, momentum=plan.momentum, nesterov=plan.nesterov and plan.momentum > 0, fused=True
    )
