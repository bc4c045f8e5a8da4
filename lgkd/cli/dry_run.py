"""Print the result of `--dry-run`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import typer

from lgkd._internal.text import counted
from lgkd.cli.display import after_compiled, console, duration, line_of, say, show_json, show_pairs, show_table
from lgkd.cli.long_training import faster_command, long_training, short_limit
from lgkd.runner.resolve import ResolvedConfig
from lgkd.runs.folder import is_finished

if TYPE_CHECKING:
    from lgkd.config import Recipe
    from lgkd.runner.dry_run import DryRun
    from lgkd.runner.dry_run.untrained_teachers import UntrainedTeacher
    from lgkd.runner.sweep import SweepRun

REFUSED = 2
"""Exit code when a precondition fails."""


def show_dry_run(
    config: ResolvedConfig,
    *,
    as_json: bool,
    seeds: Sequence[int] | None = None,
    with_baseline: bool = False,
    processes: int | None = None,
    arguments: Sequence[str] | None = None,
    teachers: "Teachers | None" = None,
) -> None:
    """Estimate a training and print it; of several runs or processes one is measured.

    Args:
        config: of the training.
        as_json: print JSON.
        seeds, with_baseline: of several runs.
        processes: that would train.
        arguments: as typed, without the program's name.
        teachers: those that are not trained yet; `config` has untrained ones in their place.

    Raises:
        typer.Exit: with the training's code, where a precondition fails.
    """
    from lgkd.runner.dry_run import estimate_training
    from lgkd.runner.dry_run.untrained_teachers import named

    members: list[SweepRun] = []
    if seeds is not None:
        from lgkd.runner.sweep import SweepSpec, config_of

        members = sorted(SweepSpec(config, tuple(seeds), with_baseline).runs, key=lambda one: not one.guided)
        config = config_of(config, members[0])
    runs = Runs.of(members)
    if not as_json:
        say("timing a few steps; nothing is written")
    found = estimate_training(config, runs=members)
    if teachers is not None:
        found = named(found, teachers.names)
    untrained = teachers.untrained if teachers is not None else ()
    remarks = _about_time(config, found, runs, untrained, arguments)
    found = replace(found, cautions=(*found.cautions, *remarks))
    if as_json:
        first = {"teachers_to_train": [one.as_dict() for one in untrained]} if untrained else {}
        show_json({**found.as_dict(), **runs.as_dict(found), "processes": processes or 1, **first})
    else:
        _show(found, runs, processes or 1, untrained)
    if found.problems:
        raise typer.Exit(REFUSED)


@dataclass(frozen=True)
class Teachers:
    """Hold the teachers of a dry run, some of which are not trained yet.

    Attributes:
        names: of all.
        untrained: estimates of the training of each that is not trained.
    """

    names: Sequence[str]
    untrained: Sequence["UntrainedTeacher"]


def _about_time(
    config: ResolvedConfig,
    found: "DryRun",
    runs: "Runs",
    untrained: Sequence["UntrainedTeacher"],
    arguments: Sequence[str] | None,
) -> list[str]:
    """Remark on a training of hours, and on a `--max-time` far below the need."""
    said = [short_limit(config.options.get("max_time"), runs.seconds_at_most(found))]
    if config.options.get("time") is None:
        what = "this training" if runs.number == 1 else "each of these trainings"
        said.append(long_training(found.seconds["together"], faster_command(config, arguments), what=what))
    said += [
        long_training(one.estimate.seconds["together"], None, what=f"the training of the teacher {one.name}")
        for one in untrained
    ]
    return [sentence for sentence in said if sentence is not None]


@dataclass(frozen=True)
class Runs:
    """Count the runs of each kind, and those that are finished."""

    guided: int = 0
    unguided: int = 0
    finished: int = 0

    @classmethod
    def of(cls, members: Sequence["SweepRun"]) -> "Runs":
        """Count the runs of a sweep."""
        guided = sum(one.guided for one in members)
        return cls(guided, len(members) - guided, sum(is_finished(one.folder) for one in members))

    @property
    def number(self) -> int:
        """Return the number of runs; a single run has no kinds."""
        return self.guided + self.unguided or 1

    def seconds_at_most(self, found: "DryRun") -> float:
        """Bound the time of the remaining runs; an unguided one takes less than the timed guided one."""
        return (self.number - self.finished) * found.seconds["together"]

    def as_dict(self, found: "DryRun") -> dict[str, Any]:
        """Return the counts for JSON."""
        kinds = {"guided_runs": self.guided, "unguided_runs": self.unguided, "finished_runs": self.finished}
        series = {**kinds, "seconds_of_all_at_most": self.seconds_at_most(found)} if self.number > 1 else {}
        return {"runs": self.number, **series}

    def in_words(self, found: "DryRun") -> str:
        """Describe the kinds of runs, and the time of all."""
        kinds = [
            f"{number} {kind}" for number, kind in ((self.guided, "guided"), (self.unguided, "unguided")) if number
        ]
        done = f" ({self.finished} finished, to be kept)" if self.finished else ""
        bound = "at most" if self.guided and self.unguided else "about"
        return (
            f"{', '.join(kinds)}{done}; {bound} {duration(self.seconds_at_most(found))} together. The figures are of "
            f"one{' guided run' if self.guided else ''}"
        )


def _show(found: "DryRun", runs: Runs, processes: int, untrained: Sequence["UntrainedTeacher"]) -> None:
    plan, cost, seconds, images = found.plan, found.cost, found.seconds, found.outline
    by = f" guided by {' and '.join(found.teachers)}" if found.teachers else ""
    height, width = found.image_size
    fewest, most = min(found.counts.train), max(found.counts.train)
    each = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
    more = "".join(
        f", {number:,} {what}"
        for number, what in ((found.counts.held_out, "held out"), (found.counts.extra, "extra"))
        if number
    )
    timed = f"median of {counted(cost.steps, 'step')}" if cost.steps else "one step, the first"
    show_pairs(
        {
            "would train": f"{found.model}{by}",
            "images": f"{found.counts.images:,} ({each} a class, {len(images.classes)} classes){more}, "
            f"{images.test:,} to test",
            "from": f"{images.where}; stored at {images.side[0]} x {images.side[1]}, seen at {height} x {width} px",
            "recipe": _recipe(found.recipe),
            **{f"term {name}": line for name, line in _terms(found.recipe)},
            "parameters": " + ".join(f"{number:,} ({what})" for what, number in found.parameters.items()),
            "steps": f"{counted(plan.epochs, 'epoch')} x {plan.steps_per_epoch:,} = {found.steps:,}, "
            f"{counted(found.evaluations, 'evaluation')}",
            "on": f"{plan.device}, {plan.precision}{after_compiled(plan.compile)}",
            "time": f"about {duration(seconds['together'])} ({duration(seconds['training'])} training, "
            f"{duration(seconds['evaluation'])} evaluation)",
            "": f"by {cost.seconds_a_step:.3g} s a step: {timed}, on generated images",
            "memory": f"{cost.peak_bytes / 2**20:,.0f} MiB ({cost.memory}, while these steps ran)",
            "disk": f"{found.disk_bytes['folder'] / 2**20:,.0f} MiB for the run, "
            f"{found.disk_bytes['decoded'] / 2**20:,.0f} MiB for decoded images",
            "into": f"{found.folder}{' (resumes the run there)' if found.goes_on else ''}",
            **({"runs": runs.in_words(found)} if runs.number > 1 else {}),
            **{f"first {one.name}": _first(one) for one in untrained},
            **({"processes": f"{processes}; the figures are of a single one"} if processes > 1 else {}),
        }
    )
    if found.pairs:
        console().print()
        show_table(
            "guided pairs",
            ("student", "map", "teacher", "map", "compared as"),
            (
                (
                    pair["student"],
                    _shape(pair["student_map"]),
                    pair["teacher"],
                    _shape(pair["teacher_map"]),
                    _shape(pair["compared"] or pair["grid"]),
                )
                for pair in found.pairs
            ),
        )
    _sentences("would not start", found.problems, "bold red")
    _sentences("worth knowing", found.cautions, "bold")


def _first(teacher: "UntrainedTeacher") -> str:
    """Describe the training of a teacher that is not trained yet."""
    estimate = teacher.estimate
    return (
        f"the teacher is not trained yet: about {duration(estimate.seconds['together'])} more "
        f"({counted(estimate.plan.epochs, 'epoch')}, {estimate.steps:,} steps), by: {teacher.command}"
    )


def _recipe(recipe: "Recipe") -> str:
    optimizer, schedule = recipe.optimizer, recipe.schedule
    words = [
        f"{optimizer.name}, lr {optimizer.lr:g}, weight decay {optimizer.weight_decay:g}",
        f"batches of {recipe.batch_size:,}" + (f" in {recipe.accumulate} pieces" if recipe.accumulate > 1 else ""),
        f"warm-up {counted(schedule.warmup_epochs, 'epoch')}",
    ]
    words += [f"mixup {recipe.mix.mixup:g}"] if recipe.mix.mixup else []
    words += [f"cutmix {recipe.mix.cutmix:g}"] if recipe.mix.cutmix else []
    stop = recipe.early_stopping
    words += [f"early stopping after {counted(stop.patience, 'evaluation')} without improvement"] if stop else []
    words += [f"EMA {recipe.ema.decay:g}"] if recipe.ema is not None else []
    words += [f"SAM, rho {recipe.sam.rho:g}" + ", adaptive" * recipe.sam.adaptive] if recipe.sam is not None else []
    return ", ".join(words)


def _terms(recipe: "Recipe") -> Iterable[tuple[str, str]]:
    for number, term in enumerate(recipe.guide.terms if recipe.guide is not None else (), start=1):
        plain: Mapping[str, Any] = term.model_dump(mode="json", exclude_defaults=True)
        words = [f"{key} {value}" for key, value in plain.items() if key not in ("kind", "weight")]
        yield str(number), ", ".join([term.kind, f"weight {term.weight:g}", *words])


def _shape(numbers: Iterable[Any]) -> str:
    return " x ".join(map(str, numbers))


def _sentences(title: str, sentences: Sequence[str], style: str) -> None:
    if not sentences:
        return
    console().print()
    console().print(line_of(title, style))
    for sentence in sentences:
        first, *more = sentence.splitlines()
        for line in (f"- {first}", *(f"  {line}" for line in more)):
            console().print(line_of(line))
