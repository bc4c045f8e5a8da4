"""Downloads, against a server on this machine that can cut connections, lie about sizes and lead elsewhere."""

import hashlib
import socket
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from lgkd.data.sources import download
from lgkd.data.sources.download import fetch, is_offline, verified
from lgkd.errors import DataError, InputError, MissingError
from tests.support.download import CONTENT, SUM, Server, get
from tests.support.download import server as server


@pytest.fixture
def no_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def message(error: type[Exception], server: Server, target: Path, **options: Any) -> str:
    with pytest.raises(error) as caught:
        get(server, target, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_whole_file_arrives_with_its_progress_and_nothing_else_stays(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    target = get(server, tmp_path / "new/folder/f.bin", progress=lambda *counts: seen.append(counts))
    assert target.read_bytes() == CONTENT
    assert left(target.parent) == ["f.bin"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert server.asked == [None]


def test_a_file_that_is_there_is_checked_and_not_asked_for(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.bin").write_bytes(CONTENT)
    assert get(server, tmp_path / "f.bin").read_bytes() == CONTENT
    (tmp_path / "f.bin").write_bytes(CONTENT[:-1] + b"x")
    assert f"f.bin has SHA-256 {hashlib.sha256(CONTENT[:-1] + b'x').hexdigest()}, the published file has {SUM}" in (
        message(DataError, server, tmp_path / "f.bin")
    )
    (tmp_path / "f.bin").write_bytes(b"short")
    assert "f.bin has 5 bytes, the published file has 768,000: remove it" in message(
        DataError, server, tmp_path / "f.bin"
    )
    assert (tmp_path / "f.bin").read_bytes() == b"short"
    assert server.asked == []


def test_a_cut_connection_goes_on_where_it_was_cut(server: Server, tmp_path: Path) -> None:
    server.cuts = [300_000, 1]
    assert get(server, tmp_path / "f.bin").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=300001-"]


def test_a_download_of_an_earlier_process_goes_on(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.bin.part").write_bytes(CONTENT[:1000])
    assert get(server, tmp_path / "f.bin").read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]
    assert left(tmp_path) == ["f.bin"]


def test_a_finished_part_of_an_earlier_process_needs_no_connection(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.bin.part").write_bytes(CONTENT)
    assert get(server, tmp_path / "f.bin").read_bytes() == CONTENT
    assert server.asked == []


def test_a_server_that_cannot_go_on_in_the_middle_starts_over(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.cuts = [300_000]
    assert get(server, tmp_path / "f.bin").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-"]


@pytest.mark.parametrize("old", [b"of another file", CONTENT[::-1], CONTENT + b"and more"])
def test_a_part_of_another_file_is_thrown_away_and_all_is_got(server: Server, tmp_path: Path, old: bytes) -> None:
    (tmp_path / "f.bin.part").write_bytes(old)
    assert get(server, tmp_path / "f.bin").read_bytes() == CONTENT
    assert server.asked[-1] is None


def test_a_server_that_sends_another_part_than_asked_for_is_not_believed(server: Server, tmp_path: Path) -> None:
    server.cuts, server.shifts = [1000], 7
    assert get(server, tmp_path / "f.bin").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", None]


def test_connections_that_are_always_cut_end_after_a_bound_and_keep_what_came(server: Server, tmp_path: Path) -> None:
    server.cuts = [1000] * 20
    text = message(MissingError, server, tmp_path / "f.bin")
    assert len(server.asked) == download.TRIES
    assert text == (
        f"cannot download {server.url}: the connection ended after 6,000 of 768,000 bytes; the partial file is kept: "
        f"run the same command again to resume; check the network, or put that file at {tmp_path / 'f.bin'}"
    )
    assert (tmp_path / "f.bin.part").stat().st_size == 6000
    assert not (tmp_path / "f.bin").exists()


def test_a_wrong_checksum_is_told_and_the_file_removed(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"x"
    text = message(DataError, server, tmp_path / "f.bin")
    wrong = hashlib.sha256(server.content).hexdigest()
    assert text.startswith(f"{server.url} gave a file with SHA-256 {wrong}, expected {SUM}: it was removed")
    assert left(tmp_path) == []


@pytest.mark.parametrize("says_length", [True, False])
def test_a_larger_file_than_published_is_refused_and_not_kept(
    server: Server, tmp_path: Path, says_length: bool
) -> None:
    server.content, server.says_length = CONTENT * 10, says_length
    seen: list[int] = []
    text = message(DataError, server, tmp_path / "f.bin", progress=lambda done, _: seen.append(done))
    found = "7,680,000 bytes, expected" if says_length else "more than"
    assert text.startswith(f"{server.url} has {found} 768,000 bytes: it is not the published file")
    assert left(tmp_path) == []
    assert max(seen, default=0) <= len(CONTENT)


def test_a_smaller_file_than_published_is_refused(server: Server, tmp_path: Path) -> None:
    server.content = b"<html>please log in</html>"
    assert "has 26 bytes, expected 768,000 bytes" in message(DataError, server, tmp_path / "f.bin")
    assert left(tmp_path) == []


def test_what_is_not_at_the_address_is_told_at_once_with_the_place_to_put_it(server: Server, tmp_path: Path) -> None:
    server.status, server.failures = 404, -1
    text = message(MissingError, server, tmp_path / "f.bin")
    assert text == (
        f"cannot download {server.url}: the server answered 404 Not Found; "
        f"check the network, or put that file at {tmp_path / 'f.bin'}"
    )
    assert len(server.asked) == 1


def test_a_server_that_is_busy_for_a_moment_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.status, server.failures = 503, 2
    assert get(server, tmp_path / "f.bin").read_bytes() == CONTENT
    assert len(server.asked) == 3


def test_a_server_that_is_not_there_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LGKD_OFFLINE")
    with socket.socket() as taken:  # bound and not listening: nobody answers there
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/file"
        with pytest.raises(MissingError, match=f"cannot download {url}: Connection refused; check the network"):
            fetch(url, tmp_path / "f.bin", size=1, sha256=SUM)


def test_a_name_that_cannot_be_resolved_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def unknown(*_: object, **__: object) -> None:
        calls.append(1)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.delenv("LGKD_OFFLINE")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(MissingError, match=r"data\.example/f: Name or service not known; check"):
        fetch("https://data.example/f", tmp_path / "f.bin", size=1, sha256=SUM)
    assert calls == [1]


def test_a_redirect_on_the_same_machine_is_followed(server: Server, tmp_path: Path) -> None:
    server.leads_to = server.url + "2"
    assert get(server, tmp_path / "f.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("to", "word"),
    [("http://data.example/f", "not https"), ("ftp://data.example/f", "not https"), ("file:///x", "not allowed")],
)
def test_a_redirect_to_what_is_not_https_is_refused(server: Server, tmp_path: Path, to: str, word: str) -> None:
    server.leads_to = to
    assert word in message(MissingError, server, tmp_path / "f.bin")
    assert len(server.asked) == 1
    assert left(tmp_path) == []


@pytest.mark.parametrize("to", ["http://data.example/f", "http://127.0.0.1/f"])
def test_https_never_leads_back_to_http(to: str) -> None:
    handler = download._OnlySafe("https://data.example/f")
    request = urllib.request.Request("https://data.example/f")
    with pytest.raises(download._Failed, match=f"the server redirects to {to}, which is not https"):
        handler.redirect_request(request, None, 302, "Found", {}, to)
    followed = handler.redirect_request(request, None, 302, "Found", {}, "https://elsewhere.example/f")
    assert followed is not None
    assert followed.full_url == "https://elsewhere.example/f"


@pytest.mark.parametrize(
    "url", ["http://data.example/f", "ftp://data.example/f", "file:///etc/passwd", "f.bin", "https://"]
)
def test_only_https_addresses_are_taken(tmp_path: Path, no_connections: None, url: str) -> None:
    with pytest.raises(InputError, match="is not an https address: files are downloaded only over https"):
        fetch(url, tmp_path / "f.bin", size=1, sha256=SUM)


def test_offline_opens_no_connection_and_names_address_and_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_connections: None
) -> None:
    url, target = "https://data.example/f", tmp_path / "f.bin"
    expected = f"{target} is not here, and lgkd is offline: get {url} and put it there"
    with pytest.raises(MissingError) as by_environment:
        fetch(url, target, size=1, sha256=SUM)
    monkeypatch.delenv("LGKD_OFFLINE")
    with pytest.raises(MissingError) as by_argument:
        fetch(url, target, size=1, sha256=SUM, offline=True)
    assert str(by_environment.value) == str(by_argument.value) == expected
    assert left(tmp_path) == []


def test_the_words_that_mean_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for word, meaning in {"1": True, "yes": True, "true": True, "": False, "0": False, "False": False}.items():
        monkeypatch.setenv("LGKD_OFFLINE", word)
        assert is_offline() is meaning
        assert is_offline(True)
    monkeypatch.delenv("LGKD_OFFLINE")
    assert not is_offline()


def test_a_proxy_is_not_asked_for_this_machine(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert get(server, tmp_path / "f.bin").read_bytes() == CONTENT


def test_two_downloads_of_one_file_share_one_connection(server: Server, tmp_path: Path) -> None:
    threads = [threading.Thread(target=get, args=(server, tmp_path / "f.bin")) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "f.bin").read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_a_folder_that_cannot_be_made_is_told(server: Server, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    text = message(InputError, server, tmp_path / "taken/f.bin")
    assert text.startswith(f"cannot write {tmp_path}/taken/f.bin.part: ")
    assert text.endswith("make room, or choose another store with LGKD_HOME")


def test_a_verified_file_is_given_back(tmp_path: Path) -> None:
    (tmp_path / "f.bin").write_bytes(CONTENT)
    assert verified(tmp_path / "f.bin", size=len(CONTENT), sha256=SUM) == tmp_path / "f.bin"
