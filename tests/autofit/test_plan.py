"""The choices of a fit: each rule against a table, the arithmetic worked by hand, and the lines that say them."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lgkd.autofit import plan as module
from lgkd.autofit.fit import harmonic_steps
from lgkd.autofit.inputs import Facts, Wishes
from lgkd.autofit.plan import Plan, batch_for, in_words, make_plan, reserve, teacher_epochs
from lgkd.config import load_recipe
from lgkd.config.overrides import apply_overrides
from lgkd.models.factory import create_teacher

GROCERY = Facts(
    name="grocery", classes=34, train=1264, fewest=16, median=35.0, most=60, test=909, test_is_made=False,
    held_out=0, short_side=348, grey=False, threads=2, gpu=None,
)  # fmt: skip
EVENING = Wishes(seconds=1200.0)


def planned(*, seconds: float = 1200.0, wishes: dict[str, Any] | None = None, **facts: Any) -> Plan:
    return make_plan(replace(GROCERY, **facts), replace(EVENING, seconds=seconds, **(wishes or {})))


@pytest.mark.parametrize(
    ("short_side", "size"), [(8, 32), (32, 32), (47, 32), (48, 64), (64, 64), (159, 64), (160, 96), (3000, 96)]
)
def test_the_size_follows_the_shorter_side(short_side: int, size: int) -> None:
    found = planned(short_side=short_side)
    assert found.image_size == size
    assert found.teacher_image_size == min(size, 64)


@pytest.mark.parametrize(
    ("facts", "seconds", "sizes"),
    [
        # 0.4 * 1,200 s * 2 cores * 100 billion / (3 * 27 million * 4) = 296,296 images at 64 px: 14 epochs of 21,164.
        ({"train": 5000}, 1200.0, (96, 64)),
        # The teacher of more images has 87 million: 91,954 images, 14 epochs of 6,568.
        ({"train": 7000}, 1200.0, (64, 32)),
        ({"train": 7000}, 3600.0, (96, 64)),
        ({"train": 7000, "threads": 8}, 1200.0, (96, 64)),
        ({"train": 7000, "gpu": "NVIDIA H200"}, 1200.0, (96, 64)),
        ({"train": 7000, "short_side": 100}, 1200.0, (64, 32)),
        ({"train": 7000, "short_side": 32}, 1200.0, (32, 32)),
    ],
)
def test_little_time_makes_the_images_smaller(facts: dict[str, Any], seconds: float, sizes: tuple[int, int]) -> None:
    found = planned(seconds=seconds, **facts)
    assert (found.image_size, found.teacher_image_size) == sizes


def test_a_length_in_epochs_makes_no_image_smaller() -> None:
    found = make_plan(replace(GROCERY, train=100_000), Wishes(seconds=None, epochs=3))
    assert (found.image_size, found.teacher_image_size, found.student) == (96, 64, "vit_128")


@pytest.mark.parametrize(
    ("train", "teacher"), [(20, "fastnet_small"), (5000, "fastnet_small"), (5001, "fastnet_guide")]
)
def test_the_teacher_follows_the_number_of_images(train: int, teacher: str) -> None:
    assert planned(train=train).teacher == teacher


@pytest.mark.parametrize(("seconds", "student"), [(60.0, "vit_128"), (3599.0, "vit_128"), (3600.0, "vit_192")])
def test_the_student_follows_the_time(seconds: float, student: str) -> None:
    assert planned(seconds=seconds).student == student


@pytest.mark.parametrize("largest", [128, 256, 100, 16, 8])
def test_a_batch_leaves_eight_steps_or_is_the_smallest(largest: int) -> None:
    """Against a search among all halves of the recipe's batch."""
    for images in (1, 7, 15, 16, 100, 127, 128, 255, 400, 1000, 1023, 1024, 2047, 2048, 50_000):
        halves = [largest >> power for power in range(12) if largest >> power >= min(16, largest)]
        good = [batch for batch in halves if images // batch >= 8]
        wanted = max(good) if good else min(halves)
        assert batch_for(images, largest) == min(wanted, images)


def test_grocery_in_twenty_minutes() -> None:
    found = planned()
    assert (found.batch_size, found.teacher_batch_size) == (128, 128), "1,264 images: 4 steps of 256, 9 of 128"
    assert found.overrides == () and found.student_options == {}


def test_grey_images_flips_and_class_settings_change_both_recipes() -> None:
    assert planned(grey=True).overrides == ("view.normalize=dataset",)
    assert planned(wishes={"flip": False}).overrides == ("view.flip=0", "view.alternate_flip=false")
    assert planned(wishes={"class_settings": ("label_smoothing=0.2",)}).overrides == ("label_smoothing=0.2",)


def test_every_choice_of_the_user_takes_precedence() -> None:
    found = planned(
        wishes={
            "image_size": 48, "teacher_image_size": 40, "student": "deit_tiny", "teacher": "resnet8", "batch_size": 10,
            "student_options": {"depth": 3},
        }
    )  # fmt: skip
    assert (found.image_size, found.teacher_image_size, found.batch_size, found.teacher_batch_size) == (48, 40, 10, 10)
    assert (found.student, found.teacher) == ("deit_tiny", "resnet8")
    assert found.student_options == {"depth": 3, "patch_size": 6}, "deit_tiny has patches of 16 px otherwise"
    kept = planned(wishes={"student": "deit_tiny", "student_options": {"patch_size": 16}})
    assert kept.student_options == {"patch_size": 16}
    assert [one.because[:8] for one in found.choices if one.name in ("size", "student", "teacher", "batch")] == (
        ["as given"] * 4
    )


SOME_FACTS = [
    GROCERY,
    replace(GROCERY, train=1_234_567, classes=21_841, fewest=1_116, most=112_756, test=100_000, test_is_made=True),
    replace(GROCERY, train=9, classes=1, fewest=9, most=9, test=1, short_side=12_000, grey=True, held_out=123_456),
    replace(GROCERY, gpu="NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition with more"),
]
SOME_WISHES = [
    EVENING,
    Wishes(seconds=36_061.0, baseline=True, seeds=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9)),
    Wishes(seconds=None, epochs=100_000, baseline=True, seeds=(0, 1), flip=False, student="timm:" + "x" * 200,
           teacher="my.package.of.models:teacher_of_mine", recipe=("r" * 99, 64), teacher_recipe=("t" * 99, 999),
           custom_recipes=True, image_size=4096, teacher_image_size=4000, batch_size=1),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "wishes"), [*product(SOME_FACTS, SOME_WISHES)])
