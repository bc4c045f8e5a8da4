"""The cache of decoded images: whole or not at all, rebuilt when damaged, never in the way."""

import json
import os
import re
import shutil
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lgkd._internal import blocks, leftovers, manifest
from lgkd._internal.atomic_io import json_sha256
from lgkd.data import decoded_cache
from lgkd.data import load as load_module
from lgkd.data.dataset import DataSet
from lgkd.data.load import load_dataset
from lgkd.errors import DataError, InputError, Remark


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "home"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for seed, part in enumerate(("train/a", "train/b", "test/a", "test/b")):
        (root / part).mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng([seed, number]).integers(0, 256, (4, 4 + number, 3), np.uint8)
            Image.fromarray(pixels).save(root / part / f"{number}.png")
    return root


def load(root: Path, **options: object) -> tuple[DataSet, bool]:
    """The data set, and whether an image had to be decoded for it."""
    calls: list[int] = []
    data = load_dataset(root, progress=lambda done, _: calls.append(done), **options)  # type: ignore[arg-type]
    return data, bool(calls)


def same(one: DataSet, other: DataSet) -> bool:
    return (
        one.fingerprint == other.fingerprint
        and torch.equal(one.train.pixels, other.train.pixels)
        and torch.equal(one.test.pixels, other.test.pixels)
        and torch.equal(one.test.sizes, other.test.sizes)
        and torch.equal(one.train.labels, other.train.labels)
        and one.test.names == other.test.names
    )


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "home/cache/images").iterdir())


def test_the_second_load_decodes_nothing_and_gives_the_same(photos: Path, tmp_path: Path) -> None:
    plain, _ = load(photos, use_cache=False)
    assert not (tmp_path / "home").exists()
    first, decoded = load(photos)
    again, decoded_again = load(photos)
    assert decoded
    assert not decoded_again
    assert same(plain, first)
    assert same(first, again)
    (entry,) = entries(tmp_path)
    assert sorted(path.name for path in entry.iterdir()) == ["MANIFEST.json", "index.json", "pixels.npy", "sizes.npy"]


def test_a_mapped_data_set_loads_without_a_warning_and_writing_to_it_changes_no_file(photos: Path) -> None:
    load(photos)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data, _ = load(photos)
    before = data.train.pixels.clone()
    data.train.pixels.zero_()
    assert torch.equal(load(photos)[0].train.pixels, before)


def test_the_first_load_is_as_safe_to_write_to_as_the_second(photos: Path) -> None:
    data, _ = load(photos)
    before = data.train.pixels.clone()
    data.train.pixels.zero_()
    again, decoded = load(photos)
    assert not decoded
    assert torch.equal(again.train.pixels, before)


def test_max_side_has_an_entry_of_its_own(photos: Path, tmp_path: Path) -> None:
    assert load(photos)[0].train.pixels.shape[-1] == 6
    assert load(photos, max_side=3)[0].train.pixels.shape[-1] == 3
    assert len(entries(tmp_path)) == 2
    assert not load(photos)[1]


def test_a_changed_file_is_seen_and_the_old_entry_goes(photos: Path, tmp_path: Path) -> None:
    first, _ = load(photos)
    (old,) = entries(tmp_path)
    Image.new("RGB", (4, 4)).save(photos / "train/a/0.png")
    data, decoded = load(photos)
    assert decoded
    assert data.fingerprint != first.fingerprint
    assert int(data.train.pixels[0].max()) == 0
    (new,) = entries(tmp_path)
    assert new != old


def test_a_touched_or_renamed_file_is_decoded_again(photos: Path) -> None:
    load(photos)
    os.utime(photos / "train/a/0.png", ns=(1, 1))
    assert load(photos)[1]
    (photos / "train/a/0.png").rename(photos / "train/a/00.png")
    assert load(photos)[1]


