"""Cards of trained teachers: kept whole, found by name, refused when they do not fit."""

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lgkd._internal.manifest import write_manifest
from lgkd.errors import InputError, MissingError
from lgkd.models import teacher_store
from lgkd.models.teacher_card import TeacherCard
from lgkd.models.teacher_store import find_card, list_cards, save_card, teacher_folder, verify_weights

WEIGHTS = b"not really weights"


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty store, and an empty folder of shipped teachers."""
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(teacher_store, "teachers_folder", lambda: tmp_path / "shipped")
    return tmp_path


def values(**changes: Any) -> dict[str, Any]:
    return {
        "name": "resnet8",
        "architecture": "resnet8",
        "options": {"width": 16, "bias": False, "slope": 0.5, "shortcut": "projection"},
        "dataset": "digits",
        "fingerprint": "sha256:ab12",
        "classes": ["eight", "nine"],
        "images": 1437,
        "subset": "fraction 0.1, seed 0",
        "image_size": 16,
        "mean": (0.3, 0.3, 0.3),
        "std": (0.2, 0.2, 0.2),
        "taps": ["stage1", "stage2", "stage3"],
        "accuracy": {"top1": 0.975, "split": "test", "epoch": 30, "epochs": 30},
        "recipe": "teacher",
        "seed": 0,
        "parameters": 78042,
        "weights_sha256": hashlib.sha256(WEIGHTS).hexdigest(),
        "lgkd_version": "0.1.0",
        "torch_version": "2.11.0",
        "created": "2025-02-03T04:05:06+00:00",
        **changes,
    }


def card(**changes: Any) -> TeacherCard:
    return TeacherCard.model_validate(values(**changes))


def keep(**changes: Any) -> Path:
    """Save a card and its weights in the user's store."""
    made = card(**changes)
    folder = teacher_folder(made.name, made.dataset)
    save_card(made, folder)
    (folder / "weights.safetensors").write_bytes(WEIGHTS)
    return folder


def test_a_saved_card_is_found_again_unchanged() -> None:
    folder = keep()
    found, place = find_card("resnet8", "digits")
    assert found == card()
    assert place == folder
    assert [type(value) for value in found.options.values()] == [int, bool, float, str]
    assert found.classes == ["eight", "nine"] and found.mean == (0.3, 0.3, 0.3)


def test_the_card_is_plain_json_with_its_format_version() -> None:
    text = (keep() / "card.json").read_text("utf-8")
    assert text.endswith("}\n")
    unmeasured = dict.fromkeys(("balanced_accuracy", "seen_classes", "largest_class"))
    assert json.loads(text) == {
        "version": 1,
        **values(mean=[0.3] * 3, std=[0.2] * 3),
        "accuracy": {"top1": 0.975, "split": "test", "epoch": 30, "epochs": 30, "selected_on": None, **unmeasured},
    }


def test_a_teacher_of_the_user_goes_before_a_shipped_one(store: Path) -> None:
    shipped = store / "shipped" / "digits" / "resnet8"
    save_card(card(seed=7), shipped)
    assert find_card("resnet8", "digits") == (card(seed=7), shipped)
    folder = keep(seed=3)
    assert find_card("resnet8", "digits") == (card(seed=3), folder)
    assert list_cards() == ([(card(seed=3), folder)], [])


def test_a_missing_teacher_ends_with_3_and_the_command_that_makes_it() -> None:
    with pytest.raises(MissingError) as caught:
        find_card("resnet56", "cifar100")
    assert str(caught.value) == (
        "there is no teacher resnet56 trained on cifar100 yet; train one: lgkd train-teacher resnet56 cifar100"
    )
    assert caught.value.exit_code == 3


def test_a_missing_teacher_names_the_others_of_that_data_set_alone(store: Path) -> None:
    keep()
    keep(name="resnet20", dataset="flowers")
    save_card(card(name="vgg8"), store / "shipped" / "digits" / "vgg8")
    with pytest.raises(MissingError, match=r"lgkd train-teacher resnet56 digits; trained for digits: resnet8, vgg8$"):
        find_card("resnet56", "digits")


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "../up", "a\\b", "a b", "a\0", "ü", "timm:x", "x" * 129, "a\n"]
)
def test_an_unsafe_name_is_refused_and_touches_nothing(name: str, store: Path) -> None:
    for one, other in ((name, "digits"), ("resnet8", name)):
        with pytest.raises(
            InputError, match=r"must be 1 to 128 letters, digits, '_', '\.' or '-', not beginning with '\.'"
        ):
            find_card(one, other)
        with pytest.raises(ValidationError, match="must be 1 to 128 letters"):
            card(name=one, dataset=other)
    assert not (store / "home").exists()


