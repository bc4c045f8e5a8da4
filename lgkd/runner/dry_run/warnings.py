"""Warn of likely mistakes before hours are spent, one sentence for each."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import torch
from torch import nn

from lgkd.config import load_recipe
from lgkd.distillation.guide import Guide, PairShape
from lgkd.errors import InputError
from lgkd.models.teacher import Teacher
from lgkd.runner.dry_run.dataset_outline import Counts, Outline
from lgkd.runner.store_teacher import poor_teacher
from lgkd.runs.folder import RECIPE, RUN, read_run

FEW_IMAGES, FEW_TESTED, FEW_STEPS = 20, 100, 500
GLOBAL = 0.5
"""Influence of the far half of an image on a corner of a map, relative to the whole image; 1 means no locality."""
COARSE, WANTED = 4, 8
"""Rows or columns below which a student's map has hardly any spatial resolution, and a sufficient number."""


def about_images(found: Outline, counts: Counts) -> Iterator[str]:
    """Warn of few images per class, classes of very different size, or a small test split."""
    few = {name: count for name, count in zip(found.classes, counts.train, strict=True) if count < FEW_IMAGES}
    if few:
        smallest = min(few, key=lambda name: few[name])
        yield (
            f"few images a class: {len(few)} of {len(counts.train)} classes have fewer than {FEW_IMAGES} "
            f"({smallest}: {few[smallest]}, the median class {median(counts.train):g}); expect spread between seeds, "
            "and train several"
        )
    if found.test < FEW_TESTED:
        yield (
            f"the test split has {found.test} images, so each is {1 / max(found.test, 1):.1%} of the accuracy; "
            "differences of a few points are not meaningful"
        )


def about_steps(steps: int, role: str) -> Iterator[str]:
    """Warn of a training too short for a "student" or "teacher" to learn."""
    if steps < FEW_STEPS:
        few, them = (f"{steps:,} steps", "them") if steps != 1 else ("1 step", "it")
        yield f"only {few} in all: a {role} learns little in {them}; use more --epochs or a smaller --batch-size"


