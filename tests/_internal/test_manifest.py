"""Manifests: what is written last, what is compared with it, and what is told of damage."""

import hashlib
import json
import random
import threading
from pathlib import Path

import numpy as np
import pytest

from lgkd._internal import blocks, manifest
from lgkd._internal.atomic_io import json_sha256
from lgkd._internal.blocks import CheckedRows
from lgkd._internal.manifest import MANIFEST, BlockDigests, read_manifest, tell_unverified, verify, write_manifest
from lgkd.errors import InputError, Remark


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.json").write_bytes(b'{"lr": 0.002}\n')
    (tmp_path / "b.bin").write_bytes(bytes(range(100)))
    write_manifest(tmp_path, ("a.json", "b.bin"))
    return tmp_path


def test_a_manifest_holds_length_and_sha256_of_each_file(folder: Path) -> None:
    files = json.loads((folder / MANIFEST).read_text())["files"]
    assert files == {
        name: {
            "bytes": len((folder / name).read_bytes()),
            "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
        }
        for name in ("a.json", "b.bin")
    }
    assert verify(folder, ("a.json", "b.bin"))


def test_a_file_that_a_user_adds_is_not_looked_at_and_one_that_has_to_be_listed_is_refused(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    assert verify(folder, ("a.json",))
    with pytest.raises(
        InputError, match=r"notes.txt is not listed in the MANIFEST.json beside it; take both from a copy"
    ):
        verify(folder, ("notes.txt",))


def test_every_bit_of_a_small_file_and_of_the_manifest_is_guarded(folder: Path) -> None:
    """All 112 bits of a file; of the manifest those that change what JSON says, which is nearly all."""
    for name in ("a.json", MANIFEST):
        good = (folder / name).read_bytes()
        for bit in range(8 * len(good)):
            data = bytearray(good)
            data[bit // 8] ^= 1 << bit % 8
            (folder / name).write_bytes(data)
            try:
                same = verify(folder, ("a.json", "b.bin")) and name == MANIFEST
            except InputError:
                continue
            assert same and json.loads(data) == json.loads(good), f"bit {bit} of {name} was read in silence"
        (folder / name).write_bytes(good)


def test_what_is_found_and_what_was_expected_are_shown_whole(folder: Path) -> None:
    wanted = hashlib.sha256((folder / "a.json").read_bytes()).hexdigest()
    (folder / "a.json").write_bytes(b'{"lr": 0.006}\n')
    found = hashlib.sha256(b'{"lr": 0.006}\n').hexdigest()
    with pytest.raises(
        InputError,
        match=rf"a.json: has SHA-256 {found}, expected {wanted} by the MANIFEST.json beside it; it is damaged or was "
        "changed, take it from a copy or make it again",
    ):
        verify(folder, ("a.json",))


def test_a_cut_and_a_missing_file_are_named(folder: Path) -> None:
    (folder / "b.bin").write_bytes(bytes(99))
    with pytest.raises(
        InputError, match=r"b.bin: has 99 bytes, expected 100 by the MANIFEST.json beside it; it is damaged"
    ):
        verify(folder, ("b.bin",))
    (folder / "b.bin").unlink()
    with pytest.raises(
        InputError, match=r"b.bin: cannot be read \(.*\), and the MANIFEST.json beside it lists it; take"
    ):
        verify(folder, ("b.bin",))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is damaged, or not a manifest of lgkd; take it from a copy"),
        ("[]", "is damaged, or not a manifest of lgkd"),
        ('{"format": 1, "files": {}, "checksum": "0"}', "is damaged, or not a manifest of lgkd"),
        ("[" * 100_000, "is damaged, or not a manifest of lgkd"),
    ],
)
def test_what_is_no_manifest_is_refused(folder: Path, text: str, told: str) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(InputError, match=told):
        verify(folder, ("a.json",))


@pytest.mark.parametrize(
    "about",
    [
        {"bytes": 1, "sha256": "x"},
        {"bytes": "1", "sha256": "0" * 64},
        {"sha256": "0" * 64},
        [],
        {"bytes": 1, "block_bytes": 7, "block_sha256": []},
        {"bytes": 1, "block_bytes": manifest.BLOCK, "block_sha256": [1]},
    ],
)
def test_a_manifest_of_proper_checksum_and_odd_entries_is_refused(folder: Path, about: object) -> None:
    files = {"a.json": about}
    value = {"format": 1, "files": files, "checksum": json_sha256(files)}  # type: ignore[arg-type]
    (folder / MANIFEST).write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"lists a file without a proper size and SHA-256; make its folder again"):
        read_manifest(folder)


