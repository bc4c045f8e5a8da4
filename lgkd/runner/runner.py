"""One training from choices to a finished folder: what `train_teacher`, `train` and `distill` share."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lgkd import __version__
from lgkd._internal.distributed import join, wait
from lgkd._internal.text import did_you_mean
from lgkd.config import Recipe
from lgkd.data.catalogue import CATALOGUE
from lgkd.data.checks.report import quick_check
from lgkd.data.dataset import DataSet
from lgkd.data.greys import BEFORE, Greys
from lgkd.data.prepare import Data, make_feed, prepare_data
from lgkd.distillation.guide import Guide
from lgkd.distillation.teacher_cache.serving import Served, serve
from lgkd.errors import InputError, TapError
from lgkd.models.default_taps import default_taps
from lgkd.models.factory import check_model, check_training, default_image_size, pair
from lgkd.models.patch_size import unseen_pixels
from lgkd.models.registry import canonical, find
from lgkd.models.teacher import Teacher
from lgkd.runner.build import (
    check_precision,
    check_teacher_classes,
    is_convolutional,
    load_trained_teacher,
    make_guides,
    make_plan,
    make_student,
)
from lgkd.runner.execute import Ready, carry_out, finished_run
from lgkd.runner.options import OPTIONS, Options, saved_options
from lgkd.runner.record import about_pairs, about_teacher
from lgkd.runner.resolve import Settled, free_place, recipe_name, run_folder, settle
from lgkd.runner.run import Run
from lgkd.runner.teacher_store import poor_teacher
from lgkd.runs.folder import check_free, claim, is_finished, make_folder, now, read_run
from lgkd.runs.identity import check_same, go_on, hold
from lgkd.training.config import Plan
from lgkd.training.determinism import exactly, remark
from lgkd.training.precision import choose_device


class Job:
    """One training: choices first, all checks second, and only then a folder and the loop.

    Args:
        role: what is trained.
        model: its name, or a module.
        model_options: reach the constructor.
        dataset: a name, a folder, or a loaded `DataSet`.
        options: see `Options`.
        began: `time.monotonic()` from which `max_time` counts; now if not given.
    """

    def __init__(
        self,
        role: Literal["teacher", "student"],
        model: str | nn.Module,
        model_options: Mapping[str, Any] | None,
        dataset: str | Path | DataSet,
        options: Options,
        *,
        began: float | None = None,
    ) -> None:
        unknown = sorted(options.keys() - OPTIONS.keys())
        if unknown:
            raise InputError(f"there is no option {unknown[0]!r}; {did_you_mean(unknown[0], OPTIONS)}")
        self.role = role
        self.model = model
        self.model_options = dict(model_options or {})
        self.dataset = dataset
        self.options = options
        self.began = time.monotonic() if began is None else began
        self.seed = options.get("seed") or 0
        self.process, self.device = join(choose_device(options.get("device")))
        # One process speaks and writes for all.
        self.first = self.process.rank == 0
        self.watchers = tuple(options.get("watchers") or ()) if self.first else ()
        self.say = (options.get("say") if self.first else None) or (lambda _: None)

    def choose(self, teachers: Sequence[str | Teacher] = (), *, replace: bool = False) -> tuple[Settled, list[Teacher]]:
        """What names and files can tell, and the teachers."""
        options = self.options
        _check_plain(self.model_options, f"{self.role} options", scalars=self.role == "teacher")
        settled = settle(
            self.role,
            self.model if isinstance(self.model, str) else None,
            None if isinstance(self.dataset, DataSet) else self.dataset,
            options,
            teachers=[teacher for teacher in teachers if isinstance(teacher, str)],
            guided=bool(teachers),
            replace=replace,
        )
        check_precision(settled.recipe, self.device)
        return settled, [self._find_teacher(teacher, settled.subset) for teacher in teachers]

    def read(self, recipe: Recipe, teachers: Sequence[Teacher] = (), *, greys: Greys | None = None) -> Data:
        """The images, found to be of the teachers' classes; `greys` as for `prepare_data`."""
        options = self.options
        if not self.first:
            wait()  # until the first has read the images: the others find them decoded
        data = prepare_data(
            self.dataset,
            normalize=recipe.view.normalize,
            data_dir=options.get("data_dir"),
            fraction=options.get("fraction"),
            images_per_class=options.get("images_per_class"),
            subset_seed=options.get("subset_seed") or 0,
            val_fraction=options.get("val_fraction"),
            leave_out_near_copies=bool(options.get("leave_out_near_copies")),
            extra=options.get("extra"),
            extra_share=options.get("extra_share"),
            offline=bool(options.get("offline")),
            progress=options.get("progress") if self.first else None,
            downloading=options.get("downloading") if self.first else None,
            look=lambda dataset: quick_check(dataset, say=self.say),
            greys=greys,
        )
        if self.first:
            wait()
        exactness = remark(self.device, deterministic=bool(options.get("deterministic")))
        for note in [*data.notes, exactness] if exactness else data.notes:
            self.say(note)
        for teacher in teachers:
            check_teacher_classes(teacher, data)
            self._tell_of(teacher, data)
        return data

    def run(
        self,
        *,
        teachers: Sequence[str | Teacher] = (),
        taps: Sequence[str] | None = None,
        replace: bool = False,
        keep: bool = False,
        store: Path | None = None,
    ) -> Run:
        """Train, and leave a finished folder (for a teacher: an entry in the store, too).

        With `keep` a finished run of the very same training that lies there is what is returned. With `store`, a folder
        DATASET/NAME, a teacher is kept there, whatever lies there, and the user's store is neither asked nor changed.
        """
        options = self.options
        elsewhere = store is not None
        replace = replace or elsewhere
        settled, found = self.choose(teachers, replace=replace)
        recipe = settled.recipe
        if self.role == "teacher" and store is None:
            store = self._place(settled, replace)
        folder = self.folder(settled, found)
        kept = keep and is_finished(folder)
        fresh = not kept and check_free(folder)
        data = self.read(recipe, found, greys=None if fresh else greys_of_run(folder))
        student, size = self.make_model(recipe, data)
        if (unseen := unseen_pixels(student, size)) is not None:
            self.say(unseen)
        if store is not None:
            _check_tapped(student)
        guides = make_guides(student, found, recipe, data, image_size=size, taps=taps, seed=self.seed)
        if is_convolutional(student):
            student.to(memory_format=torch.channels_last)
        served = self._serve(guides, recipe, data, size)
        if served is not None:
            recipe = served.recipe
        feed = make_feed(
            recipe,
            data,
            image_size=size,
            seed=self.seed,
            device=self.device,
            rank=self.process.rank,
            processes=self.process.count,
            teacher_sizes=[guide.teacher.image_size for guide in guides],
        )
        plan = make_plan(
            recipe,
            steps_per_epoch=feed.steps_per_epoch,
            seed=self.seed,
            device=self.device,
            channels_last=is_convolutional(student),
            compiled=options.get("compile"),
            cuda_graphs=bool(options.get("cuda_graphs")),
        )
        info = self.info(data, student, guides, size, plan)
        # `lgkd resume` would keep the teacher in the user's store.
        info["call"] = None if elsewhere else self._call(teachers, taps, replace)
        if kept:
            for guide in guides:
                guide.remove()
            info["cached"] = served.about() if served is not None else None
            return finished_run(folder, check_same(folder, info, recipe, say=self.say), student)
        lookup = None
        if served is not None:
            lookup, errors = served.begin(feed, self.device, say=self.say)
            info |= {"cached": served.about(), "cached_errors": errors}
            if info["call"] is not None:
                cached = {"cached": served.folders, "approximate": served.approximate}
                info["call"]["options"] = saved_options({**options, **cached})
        if store is not None and self.first:
            make_folder(store.parent)
        try:
            with (
                hold(make_folder(folder) if fresh else folder) if self.first else nullcontext(),
                exactly(self.device, deterministic=info["deterministic"]),
            ):
                if fresh and self.first:
                    claim(folder)  # once it is held: another may have begun there since it was found free
                if not fresh and self.first:
                    info = go_on(folder, info, recipe, force=bool(options.get("force")), say=self.say)
                wait()  # the first may have found the folder taken
                return carry_out(
                    Ready(
                        folder=folder,
                        info=info,
                        recipe=recipe,
                        data=data,
                        student=student,
                        guides=tuple(guides),
                        feed=feed,
                        lookup=lookup,
                        plan=plan,
                        image_size=size,
                        name=self.model if isinstance(self.model, str) else None,
                        model_options=self.model_options,
                        process=self.process,
                        began=self.began,
                        max_time=options.get("max_time"),
                        watchers=self.watchers,
                        say=self.say,
                        store=store,
                        replace=replace,
                        force=bool(options.get("force")),
                        track=tuple(options.get("track") or ()) if self.first else (),
                    )
                )
        finally:
            for guide in guides:
                guide.remove()

    def _serve(self, guides: Sequence[Guide], recipe: Recipe, data: Data, size: tuple[int, int]) -> Served | None:
        """The caches that the training reads instead of running its teachers; None where none were asked for."""
        where = self.options.get("cached")
        if where is None:
            return None
        return serve(
            where,
            guides,
            recipe,
            data,
            image_size=size,
            seed=self.seed,
            processes=self.process.count,
            approximate=bool(self.options.get("approximate")),
        )

    def _call(
        self, teachers: Sequence[str | Teacher], taps: Sequence[str] | None, replace: bool
    ) -> dict[str, Any] | None:
        """What `resume` has to ask for again; None for what was made in Python and has no name."""
        by_name = isinstance(self.model, str) and not isinstance(self.dataset, DataSet)
        if not by_name or not all(isinstance(teacher, str) for teacher in teachers):
            return None
        return {
            "model_options": self.model_options,
            "teachers": list(teachers),
            "taps": list(taps) if taps is not None else None,
            "replace": replace,
            "options": saved_options(self.options),
        }

    def _find_teacher(self, teacher: str | Teacher, words: str | None) -> Teacher:
        if isinstance(teacher, Teacher):
            name = f"the teacher {type(teacher.model).__name__}"
            check_model(teacher.model, name, num_classes=None, image_size=teacher.image_size)
            return teacher
        if not isinstance(teacher, str):
            raise InputError(
                f"the teacher is a {type(teacher).__name__}, expected the name of a trained one or an lgkd.Teacher "
                "(lgkd.Teacher(module, image_size=...) makes one of a module)"
            )
        source = self.dataset.name if isinstance(self.dataset, DataSet) else self.dataset
        return load_trained_teacher(teacher, source, subset=words)

    def _tell_of(self, teacher: Teacher, data: Data) -> None:
        card = teacher.card
        if card is None:
            return
        self.say(
            f"teacher {card.name}: {card.accuracy.top1:.1%} top-1 on {card.dataset} {card.accuracy.split}, "
            f"trained on {card.images:,} images"
        )
        if (poor := poor_teacher(card, data.test.largest_class)) is not None:
            self.say(poor)
        if card.subset != data.subset:
            self.say(
                f"the teacher saw {card.subset or 'all training images'}, the student sees "
                f"{data.subset or 'all of them'}: its guidance carries over from images that the student does not have"
            )
        elif card.fingerprint != data.fingerprint:
            self.say(
                f"the teacher was trained on other images than those of {data.source}, or on these in another order "
                "(an image tree and the publisher's archive differ so); the classes are the same"
            )

    def _place(self, settled: Settled, replace: bool) -> Path:
        """Where the new teacher will be kept."""
        if not isinstance(self.model, str):
            raise InputError("a teacher is kept by name; give a name or package.module:factory, not a module")
        if settled.store is not None:
            return settled.store
        assert isinstance(self.dataset, DataSet)
        return free_place(self.model, self.dataset.name, settled.subset, replace=replace, run=self.folder(settled, ()))

    def make_model(self, recipe: Recipe, data: Data) -> tuple[nn.Module, tuple[int, int]]:
        """The untrained model and the (height, width) of its images."""
        classes = len(data.classes)
        if isinstance(self.model, str):
            size = recipe.view.image_size or default_image_size(self.model)
            options = self.model_options
            made = make_student(self.model, recipe, classes=classes, seed=self.seed, options=options)
            if find(self.model) is None:
                check_training(made, self.model, image_size=pair(size))
            return made, pair(size)
        if self.model_options:
            raise InputError("options reach a constructor; the student is a module already, so it takes none")
        size = recipe.view.image_size or getattr(self.model, "image_size", None) or 224
        name = type(self.model).__name__
        check_model(self.model, name, num_classes=classes, image_size=pair(size))
        check_training(self.model, name, image_size=pair(size))
        return self.model, pair(size)

    def info(
        self,
        data: Data,
        student: nn.Module,
        guides: Sequence[Guide],
        size: tuple[int, int],
        plan: Plan,
    ) -> dict[str, Any]:
        """run.json of a training that begins."""
        options = self.options
        path = None
        if not isinstance(self.dataset, DataSet) and self.dataset not in CATALOGUE:
            path = str(Path(self.dataset).expanduser().resolve())
        data_dir = options.get("data_dir")
        return {
            "kind": "teacher" if self.role == "teacher" else ("distill" if guides else "train"),
            "status": "running",
            "lgkd": __version__,
            "started": now(),
            "student": {
                "name": canonical(self.model) if isinstance(self.model, str) else type(self.model).__name__,
                "options": self.model_options,
                "image_size": list(size),
                "parameters": sum(parameter.numel() for parameter in student.parameters()),
            },
            "teacher": about_teacher(guides[0].teacher) if guides else None,
            "more_teachers": [about_teacher(guide.teacher) for guide in guides[1:]],
            "cached": None,
            "pairs": [about for guide in guides for about in about_pairs(guide)],
            "dataset": {
                "name": data.key,
                "path": path,
                "data_dir": str(Path(data_dir).resolve()) if data_dir is not None else None,
                "fingerprint": data.fingerprint,
                "classes": len(data.classes),
                "train_images": len(data.train),
                "test_images": len(data.test),
                "val_images": len(data.val) if data.val is not None else None,
                "subset": data.subset,
                "near_copies_left_out": data.left_out,
                "extra": _about_extra(data),
                **data.greys.kept(),
            },
            "recipe": recipe_name(options["recipe"]),
            "overrides": list(options.get("overrides") or ()),
            "seed": self.seed,
            "device": self.device,
            "deterministic": bool(options.get("deterministic")),
            "processes": self.process.count,
            "precision": plan.precision,
            "compiled": plan.compile,
            "accumulate": plan.accumulate,
            "epochs": plan.epochs,
            "steps_per_epoch": plan.steps_per_epoch,
        }

    def folder(self, settled: Settled, teachers: Sequence[Teacher]) -> Path:
        """Where the run goes: `out`, or a folder below runs/ that is named after the choices."""
        if (out := self.options.get("out")) is not None:
            return Path(out)
        names = [teacher.card.name if teacher.card else type(teacher.model).__name__ for teacher in teachers]
        return run_folder(
            self.model if isinstance(self.model, str) else type(self.model).__name__,
            self.dataset.name if isinstance(self.dataset, DataSet) else self.dataset,
            settled.subset,
            "+".join(names) or None,
            self.options["recipe"],
            self.seed,
            self.options.get("extra"),
        )