def test_the_plan_is_a_dozen_lines_of_eighty_columns(facts: Facts, wishes: Wishes) -> None:
    lines = make_plan(facts, wishes).lines
    assert len(lines) == 12 + (facts.test_is_made or facts.held_out > 0)
    assert max(map(len, lines)) <= 80, max(lines, key=len)
    assert all("  " in line for line in lines)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({}, False),
        ({"held_out": 126}, True),
        ({"held_out": 126, "val_is_given": True}, False),
        ({"held_out": 126, "grouped": True}, False),
        ({"test_is_made": True}, True),
        ({"test_is_made": True, "grouped": True}, False),
        ({"folds": 5}, True),
        ({"folds": 5, "grouped": True}, False),
    ],
)
def test_images_held_out_one_by_one_bring_a_remark_on_groups(facts: dict[str, Any], said: bool) -> None:
    found = [one for one in planned(**facts).choices if one.name == "groups"]
    assert [one.because for one in found] == (["images of one subject or series: --groups"] if said else [])


def test_the_plan_as_json_holds_every_reason() -> None:
    found = planned().as_dict()
    assert found["image_size"] == 96 and len(found["choices"]) == 12
    assert all(set(one) == {"name", "value", "because"} and all(one.values()) for one in found["choices"])


def test_the_epochs_of_a_teacher_by_hand() -> None:
    facts = replace(GROCERY, train=50_000)
    # 0.4 * 3,600 s * 2 cores * 100 billion = 2.88e14; an image takes 3 * 152 million: 631,579 images.
    assert teacher_epochs(3600.0, facts, "fastnet_medium", 32) == pytest.approx(631_579 / 50_000, rel=1e-4)
    assert teacher_epochs(3600.0, facts, "fastnet_medium", 64) == pytest.approx(631_579 / 200_000, rel=1e-4)
    assert teacher_epochs(3600.0, facts, "timm:unknown", 32) == teacher_epochs(3600.0, facts, "fastnet_medium", 32)


@pytest.mark.parametrize("name", module._MACS)
def test_the_multiplications_of_the_teachers_are_what_torch_counts(name: str) -> None:
    model = create_teacher(name, num_classes=100, image_size=32).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    assert module._MACS[name] == pytest.approx(counter.get_total_flops() / 2, rel=0.02)


def test_the_time_kept_back_by_hand() -> None:
    # 30 s, and one and a half evaluations of 1,000 images for each of two students, 10 ms an image.
    assert reserve(1200.0, 1000, runs=2, seconds_an_image=0.01) == pytest.approx(60.0)
    assert reserve(60.0, 1000, runs=2, seconds_an_image=0.01) == pytest.approx(18.0)


def test_steps_of_two_trainings_in_the_sum_of_their_times() -> None:
    """Of 60 s each, a step of 0.6 s fits 100 times and one of 0.2 s 300 times; 150 of each take 90 + 30 s."""
    assert harmonic_steps([100, 300]) == 150
    assert harmonic_steps([777]) == 777
    assert harmonic_steps([10, 10]) == 50, "the fewest steps of a training"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1s"), (90, "90s"), (119.6, "2m"), (1200, "20m"), (3600, "1h"), (5400, "1h30m"),
                          (3661, "1h1m1s")]
)  # fmt: skip
def test_times_in_words_are_read_again_by_the_option(seconds: float, text: str) -> None:
    from lgkd.runner.time_budget import parse_time

    assert in_words(seconds) == text
    assert parse_time(text) == max(1, round(seconds))


def test_terms_for_several_labels_are_those_of_fast_but_for_the_logits() -> None:
    ours = load_recipe("fast").guide.terms
    theirs = apply_overrides(load_recipe("fast"), [module._LABEL_TERMS]).guide.terms
    assert theirs[0] == ours[0] and [term.kind for term in theirs] == ["locality", "kd"]
