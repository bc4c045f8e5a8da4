"""docs/models.md is what the models are."""

import re

import timm

from lgkd.cli.app import load_command
from lgkd.config import apply_overrides, load_recipe
from lgkd.models.registry import MODELS
from tools.models_page import FAMILIES, PAGE, content, tried_as, with_known_models

TEXT = PAGE.read_text(encoding="utf-8")


def cells(name: str) -> dict[str, list[str]]:
    """The rows of a table by their first cell."""
    rows = [
        line.strip().removeprefix("| ").removesuffix(" |").split(" | ") for line in content(TEXT, name).splitlines()
    ]
    return {row[0].strip("`"): [cell.strip() for cell in row] for row in rows[2:]}


def test_names_parameters_taps_and_operations_are_those_of_the_models() -> None:
    assert with_known_models(TEXT) == TEXT, "run python -m tools.models_page"


def test_the_counts_of_the_catalogue_are_those_that_were_counted() -> None:
    rows = cells("models")
    assert {name: int(row[5].replace(",", "")) for name, row in rows.items()} == {
        name: info.parameters for name, info in MODELS.items()
    }


def test_operations_are_those_of_the_authors_own_code() -> None:
    """Counted in their code at 100 classes, a multiplication and an addition as two; to all digits that were kept."""
    published = {
        "resnet56": 0.252,
        "resnet18": 3.627,
        "deit_tiny": 2.507,
        "convit_tiny": 2.504,
        "t2t_vit_7": 2.293,
        "t2t_vit_14": 9.566,
        "pvt_tiny": 3.865,
        "pvt_v2_b0": 1.132,
        "cvt_13": 9.131,
    }
    rows = cells("models")
    assert {name: float(rows[name][6]) for name in published} == published


def test_every_family_that_is_tried_has_its_row() -> None:
    """Its layers, its maps, and that none are found where that is said: see test_default_taps.py."""
    rows = cells("elsewhere")
    assert list(rows) == [entry.family for entry in FAMILIES]
    for entry in FAMILIES:
        family, name, size, kind, layers, maps, note = rows[entry.family]
        assert (family, name, size) == (entry.family, tried_as(entry), str(entry.size))
        if kind == "none":
            assert (layers, maps) == ("", "") and note
        else:
            assert kind == ("with `--taps`" if entry.taps else "found") and layers and maps
            assert note == entry.note


def test_the_page_names_layers_and_no_more_than_it_explains() -> None:
    kinds = {row[3] for row in cells("elsewhere").values()}
    assert kinds == {"found", "with `--taps`", "none"}
    for kind in kinds:
        assert f"*{kind}*" in TEXT or kind in re.sub(r"\s+", " ", TEXT.partition("<!-- elsewhere")[0])


def test_the_names_in_the_table_for_users_of_timm_are_there() -> None:
    """Keys are set in a recipe, options are those of `lgkd distill`, models are timm's."""
    values = {"optimizer.name": "lion", "view.rand_augment": "rand-m9-mstd0.5-inc1", "view.interpolation": "bilinear"}
    pairs = {"view.scale": "[0.5, 1]", "view.ratio": "[0.5, 2]", "view.image_size": "32", "accumulate": "2"}
    values |= {"schedule.decay": "linear", "schedule.min_lr": "1e-5"}
    options = {name for one in load_command("distill").params for name in one.opts}
    seen = []
    for row in cells("from timm").values():
        last = ""
        for name in re.findall(r"`([^`]+)`", row[1]):
            if name.startswith("--") or name in MODELS:
                assert name in MODELS or name.split()[0] in options, name
                continue
            key = last + name if name.startswith(".") else name
            last = key.partition(".")[0]
            value = {**values, **pairs}.get(key, "0.1")
            apply_overrides(load_recipe("locality-guidance"), ["ema={}", f"{key}={value}"])
            seen.append(key)
    assert len(seen) == len(set(seen)) >= 16
    for name in re.findall(r"`(deit_tiny_\w+)`", content(TEXT, "from timm")):
        assert timm.is_model(name)
