"""Reading archives that may be hostile: links, devices, places outside, bombs. All of them are made here."""

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lgkd.data.sources.archives import read_tar
from lgkd.errors import DataError

MEGA = 2**20


def archive(path: Path, *members: tarfile.TarInfo | tuple[str, bytes], packed: bool = True) -> Path:
    with tarfile.open(path, "w:gz" if packed else "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member, io.BytesIO(bytes(member.size)))
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def everything(path: Path, max_bytes: int = MEGA, max_members: int = 20, **wanted: int) -> dict[str, bytes]:
    names = {name.replace("_", "/"): size for name, size in wanted.items()}
    return dict(read_tar(path, names, max_bytes=max_bytes, max_members=max_members))


@pytest.mark.parametrize("packed", [True, False])
def test_wanted_members_are_read_and_others_passed_over(tmp_path: Path, packed: bool) -> None:
    folder = special("d", tarfile.DIRTYPE)
    path = archive(tmp_path / "a.tar", folder, ("d/x", b"one"), ("d/readme", b"two"), ("./d/y", b""), packed=packed)
    assert everything(path, d_x=3, d_y=9) == {"d/x": b"one", "d/y": b""}
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_a_missing_and_a_doubled_member_are_named(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tgz", ("x", b"1"))
    with pytest.raises(DataError, match=r"a\.tgz lacks y, z: it is not the published archive"):
        everything(path, x=9, z=9, y=9)
    path = archive(tmp_path / "b.tgz", ("x", b"1"), ("x", b"2"))
    with pytest.raises(DataError, match=r"b\.tgz has x twice"):
        everything(path, x=9)


@pytest.mark.parametrize("name", ["../x", "d/../../x", "/etc/x", "..", "C:/x", "d\\..\\x"])
def test_names_that_point_outside_are_refused_wanted_or_not(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "a.tgz", (name, b"evil"), ("x", b"1"))
    with pytest.raises(DataError, match="points outside: it is not the published archive"):
        everything(path, x=9)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tgz"]


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a device"),
    ],
)
@pytest.mark.parametrize("name", ["x", "other"])
def test_links_and_devices_are_refused_wanted_or_not(tmp_path: Path, kind: bytes, word: str, name: str) -> None:
    path = archive(tmp_path / "a.tgz", special(name, kind, "/etc/passwd"), ("x", b"1"))
    with pytest.raises(DataError, match=f"has a member '{name}' that is {word}"):
        everything(path, x=9)


def test_a_link_followed_by_a_file_behind_it_writes_nothing(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    path = archive(tmp_path / "a.tgz", special("d", tarfile.SYMTYPE, str(outside)), ("d/x", b"evil"))
    with pytest.raises(DataError, match="is a link"):
        everything(path, d_x=9)
    assert list(outside.iterdir()) == []


def test_a_sparse_file_which_would_grow_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", special("x", tarfile.GNUTYPE_SPARSE), packed=False)
    with pytest.raises(DataError, match="has a member 'x' that is no plain file"):
        everything(path, x=9)


def test_too_many_members_are_not_counted_to_the_end(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tgz", *((f"f{number}", b"") for number in range(21)))
    with pytest.raises(DataError, match="has more than 20 members"):
        everything(path, x=9)


def test_a_wanted_member_above_its_size_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tgz", ("x", b"0123456789"))
    with pytest.raises(DataError, match=r"x in .*a\.tgz has 10 bytes, expected at most 9"):
        everything(path, x=9)


@pytest.mark.parametrize("name", ["x", "other"])
def test_a_bomb_is_stopped_at_the_cap_wherever_it_lies(tmp_path: Path, name: str) -> None:
    big = tarfile.TarInfo(name)
    big.size = 64 * MEGA
    path = archive(tmp_path / "a.tgz", big)
    assert path.stat().st_size < MEGA
    with pytest.raises(DataError, match="holds more than 1,048,576 bytes"):
        everything(path, x=100 * MEGA)


def test_a_bomb_in_a_header_is_stopped_at_the_cap(tmp_path: Path) -> None:
    path = tmp_path / "a.tgz"
    header = tarfile.TarInfo("PaxHeaders/x")
    header.type, header.size = tarfile.XHDTYPE, 2**40
    with gzip.open(path, "wb") as stream:
        stream.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(64):
            stream.write(bytes(MEGA))
    with pytest.raises(DataError, match="holds more than 1,048,576 bytes"):
        everything(path, x=9)


def no_archive(path: Path) -> None:
    path.write_bytes(b"<html>not an archive</html>" * 100)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for place in range(20, len(data), 7):
        data[place] ^= 255
    path.write_bytes(bytes(data))


def absent(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("spoil", [no_archive, empty, cut, flipped, absent])
def test_a_broken_archive_is_told_by_its_name(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    noise = b"".join(hash((place, 1)).to_bytes(8, "big", signed=True) for place in range(500))
    path = archive(tmp_path / "a.tgz", ("x", noise))
    spoil(path)
    with pytest.raises(DataError, match=r"a\.tgz (cannot be read as a tar archive \(.+\): remove it|is cut|lacks x)"):
        everything(path, x=MEGA)


def test_any_cut_and_any_flipped_byte_gives_the_content_or_one_kind_of_error(tmp_path: Path) -> None:
    content = {"x": b"some text " * 30, "y": b"other text"}
    whole = archive(tmp_path / "a.tar", *content.items(), packed=False).read_bytes()
    path = tmp_path / "b.tar"
    refused = 0
    for place in range(0, 2048, 13):
        for data in (whole[:place], whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :]):
            path.write_bytes(data)
            try:
                found = everything(path, x=400, y=400)
            except DataError:
                refused += 1
            else:
                assert set(found) == {"x", "y"}
    assert refused > 100
