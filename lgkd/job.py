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
from lgkd.build import (
    Data,
    check_precision,
    check_teacher_classes,
    is_convolutional,
    load_trained_teacher,
    make_feed,
    make_guide,
    make_plan,
    make_student,
    make_task,
    make_test_batches,
    prepare_data,
)
from lgkd.cards import Accuracy
from lgkd.choices import Settled, free_place, recipe_name, run_folder, settle
from lgkd.data.catalogue import CATALOGUE
from lgkd.data.check import quick_check
from lgkd.data.feed import Feed, PlainBatches
from lgkd.data.images import DataSet
from lgkd.errors import InputError, TapError, did_you_mean
from lgkd.files import write_json, write_whole
from lgkd.guide import Guide
from lgkd.journal import Journal, about_pairs, about_teacher, results
from lgkd.models.catalogue import canonical
from lgkd.models.factory import check_model, default_image_size, pair
from lgkd.models.frozen import Teacher
from lgkd.models.layers import default_taps
from lgkd.options import Options, Run
from lgkd.processes import add_up, join, wait
from lgkd.recipe import Recipe, dump_recipe
from lgkd.report import draw_curves
from lgkd.resuming import go_on, hold
from lgkd.runs import (
    ENV,
    FORMAT,
    RECIPE,
    STUDENT,
    STUDENT_WEIGHTS,
    check_free,
    claim,
    describe,
    environment,
    make_folder,
    now,
    write_run,
)
from lgkd.scoring import score
from lgkd.store import keep_teacher
from lgkd.trainer.keeper import Keeper
from lgkd.trainer.loop import fit
from lgkd.trainer.plan import Plan
from lgkd.trainer.precision import choose_device
from lgkd.trainer.stopping import Stop
from lgkd.weights import save_weights


