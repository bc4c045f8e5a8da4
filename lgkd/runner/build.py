"""Build the objects of a training from its settings: teachers, student, guides, plan and task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lgkd._internal.manifest import MANIFEST, tell_unverified
from lgkd._internal.rng import seed_of, seeded
from lgkd._internal.safetensors_io import fill, load_weights
from lgkd.config import Recipe, TermSchedule
from lgkd.data.class_balance import ClassBalance
from lgkd.data.load import load_dataset
from lgkd.data.names import Subset
from lgkd.data.prepare import Data
from lgkd.distillation.classification import ClassificationLoss, LabelLoss, MultiLabelLoss
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.inputs import takes_index
from lgkd.distillation.tasks import Guided, Supervised, Task
from lgkd.distillation.terms import OF_CLASSES, for_several_labels, make_loss
from lgkd.errors import InputError, MissingTeacherError
from lgkd.models.factory import check_plausible, create_model, default_image_size
from lgkd.models.memory_format import lay_out
from lgkd.models.teacher import Teacher
from lgkd.models.teacher_card import TeacherCard
from lgkd.models.teacher_store import CARD, WEIGHTS, verify_weights
from lgkd.models.trust import check_named_in
from lgkd.runner.find_teacher import find_trained_teacher, is_run, of_these_classes
from lgkd.runs.load_student import load_student
from lgkd.training.compile import Compile, choose_compile
from lgkd.training.config import Plan
from lgkd.training.precision import choose_precision

_NO_BALANCE = ClassBalance()


def load_trained_teacher(name: str, dataset: str | Path, *, subset: str | None = None) -> Teacher:
    """Load a trained teacher from the user's store, or of those shipped with lgkd; see `find_trained_teacher`.

    One that is stored under another name is found by the images of the folder, which are decoded for that.

    Raises:
        MissingError: there is none; the message holds the command that trains it.
        InputError: its files are damaged or do not fit, or its card names untrusted code.
    """
    try:
        return load_kept_teacher(*find_trained_teacher(name, dataset, subset=subset))
    except MissingTeacherError:
        candidates = of_these_classes(name, dataset, subset=subset)
        fingerprint = load_dataset(dataset).fingerprint if candidates else ""
        found = next((one for one in candidates if one[0].fingerprint == fingerprint), None)
        if found is None:
            raise
    return load_kept_teacher(*found)


def load_kept_teacher(card: TeacherCard, folder: Path) -> Teacher:
    """Load a trained teacher from the folder of its card, or of the run whose student it is.

    Raises:
        InputError: its files are damaged or do not fit, or its card names untrusted code.
        TapError: the run's student has no layers to guide by.
    """
    if is_run(folder):
        teacher = _as_teacher(load_student(folder), card)
        teacher.source = {"run": str(folder)}
        return teacher
    check_named_in(folder / CARD, card.architecture)
    if not (folder / MANIFEST).is_file():
        tell_unverified(folder)
    weights = load_weights(verify_weights(card, folder), card.weights_sha256)
    check_plausible(folder / CARD, card.options, len(card.classes), card.size, weights)
    with torch.random.fork_rng(devices=[]):
        model = create_model(
            card.architecture,
            num_classes=len(card.classes),
            image_size=card.image_size,
            channels=len(card.mean),
            options=card.options,
        )
    fill(model, weights, str(folder / WEIGHTS))
    return _as_teacher(model, card)


def _as_teacher(model: nn.Module, card: TeacherCard) -> Teacher:
    lay_out(model)
    taps = card.taps or None
    return Teacher(model, image_size=card.image_size, mean=card.mean, std=card.std, taps=taps, card=card)


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


def check_teacher_fold(teacher: Teacher, data: Data) -> None:
    """Refuse a teacher of other folds: it may have seen the images that the student is tested on.

    Raises:
        InputError: it was trained on another part of the images, or on other ones.
    """
    card, part = teacher.card, Subset.parse(data.subset or "")
    if part is None or part.fold is None or card is None:
        return
    if card.subset == data.subset and card.fingerprint == data.fingerprint:
        return
    seen = card.subset or "all training images"
    raise InputError(
        f"the teacher {card.name} was trained on {seen}{'' if card.subset != data.subset else ' of other files'}, and "
        f"the student is tested on {data.subset} of {data.source}, which it may have seen; train teachers without "
        f"these images: lgkd train-teacher {card.architecture} {data.source} {part.command_options}"
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
    size, channels = recipe.view.image_size or default_image_size(name), recipe.view.channels
    own = seed_of(seed, "student")
    if recipe.drop_path and "drop_path_rate" not in options:
        try:
            with seeded(own):
                return create_model(
                    name,
                    num_classes=classes,
                    image_size=size,
                    channels=channels,
                    options={**options, "drop_path_rate": recipe.drop_path},
                )
        except InputError:
            pass  # not every architecture has stochastic depth; any other error recurs without it
    with seeded(own):
        return create_model(name, num_classes=classes, image_size=size, channels=channels, options=options)


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
    """Build a guide for each teacher, with its terms of the recipe.

    Without a teacher there is one guide, whose terms all read the student alone. The terms of several teachers have
    names that end in the teacher's number, as in `guidance_linear-2`.

    Raises:
        InputError: a term is for a missing teacher or reads one and there is none, or a teacher has no term.
    """
    if recipe.guide is None:
        return []
    if not teachers and (read := [term.title for term in recipe.guide.terms if term.reads_teacher]):
        raise InputError(
            f"{', '.join(read)} of the recipe reads a teacher, and there is none; train by `lgkd distill`, or leave "
            "these terms out, also in the rules of by_length"
        )
    for term in recipe.guide.terms:
        if teachers and term.for_teacher is not None and term.for_teacher > len(teachers):
            raise InputError(
                f"the term {term.title} is for teacher {term.for_teacher}, and there are {len(teachers)}; name as "
                "many with --teacher, or set the term's `for_teacher` to null"
            )
    guides = []
    ours, theirs = pair_taps(taps)
    for number, teacher in enumerate(teachers or [None], start=1):
        if teacher is not None:
            teacher.use_batch_norm(recipe.guide.teacher_bn)
        chosen = [term for term in recipe.guide.terms if not teachers or term.for_teacher in (None, number)]
        if not chosen:
            raise InputError(f"no term of the recipe is for teacher {number}; leave that teacher out, or add a term")
        suffix = f"-{number}" if len(teachers) > 1 else ""
        with seeded(seed_of(seed, "guide", *([number] if number > 1 else []))):
            terms = [
                Term(
                    for_several_labels(make_loss(term), term.title) if data.multi_label else make_loss(term),
                    term.weight,
                    term.title + suffix,
                    term.schedule or TermSchedule(),
                )
                for term in chosen
            ]
            if teacher is not None and "weights" in teacher.source:
                _refuse_logits(teacher.source["name"], terms)
            guides.append(
                Guide(
                    student,
                    teacher,
                    image_size=image_size,
                    terms=terms,
                    taps=ours,
                    teacher_taps=theirs,
                    mean=data.mean,
                    std=data.std,
                    antialias=recipe.guide.view == "antialias",
                    labels=_labels(data) if any(takes_index(term.loss) for term in terms) else None,
                )
            )
    return guides


def pair_taps(taps: Sequence[str] | None) -> tuple[list[str] | None, list[str] | None]:
    """Split taps into layers of the student and, where they are pairs STUDENT:TEACHER, of the teacher.

    Raises:
        InputError: some are pairs and others are not.
    """
    if taps is None:
        return None, None
    pairs = [tap.partition(":") for tap in taps]
    if len({separator for _, separator, _ in pairs}) > 1:
        raise InputError(
            f"--taps {','.join(taps)}: some name a layer of the teacher and some do not; write all as STUDENT:TEACHER, "
            "as in blocks.0:group1, or none"
        )
    theirs = [their for _, separator, their in pairs if separator]
    return [our for our, _, _ in pairs], theirs or None


def _labels(data: Data) -> torch.Tensor:
    """Return the labels of all training images, in the order of their places: the data set's, then extra ones."""
    own = data.train.labels
    return own if data.extra is None else torch.cat([own, data.extra.images.labels])


