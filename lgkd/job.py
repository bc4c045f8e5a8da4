"""One training from choices to a finished folder: what `train_teacher`, `train` and `distill` share."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from torch import nn

from lgkd import __version__
from lgkd.build import (
    Data,
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
from lgkd.cards import WEIGHTS, Accuracy, TeacherCard, save_card, teacher_folder
from lgkd.choices import dataset_key, resolve_recipe, subset_words, teacher_name
from lgkd.data.feed import Feed, PlainBatches
from lgkd.data.images import DataSet
from lgkd.errors import InputError, TakenError
from lgkd.files import write_json, write_whole
from lgkd.guide import Guide
from lgkd.models.catalogue import canonical
from lgkd.models.factory import check_model, default_image_size, pair
from lgkd.models.frozen import Teacher
from lgkd.models.layers import default_taps
from lgkd.recipe import Recipe, dump_recipe
from lgkd.report import draw_curves
from lgkd.runs import (
    ENV,
    FORMAT,
    RECIPE,
    STUDENT,
    STUDENT_WEIGHTS,
    claim,
    describe,
    environment,
    now,
    write_metrics,
    write_run,
)
from lgkd.scoring import score
from lgkd.trainer.loop import EpochRow, Watcher, fit
from lgkd.trainer.plan import Plan
from lgkd.trainer.precision import choose_device
from lgkd.weights import save_weights


class Options(TypedDict, total=False):
    """Options that mean the same in `train_teacher`, `train` and `distill`, and on the command line.

    Attributes:
        data_dir: where a named data set lies.
        recipe: a shipped name, a YAML file, or a `Recipe`.
        epochs, batch_size, image_size, precision: instead of the recipe's.
        overrides: "a.b=value" each, as `--set`; they win over everything else.
        seed: of weights, order, augmentation and dropout; 0 if not given.
        device: "cpu", "cuda" or "cuda:N"; a GPU if there is one.
        fraction, images_per_class: train on a class-balanced part of the images.
        subset_seed: which part; the same for all seeds unless given.
        out: the run's folder; by default one under runs/ that is named after the choices.
        watchers: told of the training's progress.
        progress: called with (done, total) images while a data set is decoded.
        say: called with a sentence that the user should hear.
    """

    data_dir: str | Path | None
    recipe: str | Path | Recipe
    epochs: int | None
    batch_size: int | None
    image_size: int | None
    precision: str | None
    overrides: Sequence[str]
    seed: int
    device: str | None
    fraction: float | None
    images_per_class: int | None
    subset_seed: int
    out: str | Path | None
    watchers: Sequence[Watcher]
    progress: Callable[[int, int], None] | None
    say: Callable[[str], None] | None


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        student: the trained model (of a teacher's training: the teacher), in eval mode, on the CPU.
        metrics: one row an epoch, as in metrics.csv; the last one is what is reported.
        folder: where everything is kept.
        info: the content of run.json.
    """

    student: nn.Module
    metrics: list[dict[str, float]]
    folder: Path
    info: dict[str, Any] = field(repr=False)

    @property
    def top1(self) -> float:
        """Top-1 accuracy on the test split after the last epoch, 0 to 1."""
        return float(self.info["results"]["test_top1"])



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
        self.role = role
        self.model = model
        self.model_options = dict(model_options or {})
        self.dataset = dataset
        self.options = options
        self.seed = options.get("seed") or 0
        self.device = choose_device(options.get("device"))
        self.watchers = tuple(options.get("watchers") or ())
        self._say = options.get("say") or (lambda _: None)

    def run(
        self, *, teacher: str | Teacher | None = None, taps: Sequence[str] | None = None, replace: bool = False
    ) -> Run:
        """Train, and leave a finished folder (for a teacher: an entry in the store, too)."""
        if self.seed < 0:
            raise InputError(f"the seed is {self.seed}, expected 0 or more")
        options = self.options
        recipe = resolve_recipe(
            options["recipe"],
            trains=self.role,
            guided=teacher is not None,
            epochs=options.get("epochs"),
            batch_size=options.get("batch_size"),
            image_size=options.get("image_size"),
            precision=options.get("precision"),
            overrides=options.get("overrides") or (),
        )
        words = subset_words(
            options.get("fraction"), options.get("images_per_class"), options.get("subset_seed") or 0
        )
        store = self._free_place(words, replace) if self.role == "teacher" else None
        found = self._find_teacher(teacher, words) if teacher is not None else None
        data = prepare_data(
            self.dataset,
            normalize=recipe.view.normalize,
            data_dir=options.get("data_dir"),
            fraction=options.get("fraction"),
            images_per_class=options.get("images_per_class"),
            subset_seed=options.get("subset_seed") or 0,
            progress=options.get("progress"),
        )
        for note in data.notes:
            self._say(note)
        if found is not None:
            check_teacher_classes(found, data)
            self._tell_of(found, data)
        student, size = self._make_model(recipe, data)
        guide = None
        if found is not None:
            guide = make_guide(student, found, recipe, data, image_size=size, taps=taps, seed=self.seed)
        if is_convolutional(student):
            student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        feed = make_feed(recipe, data, image_size=size, seed=self.seed, device=self.device)
        plan = make_plan(
            recipe,
            steps_per_epoch=feed.steps_per_epoch,
            seed=self.seed,
            device=self.device,
            channels_last=is_convolutional(student),
        )
        info = self._info(recipe, data, student, guide, size, plan)
        folder = claim(Path(options.get("out") or self._default_folder(recipe, data, found)))
        try:
            return self._train(folder, info, recipe, data, student, guide, feed, plan, size, store)
        finally:
            if guide is not None:
                guide.remove()

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

    def _free_place(self, words: str | None, replace: bool) -> Path:
        """The new teacher's folder in the store; refused before hours are spent, not after."""
        if not isinstance(self.model, str):
            raise InputError("a teacher is kept by name; give a name or package.module:factory, not a module")
        source = self.dataset.name if isinstance(self.dataset, DataSet) else self.dataset
        place = teacher_folder(teacher_name(self.model, words), dataset_key(source))
        if place.exists() and not replace:
            raise TakenError(
                f"a teacher {place.name} for {place.parent.name} is already in the store ({place}); it was not "
                "touched. Use it as it is, or exchange it with --replace"
            )
        return place

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
    ) -> Run:
        write_run(folder, info)
        write_whole(folder / RECIPE, dump_recipe(recipe).encode())
        write_json(folder / ENV, environment(self.device) | {"data_fingerprint": data.fingerprint})
        test = make_test_batches(
            data.test,
            image_size=size,
            mean=data.mean,
            std=data.std,
            interpolation=recipe.view.interpolation,
            device=self.device,
        )
        journal = _Journal(folder)
        fit(
            make_task(student, guide),
            feed,
            plan,
            evaluate=lambda model: _test_scores(model, test, plan),
            watchers=(journal, *self.watchers),
        )
        student.eval().to("cpu")
        info = info | {"status": "finished", "finished": now(), "results": _results(journal.rows)}
        about = self._about_student(student, recipe, data, size)
        about["weights_sha256"] = save_weights(student.state_dict(), folder / STUDENT_WEIGHTS)
        write_json(folder / STUDENT, about)
        draw_curves(journal.rows, folder / "curves.png", describe(info))
        if store is not None:
            self._keep_teacher(store, student, recipe, data, size, journal.rows)
        write_run(folder, info)
        return Run(student, journal.rows, folder, info)

    def _keep_teacher(
        self,
        store: Path,
        model: nn.Module,
        recipe: Recipe,
        data: Data,
        size: tuple[int, int],
        rows: list[dict[str, float]],
    ) -> None:
        """Weights and card into the store; a folder of that name is whole or not there."""
        assert isinstance(self.model, str)
        passing = store.with_name(f".{store.name}.new")
        shutil.rmtree(passing, ignore_errors=True)
        passing.mkdir(parents=True)
        card = TeacherCard(
            name=store.name,
            architecture=canonical(self.model),
            options=self.model_options,
            dataset=store.parent.name,
            fingerprint=data.fingerprint,
            classes=list(data.classes),
            images=len(data.train),
            subset=data.subset,
            image_size=size[0],
            mean=data.mean,
            std=data.std,
            taps=default_taps(model),
            accuracy=Accuracy(
                top1=rows[-1]["test_top1"], split="test", epoch=len(rows), epochs=len(rows), selected_on=None
            ),
            recipe=_recipe_name(self.options["recipe"]),
            seed=self.seed,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            weights_sha256=save_weights(model.state_dict(), passing / WEIGHTS),
            lgkd_version=__version__,
            torch_version=torch.__version__,
            created=now(),
        )
        save_card(card, passing)
        if store.exists():
            shutil.rmtree(store)
        passing.rename(store)

    def _info(
        self,
        recipe: Recipe,
        data: Data,
        student: nn.Module,
        guide: Guide | None,
        size: tuple[int, int],
        plan: Plan,
    ) -> dict[str, Any]:
        """run.json of a training that begins."""
        options = self.options
        path = None if isinstance(self.dataset, DataSet) or data.source == data.key else str(Path(data.source).resolve())
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
            "teacher": _about_teacher(guide.teacher) if guide is not None else None,
            "pairs": [
                {
                    "student": shape.student,
                    "student_map": list(shape.student_map),
                    "teacher": shape.teacher,
                    "teacher_map": list(shape.teacher_map),
                    "grid": list(shape.grid),
                }
                for shape in (guide.pairs if guide is not None else ())
            ],
            "dataset": {
                "name": data.key,
                "path": path,
                "data_dir": str(Path(data_dir).resolve()) if data_dir is not None else None,
                "fingerprint": data.fingerprint,
                "classes": len(data.classes),
                "train_images": len(data.train),
                "test_images": len(data.test),
                "subset": data.subset,
            },
            "recipe": _recipe_name(options["recipe"]),
            "overrides": list(options.get("overrides") or ()),
            "seed": self.seed,
            "device": self.device,
            "precision": plan.precision,
            "epochs": plan.epochs,
            "steps_per_epoch": plan.steps_per_epoch,
        }

    def _about_student(
        self, student: nn.Module, recipe: Recipe, data: Data, size: tuple[int, int]
    ) -> dict[str, Any]:
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

    def _default_folder(self, recipe: Recipe, data: Data, teacher: Teacher | None) -> Path:
        name = canonical(self.model) if isinstance(self.model, str) else type(self.model).__name__
        parts = [name.replace(":", "-"), data.key]
        if data.subset is not None:
            parts.append(teacher_name("part", data.subset).removeprefix("part--"))
        if teacher is not None:
            parts.append(f"by-{teacher.card.name if teacher.card is not None else type(teacher.model).__name__}")
        parts += [_recipe_name(self.options["recipe"]), f"seed{self.seed}"]
        return Path("runs") / "_".join(parts)


