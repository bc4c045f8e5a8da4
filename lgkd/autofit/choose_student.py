"""Rank students for a data set and a time, by their published evidence and by timing a few steps of each."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lgkd.analysis.attention_score import attention_score
from lgkd.autofit.facts import gather_facts
from lgkd.autofit.plan import Plan, fitting_options, make_plan
from lgkd.autofit.request import Request
from lgkd.data.channels import imagenet_normalisation
from lgkd.data.load import load_dataset
from lgkd.data.prepare import make_test_batches
from lgkd.models.factory import create_model
from lgkd.models.teacher import Teacher
from lgkd.runner.build import load_trained_teacher
from lgkd.runner.dry_run import estimate_training
from lgkd.runner.dry_run.untrained_teachers import untrained_teacher
from lgkd.runner.resolve import resolve

CANDIDATES = ("vit_96", "vit_128", "vit_192", "deit_tiny", "pvt_v2_b0")
LEAST_EPOCHS = 30
"""Epochs from which the number of parameters ranks; those with fewer come after, by their epochs."""
EVIDENCE = (
    "parameters: in published guided runs of one family (Auto-Prox, 100 to 200 plain ViTs, 300 epochs) their number "
    "ranks accuracy with Kendall's tau 0.55 on CIFAR-100, 0.70 to 0.74 on Flowers, 0.31 to 0.36 on Chaoyang",
    "width and depth: of these runs, 192 wide with 12 blocks against 240 with 14 on CIFAR-100 is 76.1 against 78.2 % "
    "guided, and 68.9 against 68.4 % unguided: they pay under guidance alone",
    f"epochs: a student with less than {LEAST_EPOCHS} in the time comes after those with more; this number is a guess, "
    "and so is a ranking across families",
)
SCORE_EVIDENCE = (
    "attention score: of the untrained student, beside the trained teacher (TVT), on one batch; the nearer to 0 the "
    "more alike. It does not rank here: the number of parameters is the bar for it, and it is not known to pass that"
)
_SCORED = 64


@dataclass(frozen=True)
class RankedStudent:
    """Hold one student with its estimates.

    Attributes:
        name, options: of the student.
        parameters: of the model, without the guide's projections.
        seconds_a_step, steps, epochs: of a guided training in the time.
        attention_score: of the untrained student beside the trained teacher; None without one.
    """

    name: str
    options: dict[str, Any]
    parameters: int
    seconds_a_step: float
    steps: int
    epochs: float
    attention_score: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


def rank_students(
    request: Request, *, teacher: str | None = None, timing: Callable[[str], None] = lambda _: None
) -> list[RankedStudent]:
    """Rank the default students for guided training on a data set, the best first.

    Image size, batch and recipe are those of `lgkd fit` without the limits of its time. A few steps of each student are
    timed on generated images, as for `--dry-run`.

    Args:
        request: data set, time of the student's training, and options.
        teacher: a trained teacher of the data set; an untrained one of the plan is timed if not given.
        timing: called with the name of each student before its steps are timed.

    Raises:
        LgkdError: an error that would end such a training before it starts; MissingError: no such teacher is trained.
    """
    facts = gather_facts(request)
    plan = make_plan(facts, request.wishes)
    guide = None if teacher is None else load_trained_teacher(teacher, request.dataset)
    frozen = guide if guide is not None else untrained_teacher(plan.teacher, facts.classes, plan.teacher_image_size)
    found = []
    for name in CANDIDATES:
        timing(name)
        options = fitting_options(name, plan.image_size)
        training = request.student_training(plan, request.seconds)
        training["out"] = Path("runs") / f"students-for-{name}"
        estimate = estimate_training(
            resolve("student", name, request.dataset, training, model_options=options, teachers=(frozen,))
        )
        per_epoch = estimate.plan.steps_per_epoch
        score = None if guide is None else _score(name, options, guide, request, plan)
        found.append(
            RankedStudent(
                name, options, estimate.parameters["model"], estimate.cost.seconds_a_step, estimate.steps,
                estimate.steps / per_epoch, score,
            )
        )  # fmt: skip
    return ranked(found)


def ranked(students: list[RankedStudent]) -> list[RankedStudent]:
    """Sort students: those with enough epochs by parameters, and the others after them by epochs, the most first."""
    enough = [one for one in students if one.epochs >= LEAST_EPOCHS]
    rest = [one for one in students if one.epochs < LEAST_EPOCHS]
    by_size = sorted(enough, key=lambda one: -one.parameters)
    return [*by_size, *sorted(rest, key=lambda one: -one.epochs)]


def _score(name: str, options: dict[str, Any], teacher: Teacher, request: Request, plan: Plan) -> float:
    """Compute the attention score of a student with the weights of seed 0, on training images."""
    data = load_dataset(request.dataset, data_dir=request.options.get("data_dir"), offline=True)
    images = data.train.take(torch.linspace(0, len(data.train) - 1, min(_SCORED, len(data.train))).round().long())
    size = (plan.image_size, plan.image_size) if isinstance(plan.image_size, int) else plan.image_size
    mean, std = imagenet_normalisation(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = create_model(name, num_classes=len(data.classes), image_size=size, options=options)
    batches = make_test_batches(images, image_size=size, mean=mean, std=std, interpolation="bicubic", device="cpu")
    pixels = torch.cat([batch for batch, _ in batches])
    return attention_score(student, teacher.to("cpu"), pixels, mean=mean, std=std)