def _refuse_logits(name: str, terms: Sequence[Term]) -> None:
    """Refuse terms that compare the logits of a teacher of other classes."""
    found = [str(term.name) for term in terms if getattr(term.loss, "reads", None) in OF_CLASSES]
    if found:
        raise InputError(
            f"{name} has the classes that its weights were trained on, and {', '.join(found)} of the recipe compares "
            "logits; use a recipe that compares maps, such as locality-guidance, or train a teacher on these images by "
            "`lgkd train-teacher`"
        )


def make_plan(
    recipe: Recipe,
    *,
    steps_per_epoch: int,
    seed: int,
    device: str,
    channels_last: bool,
    compiled: Compile | None = None,
    has_blocks: bool = False,
    cuda_graphs: bool = False,
    epochs_before: int = 0,
) -> Plan:
    """Build the training plan.

    Raises:
        InputError: CUDA graphs, or compiled blocks, are requested where they are not possible.
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
        sam=recipe.sam,
        evaluate_every=recipe.evaluation_interval(-(-recipe.schedule.count(steps_per_epoch) // steps_per_epoch)),
        channels_last=channels_last,
        compile=choose_compile(compiled, device, images, cuda_graphs=cuda_graphs, has_blocks=has_blocks),
        cuda_graphs=cuda_graphs,
        device=device,
        epochs_before=epochs_before,
    )


def make_task(student: nn.Module, guides: Sequence[Guide], recipe: Recipe, balance: ClassBalance = _NO_BALANCE) -> Task:
    """Build the dual task with guides, plain classification without; `balance` is that of the training's images."""
    classification: LabelLoss = (
        MultiLabelLoss(balance.weights)
        if balance.multi_label
        else ClassificationLoss(balance.weights, balance.adjustment)
    )
    if not guides or recipe.guide is None:
        return Supervised(student, classification)
    weight = recipe.guide.classification_weight
    return Guided(student, *guides, classification_weight=weight, classification=classification)
