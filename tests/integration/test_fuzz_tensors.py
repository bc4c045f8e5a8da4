"""As test_fuzz_readers.py, for weights and checkpoints."""

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from lgkd._internal.safetensors_io import fill, load_weights
from lgkd.errors import InputError
from lgkd.training.callbacks import EpochRow
from lgkd.training.checkpoint import MANIFEST, STATE, load_newest, read_checkpoint, save_checkpoint
from lgkd.training.state import Progress, read_progress
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


# Weights

MODEL = nn.Linear(3, 2)
SOME_WEIGHTS = save({name: value.detach() for name, value in MODEL.state_dict().items()})
A_HEADER = json.loads(SOME_WEIGHTS[8 : 8 + struct.unpack("<Q", SOME_WEIGHTS[:8])[0]])
DTYPES = [
    "F64",
    "F32",
    "F16",
    "BF16",
    "I64",
    "U64",
    "U16",
    "I8",
    "BOOL",
    "F8_E4M3",
    "F8_E8M0",
    "F4",
    "F6_E2M3",
    "C64",
    "X",
]


@st.composite
def any_weights(draw: st.DrawFn) -> bytes:
    """A file of the format's outer shape whose header says anything."""
    sizes = st.sampled_from([0, 1, 2, 3, 8, 2**16, 2**31, 2**62, 2**63, 2**64 - 1])
    span = st.lists(st.integers(0, 40), min_size=2, max_size=2).map(sorted)
    one = st.fixed_dictionaries(
        {"dtype": st.sampled_from(DTYPES), "shape": st.lists(sizes, max_size=4), "data_offsets": span}
    )
    names = st.sampled_from(["weight", "bias", "__metadata__"]) | st.text(max_size=6)
    header = draw(st.one_of(changed_json(A_HEADER), st.dictionaries(names, one, max_size=3), any_json))
    text = as_json(header)
    size = draw(st.just(len(text)) | st.sampled_from([0, 1, 2**32, 2**63, 2**64 - 1]))
    return struct.pack("<Q", size) + text + draw(st.just(SOME_WEIGHTS[-32:]) | st.binary(max_size=40))


@st.composite
def sound_weights(draw: st.DrawFn) -> bytes:
    """A file of the right shape and length, of tensors whose sizes and names may be anything."""
    width = {"F64": 8, "F32": 4, "F16": 2, "I8": 1, "BOOL": 1, "F8_E4M3": 1, "U16": 2, "C64": 8, "F8_E8M0": 1}
    header, end = {}, 0
    for name in draw(st.lists(st.text(max_size=6) | st.sampled_from(["weight", "bias"]), max_size=3, unique=True)):
        kind = draw(st.sampled_from(sorted(width)))
        shape = draw(st.lists(st.sampled_from([0, 0, 1, 2, 3, 2**31, 2**62, 2**63, 2**64 - 1]), max_size=4))
        size = math.prod(shape) * width[kind]
        size = size if size < 1000 else 0
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    return framed(header, draw(st.binary(min_size=end, max_size=end)))


def framed(header: Any, data: bytes = b"") -> bytes:
    text = as_json(header)
    return struct.pack("<Q", len(text)) + text + data


def of_shape(*shape: int, name: str = "a") -> bytes:
    return framed({name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}})


