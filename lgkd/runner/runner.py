"""Run one training from its resolved configuration to a finished folder, or prepare it for a dry run or a cache."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import nn

from lgkd._internal.distributed import join, wait
from lgkd.data.checks.quick_check import quick_check
from lgkd.data.class_balance import ClassBalance, about_twice_balanced, is_balanced
from lgkd.data.greys import BEFORE, Greys
from lgkd.data.names import parse_side
from lgkd.data.prepare import Data, count_steps, make_class_balance, make_train_loader, prepare_data
from lgkd.data.sources.download import is_offline
from lgkd.data.stored_side import needed_side
from lgkd.distillation.guide import Guide
from lgkd.distillation.teacher_cache.serving import Served, serve
from lgkd.errors import InputError, TapError
from lgkd.models.default_taps import default_taps
from lgkd.models.factory import default_image_size, pair
from lgkd.models.fake_quantize import fake_quantize, restore
from lgkd.models.forward_checks import check_model, check_training
from lgkd.models.memory_format import lay_out
from lgkd.models.patch_size import coarse_patches, unseen_pixels
from lgkd.models.pretrained_teacher import load_pretrained_teacher
from lgkd.models.registry import find
from lgkd.models.teacher import Teacher
from lgkd.runner.build import (
    check_precision,
    check_teacher_classes,
    check_teacher_fold,
    load_kept_teacher,
    make_guides,
    make_plan,
    make_student,
)
from lgkd.runner.execute import execute, finished_run
from lgkd.runner.label_checks import check_labels, check_teacher_labels
from lgkd.runner.length_settings import settle_recipe
from lgkd.runner.match_teachers import describe_teacher, match_teachers
from lgkd.runner.prepared import Prepared, Session
from lgkd.runner.record import describe_call, describe_training
from lgkd.runner.resolve import ResolvedConfig
from lgkd.runner.run import Run
from lgkd.runner.selection import check_selection
from lgkd.runner.start_weights import fit_images, start_from
from lgkd.runner.timm_teacher import TimmTeacher
from lgkd.runs.folder import check_free, claim, is_finished, make_folder, read_run
from lgkd.runs.identity import check_finished_run, check_resumable, lock_run
from lgkd.training import determinism, precision
from lgkd.training.compile_blocks import repeated_blocks
from lgkd.training.determinism import exactly
from lgkd.training.precision import choose_device


class Runner:
    """Train a resolved configuration; everything is checked before anything is written.

    Args:
        config: from `resolve`.
        began: `time.monotonic()` from which `max_time` counts; now if not given.
        dry: nothing is downloaded; teachers whose weights are not here are untrained.

    Raises:
        InputError: there is no such device, or it cannot compute in the recipe's number format.
    """

    def __init__(self, config: ResolvedConfig, *, began: float | None = None, dry: bool = False) -> None:
        self._dry = dry
        self.config, options = config, config.options
        began = time.monotonic() if began is None else began
        process, device = join(choose_device(options.get("device")))
        # One process writes and prints for all.
        first = process.rank == 0
        watchers = tuple(options.get("watchers") or ()) if first else ()
        say = (options.get("say") if first else None) or (lambda _: None)
        self.initial: dict[str, Any] | None = None
        """Record of the initial weights for run.json; None where the training starts from untrained ones."""
        self.session = Session(process, device, began, watchers, say)
        check_precision(config.recipe, device)

    @cached_property
    def teachers(self) -> list[Teacher]:
        """Load the guiding teachers.

        Raises:
            InputError: one is not a teacher, or its files are damaged.
        """
        offline = is_offline(bool(self.config.options.get("offline")))

        def load(teacher: Any) -> Teacher:
            if isinstance(teacher, TimmTeacher):
                return load_pretrained_teacher(teacher.name, teacher.file, offline=offline, stand_in=self._dry)
            return load_kept_teacher(*teacher) if isinstance(teacher, tuple) else _checked(teacher)

        return [load(teacher) for teacher in self.config.teachers]

    def run(self, *, keep: bool = False) -> Run:
        """Train, and write a finished folder (for a teacher: an entry in a store, too).

        The order matters: everything that can be refused is refused before the folder is touched.

        1. The folder: it is free, holds an unfinished run, or with `keep` a finished one.
        2. The images, then the models: `prepare`.
        3. A finished run that is kept is compared with this training, and returned.
        4. Caches are compared with the teachers on the first batches.
        5. The folder is made and locked, and claimed once it is locked.
        6. An unfinished run in it is compared with this training; one with a checkpoint is resumed.
        7. `execute`: a checkpoint is compared with this training and restored; run.json, recipe.yaml and env.json are
           written after that, and the loop starts.

        Args:
            keep: return a finished run of the very same training that is in the folder.

        Raises:
            TakenError: the folder holds something else, or a run that differs.
        """
        config, session = self.config, self.session
        options, folder = config.options, config.folder
        kept = keep and is_finished(folder)
        fresh = not kept and check_free(folder)
        # Caches and guides multiply, too: the settings of cuBLAS are read at the first product of a process.
        with exactly(session.device, deterministic=bool(options.get("deterministic"))):
            prepared = self.prepare(greys=None if fresh else greys_of_run(folder))
            try:
                if kept:
                    info = check_finished_run(folder, prepared.info, prepared.recipe, say=session.say)
                    return finished_run(folder, info, prepared.student)
                if prepared.served is not None:
                    lookup, errors = prepared.served.begin(prepared.loader, session.device, say=session.say)
                    prepared = replace(prepared, lookup=lookup, info=prepared.info | {"cached_errors": errors})
                if config.store is not None and session.first:
                    make_folder(config.store.parent)
                with lock_run(make_folder(folder) if fresh else folder) if session.first else nullcontext():
                    if fresh and session.first:
                        claim(folder)  # once it is locked: another may have started there since
                    if not fresh and session.first:
                        info = check_resumable(
                            folder, prepared.info, prepared.recipe, force=bool(options.get("force")), say=session.say
                        )
                        prepared = replace(prepared, info=info)
                    wait()  # the first may have found the folder taken
                    return execute(config, session, prepared)
            finally:
                prepared.close()

    def prepare(
        self, stand_in: Data | None = None, *, steps_per_epoch: int | None = None, greys: Greys | None = None
    ) -> Prepared:
        """Load the data, build the models, and plan the training; nothing is written.

        Args:
            stand_in: generated images instead of the data set's, for a dry run; caches are not opened then.
            steps_per_epoch: of the plan where `stand_in` has other numbers of images.
            greys: how greys of more than 8 bits are read, as for `prepare_data`.

        Raises:
            LgkdError: data, models, terms and caches do not fit together.
        """
        if stand_in is None:
            data = self.load_data(greys=greys)
        else:
            data = stand_in
            self._settle_recipe(data, steps_per_epoch)
        config, session = self.config, self.session
        options = config.options
        check_labels(config.recipe, options.get("select_by"), multi_label=data.multi_label)
        student, size, guides = self.build_models(data)
        try:
            channels_last = lay_out(student, session.device)
            served = self._serve(guides, data, size) if stand_in is None else None
            recipe = config.recipe if served is None else served.recipe
            balance = (
                make_class_balance(recipe, data) if stand_in is None else ClassBalance(multi_label=data.multi_label)
            )
            loader = make_train_loader(
                recipe,
                data,
                image_size=size,
                seed=config.seed,
                device=session.device,
                rank=session.process.rank,
                processes=session.process.count,
                teacher_sizes=[guide.teacher.image_size for guide in guides if guide.has_teacher],
                class_weights=balance.weights,
            )
            plan = make_plan(
                recipe,
                steps_per_epoch=loader.steps_per_epoch if steps_per_epoch is None else steps_per_epoch,
                seed=config.seed,
                device=session.device,
                channels_last=channels_last,
                compiled=options.get("compile"),
                has_blocks=bool(repeated_blocks(student)),
                cuda_graphs=bool(options.get("cuda_graphs")),
                epochs_before=(config.initial.epochs_before or 0) if config.initial is not None else 0,
            )
            if (slow := precision.remark(recipe.precision, session.device)) is not None:
                session.say(slow)
            info: dict[str, Any] = {
                **describe_training(config, session, data, student, guides, size, plan),
                "call": describe_call(config, served, data),
                "cached": served.about() if served is not None else None,
                **({"init": self.initial} if self.initial is not None else {}),
            }
        except BaseException:
            for guide in guides:
                guide.remove()
            restore(student)
            raise
        return Prepared(recipe, data, student, tuple(guides), loader, plan, size, served, info, balance)

    def load_data(self, *, greys: Greys | None = None) -> Data:
        """Load the images, check that the teachers know their classes, and apply the recipe's rules for this length.

        `greys` is as for `prepare_data`.
        """
        config, session = self.config, self.session
        options = config.options
        self.teachers  # noqa: B018 - a damaged one is reported before images are decoded
        if not session.first:
            wait()  # until the first has decoded the images for all
        data = prepare_data(
            config.dataset,
            normalize=config.recipe.view.normalize,
            channels=config.recipe.view.channels,
            data_dir=options.get("data_dir"),
            subset=config.subset,
            val_fraction=options.get("val_fraction"),
            groups=config.groups,
            extra=options.get("extra"),
            extra_share=options.get("extra_share"),
            offline=bool(options.get("offline")),
            progress=options.get("progress") if session.first else None,
            downloading=options.get("downloading") if session.first else None,
            look=lambda dataset: quick_check(dataset, say=session.say, balanced=is_balanced(config.recipe)),
            greys=greys,
            reduce_to=self._stored_side(),
        )
        if session.first:
            wait()
        check_selection(options.get("select_by"), None, has_val=lambda: data.val is not None)
        exactness = determinism.remark(session.device, deterministic=bool(options.get("deterministic")))
        for note in (*data.notes, exactness, about_twice_balanced(config.recipe)):
            if note is not None:
                session.say(note)
        matched = match_teachers(config, data, session.say)
        if matched != config.teachers:
            self.config = replace(config, teachers=matched)
            del self.teachers
        for teacher in self.teachers:
            check_teacher_classes(teacher, data)
            check_teacher_labels(teacher, data)
            check_teacher_fold(teacher, data)
            describe_teacher(teacher, data, session.say)
        self._settle_recipe(data)
        return data

    def _stored_side(self) -> int | None:
        """Return the shorter side to which training images are reduced; None where they stay whole."""
        asked, recipe = self.config.options.get("stored_side"), self.config.recipe
        if asked is None:
            return None
        side = parse_side(asked)
        if isinstance(side, int):
            return side
        anew = recipe.guide is not None and recipe.guide.view == "original"
        sizes = [teacher.image_size for teacher in self.teachers] if anew else []
        return needed_side(recipe.view, [self._image_size(), *sizes])

    def _image_size(self) -> tuple[int, int]:
        """Return the (height, width) of the model's images."""
        model, size = self.config.model, self.config.recipe.view.image_size
        if isinstance(model, str):
            return pair(size or default_image_size(model))
        return pair(size or getattr(model, "image_size", None) or 224)

    def _settle_recipe(self, data: Data, steps_per_epoch: int | None = None) -> None:
        """Apply the recipe's rules for this length of training, which the number of images determines."""
        recipe, extra = self.config.recipe, data.extra
        if recipe.by_length is None:
            return
        if steps_per_epoch is None:
            steps_per_epoch = count_steps(
                recipe, len(data.train), *((len(extra.images), extra.share) if extra is not None else ())
            )
        self.config, sentence = settle_recipe(self.config, steps_per_epoch)
        check_precision(self.config.recipe, self.session.device)
        if sentence is not None:
            self.session.say(sentence)

    def build_models(self, data: Data) -> tuple[nn.Module, tuple[int, int], list[Guide]]:
        """Build the untrained model, the (height, width) of its images, and its guides; see `make_guides`."""
        config = self.config
        teachers = self.teachers
        student, size = self._make_model(data)
        if config.initial is None:
            fit_images(student, size, data, config.recipe)
        else:
            self.initial = start_from(config.initial, student, data, say=self.session.say)
        if (unseen := unseen_pixels(student, size)) is not None:
            self.session.say(unseen)
        if (coarse := coarse_of(config, student, size)) is not None:
            self.session.say(coarse)
        if config.role == "teacher":
            _check_tapped(student)
        if config.recipe.fake_quantize is not None:
            fake_quantize(student)
        try:
            guides = make_guides(
                student, teachers, config.recipe, data, image_size=size, taps=config.taps, seed=config.seed
            )
        except BaseException:
            restore(student)
            raise
        return student, size, guides

    def _make_model(self, data: Data) -> tuple[nn.Module, tuple[int, int]]:
        model, options, recipe = self.config.model, self.config.model_options, self.config.recipe
        classes, size, channels = len(data.classes), self._image_size(), len(data.mean)
        if isinstance(model, str):
            made = make_student(model, recipe, classes=classes, seed=self.config.seed, options=options)
            if find(model) is None:
                check_training(made, model, image_size=size, channels=channels)
            return made, size
        if options:
            raise InputError("options are passed to a constructor; the student is a module already, so leave them out")
        name = type(model).__name__
        check_model(model, name, num_classes=classes, image_size=size, channels=channels)
        check_training(model, name, image_size=size, channels=channels)
        return model, size

    def _serve(self, guides: Sequence[Guide], data: Data, size: tuple[int, int]) -> Served | None:
        """Open the caches that the training reads instead of running its teachers; None where none were requested."""
        where = self.config.options.get("cached")
        if where is None:
            return None
        return serve(
            where,
            guides,
            self.config.recipe,
            data,
            image_size=size,
            seed=self.config.seed,
            processes=self.session.process.count,
            approximate=bool(self.config.options.get("approximate")),
        )