def test_equal_listings_in_two_places_are_two_data_sets(photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    for root in (photos, other):
        for path in root.rglob("*.png"):
            Image.new("RGB", (4, 4), "red" if root == other else "blue").save(path, "BMP")
            os.utime(path, ns=(1, 1))
    assert load(photos)[0].fingerprint != load(other)[0].fingerprint


def rewrite(path: Path, **changes: object) -> None:
    """Changes the index and signs it again, as an older or foreign version would have written it."""
    record = json.loads(path.read_text())
    record.pop("checksum")
    record.update(changes)
    record["checksum"] = json_sha256(record)
    path.write_text(json.dumps(record))


DAMAGE = {
    "no index": lambda entry: (entry / "index.json").unlink(),
    "no json": lambda entry: (entry / "index.json").write_text("{"),
    "json that is no object": lambda entry: (entry / "index.json").write_text("[1]"),
    "binary index": lambda entry: (entry / "index.json").write_bytes(b"\xff\xfe\x00"),
    "index without keys": lambda entry: (entry / "index.json").write_text("{}"),
    "edited index": lambda entry: (entry / "index.json").write_text(
        (entry / "index.json").read_text().replace('"format": 2', '"format": 2, "more": 2')
    ),
    "other format": lambda entry: rewrite(entry / "index.json", format=0),
    "other shape": lambda entry: rewrite(entry / "index.json", shape=[12, 3, 4, 9]),
    "other count": lambda entry: rewrite(entry / "index.json", shape=[11, 3, 6, 6]),
    "empty shape": lambda entry: rewrite(entry / "index.json", shape=[]),
    "no pixels": lambda entry: (entry / "pixels.npy").unlink(),
    "short pixels": lambda entry: os.truncate(entry / "pixels.npy", 500),
    "long pixels": lambda entry: (entry / "pixels.npy").open("ab").write(b"more"),
    "pixels of another type": lambda entry: (
        np.save(entry / "pixels.npy", np.zeros((12, 3, 6, 3), np.uint16)),
        rewrite(entry / "index.json", bytes=(entry / "pixels.npy").stat().st_size),
    ),
    "pixels without a head": lambda entry: (entry / "pixels.npy").write_bytes(
        b"x" * (entry / "pixels.npy").stat().st_size
    ),
    "no sizes": lambda entry: (entry / "sizes.npy").unlink(),
    "other sizes": lambda entry: np.save(entry / "sizes.npy", np.zeros((12, 2), np.int32)),
    "an empty folder": lambda entry: [path.unlink() for path in entry.iterdir()],
    "a file in its place": lambda entry: (shutil.rmtree(entry), entry.write_text("")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_made_anew(photos: Path, tmp_path: Path, damage: str) -> None:
    good, _ = load(photos, use_cache=False)
    load(photos)
    (entry,) = entries(tmp_path)
    DAMAGE[damage](entry)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", Remark)
        data, decoded = load(photos)
    said = [str(one.message).partition(" are made again: ")[2] for one in told]
    assert len(said) == (damage not in ("no index", "an empty folder", "a file in its place"))
    assert decoded
    assert same(data, good)
    data, decoded = load(photos)
    assert not decoded
    assert same(data, good)
    assert entries(tmp_path) == [entry]


def test_a_store_that_cannot_be_made_costs_nothing_but_time(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "file"))
    plain, _ = load(photos, use_cache=False)
    for _ in range(2):
        data, decoded = load(photos)
        assert decoded
        assert same(data, plain)


@pytest.mark.parametrize("step", ["_reserve", "_write", "_publish", "_sync"])
def test_a_disk_that_fails_half_way_leaves_the_images_and_no_litter(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    plain, _ = load(photos, use_cache=False)
    with monkeypatch.context() as patched:
        patched.setattr(decoded_cache, step, full)
        data, _ = load(photos)
    assert same(data, plain)
    assert not [entry for entry in entries(tmp_path) if entry.name.startswith(".")]
    assert same(load(photos)[0], plain)


def test_without_fallocate_room_is_made_by_writing(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = load(photos, use_cache=False)
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    monkeypatch.setattr(decoded_cache, "_BLOCK", 100)
    load(photos)
    data, decoded = load(photos)
    assert not decoded
    assert same(data, plain)


def test_of_two_processes_that_write_the_same_the_second_gives_way(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = load_module.decode

    def overtaken(*args: object, **options: object) -> object:
        done = decode(*args, **options)  # type: ignore[arg-type]
        monkeypatch.setattr(load_module, "decode", decode)
        _, decoded = load(photos)  # the other process starts and finishes in between
        assert decoded
        stamps.append((entries(tmp_path)[-1] / "index.json").stat().st_ino)
        return done

    stamps: list[int] = []
    monkeypatch.setattr(load_module, "decode", overtaken)
    data, _ = load(photos)
    (entry,) = entries(tmp_path)
    assert (entry / "index.json").stat().st_ino == stamps[0]
    assert same(data, load(photos)[0])


def test_broken_images_leave_nothing_in_the_store(photos: Path, tmp_path: Path) -> None:
    (photos / "train/a/0.png").write_bytes(b"x")
    with pytest.raises(DataError, match="1 of 12 images"):
        load(photos)
    assert entries(tmp_path) == []


def test_leavings_of_killed_processes_go_and_what_is_written_into_stays(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process locks what it writes into; where there are no locks, a folder is left alone for a day."""
    images = tmp_path / "home/cache/images"
    left, written = (f".{'0' * 16}-{'1' * 40}-{last * 16}" for last in "23")
    for name in (left, written):
        (images / name).mkdir(parents=True)
    handle = os.open(images / written, os.O_RDONLY)
    assert leftovers.lock(handle)
    load(photos)
    assert [entry.name for entry in entries(tmp_path) if entry.name.startswith(".")] == [written]
    os.close(handle)
    monkeypatch.setattr(leftovers, "lock", lambda *_, **__: None)
    leftovers.remove_leftover(images / written)
    assert (images / written).exists()
    os.utime(images / written, (time.time() - 2 * 86400,) * 2)
    leftovers.remove_leftover(images / written)
    assert not (images / written).exists()


def test_a_refused_private_mapping_is_read_through_a_shared_one_without_a_warning(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = load(photos)
    numpy_load = np.load

    def refusing(*args: object, **options: object) -> object:
        if options.get("mmap_mode") == "c":
            raise OSError(12, "Cannot allocate memory")
        return numpy_load(*args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(np, "load", refusing)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data, decoded = load(photos)
    assert not decoded
    assert same(data, plain)


def flipped(file: Path, seed: int) -> None:
    data = bytearray(file.read_bytes())
    place = np.random.default_rng(seed).integers(len(data))
    data[place] ^= 1 << seed % 8
    file.write_bytes(data)


@pytest.mark.parametrize("name", ["pixels.npy", "sizes.npy", "index.json", "MANIFEST.json"])
def test_a_flipped_bit_is_never_read_and_the_images_are_made_again_saying_so(
    photos: Path, tmp_path: Path, name: str
) -> None:
    good, _ = load(photos, use_cache=False)  # what is mapped from the file would change with it
    load(photos)
    (entry,) = entries(tmp_path)
    for seed in range(20):
        flipped(entry / name, seed)
        with pytest.warns(Remark, match=r"the decoded images kept in .* are made again: .*"):
            found, decoded = load(photos)
        assert decoded and same(found, good)


def test_pixels_of_large_entries_are_compared_as_they_are_first_read(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (manifest, blocks):
        monkeypatch.setattr(module, "BLOCK", 108)  # an image
    good, _ = load(photos, use_cache=False)
    load(photos)
    monkeypatch.setattr(decoded_cache, "_AT_ONCE", 0)
    (entry,) = entries(tmp_path)
    data = bytearray((entry / "pixels.npy").read_bytes())
    data[-1] ^= 1
    (entry / "pixels.npy").write_bytes(data)
    found, decoded = load(photos)
    assert not decoded
    assert torch.equal(found.train.take(torch.arange(6)).pixels, good.train.pixels)
    found.test.take(torch.arange(5))
    with pytest.raises(
        InputError, match=r"block 11 \(of 108 bytes\) has SHA-256 \w{64}, expected \w{64}; it is damaged"
    ):
        found.test.take(torch.arange(6))
    again, decoded = load(photos)
    assert decoded and same(again, good)


def test_an_entry_of_an_older_version_is_read_with_one_line(photos: Path, tmp_path: Path) -> None:
    good, _ = load(photos)
    (entry,) = entries(tmp_path)
    (entry / "MANIFEST.json").unlink()
    with pytest.warns(Remark, match="could not be verified: there is no MANIFEST.json"):
        found, decoded = load(photos)
    assert not decoded and same(found, good)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("other count", "index.json does not describe the files beside it, so they are damaged"),
        ("pixels of another type", "pixels.npy is not the array of pixels that its index.json says"),
        ("no sizes", "cannot be read (FileNotFoundError)"),
    ],
)
def test_what_is_wrong_with_an_entry_is_told(photos: Path, tmp_path: Path, damage: str, told: str) -> None:
    load(photos)
    (entry,) = entries(tmp_path)
    DAMAGE[damage](entry)
    with pytest.raises(InputError, match=re.escape(told)):
        decoded_cache._load(entry, 12)