def greys_of_run(folder: Path) -> Greys | None:
    """How a run that is gone on with reads deep greys: as it began; None where that is chosen by its images."""
    return None if "greys" in read_run(folder)["dataset"] else BEFORE


def _about_extra(data: Data) -> dict[str, Any] | None:
    """The extra images for run.json."""
    extra = data.extra
    if extra is None:
        return None
    return {
        "path": str(extra.folder.resolve()),
        "images": len(extra.images),
        "share": extra.share,
        "fingerprint": extra.fingerprint,
    }


def _check_plain(options: Mapping[str, Any], what: str, *, scalars: bool) -> None:
    """Options are written down so that the model can be built again; refused before hours are spent."""
    try:
        json.dumps(options, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: {error}; expected plain numbers, words, true or false") from None
    odd = [key for key, value in options.items() if not isinstance(value, bool | int | float | str)]
    if scalars and odd:
        raise InputError(f"{what}: {odd[0]} is {options[odd[0]]!r}, expected a number, a word, true or false")


def _check_tapped(model: nn.Module) -> None:
    """A teacher that shows no layers to guide by is refused before it is trained."""
    try:
        default_taps(model)
    except TapError as error:
        raise TapError(f"no teacher: {error}; a model of your own can state them as its attribute lgkd_taps") from None