def test_one_of_a_later_format_and_one_that_is_huge_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(value | {"format": 2}))
    with pytest.raises(InputError, match="is not of format 1, which this lgkd reads; use the lgkd that wrote it"):
        read_manifest(folder)
    monkeypatch.setattr(manifest, "_MAX_BYTES", 10)
    with pytest.raises(InputError, match="has more than 10 bytes, too many for a manifest; move it away"):
        read_manifest(folder)


def test_one_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).mkdir()
    with pytest.raises(InputError, match=r"MANIFEST.json: cannot be read \(.*\); fix that, and run the command again"):
        read_manifest(folder)


def test_a_folder_without_one_is_read_with_one_line_for_all(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    assert not verify(tmp_path, ("a.json",))
    with pytest.warns(Remark, match=r"^\S+/x and 2 more could not be verified: there is no MANIFEST.json, which older"):
        tell_unverified(tmp_path / "x", tmp_path / "y", tmp_path / "z")


@pytest.mark.parametrize("pieces", [1, 7, 64, 1000])
def test_digests_of_blocks_do_not_depend_on_the_pieces(monkeypatch: pytest.MonkeyPatch, pieces: int) -> None:
    monkeypatch.setattr(manifest, "BLOCK", 64)
    data = random.Random(0).randbytes(1000)
    digests = BlockDigests()
    for start in range(0, len(data), pieces):
        digests.update(data[start : start + pieces])
    assert digests.all() == [hashlib.sha256(data[start : start + 64]).hexdigest() for start in range(0, 1000, 64)]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (manifest, blocks):
        monkeypatch.setattr(module, "BLOCK", 64)


def checked(array: np.ndarray) -> CheckedRows:
    digests = BlockDigests()
    digests.update(array.tobytes())
    return CheckedRows(array, digests.all(), Path("x.npy"), "make it again")


@pytest.mark.parametrize("width", [1, 3, 10, 64, 200])
@pytest.mark.usefixtures("small_blocks")
def test_a_row_is_compared_before_it_is_read_and_only_its_blocks_are(width: int) -> None:
    """Against a loop over bytes: a flip is told exactly for the rows that share a block with it."""
    array = np.frombuffer(random.Random(width).randbytes(20 * width), np.uint8).reshape(20, width).copy()
    for byte in range(0, 20 * width, max(7, width // 3)):
        for row in range(20):
            rows = checked(array)
            array.reshape(-1)[byte] ^= 4
            touched = {place // 64 for place in range(row * width, (row + 1) * width)}
            try:
                rows.check(np.array([row]))
                told = False
            except InputError as error:
                told = True
                assert f"x.npy: block {byte // 64} (of 64 bytes) has SHA-256 " in str(error)
            assert told == (byte // 64 in touched)
            array.reshape(-1)[byte] ^= 4


@pytest.mark.usefixtures("small_blocks")
def test_a_block_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.arange(400, dtype=np.uint8).reshape(10, 40)
    rows, made = checked(array), []
    real = blocks.sha256
    monkeypatch.setattr(blocks, "sha256", lambda data: made.append(len(data)) or real(data))
    for _ in range(3):
        for row in range(10):
            rows.check(np.array([row, 9 - row]))
    rows.check()
    assert sum(made) == 400 and len(made) == 7


@pytest.mark.usefixtures("small_blocks")
def test_several_blocks_are_hashed_at_once_and_the_first_damaged_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.arange(256, dtype=np.uint8).reshape(4, 64)
    rows, real = checked(array), blocks.sha256
    both = threading.Barrier(2, timeout=60)  # breaks where one would wait for the other
    monkeypatch.setattr(blocks, "cores", lambda: 2)
    monkeypatch.setattr(blocks, "sha256", lambda data: (both.wait() and None) or real(data))
    array[1, 3] ^= 1
    array[3, 3] ^= 1
    with pytest.raises(InputError, match=r"x\.npy: block 1 "):
        rows.check()


@pytest.mark.usefixtures("small_blocks")
def test_another_number_of_blocks_is_refused() -> None:
    with pytest.raises(InputError, match=r"x.npy has 2 blocks, its manifest 1; it is damaged, make it again"):
        CheckedRows(np.zeros((2, 64), np.uint8), ["0" * 64], Path("x.npy"), "make it again")
