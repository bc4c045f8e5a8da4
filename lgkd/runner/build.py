"""Build the objects of a training from its settings: teachers, student, guides, plan and task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lgkd._internal.manifest import MANIFEST, tell_unverified
from lgkd._internal.rng import seed_of
from lgkd._internal.safetensors_io import fill, load_weights
from lgkd.config import Recipe, TermSchedule
from lgkd.data.prepare import Data
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Guided, Supervised, Task
from lgkd.distillation.terms import make_loss
from lgkd.errors import InputError
from lgkd.models.default_taps import block_names
from lgkd.models.factory import check_plausible, create_model, default_image_size
from lgkd.models.teacher import Teacher
from lgkd.models.teacher_card import CARD, WEIGHTS, TeacherCard, verify_weights
from lgkd.models.trust import check_named_in
from lgkd.runner.find_teacher import find_trained_teacher
from lgkd.training.compile import choose_compile
from lgkd.training.config import Plan
from lgkd.training.precision import choose_precision


def load_trained_teacher(name: str, dataset: str | Path, *, subset: str | None = None) -> Teacher:
    """Load a trained teacher from the user's store, or of those shipped with lgkd; see `find_trained_teacher`.

    Raises:
        MissingError: there is none; the message holds the command that trains it.
        InputError: its files are damaged or do not fit, or its card names untrusted code.
    """
    return load_kept_teacher(*find_trained_teacher(name, dataset, subset=subset))


def load_kept_teacher(card: TeacherCard, folder: Path) -> Teacher:
    """Load a trained teacher from the folder of its card.

    Raises:
        InputError: its files are damaged or do not fit, or its card names untrusted code.
    """
    check_named_in(folder / CARD, card.architecture)
    if not (folder / MANIFEST).is_file():
        tell_unverified(folder)
    weights = load_weights(verify_weights(card, folder), card.weights_sha256)
    size = (card.image_size, card.image_size)
    check_plausible(folder / CARD, card.options, len(card.classes), size, weights)
    with torch.random.fork_rng(devices=[]):
        model = create_model(
            card.architecture, num_classes=len(card.classes), image_size=card.image_size, options=card.options
        )
    fill(model, weights, str(folder / WEIGHTS))
    if is_convolutional(model):
        model.to(memory_format=torch.channels_last)
    return Teacher(model, image_size=card.image_size, mean=card.mean, std=card.std, taps=card.taps, card=card)


def check_teacher_classes(teacher: Teacher, data: Data) -> None:
    """Refuse a teacher of other classes, whose features separate other things.

    Raises:
        InputError: the classes differ; the message says how.
    """
    if teacher.card is None or tuple(teacher.card.classes) == data.classes:
        return
    theirs, ours = set(teacher.card.classes), set(data.classes)
    only = ", ".join(sorted(theirs - ours)[:3] or sorted(ours - theirs)[:3]) or "the order"
    raise InputError(
        f"the teacher {teacher.card.name} was trained on {len(theirs)} classes of {teacher.card.dataset}, "
        f"{data.source} has {len(ours)}, and they differ ({only}); train one on this data set: "
        f"lgkd train-teacher {teacher.card.architecture} {data.source}"
    )


def check_precision(recipe: Recipe, device: str) -> None:
    """Refuse fp16 on a CPU: it needs gradient scaling, which only GPU training has.

    Raises:
        InputError: fp16 on a CPU.
    """
    if recipe.precision == "fp16" and torch.device(device).type == "cpu":
        raise InputError("precision is fp16, which needs a GPU, and the device is the CPU; use auto, fp32 or bf16")


def make_student(name: str, recipe: Recipe, *, classes: int, seed: int, options: Mapping[str, Any]) -> nn.Module:
    """Build an untrained student; the same seed gives the same weights, guided or not."""
    size = recipe.view.image_size or default_image_size(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "student"))
        if recipe.drop_path and "drop_path_rate" not in options:
            try:
                return create_model(
                    name,
                    num_classes=classes,
                    image_size=size,
                    options={**options, "drop_path_rate": recipe.drop_path},
                )
            except InputError:
                # Not every architecture has stochastic depth; any other error recurs without it.
                torch.manual_seed(seed_of(seed, "student"))
        return create_model(name, num_classes=classes, image_size=size, options=options)


def make_guides(
    student: nn.Module,
    teachers: Sequence[Teacher],
    recipe: Recipe,
    data: Data,
    *,
    image_size: tuple[int, int],
    taps: Sequence[str] | None,
    seed: int,
) -> list[Guide]:
    """Build a guide for each teacher (none without a teacher), with its terms of the recipe.

    The terms of several teachers have names that end in the teacher's number, as in `guidance_linear-2`.

    Raises:
        InputError: a term is for a missing teacher, or a teacher has no term.
    """
    if not teachers or recipe.guide is None:
        return []
    for term in recipe.guide.terms:
        if term.for_teacher is not None and term.for_teacher > len(teachers):
            raise InputError(
                f"the term {term.title} is for teacher {term.for_teacher}, and there are {len(teachers)}; name as "
                "many with --teacher, or set the term's `for_teacher` to null"
            )
    guides = []
    for number, teacher in enumerate(teachers, start=1):
        teacher.use_batch_norm(recipe.guide.teacher_bn)
        ours = [term for term in recipe.guide.terms if term.for_teacher in (None, number)]
        if not ours:
            raise InputError(f"no term of the recipe is for teacher {number}; leave that teacher out, or add a term")
        suffix = f"-{number}" if len(teachers) > 1 else ""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, "guide", *([number] if number > 1 else [])))
            terms = [
                Term(make_loss(term), term.weight, term.title + suffix, term.schedule or TermSchedule())
                for term in ours
            ]
            guides.append(
                Guide(
                    student,
                    teacher,
                    image_size=image_size,
                    terms=terms,
                    taps=taps,
                    mean=data.mean,
                    std=data.std,
                    antialias=recipe.guide.view == "antialias",
                )
            )
    return guides


def make_plan(
    recipe: Recipe,
    *,
    steps_per_epoch: int,
    seed: int,
    device: str,
    channels_last: bool,
    compiled: bool | None = None,
    cuda_graphs: bool = False,
) -> Plan:
    """Build the training plan.

    Raises:
        InputError: CUDA graphs are requested where they are not possible.
    """
    images = recipe.schedule.count(steps_per_epoch) * recipe.batch_size
    return Plan(
        optimizer=recipe.optimizer,
        schedule=recipe.schedule,
        steps_per_epoch=steps_per_epoch,
        seed=seed,
        accumulate=recipe.accumulate,
        precision=choose_precision(recipe.precision, device),
        clip_norm=recipe.clip_norm,
        ema=recipe.ema,
        lookahead=recipe.lookahead,
        evaluate_every=recipe.evaluation_interval(-(-recipe.schedule.count(steps_per_epoch) // steps_per_epoch)),
        channels_last=channels_last,
        compile=choose_compile(compiled, device, images, cuda_graphs=cuda_graphs),
        cuda_graphs=cuda_graphs,
        device=device,
    )


def make_task(student: nn.Module, guides: Sequence[Guide], recipe: Recipe) -> Task:
    """Build the dual task with guides, plain classification without."""
    if not guides or recipe.guide is None:
        return Supervised(student)
    return Guided(student, *guides, classification_weight=recipe.guide.classification_weight)


def is_convolutional(model: nn.Module) -> bool:
    """Return whether a model is a CNN, which runs faster with channels last in memory."""
    return not block_names(model) and any(
        isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1 for module in model.modules()
    )
