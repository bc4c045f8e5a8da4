"""Fit a folder of images: plan, teacher, students, report and export, by the functions behind the other commands."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from lgkd._internal.hardware import process_start
from lgkd._internal.metric_rules import headline
from lgkd._internal.text import counted
from lgkd.analysis.report.report import report_on
from lgkd.autofit.command import fit_command
from lgkd.autofit.facts import check_images, gather_facts
from lgkd.autofit.folder import EXPORT, REPORT, STUDENTS, TEACHER, TEACHERS, State, find_state, part_of
from lgkd.autofit.outcome import Fitted, read_results, student_runs
from lgkd.autofit.plan import TEACHER_SHARE, Plan, in_words, make_plan, reserve
from lgkd.autofit.request import Request
from lgkd.config import Recipe
from lgkd.config.length_rules import reached
from lgkd.config.values import size_text
from lgkd.data.names import Subset, dataset_key
from lgkd.deploy.export import export_run
from lgkd.deploy.options import choose_formats
from lgkd.errors import InputError, LgkdError, Paused, ShortTimeError
from lgkd.models.teacher import Teacher
from lgkd.models.teacher_store import put_back, read_card
from lgkd.models.trust import trust
from lgkd.runner.build import load_kept_teacher
from lgkd.runner.find_teacher import teacher_name
from lgkd.runner.fit_time import fit_time, length_of_run, with_length
from lgkd.runner.options import Options
from lgkd.runner.resolve import ResolvedConfig, resolve
from lgkd.runner.runner import Runner
from lgkd.runner.sweep import Series, SweepSpec, Watch, no_callbacks, said_once, train_all, write_comparison
from lgkd.runner.time_budget import LEAST_STEPS
from lgkd.runs.compare.layout import Kind
from lgkd.runs.folder import is_finished, make_folder, read_metrics, read_run
from lgkd.runs.identity import lock_run

_FORMATS = ("safetensors", "onnx")
_LEAST_SHARE = 0.25
"""Share of the time that the teacher has at least, however long the images take to decode."""


def fit(
    dataset: str | Path,
    *,
    student: str | None = None,
    teacher: str | None = None,
    student_options: Mapping[str, Any] | None = None,
    teacher_recipe: str | Path | Recipe = "teacher-fast",
    teacher_image_size: int | tuple[int, int] | None = None,
    teacher_overrides: Sequence[str] = (),
    baseline: bool = False,
    seeds: Sequence[int] | None = None,
    flip: bool = True,
    watch: Watch | None = None,
    **options: Unpack[Options],
) -> Fitted:
    """Fit a folder of images within a time: choose the settings, train, report and export into one folder.

    A small CNN is trained, then a Vision Transformer that it guides. docs/choosing.md has the rules that choose image
    size, models, batch size and the rest; each is overridden by its argument. Repeat a stopped call to resume it.

    Args:
        dataset: a name or a folder of images.
        student, teacher: architectures, as `lgkd students` and `lgkd teachers` list them.
        student_options: passed to the student's constructor.
        teacher_recipe, teacher_image_size, teacher_overrides: of the teacher; `recipe`, `image_size` and `overrides`
            are those of the student.
        baseline: also train the student unguided, for the same steps, to measure the gain.
        seeds: of the students; `seed` alone if not given. The teacher has the first one.
        flip: mirror training images left to right; False where left and right mean something.
        watch: given the title of a training, a context manager with its callbacks as options.
        options: as for `distill`. `time`, "1h" if neither it nor `epochs` is given, is that of everything; `epochs` and
            `batch_size` are those of every training; `out` is the folder.

    Returns:
        The folder and the results.

    Raises:
        TakenError: the folder holds something else, or a fit of other arguments.
        Paused, Interrupted: repeat the call to resume.
    """
    chosen: Options = {**options}
    seed = chosen.pop("seed", 0)
    trust(*(name for name in (student, teacher) if name is not None))
    request = Request(
        dataset, chosen, student, teacher, dict(student_options or {}), teacher_recipe, teacher_image_size,
        tuple(teacher_overrides), baseline, tuple(seeds) if seeds is not None else (seed,), flip,
    )  # fmt: skip
    return run_request(request, watch=watch)


def run_request(request: Request, *, watch: Watch | None = None, since_start: bool = False) -> Fitted:
    """Run a checked request, or the rest of it; see `fit`.

    Args:
        request: the arguments.
        watch: makes the callbacks of a training.
        since_start: count the time from the start of the process, as a command does.
    """
    began = process_start() if since_start else time.monotonic()
    find_state(request.folder, request.as_dict())
    # Until the training begins, images may be added and removed.
    facts = gather_facts(request) if not (request.folder / TEACHER).exists() else None
    folder = make_folder(request.folder)
    with lock_run(folder):
        # Checked again once it is locked: another process may have started there meanwhile.
        state = find_state(folder, request.as_dict())
        if state is None or facts is not None:
            facts = facts or gather_facts(request)
            before = 0.0 if state is None else state.seconds
            state = State.begin(folder, request.as_dict(), facts, make_plan(facts, request.wishes), before)
        elif state.results is not None and not state.left_out:
            return Fitted.of(state, request)
        return _Fit(request, state, make_plan(state.facts, request.wishes), watch, began).run()


class _Fit:
    """Run what is unfinished of a fit whose folder is locked.

    Args:
        request: the arguments.
        state: of the folder; its seconds are those of earlier processes.
        plan: made of the state's facts.
        watch: makes the callbacks of a training.
        began: `time.monotonic()` from which the time counts.
    """

    def __init__(self, request: Request, state: State, plan: Plan, watch: Watch | None, began: float) -> None:
        self.request, self.state, self.plan = request, state, plan
        self.began, self.before = began, state.seconds
        self.said = set[str]()
        self.watch = self._once(watch or no_callbacks)
        self.say: Callable[[str], None] = request.options.get("say") or (lambda _: None)
        self.subset = Subset.from_options(request.options)

    def run(self) -> Fitted:
        """Train the teacher and the students, write report and export, and read the results."""
        state, request = self.state, self.request
        for line in self.plan.lines:
            self.say(line)
        try:
            if not is_finished(part_of(state.folder / TEACHER, request.folds[0])):
                for remark in check_images(request):
                    self.said.add(remark)
                    self.say(remark)
            for fold in request.folds:
                if not is_finished(part_of(state.folder / TEACHER, fold)):
                    self._train_teacher(fold)
            for fold in request.folds:
                self._train_students(fold)
            if request.folds != (None,):
                write_comparison(Series(state.folder / STUDENTS, (*self._runs("guided"), *self._runs("unguided"))))
            self._try("report", self._write_report)
            self._try("export", self._export)
        finally:
            state.seconds = self.spent
            state.write()
        state.results = read_results(state, request)
        state.write()
        return Fitted.of(state, request)

    def _once(self, watch: Watch) -> Watch:
        """Leave out messages that an earlier training or the check has said, such as remarks on the images."""

        @contextmanager
        def look(title: str) -> Iterator[Options]:
            with watch(title) as callbacks:
                yield said_once(callbacks, self.said)

        return look

    @property
    def spent(self) -> float:
        """Return the seconds of this process and of those before it."""
        return self.before + time.monotonic() - self.began

    def _teacher_place(self, fold: int | None) -> Path:
        """Return the folder of the trained teacher, with its card."""
        subset = self.subset if fold is None else replace(self.subset, fold=fold)
        name = teacher_name(self.plan.teacher, subset.text)
        return self.state.folder / TEACHERS / dataset_key(self.request.dataset) / name

    def _runs(self, kind: Kind) -> list[Path]:
        """List the students' runs of a kind."""
        return student_runs(self.state.folder, self.request, kind)

    def _train_teacher(self, fold: int | None) -> None:
        """Train the teacher, or that of a fold, for its share of the time; all folds' teachers have the same steps."""
        request, plan = self.request, self.plan
        with self.watch(f"teacher {plan.teacher}{'' if fold is None else f' fold {fold}'}") as callbacks:
            runs = {one: part_of(self.state.folder / TEACHER, one) for one in request.folds}
            own: Options = {**request.teacher_options(plan, fold), "out": runs[fold], **callbacks}
            passed, folds = time.monotonic() - self.began, len(runs)
            if request.seconds is not None:
                # Large photographs take long to decode; the teacher still has a quarter of the time.
                share = max(TEACHER_SHARE * request.seconds - passed, _LEAST_SHARE * request.seconds)
                own["time"] = passed + share / folds
            config = resolve("teacher", plan.teacher, request.dataset, own, store=self._teacher_place(fold))
            begun = (length_of_run(config, run) for run in runs.values() if request.seconds is not None)
            try:
                config = next(filter(None, begun), None) or fit_time(config, began=self.began)
            except ShortTimeError as error:
                least = (passed + folds * max(0.0, error.least - passed)) / TEACHER_SHARE
                wanted = f"{LEAST_STEPS} steps" + ("" if folds == 1 else f" for each of {folds} folds")
                raise ShortTimeError(
                    f"the time of {in_words(request.seconds or 0)} is too short for {plan.teacher} at "
                    f"{size_text(plan.teacher_image_size)} px, which has {TEACHER_SHARE:.0%} of it, expected enough "
                    f"for {wanted}; give --time {in_words(least + 1)} or more, or a smaller --image-size",
                    least=least,
                ) from None
            Runner(config, began=self.began).run(keep=True)

    def _load_teacher(self, fold: int | None) -> Teacher:
        place = self._teacher_place(fold)
        put_back(place)
        if not place.is_dir():
            run = part_of(self.state.folder / TEACHER, fold)
            raise InputError(
                f"{run} is finished, but its teacher is not at {place}; remove {run}, and it is trained again"
            )
        return load_kept_teacher(read_card(place), place)

    def _train_students(self, fold: int | None) -> None:
        request, folder = self.request, self.state.folder / STUDENTS
        kinds: tuple[Kind, ...] = ("guided", "unguided")
        runs = [run for kind in kinds for run in student_runs(self.state.folder, request, kind, fold)]
        if fold is not None and all(map(is_finished, runs)):
            return
        teacher = self._load_teacher(fold)
        config = self._student_config((teacher,), fold)
        if request.seconds is not None:
            if self.state.length is None:
                self.state.length = self._choose_length(teacher, fold)
                self.state.write()
            length = self.state.length
            fitted = {"seconds": length["seconds"], "timed": "own"}
            epochs = length["steps"] * self.plan.batch_size / max(1, self.state.facts.train)
            rules = reached(config.recipe, epochs) if fold is not None else None
            config = with_length(config, int(length["steps"]), length["warmup_epochs"], fitted, rules=rules)
        limit = request.options.get("max_time")
        if limit is not None:
            left = limit - (time.monotonic() - self.began)
            if left <= 0:
                raise Paused(f"paused after {limit:g} seconds; run the same command again to resume")
            config = config.with_options(max_time=left, out=folder)
        spec = SweepSpec(
            config,
            request.seeds,
            request.baseline,
            baseline_overrides=request.baseline_overrides,
            names_fold=fold is not None,
        )
        train_all(spec, watch=self.watch)

    def _student_config(
        self, teachers: tuple[Teacher, ...], fold: int | None, seconds: float | None = None
    ) -> ResolvedConfig:
        """Resolve the students' trainings; with `seconds` one training of that time, for its number of steps."""
        timed = seconds is not None
        own: Options = self.request.student_training(self.plan, seconds, fold)
        own["out"] = self.state.folder / STUDENTS / ("timed" if timed else "")
        return resolve(
            "student", self.plan.student, self.request.dataset, own,
            model_options=self.plan.student_options, teachers=teachers, several=not timed,
        )  # fmt: skip

    def _choose_length(self, teacher: Teacher, fold: int | None) -> dict[str, float]:
        """Choose the steps of every student by timing a few, so that all trainings end in the time that is left."""
        each = self._seconds_left() / self.request.trainings
        share = each / 2 if self.request.baseline else each
        found = []
        for teachers in ((teacher,), ())[: 1 + self.request.baseline]:
            try:
                timed = fit_time(self._student_config(teachers, fold, max(share, 1.0)), began=time.monotonic())
                found.append((timed.recipe.schedule.steps or LEAST_STEPS, timed.recipe.schedule.warmup_epochs))
            except ShortTimeError as error:
                self.say(
                    f"the time that is left is enough for fewer than {LEAST_STEPS} steps of the student; it takes "
                    f"{LEAST_STEPS}, and the fit longer than {in_words(self.request.seconds or 0)}"
                )
                recipe = self._student_config((teacher,), fold).recipe
                share_of_warm_up = recipe.schedule.warmup_epochs / (recipe.schedule.epochs or 1)
                epochs = LEAST_STEPS * self.plan.batch_size / max(self.state.facts.train, 1)
                return {
                    "steps": LEAST_STEPS,
                    "warmup_epochs": round(share_of_warm_up * epochs, 4),
                    "seconds": round(error.least, 1),
                }
        steps = harmonic_steps([number for number, _ in found])
        first, warm_up = found[0]
        self.say(f"{counted(steps, 'step')} of each student are chosen for the {in_words(self._seconds_left())} left")
        return {
            "steps": steps,
            "warmup_epochs": round(warm_up * steps / first, 4),
            "seconds": round(each / len(found), 1),
        }

    def _seconds_left(self) -> float:
        """Return the seconds for all students, without those for report and export."""
        seconds = self.request.seconds or 0.0
        runs = [part_of(self.state.folder / TEACHER, fold) for fold in self.request.folds]
        found, images = [read_run(run)["results"] for run in runs], self.state.facts.test
        results = found[0]
        evaluations = sum(f"test_{headline(results).key}" in row for row in read_metrics(runs[0]))
        an_image = results["evaluation_seconds"] / max(1, evaluations * images)
        after = reserve(seconds, images, runs=1 + self.request.baseline, seconds_an_image=an_image)
        # Where a killed process has not stored its time, at least the teacher's training has passed.
        trained = sum(one["training_seconds"] + one["evaluation_seconds"] for one in found)
        passed = max(self.spent, trained)
        return float(max(0.0, seconds - passed - after))

    def _write_report(self) -> None:
        options, request = self.request.options, self.request
        report_on(
            self._runs("guided"),
            self._runs("unguided"),
            out=self.state.folder / REPORT,
            data_dir=options.get("data_dir"),
            device=options.get("device"),
            say=self.say,
            again=fit_command(request, "again"),
        )

    def _export(self) -> None:
        folder = self.state.folder / EXPORT
        if folder.is_dir() and any(folder.iterdir()):
            return
        formats = [name for name in choose_formats(None, self.say) if name in _FORMATS]
        export_run(
            self._runs("guided")[0],
            folder,
            wanted=formats,
            images=None,
            data_dir=self.request.options.get("data_dir"),
            model=None,
            say=self.say,
            progress=None,
        )

    def _try(self, name: str, write: Callable[[], None]) -> None:
        """Write a part of the folder; a failure is only reported, as the trainings have succeeded."""
        self.state.left_out.pop(name, None)
        try:
            write()
        except LgkdError as error:
            self.say(f"no {name} was written: {error}")
            self.state.left_out[name] = str(error)


def harmonic_steps(alone: Sequence[int]) -> int:
    """Return the steps of each of several trainings in the sum of their times.

    Args:
        alone: for each, the steps that fit in its equal share of the time.
    """
    return max(LEAST_STEPS, int(len(alone) / sum(1 / steps for steps in alone)))