def test_listing_shows_every_card_in_order_and_the_broken_ones_with_their_reason() -> None:
    keep(name="vgg8")
    keep(dataset="cifar100")
    keep()
    broken = keep(name="resnet20") / "card.json"
    broken.write_text('{"version": 1}')
    torn = keep(name="resnet32") / "card.json"
    torn.write_text(torn.read_text()[:100])
    good, bad = list_cards()
    assert [(one.dataset, one.name) for one, _ in good] == [
        ("cifar100", "resnet8"),
        ("digits", "resnet8"),
        ("digits", "vgg8"),
    ]
    assert [path for path, _ in bad] == [broken, torn]
    assert "name: Field required" in bad[0][1] and str(broken) in bad[0][1]
    with pytest.raises(InputError, match="not a teacher's card"):
        find_card("resnet20", "digits")


def test_an_empty_or_absent_store_lists_nothing() -> None:
    assert list_cards() == ([], [])


def test_a_card_of_a_later_format_says_so() -> None:
    file = keep() / "card.json"
    file.write_text(file.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(InputError, match="another version of the format; this lgkd reads version 1"):
        find_card("resnet8", "digits")


def test_a_card_in_another_teachers_folder_is_refused() -> None:
    folder = keep()
    folder.rename(folder.parent / "resnet56")
    with pytest.raises(
        InputError, match="is the card of resnet8 on digits, but is in the folder of resnet56 on digits"
    ):
        find_card("resnet56", "digits")


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "\x00", "{" * 5000, "1e999", '{"name": NaN}'])
def test_a_file_that_is_no_card_is_an_input_error_that_names_it(text: str) -> None:
    file = keep() / "card.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"card\.json: not a teacher's card"):
        find_card("resnet8", "digits")


def test_a_long_name_in_a_card_does_not_drown_what_is_wrong_with_it() -> None:
    # Found by fuzzing: an option's value is one of several kinds, and each of them named the key whole.
    file = keep() / "card.json"
    file.write_text(file.read_text().replace('"options": {', f'"options": {{"{"k" * 1000}": null, '))
    with pytest.raises(InputError, match=r"options\.k+\.\.\.\.str: Input should be a valid string") as caught:
        find_card("resnet8", "digits")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": 3}, "Extra inputs are not permitted"),
        ({"images": 0}, "greater than or equal to 1"),
        ({"images": True}, "valid integer"),
        ({"mean": (0.1, 0.2)}, "must be three numbers, for red, green and blue, or one for grey levels"),
        ({"mean": (0.1, 0.2, float("nan"))}, "finite number"),
        ({"std": (0.1, 0.0, 0.1)}, "spread must be greater than 0"),
        ({"classes": []}, "at least 1 item"),
        ({"classes": ["a", "a"]}, "every name must appear once"),
        ({"classes": ["a", 2]}, "valid string"),
        ({"weights_sha256": "AB" * 32}, "should match pattern"),
        ({"created": "yesterday"}, "isoformat"),
        ({"accuracy": {"top1": 97.5, "split": "test", "epoch": 3, "epochs": 3}}, "less than or equal to 1"),
        (
            {"accuracy": {"top1": 0.9, "split": "test", "epoch": 4, "epochs": 3}},
            "epoch 4 is after the last of 3",
        ),
    ],
)
def test_a_card_that_cannot_be_true_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        card(**changes)


def test_tuples_serve_as_lists() -> None:
    assert card(classes=("eight", "nine"), taps=("stage1", "stage2", "stage3"), mean=[0.3] * 3) == card()


