"""`--dry-run`: what a training would do, on the screen."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from lgkd._internal.text import counted
from lgkd.cli.display import console, duration, line_of, say, show_json, show_pairs, show_table
from lgkd.runs.compare.layout import member
from lgkd.runs.folder import is_finished

if TYPE_CHECKING:
    from lgkd.config import Recipe
    from lgkd.runner.dry_run import Foresight
    from lgkd.runner.dry_run.existing_runs import Member
    from lgkd.runner.options import Options

REFUSED = 2
"""With which a training ends that something is in the way of."""


def foretell(
    role: str,
    model: str,
    dataset: str,
    options: "Options",
    *,
    as_json: bool,
    seeds: Sequence[int] | None = None,
    baselines: bool = False,
    processes: int | None = None,
    **more: Any,
) -> None:
    """Find out and show; `seeds`, `baselines` and `processes` are said, and one run in one process is measured.

    Raises:
        typer.Exit: with the training's code, where something would keep it from starting.
    """
    from lgkd.runner.dry_run import foresee

    runs = Runs()
    if seeds is not None:
        members = _members(model, dataset, options, seeds, baselines=baselines, **more)
        options = {**options, "seed": members[0].seed, "out": members[0].folder}
        more["series"] = members
        runs = Runs.of(members)
    if not as_json:
        say("timing a few steps; nothing is written")
    found = foresee(role, model, dataset, options, **more)  # type: ignore[arg-type]
    if as_json:
        show_json({**found.as_dict(), **runs.as_dict(found), "processes": processes or 1})
    else:
        _show(found, runs, processes or 1)
    if found.problems:
        raise typer.Exit(REFUSED)


@dataclass(frozen=True)
class Runs:
    """How many runs there are of each kind, and how many are done."""

    guided: int = 0
    unguided: int = 0
    finished: int = 0

    @classmethod
    def of(cls, members: Sequence["Member"]) -> "Runs":
        """Those of a series."""
        guided = sum(one.guided for one in members)
        return cls(guided, len(members) - guided, sum(is_finished(one.folder) for one in members))

    @property
    def number(self) -> int:
        """Of all runs; one that is no series has no kinds."""
        return self.guided + self.unguided or 1

    def seconds_at_most(self, found: "Foresight") -> float:
        """Of all that are left; an unguided one takes less time than the guided one that was timed."""
        return (self.number - self.finished) * found.seconds["together"]

    def as_dict(self, found: "Foresight") -> dict[str, Any]:
        """For JSON."""
        kinds = {"guided_runs": self.guided, "unguided_runs": self.unguided, "finished_runs": self.finished}
        series = {**kinds, "seconds_of_all_at_most": self.seconds_at_most(found)} if self.number > 1 else {}
        return {"runs": self.number, **series}

    def in_words(self, found: "Foresight") -> str:
        """Kinds, and the time of all."""
        kinds = [
            f"{number} {kind}" for number, kind in ((self.guided, "guided"), (self.unguided, "unguided")) if number
        ]
        done = f" ({self.finished} finished, to be kept)" if self.finished else ""
        bound = "at most" if self.guided and self.unguided else "about"
        return (
            f"{', '.join(kinds)}{done}; {bound} {duration(self.seconds_at_most(found))} together. The figures are of "
            f"one{' guided run' if self.guided else ''}"
        )


def _members(
    model: str,
    dataset: str,
    options: "Options",
    seeds: Sequence[int],
    *,
    baselines: bool,
    teachers: Sequence[str] = (),
    taps: Sequence[str] | None = None,
    model_options: Mapping[str, Any] | None = None,
) -> "list[Member]":
    """The runs of a series, in its folder; first the one that is measured."""
    from lgkd.runner.dry_run.existing_runs import Member
    from lgkd.runner.sweep import Repeated, series_folder

    named = tuple(taps) if taps is not None else None
    wanted = Repeated(model, dataset, tuple(teachers), named, model_options, options, baselines)
    folder = series_folder(wanted)
    kinds = [True] * bool(teachers) + [False] * (baselines or not teachers)
    return [Member(member(folder, seed, guided=guided), seed, guided) for guided in kinds for seed in seeds]


def _show(found: "Foresight", runs: Runs, processes: int) -> None:
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
            "images": f"{sum(found.counts.train):,} ({each} a class, {len(images.classes)} classes){more}, "
            f"{images.test:,} to test",
            "from": f"{images.where}; stored at {images.side[0]} x {images.side[1]}, seen at {height} x {width} px",
            "recipe": _recipe(found.recipe),
            **{f"term {name}": line for name, line in _terms(found.recipe)},
            "parameters": " + ".join(f"{number:,} ({what})" for what, number in found.parameters.items()),
            "steps": f"{counted(plan.epochs, 'epoch')} x {plan.steps_per_epoch:,} = {found.steps:,}, "
            f"{counted(found.evaluations, 'evaluation')}",
            "on": f"{plan.device}, {plan.precision}{', compiled' if plan.compile else ''}",
            "time": f"about {duration(seconds['together'])} ({duration(seconds['training'])} training, "
            f"{duration(seconds['evaluation'])} evaluation)",
            "": f"by {cost.seconds_a_step:.3g} s a step: {timed}, on made images",
            "memory": f"{cost.peak_bytes / 2**20:,.0f} MiB ({cost.memory}, while these steps ran)",
            "disk": f"{found.disk_bytes['folder'] / 2**20:,.0f} MiB for the run, "
            f"{found.disk_bytes['decoded'] / 2**20:,.0f} MiB for decoded images",
            "into": f"{found.folder}{' (goes on with the run there)' if found.goes_on else ''}",
            **({"runs": runs.in_words(found)} if runs.number > 1 else {}),
            **({"processes": f"{processes}; the figures are of one alone"} if processes > 1 else {}),
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


def _recipe(recipe: "Recipe") -> str:
    optimizer, schedule = recipe.optimizer, recipe.schedule
    words = [
        f"{optimizer.name}, lr {optimizer.lr:g}, weight decay {optimizer.weight_decay:g}",
        f"batches of {recipe.batch_size:,}" + (f" in {recipe.accumulate} pieces" if recipe.accumulate > 1 else ""),
        f"warm-up {counted(schedule.warmup_epochs, 'epoch')}",
    ]
    words += [f"mixup {recipe.mix.mixup:g}"] if recipe.mix.mixup else []
    words += [f"cutmix {recipe.mix.cutmix:g}"] if recipe.mix.cutmix else []
    words += [f"EMA {recipe.ema.decay:g}"] if recipe.ema is not None else []
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