class Job:
    """One training: choices first, all checks second, and only then a folder and the loop.

    Args:
        role: what is trained.
        model: its name, or a module.
        model_options: reach the constructor.
        dataset: a name, a folder, or a loaded `DataSet`.
        options: see `Options`.
    """

    def __init__(
        self,
        role: Literal["teacher", "student"],
        model: str | nn.Module,
        model_options: Mapping[str, Any] | None,
        dataset: str | Path | DataSet,
        options: Options,
    ) -> None:
        unknown = sorted(options.keys() - Options.__annotations__.keys())
        if unknown:
            raise InputError(f"there is no option {unknown[0]!r}; {did_you_mean(unknown[0], Options.__annotations__)}")
        self.role = role
        self.model = model
        self.model_options = dict(model_options or {})
        self.dataset = dataset
        self.options = options
        self.began = time.monotonic()
        self.seed = options.get("seed") or 0
        self.process, self.device = join(choose_device(options.get("device")))
        # One process speaks and writes for all.
        self.first = self.process.rank == 0
        self.watchers = tuple(options.get("watchers") or ()) if self.first else ()
        self._say = (options.get("say") if self.first else None) or (lambda _: None)

    def run(
        self, *, teacher: str | Teacher | None = None, taps: Sequence[str] | None = None, replace: bool = False
    ) -> Run:
        """Train, and leave a finished folder (for a teacher: an entry in the store, too)."""
        options = self.options
        _check_plain(self.model_options, f"{self.role} options", scalars=self.role == "teacher")
        settled = settle(
            self.role,
            self.model if isinstance(self.model, str) else None,
            None if isinstance(self.dataset, DataSet) else self.dataset,
            options,
            teacher=teacher if isinstance(teacher, str) else None,
            guided=teacher is not None,
            replace=replace,
        )
        recipe = settled.recipe
        check_precision(recipe, self.device)
        store = self._place(settled, replace) if self.role == "teacher" else None
        found = self._find_teacher(teacher, settled.subset) if teacher is not None else None
        folder = Path(options.get("out") or self._default_folder(settled, found))
        fresh = check_free(folder)
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
            offline=bool(options.get("offline")),
            progress=options.get("progress") if self.first else None,
            look=lambda dataset: quick_check(dataset, say=self._say),
        )
        if self.first:
            wait()
        for note in data.notes:
            self._say(note)
        if found is not None:
            check_teacher_classes(found, data)
            self._tell_of(found, data)
        student, size = self._make_model(recipe, data)
        if store is not None:
            _check_tapped(student)
        guide = None
        if found is not None:
            guide = make_guide(student, found, recipe, data, image_size=size, taps=taps, seed=self.seed)
        if is_convolutional(student):
            student.to(memory_format=torch.channels_last)
        feed = make_feed(
            recipe,
            data,
            image_size=size,
            seed=self.seed,
            device=self.device,
            rank=self.process.rank,
            processes=self.process.count,
        )
        plan = make_plan(
            recipe,
            steps_per_epoch=feed.steps_per_epoch,
            seed=self.seed,
            device=self.device,
            channels_last=is_convolutional(student),
        )
        info = self._info(data, student, guide, size, plan)
        info["call"] = self._call(teacher, taps, replace)
        if store is not None and self.first:
            make_folder(store.parent)
        try:
            with hold(claim(folder) if fresh else folder) if self.first else nullcontext():
                if not fresh and self.first:
                    info = go_on(folder, info, recipe, force=bool(options.get("force")), say=self._say)
                wait()  # the first may have found the folder taken
                return self._train(folder, info, recipe, data, student, guide, feed, plan, size, store, replace)
        finally:
            if guide is not None:
                guide.remove()

    def _call(self, teacher: str | Teacher | None, taps: Sequence[str] | None, replace: bool) -> dict[str, Any] | None:
        """What `resume` has to ask for again; None for what was made in Python and has no name."""
        by_name = isinstance(self.model, str) and not isinstance(self.dataset, DataSet)
        if not by_name or isinstance(teacher, Teacher):
            return None
        plain = ("fraction", "images_per_class", "subset_seed", "seed", "val_fraction", "device", "offline")
        return {
            "model_options": self.model_options,
            "teacher": teacher,
            "taps": list(taps) if taps is not None else None,
            "replace": replace,
            "options": {name: self.options.get(name) for name in plain if self.options.get(name) is not None},
        }

    def _find_teacher(self, teacher: str | Teacher, words: str | None) -> Teacher:
        if isinstance(teacher, Teacher):
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
        self._say(
            f"teacher {card.name}: {card.accuracy.top1:.1%} top-1 on {card.dataset} {card.accuracy.split}, "
            f"trained on {card.images:,} images"
        )
        if card.subset != data.subset:
            self._say(
                f"the teacher saw {card.subset or 'all training images'}, the student sees "
                f"{data.subset or 'all of them'}: its guidance carries over from images that the student does not have"
            )
        elif card.fingerprint != data.fingerprint:
            self._say(f"the teacher was trained on other images than those of {data.source}, of the same classes")

    def _place(self, settled: Settled, replace: bool) -> Path:
        """Where the new teacher will be kept."""
        if not isinstance(self.model, str):
            raise InputError("a teacher is kept by name; give a name or package.module:factory, not a module")
        if settled.store is not None:
            return settled.store
        assert isinstance(self.dataset, DataSet)
        return free_place(self.model, self.dataset.name, settled.subset, replace=replace)

    def _make_model(self, recipe: Recipe, data: Data) -> tuple[nn.Module, tuple[int, int]]:
        """The untrained model and the (height, width) of its images."""
        classes = len(data.classes)
        if isinstance(self.model, str):
            size = recipe.view.image_size or default_image_size(self.model)
            options = self.model_options
            return make_student(self.model, recipe, classes=classes, seed=self.seed, options=options), pair(size)
        if self.model_options:
            raise InputError("options reach a constructor; the student is a module already, so it takes none")
        size = recipe.view.image_size or getattr(self.model, "image_size", None) or 224
        check_model(self.model, type(self.model).__name__, num_classes=classes, image_size=pair(size))
        return self.model, pair(size)

    def _train(
        self,
        folder: Path,
        info: dict[str, Any],
        recipe: Recipe,
        data: Data,
        student: nn.Module,
        guide: Guide | None,
        feed: Feed,
        plan: Plan,
        size: tuple[int, int],
        store: Path | None,
        replace: bool,
    ) -> Run:
        if self.first:
            write_run(folder, info)
            write_whole(folder / RECIPE, dump_recipe(recipe).encode())
            write_json(folder / ENV, environment(self.device) | {"data_fingerprint": data.fingerprint})
        splits = {"test": data.test} if data.val is None else {"val": data.val, "test": data.test}
        batches = {
            name: make_test_batches(
                images,
                image_size=size,
                mean=data.mean,
                std=data.std,
                interpolation=recipe.view.interpolation,
                device=self.device,
                rank=self.process.rank,
                processes=self.process.count,
            )
            for name, images in splits.items()
        }
        journal = Journal(folder, writes=self.first)
        keeper = Keeper(
            folder / "checkpoint",
            select_on="val_top1" if data.val is not None else None,
            identity={"data": data.fingerprint, "teacher": (info["teacher"] or {}).get("sha256")},
            say=self._say,
        )
        with Stop(self.options.get("max_time"), self.began) as stop:
            fit(
                make_task(student, guide),
                feed,
                plan,
                evaluate=lambda model: _scores(model, batches, plan),
                watchers=(journal, *self.watchers),
                keeper=keeper,
                stop=stop,
            )
        best = None
        if data.val is not None:
            weights, best = keeper.load_best()
            student.load_state_dict(weights)
        student.eval().to("cpu")
        info = info | {"status": "finished", "finished": now(), "results": results(journal.rows, best)}
        if not self.first:
            return Run(student, journal.rows, folder, info)
        about = self._about_student(student, recipe, data, size)
        about["weights_sha256"] = save_weights(student.state_dict(), folder / STUDENT_WEIGHTS)
        write_json(folder / STUDENT, about)
        draw_curves(journal.rows, folder / "curves.png", describe(info))
        try:
            if store is not None:
                self._keep_teacher(store, folder, student, data, size, info, replace)
        finally:
            write_run(folder, info)
        return Run(student, journal.rows, folder, info)

    def _keep_teacher(
        self,
        store: Path,
        folder: Path,
        model: nn.Module,
        data: Data,
        size: tuple[int, int],
        info: Mapping[str, Any],
        replace: bool,
    ) -> None:
        assert isinstance(self.model, str)
        keep_teacher(
            store,
            model,
            {
                "architecture": canonical(self.model),
                "options": self.model_options,
                "fingerprint": data.fingerprint,
                "classes": data.classes,
                "images": len(data.train),
                "subset": data.subset,
                "image_size": size[0],
                "mean": data.mean,
                "std": data.std,
                "accuracy": Accuracy(
                    top1=info["results"]["test_top1"],
                    split="test",
                    epoch=info["results"]["epoch"],
                    epochs=info["epochs"],
                    selected_on=info["results"]["selected_on"],
                ),
                "recipe": info["recipe"],
                "seed": self.seed,
            },
            replace=replace,
            folder=folder,
        )

    def _info(
        self,
        data: Data,
        student: nn.Module,
        guide: Guide | None,
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
            "kind": "teacher" if self.role == "teacher" else ("distill" if guide is not None else "train"),
            "status": "running",
            "lgkd": __version__,
            "started": now(),
            "student": {
                "name": canonical(self.model) if isinstance(self.model, str) else type(self.model).__name__,
                "options": self.model_options,
                "image_size": list(size),
                "parameters": sum(parameter.numel() for parameter in student.parameters()),
            },
            "teacher": about_teacher(guide.teacher) if guide is not None else None,
            "pairs": about_pairs(guide) if guide is not None else [],
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
            },
            "recipe": recipe_name(options["recipe"]),
            "overrides": list(options.get("overrides") or ()),
            "seed": self.seed,
            "device": self.device,
            "processes": self.process.count,
            "precision": plan.precision,
            "accumulate": plan.accumulate,
            "epochs": plan.epochs,
            "steps_per_epoch": plan.steps_per_epoch,
        }

    def _about_student(self, student: nn.Module, recipe: Recipe, data: Data, size: tuple[int, int]) -> dict[str, Any]:
        """student.json: enough to rebuild the student without the recipe."""
        return {
            "format": FORMAT,
            "name": canonical(self.model) if isinstance(self.model, str) else None,
            "class": type(student).__name__,
            "options": self.model_options,
            "num_classes": len(data.classes),
            "image_size": list(size),
            "mean": list(data.mean),
            "std": list(data.std),
            "interpolation": recipe.view.interpolation,
            "classes": list(data.classes),
        }

    def _default_folder(self, settled: Settled, teacher: Teacher | None) -> Path:
        by = None
        if teacher is not None:
            by = teacher.card.name if teacher.card is not None else type(teacher.model).__name__
        return run_folder(
            self.model if isinstance(self.model, str) else type(self.model).__name__,
            self.dataset.name if isinstance(self.dataset, DataSet) else self.dataset,
            settled.subset,
            by,
            self.options["recipe"],
            self.seed,
        )


def _scores(model: nn.Module, batches: Mapping[str, PlainBatches], plan: Plan) -> dict[str, float]:
    """Every split's scores, as `test_top1` and so on."""
    return {
        f"{split}_{name}": value
        for split, images in batches.items()
        for name, value in score(
            model, images, precision=plan.precision, channels_last=plan.channels_last, add_up=add_up
        )
        .flat()
        .items()
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