def test_weights_are_checked_against_the_card() -> None:
    folder = keep()
    assert verify_weights(card(), folder) == folder / "weights.safetensors"
    damaged = bytearray(WEIGHTS)
    damaged[3] ^= 1
    (folder / "weights.safetensors").write_bytes(damaged)
    with pytest.raises(InputError, match=r"weights\.safetensors: has SHA-256 .*lgkd train-teacher resnet8 digits"):
        verify_weights(card(), folder)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(InputError, match=r"weights\.safetensors: cannot be read"):
        verify_weights(card(), folder)


@pytest.mark.skipif(os.name != "posix", reason="modes are a posix thing")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_mode_of_a_card_follows_the_umask(umask: int, mode: int, store: Path) -> None:
    before = os.umask(umask)
    try:
        file = save_card(card(), store / "here")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == mode


def test_a_failed_write_leaves_the_old_card_and_no_scraps(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = keep()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_card(card(seed=5), folder)
    assert sorted(file.name for file in folder.iterdir()) == ["card.json", "weights.safetensors"]
    assert find_card("resnet8", "digits")[0] == card()


def test_saving_again_replaces_the_card() -> None:
    folder = keep()
    save_card(card(seed=5), folder)
    assert find_card("resnet8", "digits")[0].seed == 5
    assert sorted(file.name for file in folder.iterdir()) == ["card.json", "weights.safetensors"]


def test_no_flipped_bit_of_a_card_is_read_in_silence() -> None:
    folder = keep()
    write_manifest(folder, ("card.json", "weights.safetensors"))
    good = (folder / "card.json").read_bytes()
    for bit in range(0, 8 * len(good), 37):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        (folder / "card.json").write_bytes(data)
        with pytest.raises(InputError, match=r"card.json: has SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}"):
            find_card("resnet8", "digits")
        assert list_cards()[1][0][0] == folder / "card.json"
    (folder / "card.json").write_bytes(good)
    assert find_card("resnet8", "digits")[0] == card()


@pytest.mark.parametrize(
    ("accuracy", "told"),
    [
        # Six classes, 71 % of the test images in one.
        ({"top1": 0.7126, "balanced_accuracy": 0.1667, "seen_classes": 6, "largest_class": 0.71},
         "little better than always naming the largest class (71.0%): its balanced accuracy is 16.7%, that of a guess "
         "16.7%"),
        ({"top1": 0.73, "balanced_accuracy": 0.24, "seen_classes": 6, "largest_class": 0.71},
         "little better than always naming the largest class (71.0%): its balanced accuracy is 24.0%, that of a guess "
         "16.7%"),
        ({"top1": 0.73, "balanced_accuracy": 0.26, "seen_classes": 6, "largest_class": 0.71}, None),
        # One that tells the small classes apart may be right less often than one that does not.
        ({"top1": 0.60, "balanced_accuracy": 0.65, "seen_classes": 6, "largest_class": 0.71}, None),
        # A class without test images: a guess among the other five.
        ({"top1": 0.72, "balanced_accuracy": 0.27, "seen_classes": 5, "largest_class": 0.71},
         "little better than always naming the largest class (71.0%): its balanced accuracy is 27.0%, that of a guess "
         "20.0%"),
        # Classes of equal size, and cards of an older lgkd, which tell the top-1 alone.
        ({"top1": 0.2, "balanced_accuracy": 0.2, "seen_classes": 6, "largest_class": 1 / 6},
         "little better than chance (16.7%)"),
        ({"top1": 0.24}, "little better than chance (16.7%)"),
        ({"top1": 0.26}, None),
        ({"top1": 0.7126}, None),
    ],
)  # fmt: skip
def test_a_teacher_that_always_names_the_largest_class_is_no_better_than_that(
    accuracy: dict[str, float], told: str | None
) -> None:
    one = card(classes=list("abcdef"), accuracy={"split": "test", "epoch": 30, "epochs": 30, **accuracy})
    assert one.no_better_than() == told and one.near_chance == (told is not None)


def test_where_an_older_card_does_not_know_the_largest_class_the_students_images_tell_it() -> None:
    old = card(classes=list("abcdef"), accuracy={"top1": 0.7126, "split": "test", "epoch": 30, "epochs": 30})
    assert old.no_better_than(0.71) == "little better than always naming the largest class (71.0%)"
    assert old.no_better_than(0.6) is None and old.no_better_than(0.3) is None
