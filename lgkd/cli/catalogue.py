"""Implement `lgkd students`, `teachers`, `datasets`, `recipes`: list; with a name, show. No torch here."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from lgkd._internal.metric_rules import is_unequal
from lgkd._internal.paths import recipe_names
from lgkd._internal.text import did_you_mean
from lgkd.cli import completion
from lgkd.cli import options as o
from lgkd.cli.display import console, say, show_json, show_lines, show_pairs, show_table
from lgkd.config import dump_recipe, explain, load_recipe
from lgkd.data.catalogue import CATALOGUE
from lgkd.errors import InputError
from lgkd.models.registry import MODELS, ModelInfo, canonical, names
from lgkd.models.teacher_card import Accuracy, TeacherCard
from lgkd.models.teacher_store import list_cards
from lgkd.runs.statistics import in_percent


def students(
    name: Annotated[str | None, typer.Argument(help="Show this one.", autocompletion=completion.students)] = None,
    images: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="DATASET",
            help="Rank some for guided training on these images; steps are timed.",
            autocompletion=completion.datasets,
        ),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option("--time", help="With --for: time of the student's training, like 45m; 1h if not given."),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            metavar="NAME",
            help="With --for: a trained teacher of these images, for an attention score.",
            autocompletion=completion.trained_teachers,
        ),
    ] = None,
    data_dir: o.DataDir = None,
    device: o.Device = None,
    offline: o.Offline = False,
    as_json: o.Json = False,
) -> None:
    """List the named students, or show one.

    With --for, time a few steps of some students on such images and rank them by published
    evidence; with --teacher also print how alike the attention of the untrained student is.

    Example: lgkd students --for photos/ --time 1h
    """
    if images is not None:
        if name is not None:
            raise InputError(f"--for {images} ranks several students, and {name} was named; leave one of them out")
        from lgkd.cli.students_for import show_ranking

        show_ranking(
            images, time=time, teacher=teacher, data_dir=data_dir, device=device, offline=offline, as_json=as_json
        )
        return
    if given := next((f"{flag} {value}" for flag, value in (("--time", time), ("--teacher", teacher)) if value), None):
        raise InputError(f"{given} is for a ranking, and no images are named; add --for, like --for photos/")
    if name is not None:
        _show_model(_model(name), as_json=as_json)
        return
    infos = [MODELS[key] for key in names("student")]
    if as_json:
        show_json([_model_facts(info) for info in infos])
        return
    show_table(
        "students",
        ("name", "also", "model", "px", "parameters", "for"),
        ((i.name, ", ".join(i.aliases), i.title, i.image_size, f"{i.parameters:,}", i.suits) for i in infos),
        right=(3, 4),
    )
    console().print("parameters with 100 classes; also timm:NAME and package.module:factory")


def teachers(
    name: Annotated[str | None, typer.Argument(help="Show this one.", autocompletion=completion.shown_teachers)] = None,
    as_json: o.Json = False,
) -> None:
    """List architectures and trained teachers, or show one.

    Example: lgkd teachers
    """
    cards, broken = list_cards()
    for path, reason in broken:
        say(f"skipped {path}: {reason}")
    if name is not None:
        mine = [(card, folder) for card, folder in cards if name in (card.name, card.architecture)]
        if not mine:
            _show_model(_model(name), as_json=as_json)
        elif as_json:
            show_json([{**card.model_dump(mode="json"), "folder": str(folder)} for card, folder in mine])
        else:
            for place, (card, folder) in enumerate(mine):
                if place:
                    console().print("")
                show_pairs(
                    {
                        "name": card.name,
                        "data set": f"{card.dataset} ({len(card.classes)} classes, {card.images:,} images)",
                        "mAP"
                        if card.multi_label
                        else "top-1": f"{in_percent(card.accuracy.value)}% on {card.accuracy.split}, epoch "
                        f"{card.accuracy.epoch} of {card.accuracy.epochs}",
                        **_balanced(card.accuracy),
                        "images": f"{card.size[0]} x {card.size[1]} px",
                        "taps": ", ".join(card.taps),
                        "parameters": f"{card.parameters:,}",
                        "recipe": f"{card.recipe}, seed {card.seed}",
                        "sha256": card.weights_sha256,
                        "folder": folder,
                    }
                )
        return
    infos = [MODELS[key] for key in names("teacher")]
    if as_json:
        trained = [{**card.model_dump(mode="json", exclude={"classes"}), "folder": str(f)} for card, f in cards]
        show_json({"architectures": [_model_facts(info) for info in infos], "trained": trained})
        return
    show_table(
        "architectures",
        ("name", "model", "px", "parameters"),
        ((i.name, i.title, i.image_size, f"{i.parameters:,}") for i in infos),
        right=(2, 3),
    )
    console().print("parameters with 100 classes; also timm:NAME and package.module:factory")
    console().print()
    if not cards:
        console().print("no trained teachers yet; make one with: lgkd train-teacher resnet56 cifar100")
        return
    show_table(
        "trained teachers",
        ("name", "data set", "top-1", "images"),
        ((c.name, c.dataset, _shown(c), f"{c.images:,}") for c, _ in cards),
        right=(2, 3),
    )


def _shown(card: TeacherCard) -> str:
    return f"{in_percent(card.accuracy.value)}%{' mAP' if card.multi_label else ''}"


def _balanced(accuracy: Accuracy) -> dict[str, str]:
    """Return the row of the balanced accuracy; none where the classes have equal numbers of images."""
    measured, classes, largest = accuracy.balanced_accuracy, accuracy.seen_classes, accuracy.largest_class
    if measured is None or classes is None or largest is None or not is_unequal(largest, classes):
        return {}
    return {"balanced accuracy": f"{in_percent(measured)}%"}


def datasets(
    name: Annotated[str | None, typer.Argument(help="Show this one.", autocompletion=completion.datasets)] = None,
    as_json: o.Json = False,
) -> None:
    """List the named data sets, or show one.

    Any folder of images is a data set, too: FOLDER/train/CLASS/* and FOLDER/test/CLASS/*.

    Example: lgkd datasets cifar100
    """
    infos = list(CATALOGUE.values())
    if name is not None:
        if name not in CATALOGUE:
            if Path(name).is_dir():
                raise InputError(
                    f"{name} is a folder, not a named data set; check it with: lgkd check {shlex.quote(name)}"
                )
            raise InputError(f"no data set is called {name!r}; {did_you_mean(name, CATALOGUE)}")
        infos = [CATALOGUE[name]]
    if as_json:
        show_json([{key: getattr(info, key) for key in info.__dataclass_fields__} for info in infos])
        return
    if name is not None:
        facts = {key.replace("_", " "): getattr(infos[0], key) for key in infos[0].__dataclass_fields__}
        plain = {key: ", ".join(value) if isinstance(value, tuple) else value for key, value in facts.items()}
        show_pairs({key: value for key, value in plain.items() if value})
        return
    show_table(
        "data sets",
        ("name", "classes", "train", "test", "px", "what"),
        ((i.name, i.classes, f"{i.train:,}", f"{i.test:,}", i.image_size, i.title) for i in infos),
        right=(1, 2, 3, 4),
    )
    console().print("also any folder of images: FOLDER/train/CLASS/*.png and FOLDER/test/CLASS/*.png")


def recipes(
    name: Annotated[str | None, typer.Argument(help="Show this one.", autocompletion=completion.recipes)] = None,
    use: o.Use = None,
    as_json: o.Json = False,
) -> None:
    """List the recipes, or show one.

    With a name or a file: every key with its value and meaning.

    Example: lgkd recipes locality-guidance
    """
    o.bring_in(use)
    if name is None:
        loaded = {key: load_recipe(key) for key in recipe_names()}
        if as_json:
            show_json({key: recipe.model_dump(mode="json") for key, recipe in loaded.items()})
            return
        show_table(
            "recipes",
            ("name", "trains", "epochs", "what for"),
            ((key, r.trains, r.schedule.epochs or "", r.about) for key, r in loaded.items()),
            right=(2,),
        )
        return
    recipe = load_recipe(name)
    if as_json:
        show_json(recipe.model_dump(mode="json"))
        return
    if not console().is_terminal:
        show_lines(dump_recipe(recipe))
        return
    show_lines(recipe.about)
    show_table("", ("key", "value", "meaning"), ((e.path, e.default, e.description) for e in explain(recipe)[1:]))


def _model(name: str) -> ModelInfo:
    key = canonical(name)
    if key not in MODELS:
        raise InputError(f"no model is called {name!r}; {did_you_mean(name, MODELS)}")
    return MODELS[key]


def _model_facts(info: ModelInfo) -> dict[str, object]:
    return {
        "name": info.name,
        "aliases": list(info.aliases),
        "model": info.title,
        "image_size": info.image_size,
        "parameters_100_classes": info.parameters,
        "source": info.source,
        **({"suits": info.suits} if info.suits else {}),
    }


def _show_model(info: ModelInfo, *, as_json: bool) -> None:
    if as_json:
        show_json(_model_facts(info))
        return
    show_pairs(
        {
            "name": ", ".join((info.name, *info.aliases)),
            "model": info.title,
            "images": f"{info.image_size} x {info.image_size} px",
            "parameters": f"{info.parameters:,} with 100 classes",
            "source": info.source,
            **({"for": info.suits} if info.suits else {}),
            "layers": f"lgkd layers {info.name}",
        }
    )
