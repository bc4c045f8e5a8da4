"""docs/models.md is what the models are."""

import re

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
