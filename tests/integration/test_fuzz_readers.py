"""Whatever a file holds, its reader gives a right value or says in words what is wrong, and names the file.

Few examples in an ordinary run, many with `LGKD_FUZZ_EXAMPLES=20000 pytest -o timeout=0 tests/test_fuzz_*.py`. Those of
tensors are in test_fuzz_tensors.py.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lgkd._internal.paths import recipe_names, recipes_folder
from lgkd.config import Recipe, dump_recipe, load_recipe, parse_recipe
from lgkd.config.yaml_io import read_yaml, write_yaml
from lgkd.errors import LgkdError, RecipeError
from lgkd.models.teacher_card import Accuracy, TeacherCard
from lgkd.models.teacher_store import CARD, find_card, list_cards, save_card
from lgkd.runs.folder import (
    METRICS,
    RUN,
    STUDENT,
    check_free,
    describe,
    read_metrics,
    read_run,
    read_student,
    write_run,
)
from tests.support.fuzzing import (
    MOST_MEMORY,
    PITS,
    any_json,
    as_json,
    changed_json,
    files,
    folder_of,
    given_or_told,
    many,
    memory,
    readable,
)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed")


@pytest.fixture(autouse=True)
def _in_little_memory() -> Iterator[None]:
    before = memory()
    yield
    assert memory() - before < MOST_MEMORY


# Recipes

RECIPES = [(recipes_folder() / f"{name}.yaml").read_bytes() for name in recipe_names()]
TOKENS = (
    b"&a ",
    b"*a",
    b"!!python/object:os.system ",
    b"---\n",
    b"? ",
    b"{",
    b"[",
    b"- ",
    b": ",
    b"|\n",
    b"\t",
    b"<<: ",
)
TOKENS += (b'"\\UFFFFFFFF"', b'"\\ud800"', b"%YAML 9.9\n", b"'", b"#", b"1e999", b".nan", b"0x1f", b"\xc2\x85", b"\x07")


@many(60)
@given(data=st.sampled_from(RECIPES).flatmap(lambda whole: files(whole, TOKENS)))
def test_a_recipe_of_any_bytes_is_taken_or_refused_in_words(desk: Path, data: bytes) -> None:
    file = folder_of(desk, "recipes") / "mine.yaml"
    recipe = given_or_told(lambda: load_recipe(file), file, data, lines=True)
    if recipe is not None:
        assert parse_recipe(dump_recipe(recipe)) == recipe


@many(60)
@given(text=st.text(max_size=200) | st.text("ab01.-:#&*!|>{}[],?'\"\\ \n\t%@`~", max_size=60))
def test_any_text_is_a_document_or_has_a_line_that_is_wrong(text: str) -> None:
    document = read_yaml(text)
    assert document.values is None or not any(problem.message == "" for problem in document.problems)
    try:
        assert isinstance(parse_recipe(text, "mine.yaml"), Recipe)
    except RecipeError as error:
        readable(str(error), Path("mine.yaml"), lines=True)


@many(40)
@given(data=st.data())
def test_a_recipe_of_any_values_is_taken_or_refused_in_words(desk: Path, data: st.DataObject) -> None:
    whole = yaml.safe_load(data.draw(st.sampled_from(RECIPES)))
    values = data.draw(changed_json(whole) | any_json)
    file = folder_of(desk, "recipes") / "mine.yaml"
    text = yaml.safe_dump(values, allow_unicode=data.draw(st.booleans())).encode("utf-8", "surrogatepass")
    recipe = given_or_told(lambda: load_recipe(file), file, text, lines=True)
    if recipe is not None:
        assert parse_recipe(dump_recipe(recipe)) == recipe


WORDS = st.from_regex(r"[a-z0-9_.]{1,6}", fullmatch=True)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co"]), max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.from_regex(r"[a-z0-9_.]{1,6}", fullmatch=True), inner, max_size=4)
    ),
    max_leaves=10,
)


@many(60)
@given(values=PLAIN)
def test_what_is_written_as_yaml_is_read_back(values: Any) -> None:
    document = read_yaml(write_yaml(values))
    assert document.problems == []
    assert document.values == values


# Cards

A_CARD = TeacherCard(
    name="resnet8",
    architecture="resnet8",
    options={"width": 2, "act": "relu"},
    dataset="pictures",
    fingerprint="abc",
    classes=["a", "b"],
    images=24,
    image_size=16,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    taps=["layer1", "layer2"],
    accuracy=Accuracy(top1=0.75, split="test", epoch=2, epochs=2),
    recipe="teacher",
    seed=0,
    parameters=100,
    weights_sha256="0" * 64,
    lgkd_version="1",
    torch_version="2",
    created="2026-11-25T00:00:00+00:00",
)
CARD_JSON = A_CARD.model_dump_json(indent=2).encode()


@many(80)
@given(data=files(CARD_JSON) | changed_json(json.loads(CARD_JSON)).map(as_json) | any_json.map(as_json))
def test_a_card_of_any_bytes_is_taken_or_refused_in_words(desk: Path, data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LGKD_HOME", str(desk / "home"))
        folder = desk / "home" / "teachers" / "pictures" / "resnet8"
        folder.mkdir(parents=True, exist_ok=True)
        found = given_or_told(lambda: find_card("resnet8", "pictures"), folder / CARD, data)
        cards, broken = list_cards()
        mine = [card for card, place in cards if place == folder]
        if found is None:
            assert mine == [] and [file for file, _ in broken] == [folder / CARD]
            return
        assert mine == [found[0]] and found[1] == folder
        assert save_card(found[0], folder).read_bytes()
        assert find_card("resnet8", "pictures")[0] == found[0]


# Runs

A_RUN = {
    "format": 1,
    "kind": "student",
    "status": "running",
    "student": {"name": "deit_tiny", "options": {}},
    "teacher": {"name": "resnet8"},
    "dataset": {"name": "pictures", "path": "/x", "data_dir": None},
    "seed": 0,
    "device": "cpu",
    "precision": "fp32",
}
A_STUDENT = {
    "format": 1,
    "name": "deit_tiny",
    "options": {},
    "num_classes": 2,
    "image_size": [16, 16],
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bilinear",
    "classes": ["a", "b"],
    "weights_sha256": "0" * 64,
}


@many(80)
@given(data=files(as_json(A_RUN, indent=2)) | changed_json(A_RUN).map(as_json) | any_json.map(as_json))
def test_a_run_of_any_bytes_is_taken_or_refused_in_words(desk: Path, data: bytes) -> None:
    folder = folder_of(desk, "run")
    found = given_or_told(lambda: read_run(folder), folder / RUN, data)
    if found is not None:
        assert isinstance(describe(found), str)
        kept = json.dumps(found)
        write_or_refuse_nan(folder, found)
        assert json.dumps(found) == kept
    (folder / RUN).write_bytes(data)
    try:
        assert check_free(folder) is False and found is not None and found["status"] != "finished"
    except LgkdError as error:
        readable(str(error), folder)


def write_or_refuse_nan(folder: Path, run: dict[str, Any]) -> None:
    """What was read can be written again, but for numbers that JSON has no word for."""
    try:
        write_run(folder, run)
    except ValueError as error:
        assert "not JSON compliant" in str(error)
        return
    assert read_run(folder) == run


@many(60)
@given(data=files(as_json(A_STUDENT, indent=2)) | changed_json(A_STUDENT).map(as_json) | any_json.map(as_json))
def test_a_students_description_of_any_bytes_is_taken_or_refused_in_words(desk: Path, data: bytes) -> None:
    folder = folder_of(desk, "student")
    found = given_or_told(lambda: read_student(folder), folder / STUDENT, data)
    if found is not None:
        height, width = found["image_size"]
        assert 0 < height < 2**16 and 0 < width < 2**16


SOME_METRICS = b"epoch,lr,loss,test_top1\n1,0.001,1.5,0.3\n2,0.0005,1.25,\n"


@many(60)
@given(data=files(SOME_METRICS, (b",", b'"', b"\n", b"\r", b"nan", b"1e999", b"\x00")))
def test_metrics_of_any_bytes_are_numbers_or_refused_in_words(desk: Path, data: bytes) -> None:
    folder = folder_of(desk, "metrics")
    rows = given_or_told(lambda: read_metrics(folder), folder / METRICS, data)
    assert rows is None or all(type(cell) is float for row in rows for cell in row.values())


@pytest.mark.parametrize("strange", ["a\nb", "\x00" * 500, [[[]]], {"a": 1}, 10**400, 1.5, None, True])
def test_a_format_that_is_none_is_told_in_one_line(tmp_path: Path, strange: Any) -> None:
    for name, read in ((RUN, read_run), (STUDENT, read_student)):
        data = as_json({"format": strange})
        given_or_told(lambda read=read: read(tmp_path), tmp_path / name, data)


@pytest.mark.parametrize("data", PITS, ids=range(len(PITS)))
def test_every_reader_climbs_out_of_every_pit(tmp_path: Path, data: bytes) -> None:
    for name, read in ((RUN, read_run), (STUDENT, read_student), (METRICS, read_metrics)):
        given_or_told(lambda read=read: read(tmp_path), tmp_path / name, data)
    given_or_told(lambda: load_recipe(tmp_path / "r.yaml"), tmp_path / "r.yaml", data, lines=True)