def about_grids(
    pairs: Sequence[PairShape], patch: tuple[int, int] | None, image_size: tuple[int, int]
) -> Iterator[str]:
    """Warn of a student whose maps are far coarser than the teacher's; the guide itself warns of maps of 1 x 1.

    Args:
        pairs: of a guide.
        patch: (height, width) of the student's patches; None if it has none.
        image_size: (height, width) of its images; both in pixels.
    """
    coarse = [pair for pair in pairs if _is_coarse(pair)]
    if not coarse:
        return
    pair = coarse[0]
    (height, width), (theirs, across) = pair.student_map[1:], pair.teacher_map[1:]
    # A smaller patch refines the map where patches are its cells, which they are not in a pyramid.
    plain = patch is not None and (height, width) == (image_size[0] // patch[0], image_size[1] // patch[1])
    smaller = f"a smaller patch (--student-option patch_size={max(1, min(image_size) // WANTED)}) or "
    yield (
        f"a coarse student: {len(coarse)} of {len(pairs)} pairs have a student map below {COARSE} x {COARSE} "
        f"({pair.student}: {height} x {width}, the teacher's {pair.teacher}: {theirs} x {across}), so little "
        f"locality is left to imitate; use {smaller if plain else ''}a larger --image-size"
    )


def _is_coarse(pair: PairShape) -> bool:
    ours, theirs = pair.student_map[1:], pair.teacher_map[1:]
    return ours != (1, 1) and min(ours) < COARSE and min(theirs) >= COARSE * min(ours)


def about_teacher(teacher: Teacher, found: Outline, beaten_by: tuple[float, Path] | None) -> Iterator[str]:
    """Warn of a poor teacher, or of one with unknown accuracy.

    Args:
        teacher: of the guide.
        found: the student's data.
        beaten_by: accuracy and folder of the best unguided student of this data set found here.
    """
    card = teacher.card
    if card is None:
        yield "the teacher's accuracy is unknown: it has no card"
        return
    top1 = card.accuracy.top1
    if (remark := poor_teacher(card, found.largest_class)) is not None:
        yield remark
    elif beaten_by is not None and beaten_by[0] > top1:
        yield (
            f"a poor teacher: {card.name} has {top1:.1%} top-1, an unguided student reaches {beaten_by[0]:.1%} here "
            f"({beaten_by[1]}); its maps may still guide early epochs, but compare with the unguided run"
        )
    if min(found.side) < min(teacher.image_size) // 2:
        yield (
            f"the teacher takes {teacher.image_size[0]} x {teacher.image_size[1]} px and the stored images are "
            f"{found.side[0]} x {found.side[1]}: they are enlarged for it"
        )


def best_unguided(dataset: str, places: Sequence[Path]) -> tuple[float, Path] | None:
    """Find the best finished unguided run of a data set below some folders: accuracy and folder."""
    best: tuple[float, Path] | None = None
    for file in (file for place in places for file in sorted(place.glob(f"*/{RUN}"))):
        try:
            info = read_run(file.parent)
            if info["kind"] != "train" or info["status"] != "finished" or info["dataset"]["name"] != dataset:
                continue
            if (file.parent / RECIPE).is_file() and load_recipe(file.parent / RECIPE).guide is not None:
                continue  # it has terms that read the student alone
            top1 = float(info["results"]["test_top1"])
        except (InputError, KeyError, TypeError, ValueError, OSError, json.JSONDecodeError):
            continue
        if best is None or top1 > best[0]:
            best = top1, file.parent
    return best


def about_locality(guide: Guide) -> Iterator[str]:
    """Warn of teacher layers that see the whole image alike, and so have no locality to imitate."""
    layers = list(dict.fromkeys(pair.teacher for pair in guide.pairs))
    if not layers:
        return
    teacher = guide.teacher
    influence = far_influence(teacher.model, layers, teacher.image_size, teacher.channels)
    for layer, share in influence.items():
        if share > GLOBAL:
            yield (
                f"a pair without locality: a corner of the teacher's {layer} depends {share:.0%} as much on the far "
                "half of the image as on all of it; use an earlier layer, or a convolutional teacher"
            )


def far_influence(
    model: nn.Module, layers: Sequence[str], size: tuple[int, int], channels: int = 3
) -> dict[str, float]:
    """Compute the influence of an image's far half on the first corner of a layer's map, relative to the whole image.

    The mean absolute gradient of the corner's outputs (summed with random signs) over the half of the pixels that is
    farthest, divided by that over all pixels; 0 for a layer that cannot see so far, 1 for one that sees all alike.

    Args:
        model: evaluated on random images, in its current mode.
        layers: names; one whose output is not a map (B,C,h,w) or tokens (B,N,D) is left out.
        size: (height, width) of the images, in pixels.
        channels: of the images.
    """
    outputs: dict[str, torch.Tensor] = {}
    modules = dict(model.named_modules())

    def keep(name: str) -> "object":
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, torch.Tensor):
                outputs[name] = output

        return hook

    handles = [modules[name].register_forward_hook(keep(name)) for name in layers if name in modules]
    chance = torch.Generator().manual_seed(0)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    images = torch.randn(4, channels, *size, generator=chance).to(device).requires_grad_()
    try:
        with torch.enable_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    rows, columns = torch.meshgrid(torch.linspace(0, 1, size[0]), torch.linspace(0, 1, size[1]), indexing="ij")
    distance = rows.hypot(columns)
    far = (distance > distance.median()).to(device)
    found = {}
    for name, output in outputs.items():
        corner = _corner(output)
        if corner is None or not corner.requires_grad:
            continue
        signs = (torch.rand(corner.shape, generator=chance).to(device) > 0.5).to(corner.dtype) * 2 - 1
        (gradient,) = torch.autograd.grad((corner * signs).sum(), images, retain_graph=True)
        heard = gradient.abs().sum(dim=(0, 1))
        whole = float(heard.mean())
        found[name] = float(heard[far].mean()) / whole if whole > 0 else 0.0
    return found


def _corner(output: torch.Tensor) -> torch.Tensor | None:
    """Return a layer's output at the upper left of the image: (B,C); of tokens, the first patch."""
    if output.ndim == 4:
        return output[:, :, 0, 0]
    if output.ndim == 3:
        side = round((output.shape[1]) ** 0.5)
        prefix = output.shape[1] - side * side if side * side <= output.shape[1] else 1
        return output[:, prefix]
    return None
