"""Published files that are nowhere are downloaded, once, and only where that is wanted."""

import shutil
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from lgkd.cli import run
from lgkd.cli.display import Display
from lgkd.data.catalogue import PUBLISHED
from lgkd.data.load import load_dataset
from lgkd.errors import MissingError
from tests.support.data import message
from tests.support.published import make_cifar, make_flowers, same, served
from tests.support.small import QUICK, TINY


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path / "desk")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    return partial(make_cifar, tmp_path / "given", monkeypatch)


@pytest.fixture
def flowers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    return partial(make_flowers, tmp_path / "given", monkeypatch)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], list[str]]]:
    monkeypatch.delenv("LGKD_OFFLINE")
    with served(tmp_path / "given", monkeypatch) as lead:
        yield lead


def test_what_is_nowhere_is_downloaded_into_the_store_once(
    tmp_path: Path, made: Callable[..., Path], server: Callable[[str], list[str]]
) -> None:
    path = made()
    asked = server("cifar100")
    seen: list[tuple[object, ...]] = []

    def note(*counts: object) -> None:
        seen.append(counts)

    first = load_dataset("cifar100", progress=note, downloading=note)
    assert (tmp_path / "lgkd-home/data/cifar100" / path.name).read_bytes() == path.read_bytes()
    size = path.stat().st_size
    assert seen == [(path.name, size, size), (10, 15), (15, 15)]
    assert same(first, load_dataset("cifar100", use_cache=False))
    assert len(asked) == 1


def test_flowers_are_downloaded_in_three_files(
    flowers: Callable[..., Path], server: Callable[[str], list[str]]
) -> None:
    flowers()
    asked = server("flowers102")
    assert len(load_dataset("flowers102").test) == 4
    assert sorted(asked) == ["/102flowers.tgz", "/imagelabels.mat", "/setid.mat"]


def test_a_data_dir_that_is_not_there_is_rather_mistyped_and_nothing_is_downloaded(
    tmp_path: Path, made: Callable[..., Path], server: Callable[[str], list[str]]
) -> None:
    made()
    asked = server("cifar100")
    text = message(MissingError, "cifar100", data_dir=tmp_path / "gone")
    assert text.endswith(f"or correct the folder: {tmp_path}/gone does not exist")
    assert asked == []


def test_offline_a_set_that_is_nowhere_names_places_address_and_way_without_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    by_environment = [message(MissingError, name) for name in PUBLISHED]
    monkeypatch.delenv("LGKD_OFFLINE")
    assert by_environment == [message(MissingError, name, offline=True) for name in PUBLISHED]
    for name, text in zip(PUBLISHED, by_environment, strict=True):
        store = tmp_path / "lgkd-home/data" / name
        assert text.startswith(f"{name} is not here; looked for folders train and test, {PUBLISHED[name][0].name}")
        assert all(file.url in text for file in PUBLISHED[name])
        assert f"{tmp_path}/desk/data/{name}, {tmp_path}/desk/data, {store}; put its images at" in text
        assert f"in {store}, or let lgkd download" in text


def test_a_check_downloads_and_shows_it_in_plain_lines_unless_it_is_offline(
    tmp_path: Path, made: Callable[..., Path], server: Callable[[str], list[str]], capsys
) -> None:
    path = made()
    asked = server("cifar100")
    assert run(["check", "cifar100", "--offline"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lgkd: cifar100 is not here; looked for ")
    assert asked == []
    assert run(["check", "cifar100"]) == 0
    lines = capsys.readouterr().err.splitlines()
    size = path.stat().st_size
    assert lines == [f"downloading {path.name}: {size:,} of {size:,} bytes", "reading images: 15 of 15"]
    (tmp_path / "lgkd-home/data/cifar100" / path.name).unlink()
    shutil.rmtree(tmp_path / "lgkd-home/cache")
    assert run(["check", "cifar100", "--json"]) == 0
    assert capsys.readouterr().err == ""
    assert len(asked) == 2


@pytest.mark.parametrize("quiet", [False, True])
def test_a_training_shows_its_download_unless_it_is_quiet(
    made: Callable[..., Path], server: Callable[[str], list[str]], capsys, quiet: bool
) -> None:
    path = made()
    server("cifar100")
    words = ["train", "--student", "deit_tiny", *TINY, *QUICK, "--epochs", "1", *(["--quiet"] if quiet else [])]
    assert run(words) == 0
    err = capsys.readouterr().err
    assert (f"downloading {path.name}: " in err) is not quiet
    assert (err == "") is quiet


@pytest.mark.parametrize(
    ("done", "total", "words"),
    [
        (34_200_000, 168_513_733, "34 of 169 MB"),
        (10_000_000, 10_000_000, "10 of 10 MB"),
        (9_999_999, 9_999_999, "10,000 of 10,000 kB"),
        (14_989, 14_989, "15 of 15 kB"),
        (502, 502, "502 of 502 bytes"),
    ],
)
def test_a_download_is_told_in_units_of_its_size(done: int, total: int, words: str, capsys) -> None:
    with Display("x") as display:
        display.downloading("some.tar.gz", done, total)
    assert capsys.readouterr().err == f"downloading some.tar.gz: {words}\n"


def test_a_download_is_told_now_and_then_and_at_its_end(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with Display("x") as display:
        for done in range(0, 101, 10):
            display.downloading("f", done, 100)
            now[0] += 2.0
    heard = [line.split()[2] for line in capsys.readouterr().err.splitlines()]
    assert heard == ["0", "30", "60", "90", "100"]
