"""Estimate a fit for `--dry-run`: its plan, and the steps and the time of each training. Nothing is written."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lgkd.autofit.facts import gather_facts
from lgkd.autofit.fit import harmonic_steps
from lgkd.autofit.folder import STUDENTS, TEACHER, TEACHERS, find_state
from lgkd.autofit.inputs import Facts
from lgkd.autofit.plan import TEACHER_SHARE, Plan, make_plan, reserve
from lgkd.autofit.request import Request
from lgkd.runner.dry_run import DryRun, estimate_training
from lgkd.runner.dry_run.untrained_teachers import untrained_teacher
from lgkd.runner.resolve import resolve


@dataclass(frozen=True)
class FitEstimate:
    """Hold the plan and the estimated cost of a fit.

    Attributes:
        facts, plan: of the images, and the settings.
        resumes: whether the folder holds this fit, begun.
        teacher, guided, unguided: dry runs of single trainings; the students' own number of steps is `steps`.
        steps: of each student.
        seeds, folds: number of seeds, and of folds that are trained for.
        after: seconds for report and export.
        promised: seconds of the whole; None where the length was given otherwise.
    """

    facts: Facts
    plan: Plan
    resumes: bool
    teacher: DryRun
    guided: DryRun
    unguided: DryRun | None
    steps: int
    seeds: int
    folds: int
    after: float
    promised: float | None

    @property
    def seconds(self) -> dict[str, float]:
        """Estimate the seconds of the parts, and of all "together"."""
        parts = {
            "teacher": self.folds * self.teacher.seconds["together"],
            "guided": self.folds * self.seeds * self._student(self.guided),
        }
        if self.unguided is not None:
            parts["unguided"] = self.folds * self.seeds * self._student(self.unguided)
        parts["report and export"] = self.after
        return {**parts, "together": sum(parts.values())}

    def _student(self, found: DryRun) -> float:
        return found.seconds["together"] * self.steps / max(1, found.steps)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        parts = {"teacher": self.teacher, "guided": self.guided, "unguided": self.unguided}
        return {
            "plan": self.plan.as_dict(),
            "resumes": self.resumes,
            "steps": {"teacher": self.teacher.steps, "student": self.steps},
            "seconds": self.seconds,
            "promised": self.promised,
            **{name: found.as_dict() if found is not None else None for name, found in parts.items()},
        }


def estimate_fit(request: Request, *, planned: Callable[[Plan], None] = lambda _: None) -> FitEstimate:
    """Plan a fit, and time a few steps of each of its trainings on generated images.

    Args:
        request: the arguments.
        planned: called with the plan before the steps are timed.

    Raises:
        LgkdError: an error that would end the fit before it starts.
    """
    state = find_state(request.folder, request.as_dict())
    trained = state is not None and (request.folder / TEACHER).exists()
    facts = state.facts if state is not None and trained else gather_facts(request)
    plan = make_plan(facts, request.wishes)
    planned(plan)
    seconds, folder, fold = request.seconds, request.folder, request.folds[0]
    own = request.teacher_options(plan, fold)
    # Folders that no training uses, since those of a fit that has begun would be compared with the estimate.
    own["out"] = folder / f"{TEACHER}-estimate"
    if seconds is not None:
        own["time"] = TEACHER_SHARE * seconds / len(request.folds)
    teacher = estimate_training(
        resolve("teacher", plan.teacher, request.dataset, own, store=folder / TEACHERS / "estimate" / TEACHER)
    )
    after = reserve(
        seconds or 3600.0, facts.test, runs=1 + request.baseline, seconds_an_image=teacher.cost.seconds_an_image
    )
    channels = teacher.recipe.view.channels
    guide = untrained_teacher(plan.teacher, facts.classes, teacher.image_size, channels)
    kinds = ((guide,), ()) if request.baseline else ((guide,),)
    each = None
    if seconds is not None:
        each = max(3.0, ((1 - TEACHER_SHARE) * seconds - after) / request.trainings / len(kinds))
    found = []
    for teachers in kinds:
        options = request.student_training(plan, each, fold)
        options["out"] = folder / STUDENTS / "estimate"
        found.append(
            estimate_training(
                resolve(
                    "student", plan.student, request.dataset, options, model_options=plan.student_options,
                    teachers=teachers,
                )
            )
        )  # fmt: skip
    steps = found[0].steps if seconds is None else harmonic_steps([one.steps for one in found])
    return FitEstimate(
        facts=facts,
        plan=plan,
        resumes=state is not None,
        teacher=teacher,
        guided=found[0],
        unguided=found[1] if request.baseline else None,
        steps=steps,
        seeds=len(request.seeds),
        folds=len(request.folds),
        after=after,
        promised=seconds,
    )
