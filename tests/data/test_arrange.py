"""Image trees from publishers' files: small folders and zips of the published layouts, made here."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lgkd.cli import run
from lgkd.data.catalogue import CATALOGUE
from lgkd.data.load import load_dataset
from lgkd.data.sources import publisher_files
from lgkd.data.sources.arrange import arrange, arrangeable
from lgkd.data.sources.chaoyang import CHAOYANG
from lgkd.errors import DataError, InputError, MissingError, TakenError
from tests.support.arranging import SLIDES, VAL, WNIDS, Change, make_given, refused, slide_files, tiny_files
from tests.support.data import message
from tests.support.small import snapshot


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    return make_given(tmp_path, monkeypatch)


@pytest.mark.parametrize("form", ["zip", "folder", "around"])
def test_tiny_imagenet_is_trained_on_train_and_tested_on_the_labelled_val(
    tmp_path: Path, given: Callable[..., Path], form: str
) -> None:
    source = given("tiny-imagenet", form)
    before = snapshot(tmp_path / "given")
    made = arrange("tiny-imagenet", source)
    root = tmp_path / "desk/data/tiny-imagenet"
    assert made == ("tiny-imagenet", root, 3, 6, 3)
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    files = tiny_files()
    assert found == {
        f"train/{wnid}/{wnid}_{number}.JPEG": files[f"train/{wnid}/images/{wnid}_{number}.JPEG"]
        for wnid in WNIDS
        for number in range(2)
    } | {f"test/{wnid}/{image}": files[f"val/images/{image}"] for image, wnid in VAL.items()}
    data = load_dataset("tiny-imagenet")
    assert data.classes == tuple(sorted(WNIDS))
    assert data.notes == ()
    for images in (data.train, data.test):
        reds = images.pixels[:, 0].float().mean(dim=(1, 2))
        for label, red in zip(images.labels.tolist(), reds.tolist(), strict=True):
            assert abs(red - 80 * WNIDS.index(data.classes[label])) < 5
    assert snapshot(tmp_path / "given") == before


@pytest.mark.parametrize("form", ["zip", "folder", "around"])
def test_chaoyang_has_the_publishers_classes_under_their_names(given: Callable[..., Path], form: str) -> None:
    arrange("chaoyang", given("chaoyang", form), data_dir="elsewhere")
    data = load_dataset("chaoyang", data_dir="elsewhere")
    assert data.classes == ("adenocarcinoma", "adenoma", "normal", "serrated")
    published = ("normal", "serrated", "adenocarcinoma", "adenoma")
    for images, place in ((data.train, 0), (data.test, 1)):
        reds = images.pixels[:, 0].float().mean(dim=(1, 2)) / 50
        assert [published[round(red)] for red in reds.tolist()] == [data.classes[label] for label in images.labels]
        counts = images.labels.bincount(minlength=4).tolist()
        assert counts == [SLIDES[name][place] for name in data.classes]
    # The note of the listing says which label becomes which number.
    assert [data.classes.index(name) for name in published] == [2, 3, 0, 1]
    assert "numbered 2, 3, 0, 1" in CATALOGUE["chaoyang"].note


def test_the_counts_of_chaoyang_add_up_and_tell_its_classes_apart() -> None:
    info = CATALOGUE["chaoyang"]
    for split, total in enumerate((info.train, info.test)):
        counts = [count[split] for count in CHAOYANG.values()]
        assert sum(counts) == total
        assert len(set(counts)) == info.classes


@pytest.mark.parametrize("name", ["tiny-imagenet", "chaoyang"])
def test_with_link_nothing_is_copied(given: Callable[..., Path], name: str) -> None:
    source = given(name)
    root = arrange(name, source, link=True).folder
    inodes = {path.stat().st_ino for path in source.rglob("*")}
    images = [path for path in root.rglob("*") if path.is_file()]
    assert len(images) == CATALOGUE[name].train + CATALOGUE[name].test
    assert all(path.stat().st_ino in inodes for path in images)
    other = arrange(name, source, data_dir="copied").folder
    assert not any(path.stat().st_ino in inodes for path in other.rglob("*"))


def test_a_link_that_leads_into_the_source_is_followed(tmp_path: Path, given: Callable[..., Path]) -> None:
    source = given("tiny-imagenet")
    (source / "train").rename(tmp_path / "kept")
    (source / "train").symlink_to(tmp_path / "kept")
    root = arrange("tiny-imagenet", source, link=True).folder
    assert not any(path.is_symlink() for path in root.rglob("*"))
    assert len(load_dataset("tiny-imagenet").train) == 6


FIRST, VALS = f"train/{WNIDS[0]}/images/{WNIDS[0]}_0.JPEG", "val/val_annotations.txt"


@pytest.mark.parametrize("form", ["zip", "folder"])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"wnids.txt": None}, "lacks wnids.txt: expected the publisher's zip archive"),
        ({"wnids.txt": b"n02124075\nn01443537\n"}, "wnids.txt names 2 classes, tiny-imagenet has 3"),
        ({"wnids.txt": b"n02124075\nn01443537\nn01443537\n"}, "wnids.txt names 2 classes, tiny-imagenet has 3"),
        ({"wnids.txt": b"n02124075\nn01443537\n../../x\n"}, "wnids.txt has '../../x', expected WordNet numbers"),
        ({"wnids.txt": b"\xff\xfe"}, "wnids.txt is not text"),
        ({VALS: None}, "lacks val/val_annotations.txt"),
        ({VALS: b"../x.JPEG\tn02124075\n"}, "names '../x.JPEG', expected an image of val/images"),
        ({VALS: b"x\\y.JPEG\tn02124075\n"}, "expected an image of val/images"),
        ({VALS: b"val_0.JPEG\tn02124076\n"}, "has the class 'n02124076', which wnids.txt lacks"),
        ({VALS: b"val_0.JPEG\n"}, "has the class '', which wnids.txt lacks"),
        ({VALS: b"val_0.JPEG\tn02124075\nval_0.JPEG\tn02124075\n"}, "line 2 of "),
        (
            {VALS: b"val_0.JPEG\tn02124075\n"},
            "has other val images than were published: of the class n01443537 0 instead of 1; 2 classes differ: ",
        ),
        ({FIRST: None}, "has other train images than were published: of the class n02124075 1 instead of 2: put"),
        ({FIRST: b""}, f"has empty files: {FIRST}"),
        ({"train/n00000001/images/x.JPEG": b"x"}, "has the class 'n00000001', which wnids.txt lacks"),
        ({"val/images/val_1.JPEG": None}, "lacks val/images/val_1.JPEG: put the publisher's own"),
    ],
)
def test_files_of_tiny_imagenet_that_do_not_fit_together_leave_nothing_behind(
    tmp_path: Path, given: Callable[..., Path], form: str, change: Change, expected: str
) -> None:
    assert expected in refused(DataError, "tiny-imagenet", given("tiny-imagenet", form, change))
    assert list((tmp_path / "desk").iterdir()) == []


def slides(**change: object) -> Change:
    """train.json with its first entry changed."""
    entries = json.loads(slide_files()["train.json"])
    return {"train.json": json.dumps([entries[0] | change, *entries[1:]]).encode()}


@pytest.mark.parametrize("form", ["zip", "folder"])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"test.json": None}, "lacks test.json"),
        ({"train.json": None, "test.json": None}, "lacks train.json and test.json"),
        ({"train.json": b"{"}, "train.json is not JSON ("),
        ({"train.json": b"[" * 100_000}, "train.json is not JSON ("),
        ({"train.json": b"{}"}, "train.json does not hold a list"),
        ({"train.json": b"[1]"}, "entry 1 of "),
        (slides(label=True), 'is not {"name": "FOLDER/IMAGE.JPG", "label": NUMBER}'),
        (slides(label="0"), 'is not {"name": "FOLDER/IMAGE.JPG", "label": NUMBER}'),
        (slides(name=7), 'is not {"name": "FOLDER/IMAGE.JPG", "label": NUMBER}'),
        (slides(label=4), "has the label 4, expected 0 to 3"),
        (slides(label=-1), "has the label -1, expected 0 to 3"),
        # Labels in another order than the publisher's do not have his counts.
        (slides(label=1), "of the class normal 1 instead of 2; 2 classes differ: put the whole"),
        (slides(name="../../secret.JPG"), "names '../../secret.JPG', which points outside"),
        (slides(name="/etc/secret.JPG"), "which points outside"),
        (slides(name="C:/secret.JPG"), "which points outside"),
        (slides(name="train\\..\\x.JPG"), "which points outside"),
        (slides(name="train/notes.txt"), "names 'train/notes.txt', expected an image"),
        (slides(name="train/gone.JPG"), "lacks train/gone.JPG"),
        (slides(name="train/5359-IMG005-0.JPG"), "but there is one of that name before it"),
        (slides(name="more/5359-IMG005-0.JPG"), "but there is one of that name before it"),
        ({"test/5359-IMG000-3.JPG": b""}, "has empty files: test/5359-IMG000-3.JPG"),
    ],
)
def test_files_of_chaoyang_that_do_not_fit_together_leave_nothing_behind(
    tmp_path: Path, given: Callable[..., Path], form: str, change: Change, expected: str
) -> None:
    assert expected in refused(DataError, "chaoyang", given("chaoyang", form, change))
    assert list((tmp_path / "desk").iterdir()) == []


def test_what_lies_at_the_target_is_not_touched_but_an_empty_folder_is_filled(
    tmp_path: Path, given: Callable[..., Path]
) -> None:
    source = given("chaoyang", "zip")
    place = tmp_path / "desk/data/chaoyang"
    place.mkdir(parents=True)
    assert arrange("chaoyang", source).folder == place
    before = snapshot(tmp_path)
    assert refused(TakenError, "chaoyang", source) == (
        f"{place} is there already and was not touched; move it away, or choose another place with --data-dir"
    )
    assert snapshot(tmp_path) == before


def test_a_disk_that_is_full_leaves_nothing_behind(
    tmp_path: Path, given: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = given("tiny-imagenet", "zip")
    write, written = Path.write_bytes, []

    def full(path: Path, content: bytes) -> int:
        written.append(path)
        if len(written) == 5:
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    text = refused(InputError, "tiny-imagenet", source)
    assert "No space left on device; make room, or choose another place with --data-dir" in text
    assert len(written) == 5
    assert list((tmp_path / "desk/data").iterdir()) == []


def test_a_mistyped_name_a_missing_source_and_links_into_an_archive_are_refused(given: Callable[..., Path]) -> None:
    assert arrangeable() == ("tiny-imagenet", "chaoyang")
    assert "did you mean 'tiny-imagenet'?" in refused(InputError, "tiny_imagenet", "x.zip")
    assert refused(InputError, "cifar10", "x").endswith("known: chaoyang, tiny-imagenet")
    assert refused(MissingError, "chaoyang", "gone.zip").startswith("gone.zip does not exist: expected the publisher's")
    source = given("chaoyang", "zip")
    assert "from which nothing can be linked: leave out --link" in refused(InputError, "chaoyang", source, link=True)


def test_a_folder_of_everything_is_not_searched_to_its_end(
    given: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_files, "_MOST_FILES", 5)
    assert "holds more than 5 files" in refused(DataError, "tiny-imagenet", given("tiny-imagenet"))


# What is said of a set that is not here


@pytest.mark.parametrize("name", ["tiny-imagenet", "chaoyang"])
def test_a_set_that_is_not_here_names_the_command(given: Callable[..., Path], name: str) -> None:
    assert f"lay out the publisher's files by: lgkd arrange {name} SOURCE (his zip or folder" in message(
        MissingError, name
    )
    (Path.cwd() / "my data").mkdir()
    text = message(MissingError, name, data_dir="my data")
    assert f"lgkd arrange {name} SOURCE --data-dir 'my data' (" in text


@pytest.mark.parametrize("name", ["tiny-imagenet", "chaoyang"])
def test_the_publishers_own_folder_is_not_taken_for_an_image_tree(
    tmp_path: Path, given: Callable[..., Path], name: str
) -> None:
    source = given(name)
    text = message(MissingError, name, data_dir=source)
    assert f"lgkd arrange {name} {source} --data-dir {source}, or put its images at " in text
    assert run(["arrange", name, str(source), "--data-dir", str(source), "--quiet"]) == 0
    assert len(load_dataset(name, data_dir=source).train) == CATALOGUE[name].train
    (tmp_path / "desk/data").mkdir()
    source.rename(tmp_path / "desk/data" / name)
    text = message(MissingError, name)
    assert f"lgkd arrange {name} {tmp_path}/desk/data/{name} --data-dir ANOTHER, or" in text


def test_a_tree_that_was_laid_out_by_hand_beside_the_lists_is_a_tree(given: Callable[..., Path]) -> None:
    root = arrange("chaoyang", given("chaoyang")).folder
    (root / "train.json").write_text("[]")
    assert len(load_dataset("chaoyang").train) == 7


# The command


def test_the_command_says_what_was_made_and_how_to_look_at_it(given: Callable[..., Path], capsys) -> None:
    source = given("chaoyang", "zip")
    assert run(["arrange", "chaoyang", str(source), "--data-dir", "d"]) == 0
    out, err = capsys.readouterr()
    root = Path.cwd() / "d/chaoyang"
    assert out.splitlines() == [
        "chaoyang: 7 train and 7 test images of 4 classes",
        f"kept in {root}",
        "look at it with: lgkd check chaoyang --data-dir d",
    ]
    assert err.splitlines()[-1] == "laying out images: 14 of 14"
    assert run(["check", "chaoyang", "--data-dir", "d", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["train"]["per_class"]["normal"] == 2
    assert run(["arrange", "chaoyang", str(source), "--data-dir", "e", "--json"]) == 0
    out, err = capsys.readouterr()
    folder = str(Path.cwd() / "e/chaoyang")
    assert json.loads(out) == {"name": "chaoyang", "folder": folder, "classes": 4, "train": 7, "test": 7}
    assert err == ""


def test_the_command_ends_with_the_documented_codes_in_one_line(given: Callable[..., Path], capsys) -> None:
    source = given("tiny-imagenet", "zip", {"wnids.txt": None})
    for words, code in ((["tiny-imagenet", str(source)], 2), (["tiny-imagenet", "gone"], 3), (["digits", "x"], 2)):
        assert run(["arrange", *words]) == code
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("lgkd: ")
        assert err.count("\n") == 1
