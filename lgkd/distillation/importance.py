"""Measure the importance of heads and MLP units by first-order Taylor expansion of the training loss.

Letters in shapes: B batch, N tokens, D width, H heads, d width of a head, U units.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lgkd._internal.rng import preserved_generators, seed_generators
from lgkd.data.batch import Batch
from lgkd.distillation.tasks import Task
from lgkd.errors import InputError
from lgkd.models.pruned_student import Part, prunable_parts


@dataclass(frozen=True, eq=False)
class Importance:
    """Hold the importance of every head and every unit.

    Attributes:
        heads: of each block, float64 (H,).
        units: of each block, float64 (U,).
        images: number of images that they are means of.
    """

    heads: tuple[Tensor, ...]
    units: tuple[Tensor, ...]
    images: int


def measure_importance(task: Task, batches: Iterable[Batch]) -> Importance:
    """Measure by how much the loss changes, to first order, where a head or a unit is removed.

    The importance is the mean over images of |sum of activation times gradient|, the activation being the output of the
    head (before the projection), or of the unit (after the activation function), over all its tokens, and the gradient
    that of the image's share of the loss: the absolute derivative by a factor before the head or unit. The loss is that
    of the training, with all terms of its guides. It is taken in eval mode, without dropout and stochastic depth.

    Source: Michel, Levy and Neubig, Are Sixteen Heads Really Better than One?, NeurIPS 2019 (arXiv 1905.10650), section
    4.1, for heads; Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019 (arXiv 1906.10771) and
    arXiv 1611.06440, equation 7, for units.

    Args:
        task: with the trained student; its gradients are cleared.
        batches: of training images, at least one.

    Raises:
        ModelError: the student has no heads that can be removed.
        InputError: there are no images, or the loss is not finite.
    """
    parts = prunable_parts(task.student)
    heads = [torch.zeros(part.heads, dtype=torch.float64) for part in parts]
    units = [torch.zeros(part.units, dtype=torch.float64) for part in parts]
    # A list: masked images pass through the student once more.
    seen: defaultdict[nn.Module, list[Tensor]] = defaultdict(list)

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        inputs[0].retain_grad()
        seen[module].append(inputs[0])

    layers = [layer for part in parts for layer in (part.attention.proj, part.mlp.fc2)]
    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    modes = [(module, module.training) for module in task.student.modules()]
    task.student.eval()
    images = 0
    try:
        for number, batch in enumerate(batches):
            with preserved_generators(batch.images.device):
                # Terms that draw, draw the same in every call.
                seed_generators(number, batch.images.device)
                loss = task(batch).loss
            if not bool(loss.isfinite()):
                raise InputError(
                    f"the loss of {len(batch.images)} training images is {float(loss.detach())}, expected a finite "
                    "number; check that the run's teacher and recipe are those that it was trained with"
                )
            loss.backward()
            count = len(batch.images)
            for part, head, unit in zip(parts, heads, units, strict=True):
                # The loss is a mean over the batch; its share of an image is that over the count.
                head += count * _by_head(seen[part.attention.proj], part).cpu()
                unit += count * _by_unit(seen[part.mlp.fc2]).cpu()
            images += count
            task.zero_grad(set_to_none=True)
            seen.clear()
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    if not images:
        raise InputError("there are no training images to measure importance on; expected at least one batch")
    return Importance(tuple(one / images for one in heads), tuple(one / images for one in units), images)


def _changes(activation: Tensor) -> Tensor:
    """Return activation times gradient, float64."""
    assert activation.grad is not None
    return activation.detach().double() * activation.grad.double()


def _by_unit(passes: Sequence[Tensor]) -> Tensor:
    """Sum activation times gradient over tokens and passes of each image, then its absolute values over images."""
    return torch.stack([_changes(one).sum(dim=1) for one in passes]).sum(dim=0).abs().sum(dim=0)


def _by_head(passes: Sequence[Tensor], part: Part) -> Tensor:
    """Sum activation times gradient over a head's outputs, tokens and passes of each image, then as `_by_unit`."""
    by_head = [
        changes_BND.reshape(*changes_BND.shape[:2], part.heads, -1).sum(dim=(1, 3))
        for changes_BND in map(_changes, passes)
    ]
    return torch.stack(by_head).sum(dim=0).abs().sum(dim=0)


def most_important(scores: Sequence[Tensor], keep: float) -> list[list[int]]:
    """Select the most important heads or units of all blocks together; every block keeps at least one.

    The scores of a block are divided by their Euclidean norm first, as in Michel et al. and Molchanov et al. (arXiv
    1611.06440), since the size of gradients differs between depths. Of equal scores the first is kept.

    Args:
        scores: of each block.
        keep: the share that is kept, above 0 and at most 1; the number is rounded.

    Returns:
        The indices that each block keeps, in ascending order.
    """
    scaled = [block / norm if (norm := float(block.norm())) > 0 else block for block in scores]
    total = math.floor(keep * sum(map(len, scaled)) + 0.5)
    best = [int(block.argmax()) for block in scaled]
    kept = [[first] for first in best]
    others = [
        (-float(score), place, index)
        for place, block in enumerate(scaled)
        for index, score in enumerate(block)
        if index != best[place]
    ]
    for _, place, index in sorted(others)[: max(0, total - len(scaled))]:
        kept[place].append(index)
    return [sorted(block) for block in kept]
