"""Zip archives that are hostile or broken leave nothing behind: links, places outside, bombs. All are made here."""

import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lgkd.data.sources import publisher_files
from lgkd.data.sources.arrange import arrange
from lgkd.errors import DataError
from tests.support.arranging import make_given, refused


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    return make_given(tmp_path, monkeypatch)


def special(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("member", "content", "expected"),
    [
        ("../x.JPEG", b"x", "has a member '../x.JPEG', which points outside"),
        ("/etc/x", b"x", "which points outside"),
        ("d\\..\\..\\x", b"x", "which points outside"),
        (special("link", stat.S_IFLNK), b"/etc/passwd", "has a member 'link' that is a link"),
        (special("pipe", stat.S_IFIFO), b"", "has a member 'pipe' that is no plain file"),
        ("bomb", bytes(2**27), "holds more than "),
        ("tiny-imagenet-200/wnids.txt", b"x", "has tiny-imagenet-200/wnids.txt twice"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_members_are_refused_wanted_or_not(
    tmp_path: Path, given: Callable[..., Path], member: str | zipfile.ZipInfo, content: bytes, expected: str
) -> None:
    source = given("tiny-imagenet", "zip")
    with zipfile.ZipFile(source, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
    assert source.stat().st_size < 2**20
    assert expected in refused(DataError, "tiny-imagenet", source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["desk", "given.zip"]
    assert list((tmp_path / "desk").iterdir()) == []


def test_encrypted_and_too_many_members_are_refused(
    given: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = given("chaoyang", "zip")
    content = bytearray(source.read_bytes())
    place = content.index(b"PK\x01\x02")
    content[place + 8] |= 1  # the flag that a member is encrypted
    source.write_bytes(bytes(content))
    assert "that is encrypted" in refused(DataError, "chaoyang", source)
    source = given("chaoyang", "zip")
    monkeypatch.setattr(publisher_files, "_MOST_FILES", 5)
    assert "has more than 5 members" in refused(DataError, "chaoyang", source)


def test_a_member_that_holds_more_than_it_says_is_cut_off_and_refused(given: Callable[..., Path]) -> None:
    source = given("chaoyang", "zip", {"train.json": b"[" + b" " * 50_000 + b"]"})
    content = bytearray(source.read_bytes())
    for head, size in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        name = content.index(b"chaoyang-data/train.json", content.index(head) if head == b"PK\x03\x04" else 0)
        if head == b"PK\x01\x02":
            name = content.rindex(b"chaoyang-data/train.json")
        start = content.rindex(head, 0, name)
        content[start + size : start + size + 4] = (100).to_bytes(4, "little")
    source.write_bytes(bytes(content))
    assert f"{source} cannot be read as a zip archive (Bad CRC-32" in refused(DataError, "chaoyang", source)


@pytest.mark.parametrize("spoil", [lambda data: b"", lambda data: b"<html>", lambda data: data[: len(data) // 2]])
def test_a_broken_archive_is_told_by_its_name(given: Callable[..., Path], spoil: Callable[[bytes], bytes]) -> None:
    source = given("chaoyang", "zip")
    source.write_bytes(spoil(source.read_bytes()))
    text = refused(DataError, "chaoyang", source)
    assert text.startswith(f"{source} cannot be read as a zip archive (")
    assert text.endswith("): remove it, or put the whole one")


def test_any_flipped_byte_gives_the_content_or_one_kind_of_error(tmp_path: Path, given: Callable[..., Path]) -> None:
    source = given("chaoyang", "zip")
    whole = source.read_bytes()
    refusals = 0
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        source.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        try:
            arrange("chaoyang", source, data_dir=f"at-{place}")
        except DataError:
            refusals += 1
            assert not list((tmp_path / "desk").rglob(f"at-{place}/*"))
    assert refusals > 10
