"""The line of a training: everything that is asked of it, in whatever room a terminal leaves."""

import re
import time
from dataclasses import replace

import pytest

from lgkd.cli import display as display_module
from lgkd.cli.display import Display, memory_in_use
from lgkd.cli.progress_line import Standing, live_line, plain_line
from lgkd.cli.train import title
from lgkd.training.callbacks import EpochRow
from tests.support.screen import Terminal, row, shown_on, terminal

TRAIN = {"loss": 2.125, "classification": 1.5, "guidance_linear": 0.25, "accuracy": 0.5}
NOW = Standing(
    "guided convit_tiny", 30, 300, done=29.5, left=4980.0, top1=0.25, train=TRAIN, images_per_second=1234.5,
    memory=1_250_000_000,
)  # fmt: skip
THREE = replace(NOW, train=TRAIN | {"guidance_similarity": 0.0123, "kd": 3.0})


def test_a_wide_terminal_shows_everything_with_names_and_a_bar() -> None:
    assert live_line(NOW, 200) == (
        f"guided convit_tiny {'━' * 2}{'╌' * 14} 30/300 1h23m left test 25.0% train 50.0% class 1.5 "
        "guidance_linear 0.25 1,234 img/s RAM 1.2 GB"
    )


def test_80_columns_still_have_epoch_time_accuracy_parts_speed_and_memory() -> None:
    line = live_line(NOW, 80)
    assert line == "guided co… 30/300 1h23m left test 25.0% class 1.5 linear 0.25 1,234 img/s 1.2 GB"
    assert len(line) <= 80


def test_more_parts_than_80_columns_hold_become_their_sum() -> None:
    end = "test 25.0% class 1.5 linear 0.25 similarity 0.0123 kd 3 1,234 img/s RAM 1.2 GB"
    assert live_line(THREE, 120).endswith(end)
    assert live_line(THREE, 80) == "guided… 30/300 1h23m left test 25.0% loss 2.12 1,234/s 1.2 GB"


@pytest.mark.parametrize("width", range(1, 200, 7))
def test_a_line_is_never_longer_than_its_terminal_and_loses_nothing_by_more_room(width: int) -> None:
    for now in (NOW, THREE, Standing("x" * 300, 1, 2)):
        for ascii_only in (False, True):
            line = live_line(now, width, ascii_only=ascii_only)
            assert len(line) <= width
            assert not ascii_only or line.isascii()
            assert len(live_line(now, width + 60, ascii_only=ascii_only)) >= len(line)


def test_names_stay_whole_where_their_ends_do_not_tell_them_apart() -> None:
    alike = replace(NOW, train={"early_maps": 1.0, "late_maps": 2.0})
    assert "early_maps 1 late_maps 2" in live_line(alike, 85)


def test_a_plain_line_has_it_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert plain_line(NOW) == (
        "guided convit_tiny epoch 30/300 test 25.0% train 50.0% class 1.5 guidance_linear 0.25 1,234 img/s, "
        "RAM 1.2 GB, 1h23m left"
    )


def test_balanced_accuracy_is_shown_where_it_is_another_number() -> None:
    unequal = replace(NOW, balanced=0.125)
    assert "test 25.0% balanced 12.5% train 50.0%" in plain_line(unequal)
    assert plain_line(replace(NOW, balanced=0.25 + 1e-9)) == plain_line(NOW)
    assert "test 25.0% balanced 12.5%" in live_line(unequal, 80) and len(live_line(unequal, 80)) <= 80
    assert "balanced" not in live_line(unequal, 40)
    with terminal() as screen, Display("x") as display:
        display.on_start(3, 10)
        display.on_epoch(row(1, test_top1=0.5, test_balanced_accuracy=0.25))
        display.on_epoch(row(2))
    assert "test 50.0% balanced 25.0%" in [line for line in shown_on(screen) if line.strip()][-1]


def test_moving_weights_are_no_parts_of_the_loss() -> None:
    assert plain_line(replace(NOW, train=TRAIN | {"weight_linear": 2.5})) == plain_line(NOW)


