"""Create optimisers, and select the weights that decay."""

from typing import Any

import torch
from torch import Tensor, nn

from lgkd.config import Optimizer
from lgkd.config.optimizer import SCHEDULE_FREE
from lgkd.errors import InputError
from lgkd.training.schedule_free import ScheduleFreeAdamW

# Positions and tokens are not directions in feature space; decaying them to zero has no meaning.
_NO_DECAY = ("cls_token", "pos_embed", "dist_token", "distill_token", "mask_token")
# Tables of relative positions, which have two dimensions but are not linear maps; names of Swin, BEiT, MViT and LeViT.
_TABLES = ("pos", "bias_table", "attention_biases")


def parameter_groups(module: nn.Module, weight_decay: float, bias_lr_scale: float = 1.0) -> list[dict[str, Any]]:
    """Sort the weights into groups: those that decay, and those that do not.

    Not decayed: biases and every other tensor of at most one dimension, class and distillation
    tokens, position embeddings, and the weights in `no_weight_decay()` of a timm model.
    Source: the settings of Locality Guidance, arXiv 2207.10026.

    Args:
        module: the module with the weights; those without gradient are omitted.
        weight_decay: weight decay of the first group.
        bias_lr_scale: multiplies the rate of tensors of at most one dimension, which then have a separate group.
    """
    exempt = _undecayed_by_name(module)
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        spared = parameter.ndim <= 1 or id(parameter) in exempt or any(part in name for part in _NO_DECAY)
        (kept if spared else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    if bias_lr_scale != 1:
        groups[1]["params"] = [parameter for parameter in kept if parameter.ndim > 1]
        biases = [parameter for parameter in kept if parameter.ndim <= 1]
        # The step multiplies its rate by this.
        groups.append({"params": biases, "weight_decay": 0.0, "lr_scale": bias_lr_scale})
    return [group for group in groups if group["params"]]


def _undecayed_by_name(module: nn.Module) -> set[int]:
    """Return the identities of the weights in `no_weight_decay()` of a timm model."""
    found: set[int] = set()
    for owner in module.modules():
        stated = getattr(owner, "no_weight_decay", None)
        if callable(stated):
            names = set(stated())
            found |= {id(parameter) for name, parameter in owner.named_parameters() if name in names}
    return found


def hidden_matrices(module: nn.Module) -> set[int]:
    """Return the identities of the weights that Muon applies to: the matrices between input and output of a model.

    They are the weights of two and more dimensions inside numbered parts (`blocks.0.attn.qkv.weight`). The others are
    the input layer, the classifier, depthwise convolutions, positions, tokens, and the projections of terms.
    timm's Muon omits some more, whose shape is too narrow to transpose.
    Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024 (kellerjordan.github.io).
    """
    student = getattr(module, "student", module)
    # An input layer for images of one channel has kernels (D,1,P,P), which are no matrices.
    first = next(
        (weight for _, weight in student.named_parameters() if _is_matrix(weight) or _is_kernels(weight)), None
    )
    matrices = [(name, weight) for name, weight in student.named_parameters() if _is_matrix(weight)]
    # The first is the input layer and the last the classifier; a model with two heads declares them.
    spared = {id(weight) for weight in (first, *(weight for _, weight in matrices[-1:]))}
    classify = getattr(student, "get_classifier", lambda: None)()
    for head in classify if isinstance(classify, tuple) else (classify,):
        if isinstance(head, nn.Module):
            spared |= {id(weight) for weight in head.parameters()}
    tables = _undecayed_by_name(student)
    return {
        id(weight)
        for name, weight in matrices
        if id(weight) not in spared | tables
        and not (weight.ndim == 4 and weight.shape[1] == 3)
        and not any(part in name for part in _TABLES)
        and any(any(letter.isdigit() for letter in part) for part in name.split("."))
    }


def _is_matrix(weight: Tensor) -> bool:
    return weight.ndim >= 2 and weight.shape[0] > 1 and weight.shape[1] > 1


def _is_kernels(weight: Tensor) -> bool:
    return weight.ndim == 4 and weight.shape[0] > 1


def make_optimizer(module: nn.Module, settings: Optimizer, *, compiled: bool = False) -> torch.optim.Optimizer:
    """Create an optimiser over all weights of `module` that require a gradient.

    AdamW and SGD are torch's, fused into one pass over the weights; schedule-free AdamW is lgkd's, the others timm's.
    Muon takes `hidden_matrices`, in steps scaled to the size of AdamW's, and AdamW (with `nesterov` NAdamW) the rest at
    the same rate.

    Args:
        module: the module with the weights.
        settings: of a recipe.
        compiled: compile what Muon computes on a device.

    Raises:
        InputError: Muon is requested, and the student has no such matrix; or schedule-free AdamW, and the student has
            BatchNorm.
    """
    groups = parameter_groups(module, settings.weight_decay, settings.bias_lr_scale)
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True)
    if settings.name == SCHEDULE_FREE:
        _refuse_batch_norm(getattr(module, "student", module))
        return ScheduleFreeAdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps)
    if settings.name == "sgd":
        made = torch.optim.SGD(
            groups,
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov and settings.momentum > 0,
            fused=True,
        )
        if settings.momentum > 0:
            made.register_step_pre_hook(_start_momentum)
        return made
    return _timms(module, groups, settings, compiled=compiled)


def _refuse_batch_norm(student: nn.Module) -> None:
    """Refuse a student whose running statistics would belong to other weights than the averaged ones.

    Raises:
        InputError: it has a BatchNorm with running statistics.
    """
    norms = (norm for norm in student.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm))
    if any(norm.running_mean is not None for norm in norms):
        raise InputError(
            f"optimizer.name is {SCHEDULE_FREE!r}, and a {type(student).__name__} has BatchNorm, whose running "
            "statistics are those of the weights of a step, not of the averaged weights that are evaluated; expected a "
            "student without BatchNorm, such as deit_tiny: use adamw with ema for this one"
        )


def _start_momentum(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Start momentum at zero, before a step.

    torch's fused SGD allocates it uninitialised and writes it in its first step. If that is skipped (`found_inf`, the
    usual first step of fp16), the next one would read what was in memory.
    """
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is not None and "momentum_buffer" not in optimizer.state[weight]:
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)


def _timms(
    module: nn.Module, groups: list[dict[str, Any]], settings: Optimizer, *, compiled: bool
) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"lr": settings.lr, "betas": settings.betas}
    if settings.name != "lion":
        options["eps"] = settings.eps
    if settings.name == "muon":
        hidden = hidden_matrices(module)
        if not hidden:
            student = type(getattr(module, "student", module)).__name__
            raise InputError(
                f"optimizer.name is 'muon', which is for the matrices between input and output, and a {student} has "
                "none; use adamw"
            )
        groups = [
            {**group, "params": chosen, "use_fallback": rest}
            for group in groups
            for rest in (False, True)
            if (chosen := [weight for weight in group["params"] if (id(weight) in hidden) != rest])
        ]
        options |= {"momentum": settings.momentum, "nesterov": settings.nesterov}
        from lgkd.training.muon import StackedMuon

        return StackedMuon(groups, weight_decay=settings.weight_decay, compiled=compiled, **options)
    from timm.optim import create_optimizer_v2  # type: ignore[attr-defined, unused-ignore]

    made: torch.optim.Optimizer = create_optimizer_v2(
        groups, opt=settings.name, weight_decay=settings.weight_decay, **options
    )
    return made