class _Journal:
    """Keeps metrics.csv current."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, float]] = []

    def on_start(self, epochs: int, steps_per_epoch: int) -> None:
        """Nothing to write yet."""

    def on_step(self, epoch: int, step: int, parts: Mapping[str, float], images_per_second: float) -> None:
        """A step is no row."""

    def on_epoch(self, row: EpochRow) -> None:
        self.rows.append(flat(row))
        write_metrics(self.folder, self.rows)


def flat(row: EpochRow) -> dict[str, float]:
    """An epoch as a row of metrics.csv: `loss` is the weighted sum, `loss_NAME` its parts, not weighted."""
    train = dict(row.train)
    return {
        "epoch": row.epoch,
        "lr": row.lr,
        "loss": train.pop("loss"),
        "train_accuracy": train.pop("accuracy"),
        **{f"loss_{name}": value for name, value in train.items()},
        **{f"test_{name}": value for name, value in row.scores.items()},
        "seconds": round(row.seconds, 3),
        "evaluation_seconds": round(row.evaluation_seconds, 3),
        "images_per_second": round(row.images_per_second, 1),
    }


def _test_scores(model: nn.Module, test: PlainBatches, plan: Plan) -> dict[str, float]:
    return score(model, test, precision=plan.precision, channels_last=plan.channels_last).flat()


def _results(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The last epoch is the result. The best one on the test split is what the field's papers print: labelled so."""
    last = rows[-1]
    best = max((row for row in rows if "test_top1" in row), key=lambda row: row["test_top1"])
    return {
        **{key: value for key, value in last.items() if key.startswith("test_")},
        "epoch": int(last["epoch"]),
        "selected_on": None,
        "best_epoch_on_the_test_split": {"epoch": int(best["epoch"]), "test_top1": best["test_top1"]},
        "training_seconds": round(sum(row["seconds"] for row in rows), 1),
        "evaluation_seconds": round(sum(row["evaluation_seconds"] for row in rows), 1),
    }


def _about_teacher(teacher: Teacher) -> dict[str, Any]:
    card = teacher.card
    if card is None:
        return {"name": None, "class": type(teacher.model).__name__, "sha256": None, "batch_norm": teacher.batch_norm}
    return {
        "name": card.architecture,
        "kept_as": card.name,
        "sha256": card.weights_sha256,
        "subset": card.subset,
        "test_top1": card.accuracy.top1,
        "image_size": list(teacher.image_size),
        "batch_norm": teacher.batch_norm,
    }


def _recipe_name(recipe: str | Path | Recipe) -> str:
    return "custom" if isinstance(recipe, Recipe) else Path(recipe).stem