def shown(width: int, *, dumb: bool = False) -> Terminal:
    with terminal() as screen, pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        if dumb:
            patch.setenv("TERM", "dumb")
        with Display("guided convit_tiny") as display:
            display.on_start(300, 10)
            display.on_step(0, 1, row(1).train, 1234.5)
            display.say("a remark above the line")
            display.on_epoch(row(1, test_top1=0.25))
            display.on_epoch(row(2))
    return screen


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_live_line_is_one_line_of_the_terminal(width: int) -> None:
    lines = [line.rstrip() for line in shown_on(shown(width)) if line.strip()]
    assert max(map(len, lines)) <= width
    assert "a remark above the line" in lines
    assert re.match(r"guided.* 2/300 4m58s left test 25\.0%", lines[-1]), lines[-1]
    assert width < 200 or re.search(
        r"train 50.0% class 1.5 guidance_linear 0.25 1,234 img/s RAM \d+\.\d GB$", lines[-1]
    )


def test_no_colour_is_set_so_that_light_and_dark_terminals_both_show_it() -> None:
    with terminal() as other:
        display_module.show_table("title", ("a", "b"), [(1, 2)])
        display_module.show_pairs({"a": 1})
        display_module.say("a remark")
    for text in (shown(80).getvalue(), other.getvalue()):
        codes = {int(code) for found in re.findall(r"\x1b\[([\d;]*)m", text) for code in found.split(";") if code}
        assert codes and codes <= {0, 1, 2}, codes  # plain, bold, dim


def test_a_terminal_that_moves_no_cursor_gets_plain_lines() -> None:
    text = shown(80, dumb=True).getvalue()
    assert "\x1b" not in text and "guided convit_tiny epoch 1/300 test 25.0%" in text


def test_the_time_left_goes_by_what_epochs_took_and_a_resumed_run_is_not_called_faster(monkeypatch) -> None:
    with terminal() as resumed, Display("x") as display:
        display.on_start(10, 4)
        # Told anew at once, though each took a minute.
        took = {"seconds": 50.0, "evaluation_seconds": 10.0, "images_per_second": 1.0}
        display.on_resume([EpochRow(epoch, 0.1, TRAIN, {}, **took) for epoch in range(1, 9)])
        display.on_step(8, 1, TRAIN, 1.0)
    assert "9/10 1m30s left" in [line for line in shown_on(resumed) if line.strip()][-1]


def test_epochs_of_an_earlier_part_are_one_line_marked_so(capsys: pytest.CaptureFixture[str]) -> None:
    with Display("x") as display:
        display.on_start(30, 4)
        display.on_resume([row(1, test_top1=0.25), row(2), row(3)])
        display.on_epoch(row(4, test_top1=0.5))
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" train")[0] for line in lines] == [
        "so far: x epoch 3/30 test 25.0%",
        "x epoch 4/30 test 50.0%",
    ]
    assert all(line.endswith("left") for line in lines)


def test_a_resumed_training_has_the_title_that_it_began_with() -> None:
    assert title("distill", "deit_tiny") == "guided deit_tiny"
    assert title("train", "pvtv2") == title("train", "pvt_v2_b0") == "unguided pvt_v2_b0"
    assert title("teacher", "resnet8") == "teacher resnet8"


def test_the_first_epoch_guesses_the_time_left_from_its_steps(monkeypatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with Display("x", quiet=False) as display:
        display.on_start(2, 10)
        display.on_step(0, 1, TRAIN, 1.0)
        assert display.now.left is None
        clock[0] += 8.0
        display.on_step(0, 5, TRAIN, 1.0)  # four tenths of an epoch in 8 seconds, 1.4 epochs to go
        assert display.now.left == pytest.approx(28.0)


def test_memory_is_that_of_the_process(monkeypatch) -> None:
    from pathlib import Path

    count, where = memory_in_use()
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert where == "RAM" and found is not None
    assert count == pytest.approx(int(found[1]) * 1024, rel=0.05)
