"""Score an untrained student by how much its attention resembles a trained teacher's (TVT)."""

import torch
from torch import Tensor, nn

from lgkd.distillation.guide import Guide, Term
from lgkd.losses.map_loss import MapLoss
from lgkd.models.teacher import Teacher


@torch.no_grad()
def attention_score(
    student: nn.Module, teacher: Teacher, images_B3HW: Tensor, *, mean: tuple[float, ...], std: tuple[float, ...]
) -> float:
    """Compute minus the mean squared distance of the attention of both last maps, on one batch; 0 is the highest.

    The attention of a map is the mean over channels of the squares, flattened, with unit L2 norm for each image, on the
    finer of both grids: `MapLoss("attention")`. Where a paper adds the norm of the student's weights, this does not.

    Source: Wei et al., TVT, arXiv 2311.14337; the authors' code is that of Auto-Prox (AAAI 2024).

    Args:
        student: untrained.
        teacher: trained.
        images_B3HW: normalised as the student's.
        mean, std: of that normalisation.
    """
    height, width = images_B3HW.shape[-2:]
    guide = Guide(
        student.eval(), teacher, image_size=(height, width), terms=[Term(MapLoss("attention"))], mean=mean, std=std
    )
    try:
        ours, theirs = guide.read(student, images_B3HW).maps[-1], guide.teach(images_B3HW).maps[-1]
        return -float(MapLoss("attention")([ours], [theirs]))
    finally:
        guide.remove()
