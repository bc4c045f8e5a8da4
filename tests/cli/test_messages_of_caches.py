"""What caches of features say where they cannot serve or be made, word for word."""

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lgkd
from lgkd.config import Recipe, load_recipe
from lgkd.distillation.teacher_cache.identity import choose_caches
from lgkd.distillation.teacher_cache.storage import Layout, Writer, open_cache
from lgkd.distillation.teacher_cache.writer import check_size
from lgkd.errors import InputError, MissingError

GUIDE: Any = SimpleNamespace(teaches={"map1": (2,)})


def made(folder: Path, *, views: int = 1, mode: str = "views") -> Path:
    """A cache of one image."""
    layout = Layout({"map1": (2,)}, views=views, images=1)
    writer = Writer(folder, {"mode": mode}, layout, {})
    writer.add({"map1": np.zeros((views, 2), np.float16)})
    try:
        return writer.finish()
    finally:
        writer.close()


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the index and signs it again, as another lgkd would have written it."""
    index = json.loads((folder / "index.json").read_text())
    index.pop("checksum")
    change(index)
    index["checksum"] = sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
    (folder / "index.json").write_text(json.dumps(index))


def choose(recipe: Recipe, *folders: Path) -> object:
    identities: Any = [lambda mode, views: {"mode": mode}] * len(folders)
    return choose_caches(folders, [GUIDE] * len(folders), identities, recipe, processes=1, approximate=False)


def test_caches_of_several_teachers_must_be_alike(tmp_path: Path) -> None:
    folders = [made(tmp_path / f"cache{views}", views=views) for views in (1, 2)]
    with pytest.raises(
        InputError, match="the caches of several teachers differ in mode or number of views; make them alike"
    ):
        choose(load_recipe("locality-guidance"), *folders)


@pytest.mark.parametrize("padding_mode", ["constant", "reflect"])
def test_what_a_cache_cannot_follow_is_named_with_the_way_out(tmp_path: Path, padding_mode: str) -> None:
    folder = made(tmp_path / "cache", mode="replay")
    recipe = load_recipe("locality-guidance")
    changes = {"rand_augment": None, "erase": 0.0, "color_jitter": 0.0, "crop": "pad", "padding_mode": padding_mode}
    view = recipe.view.model_copy(update=changes)
    with pytest.raises(InputError) as caught:
        choose(recipe.model_copy(update={"view": view}), folder)
    assert str(caught.value) == (
        "a cache of the mode replay cannot follow view.crop exactly; switch it off, or use --approximate and check the "
        "printed error"
    )


def test_a_cache_of_no_views_is_none() -> None:
    with pytest.raises(InputError, match="0 views of each image were requested, expected at least 1"):
        Layout({"map1": (2,)}, views=0, images=1)


def test_a_cache_that_is_not_there_or_of_another_lgkd_is_told_by_its_place(tmp_path: Path) -> None:
    with pytest.raises(MissingError) as caught:
        open_cache(tmp_path / "none")
    wanted = "expected one that `lgkd cache-teacher` created"
    assert str(caught.value) == f"there is no folder {tmp_path / 'none'}; {wanted}"
    folder = made(tmp_path / "cache")
    rewrite(folder, lambda index: index.update(format=99))
    with pytest.raises(InputError, match=r"index\.json has format 99, this lgkd reads format 1; recreate the cache"):
        open_cache(folder)


def test_a_cache_that_was_cut_or_holds_something_else_is_damaged(tmp_path: Path) -> None:
    folder = made(tmp_path / "cache")
    whole = (folder / "map1.npy").read_bytes()
    (folder / "map1.npy").write_bytes(whole[:-1])
    with pytest.raises(
        InputError, match=r"map1\.npy has 131 bytes, expected 132 by its index\.json; the cache is corrupt, remove"
    ):
        open_cache(folder)
    with (folder / "map1.npy").open("wb") as file:
        np.lib.format.write_array_header_2_0(file, {"descr": "<f2", "fortran_order": False, "shape": (1, 2, 1)})
        file.write(bytes(4))
    with pytest.raises(
        InputError,
        match=r"map1\.npy has float16 \(1, 2, 1\), which differs from its index\.json; remove the folder",
    ):
        open_cache(folder)


def test_a_cache_that_the_disk_has_no_room_for_is_refused_before_it_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    layout = Layout({"map1": (1000, 1000)}, views=10, images=1000)
    with pytest.raises(
        InputError, match=r"would take 20 GB .*, and .* has 1 GB left; use fewer --views, or --out on another disk"
    ):
        check_size(layout, tmp_path / "deep" / "cache", None)


def test_contradictory_wishes_for_a_cache_are_told_before_anything_is_read() -> None:
    with pytest.raises(InputError, match="--replay caches each image once; leave out --views"):
        lgkd.cache_teacher("deit_tiny", "resnet8", "digits", replay=True, views=3)
    with pytest.raises(InputError, match="--out names one folder, but there are 2 teachers; leave it out"):
        lgkd.cache_teacher("deit_tiny", ["resnet8", "resnet20"], "digits", folder="one")