WEIGHTS_PITS = [
    of_shape(0, 2**62, 2**62),  # a stride that no number holds
    of_shape(0, 2**63),  # a size that no number holds
    of_shape(1, name="a\n\x1b[2J" * 20),
    framed({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, b"\0"),  # a type that torch does not have
    struct.pack("<Q", 2**63) + b"{}",
    struct.pack("<Q", 300_000) + b"[" * 300_000,
]
weights_files = files(SOME_WEIGHTS) | any_weights() | sound_weights() | st.sampled_from(WEIGHTS_PITS)


@pytest.mark.parametrize("data", WEIGHTS_PITS, ids=range(len(WEIGHTS_PITS)))
def test_weights_that_cannot_be_are_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "w.safetensors"
    assert given_or_told(lambda: load_weights(file), file, data) is None
    folder = a_checkpoint(tmp_path)
    (folder / "student.safetensors").write_bytes(data)
    vouched_for(folder, "student.safetensors", data)
    assert given_or_told(lambda: read_checkpoint(folder), folder / "student.safetensors", data) is None


@many(120)
@given(data=weights_files)
def test_weights_of_any_bytes_are_tensors_or_refused_in_words(desk: Path, data: bytes) -> None:
    file = folder_of(desk, "weights") / "w.safetensors"
    tensors = given_or_told(lambda: load_weights(file), file, data)
    if tensors is None:
        return
    assert sum(tensor.nbytes for tensor in tensors.values()) <= len(data)
    model = nn.Linear(3, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        fill(model, tensors, file.name)
    except InputError as error:
        readable(str(error), file)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    else:
        for name, value in model.state_dict().items():
            assert torch.equal(value, tensors[name].to(value.dtype)) or bool(value.isnan().any())


# Checkpoints

A_ROW = {"epoch": 1, "lr": 0.1, "train": {"loss": 1.0}, "scores": {"test_top1": 0.5}, "seconds": 1.0}
A_ROW |= {"evaluation_seconds": 0.5, "images_per_second": 100.0, "memory_mb": 700.0, "processor_seconds": 1.25}
A_STATE = {
    "format": 1,
    "progress": {
        "epoch": 1,
        "step": 2,
        "accumulate": 1,
        "seconds": 0.5,
        "rows": [A_ROW],
        "images": 8,
        "best": {"epoch": 1, "score": 0.5},
        "courses": [{"locality": {"ended": None}}],
        "processor_seconds": 0.25,
    },
    "scaler": None,
    "threads": 1,
    "processes": 1,
    "step": 3,
}
TENSORS = {"student": {"weight": torch.arange(6.0)}, "meters": {}}


def a_checkpoint(desk: Path) -> Path:
    """A good one, new in every example."""
    return save_checkpoint(folder_of(desk, "checkpoint"), 3, TENSORS, A_STATE)


def canonical(value: Any) -> bytes:
    """As lgkd writes JSON."""
    return json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def vouched_for(folder: Path, name: str, data: bytes) -> None:
    """Have the manifest say of a file what is then true of it."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / MANIFEST).write_bytes(canonical(manifest))


@many(60)
@given(data=st.data())
def test_a_manifest_of_any_bytes_is_taken_or_refused_in_words(desk: Path, data: st.DataObject) -> None:
    folder = a_checkpoint(desk)
    whole = (folder / MANIFEST).read_bytes()
    spoilt = data.draw(files(whole) | changed_json(json.loads(whole)).map(canonical) | any_json.map(canonical))
    try:
        found = given_or_told(lambda: read_checkpoint(folder), folder / MANIFEST, spoilt)
    except AssertionError:
        # A manifest may be refused for what it says of another file, and then that one is named.
        with pytest.raises(InputError) as caught:
            read_checkpoint(folder)
        named = [name for name in json.loads(spoilt)["files"] if f"{folder / name} " in str(caught.value)]
        assert len(named) == 1
        readable(str(caught.value), folder / named[0])
    else:
        if found is not None:
            assert found[0].keys() <= TENSORS.keys() and json.loads(spoilt)["files"].keys() >= {STATE}


@many(60)
@given(data=files(canonical(A_STATE)) | changed_json(A_STATE).map(canonical) | any_json.map(as_json))
def test_a_state_of_any_bytes_is_taken_or_refused_in_words(desk: Path, data: bytes) -> None:
    folder = a_checkpoint(desk)
    vouched_for(folder, STATE, data)
    progress = given_or_told(lambda: progress_in(folder), folder / STATE, data)
    if progress is not None:
        assert len(progress.rows) == progress.epoch
        assert progress.accumulate >= 1 and math.isfinite(progress.seconds)
        assert all(isinstance(row, EpochRow) and math.isfinite(row.lr) for row in progress.rows)
        assert progress.best is None or progress.best["score"] <= math.inf


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state["progress"].update({"a\nb" * 50: 1}), r"lacks a valid 'progress\.a\\nb"),
        (lambda state: state["progress"].update(epoch=2), r"lacks a valid progress\.rows;"),
        (lambda state: state["progress"]["rows"][0].pop("lr"), r"lacks a valid progress\.rows;"),
        (lambda state: state["progress"]["rows"][0].update(train={"loss": "x"}), r"lacks a valid progress\.rows;"),
        (lambda state: state["progress"]["rows"][0].update(lr=10**400), r"lacks a valid progress\.rows;"),
        (lambda state: state["progress"].update(best={"epoch": 1, "score": "x"}), r"lacks a valid progress\.best;"),
        (lambda state: state["progress"].update(seconds=math.inf), r"lacks a valid progress\.seconds;"),
        (lambda state: state.update({"progress.epoch": state["progress"].pop("epoch")}), r"a valid progress\.epoch;"),
    ],
)
def test_a_state_that_is_whole_and_yet_strange_is_refused_by_its_key(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], named: str
) -> None:
    # Each was taken, or refused in a message of several lines, before the fuzzing.
    state = json.loads(json.dumps(A_STATE))
    assert read_progress(state, tmp_path / STATE).epoch == 1
    change(state)
    with pytest.raises(InputError, match=named) as caught:
        read_progress(state, tmp_path / STATE)
    readable(str(caught.value), tmp_path / STATE)


def test_a_row_of_a_checkpoint_is_a_row_of_the_loop() -> None:
    assert A_ROW.keys() == EpochRow.__dataclass_fields__.keys()


def test_a_row_from_before_memory_was_written_down_is_one_too(tmp_path: Path) -> None:
    old = {key: value for key, value in A_ROW.items() if key != "memory_mb"}
    rows = read_progress(A_STATE | {"progress": A_STATE["progress"] | {"rows": [old]}}, tmp_path / STATE).rows
    assert rows == [EpochRow(**old)] and rows[0].memory_mb is None


def progress_in(folder: Path) -> Progress:
    found = load_newest(folder.parent)
    assert found is not None and type(found.step) is int
    return read_progress(found.state, found.folder / STATE)


@many(100)
@given(data=weights_files)
def test_a_part_of_a_checkpoint_of_any_bytes_is_taken_or_refused_in_words(desk: Path, data: bytes) -> None:
    folder = a_checkpoint(desk)
    name = "student.safetensors"
    (folder / name).write_bytes(data)
    vouched_for(folder, name, data)
    found = given_or_told(lambda: read_checkpoint(folder), folder / name, data)
    if found is not None:
        assert sum(tensor.nbytes for tensor in found[0]["student"].values()) <= len(data)


@pytest.mark.parametrize("data", PITS, ids=range(len(PITS)))
def test_every_reader_of_tensors_climbs_out_of_every_pit(tmp_path: Path, data: bytes) -> None:
    folder = a_checkpoint(tmp_path)
    given_or_told(lambda: read_checkpoint(folder), folder / MANIFEST, data)
    folder = a_checkpoint(tmp_path)
    vouched_for(folder, STATE, data)
    given_or_told(lambda: read_checkpoint(folder), folder / STATE, data)
    given_or_told(lambda: load_weights(tmp_path / "w.safetensors"), tmp_path / "w.safetensors", data)