def coarse_of(config: ResolvedConfig, student: nn.Module, size: tuple[int, int]) -> str | None:
    """Describe coarse patches of a named student whose patch size the user has not chosen; None where they fit."""
    named = config.role == "student" and isinstance(config.model, str) and find(config.model) is not None
    return coarse_patches(student, size) if named and "patch_size" not in config.model_options else None


def _checked(teacher: Any) -> Teacher:
    """Check a teacher that was passed in Python."""
    if not isinstance(teacher, Teacher):
        raise InputError(
            f"the teacher is a {type(teacher).__name__}, expected the name of a trained one or an lgkd.Teacher "
            "(lgkd.Teacher(module, image_size=...) makes one of a module)"
        )
    name = f"the teacher {type(teacher.model).__name__}"
    check_model(teacher.model, name, num_classes=None, image_size=teacher.image_size, channels=teacher.channels)
    return teacher


def _check_tapped(model: nn.Module) -> None:
    """Refuse a teacher without layers to guide by before it is trained."""
    try:
        default_taps(model)
    except TapError as error:
        raise TapError(f"no teacher: {error}; a model of your own can list them in its attribute lgkd_taps") from None


def greys_of_run(folder: Any) -> Greys | None:
    """Return how a resumed run reads deep greys; None where that is chosen by its images."""
    return None if "greys" in read_run(folder)["dataset"] else BEFORE
