"""What `lgkd bench` counts and reports: figures that can be worked out by hand, and documents that are complete."""

import json
import math
import mmap
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lgkd.benchmark import flops, profile, synthetic, timer
from lgkd.benchmark.flops import count_flops, measure_peak
from lgkd.benchmark.options import Choices, read_sweep
from lgkd.benchmark.profile import Stopwatch, time_shares
from lgkd.benchmark.run import bench, sweep
from lgkd.benchmark.subject import Subject, load_data
from lgkd.benchmark.synthetic import made_dataset, teaching_model
from lgkd.benchmark.timer import Part, Timing, measure
from lgkd.cli import run
from lgkd.errors import InputError
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.training.peak_memory import PeakMemory
from tests.support.bench import GUIDED, TEACHER, TYPED, UNGUIDED
from tests.support.bench import small_products as small_products
from tests.support.small import make_pictures


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A clock that is one second further whenever it is looked at."""
    ticks = count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    yield


def numbers(value: object) -> list[float]:
    """All numbers of a JSON document, wherever in it."""
    if isinstance(value, dict):
        return [number for inner in value.values() for number in numbers(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in numbers(inner)]
    return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


MEASURED = ("parts", "guidance_overhead", "shares_of_time", "arithmetic", "memory")


def check_document(document: dict, parts: set[str]) -> None:
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert {"format", "command", "date", "machine", "choices", "batch_size", "image_size", "precision", "compiled",
            "parameters", "repeats", *MEASURED} <= set(document)  # fmt: skip
    assert set(document["parts"]) == parts
    figures = numbers([document[key] for key in MEASURED])
    assert len(figures) > 7 * len(parts)
    assert all(math.isfinite(figure) and figure > 0 for figure in figures), document
    assert sum(document["shares_of_time"].values()) == pytest.approx(1)
    for part in document["parts"].values():
        rate = part["images_per_second"]
        assert rate["low"] <= rate["median"] <= rate["high"]
    for key in ("processor", "cores", "threads", "packages", "device"):
        assert document["machine"][key], key
    done = document["arithmetic"]
    assert done["share_of_peak"] * done["peak_flops_per_second"] == pytest.approx(done["flops_per_second"])


def test_a_guided_student_is_measured_in_all_its_parts() -> None:
    document = bench(GUIDED, steps=1, repeats=2, command="lgkd bench")
    check_document(document, {"data", "student", "guided", "whole", "evaluation"})
    assert list(document["shares_of_time"]) == [
        "data", "student forward", "teacher", "terms", "backward", "optimiser", "rest",
    ]  # fmt: skip
    assert document["batch_size"] == 4
    assert document["parts"]["whole"]["images_per_step"] == 4


@pytest.mark.parametrize("choices", [UNGUIDED, TEACHER], ids=["student", "teacher"])
def test_a_training_without_a_guide_is_measured_in_its_parts(choices: Choices) -> None:
    document = bench(choices, steps=1, repeats=1)
    assert document.pop("guidance_overhead") is None
    check_document(document | {"guidance_overhead": 1}, {"data", "student", "whole", "evaluation"})
    assert not {"teacher", "terms"} & set(document["shares_of_time"])
    assert document["choices"]["recipe"] == ("teacher" if choices is TEACHER else "supervised")


def test_real_images_take_the_place_of_made_ones(tmp_path) -> None:
    pictures = make_pictures(tmp_path / "pictures")
    subject = Subject(replace(UNGUIDED, dataset=str(pictures)))
    try:
        assert subject.draw().images.shape == (4, 3, 32, 32)
        assert subject.loader.names(torch.tensor([0]))[0].startswith("train/checks/")
        assert subject.loader.steps_per_epoch == 24 // 4
        places = [place for _ in range(6) for place in subject.draw().index.tolist()]
        assert len(places) == 24  # on into the second epoch
        assert {part.name: part.images for part in subject.parts()}["evaluation"] == 12
    finally:
        subject.close()


def test_a_compiled_step_is_measured_too() -> None:
    """The compiler itself is left out here; that a guide compiles is tested elsewhere."""
    compiled = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "compile", lambda module, dynamic: compiled.append(module))
        bench(replace(GUIDED, compile=True), steps=1, repeats=1)
    assert len(compiled) == 2  # the guided step and the unguided one


def test_a_bench_leaves_random_numbers_and_hooks_as_they_were() -> None:
    before = torch.get_rng_state()
    subject = Subject(GUIDED)
    subject.whole()
    student = subject.model
    assert any(module._forward_hooks for module in student.modules())
    subject.close()
    assert not any(module._forward_hooks for module in student.modules())
    assert torch.equal(torch.get_rng_state(), before)


def test_operations_of_a_linear_layer_and_a_convolution_are_those_counted_by_hand() -> None:
    batch, channels, width, side, classes = 3, 4, 5, 6, 7
    convolution = nn.Conv2d(channels, width, 3, padding=1)
    linear = nn.Linear(width, classes)
    images = torch.randn(batch, channels, side, side)

    def step() -> None:
        linear(convolution(images).mean(dim=(2, 3))).sum().backward()

    conv_forward = 2 * batch * width * side * side * channels * 3 * 3
    linear_forward = 2 * batch * width * classes
    # Images take no gradient, so a convolution's backward is one more of itself; a linear layer's is two.
    assert count_flops(step) == 2 * conv_forward + 3 * linear_forward


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_grouped_convolution_is_as_much_arithmetic_as_its_groups_one_by_one(groups: int, transposed: bool) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    whole = kind(4, 8, 3, stride=2, padding=1, groups=groups)
    parts = [kind(4 // groups, 8 // groups, 3, stride=2, padding=1) for _ in range(groups)]
    images = torch.randn(2, 4, 8, 8, requires_grad=True)

    def one_by_one() -> None:
        chunks = images.chunk(groups, dim=1)
        torch.cat([part(chunk) for part, chunk in zip(parts, chunks, strict=True)], dim=1).sum().backward()

    points = 8 * 8 if transposed else 4 * 4
    by_hand = 2 * 2 * points * 9 * 4 * 8 // groups  # two images; a multiplication and an addition
    assert count_flops(lambda: whole(images).sum().backward()) == count_flops(one_by_one) == 3 * by_hand


def test_operations_of_attention_are_counted_forward_and_backward() -> None:
    batch, heads, tokens, width = 2, 3, 16, 8
    query, key, value = (torch.randn(batch, heads, tokens, width, requires_grad=True) for _ in range(3))
    product = 2 * batch * heads * tokens * tokens * width

    def step() -> None:
        F.scaled_dot_product_attention(query, key, value).sum().backward()

    assert count_flops(step) == 2 * product + 5 * product  # backward computes the scores once more


def test_operations_of_a_step_are_those_of_student_teacher_and_projections() -> None:
    subject = Subject(GUIDED)
    batch_drawn = subject.fixed()
    try:
        counted = count_flops(lambda: subject.train(batch_drawn))
        assert subject.guide is not None
        teacher = count_flops(lambda: subject.guide.teach(batch_drawn.images))
    finally:
        subject.close()
    tokens, width, batch = 4 * 4 + 1, 32, 4
    block = 2 * tokens * width * width * (3 + 1 + 4 + 4)
    attention = 2 * tokens * tokens * width
    patches = 2 * 16 * width * 3 * 8 * 8
    head = 2 * width * 100
    student = 3 * (3 * block) + 3 * (2 + 5) * attention + 2 * patches + 3 * head
    projections = 3 * 2 * 16 * width * (16 + 32 + 64)
    assert teacher > batch * 2 * 32 * 32 * 16 * 9 * (3 + 16 + 16)  # its first convolutions, at the least
    assert counted == batch * (student + projections) + teacher


def test_the_peak_is_two_operations_for_each_of_n_cubed(seconds: None) -> None:
    peak = measure_peak("cpu", "fp32", (8, 16))
    assert (peak.flops, peak.size) == (2 * 8**3, 8)  # the second size would take 8 seconds by this clock


def test_parts_are_timed_in_turn_after_a_trial_of_each(seconds: None) -> None:
    laps: list[tuple[str, int]] = []

    def part(name: str, pace: float) -> Part:
        def lap(steps: int) -> float:
            laps.append((name, steps))
            return pace * steps

        return Part(name, 10, lap)

    timings = measure([part("quick", 0.1), part("slow", 2.0)], steps=None, repeats=2)
    assert laps == [("quick", 1), ("quick", 1), ("slow", 1), ("quick", 5), ("slow", 1), ("quick", 5), ("slow", 1)]
    assert timings["quick"].rate.median == pytest.approx(100)
    assert timings["slow"].rate.median == pytest.approx(5)
    assert timings["quick"].over(timings["slow"]).median == pytest.approx(20)


def test_ratios_are_taken_round_by_round() -> None:
    ours, theirs = Timing(10, 1, (1.0, 4.0, 2.0)), Timing(20, 1, (4.0, 8.0, 12.0))
    ratio = ours.over(theirs)
    assert (ratio.low, ratio.median, ratio.high) == (1.0, 2.0, 3.0)
    assert ours.rate.as_dict() == {"median": 5.0, "low": 2.5, "high": 10.0}


def test_a_lap_has_one_call_that_is_not_timed(seconds: None) -> None:
    calls: list[int] = []
    assert timer.timed(lambda: calls.append(1), "cpu")(3) == 1.0
    assert len(calls) == 4


def test_a_stopwatch_gives_time_to_what_runs_innermost(seconds: None) -> None:
    class Thing:
        def outer(self) -> str:
            return self.inner() + "!"

        def inner(self) -> str:
            return "done"

    thing, watch = Thing(), Stopwatch("cpu")
    with watch.around(thing, "outer", "outer"), watch.around(thing, "inner", "inner"):
        assert thing.outer() == "done!"
    # The clock is looked at when outer begins, when inner begins and ends, and when outer ends.
    assert dict(watch.seconds) == {"outer": 2.0, "inner": 1.0}
    assert vars(thing) == {}


def test_shares_add_up_and_everything_that_was_watched_is_as_before() -> None:
    subject = Subject(GUIDED)
    backward = torch.autograd.backward
    try:
        parts = time_shares(subject, 1)
        assert sum(parts.values()) == pytest.approx(1)
        assert torch.autograd.backward is backward
        assert subject.guide is not None
        assert not {"read", "teach", "forward"} & set(vars(subject.guide))
    finally:
        subject.close()


def test_the_profile_is_a_table_and_its_five_largest_rows(tmp_path) -> None:
    linear, images = nn.Linear(64, 64), torch.randn(256, 64)
    rows = profile.write_profile(lambda: linear(images).relu(), "cpu", tmp_path / "profile.txt", steps=2)
    text = (tmp_path / "profile.txt").read_text()
    assert {"aten::addmm"} <= {row["operation"] for row in rows}
    assert all(row["operation"] in text for row in rows)
    assert len(rows) <= 5
    assert [row["share"] for row in rows] == sorted((row["share"] for row in rows), reverse=True)
    addmm = next(row for row in rows if row["operation"] == "aten::addmm")
    assert addmm["calls_per_step"] == 1


def test_made_images_are_seeded_balanced_and_the_same_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = replace(GUIDED, images=250, source_size=12)
    dataset = made_dataset(choices)
    assert dataset.train.pixels.shape == (250, 3, 12, 12)
    assert sorted(torch.bincount(dataset.train.labels).tolist()) == [2] * 50 + [3] * 50
    assert dataset.train.pixels.float().std() > 20
    monkeypatch.setattr(synthetic, "_IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(synthetic, "_BLOCK_BYTES", 100 * 3 * 12 * 12)
    filed = made_dataset(choices)
    assert torch.equal(filed.train.pixels[:100], filed.train.pixels[100:200])  # blocks repeat where there are many
    assert torch.equal(made_dataset(choices).train.pixels, filed.train.pixels)
    assert not torch.equal(made_dataset(replace(choices, seed=1)).train.pixels, filed.train.pixels)


def test_a_made_teacher_normalises_by_the_statistics_of_the_images() -> None:
    data = load_data(GUIDED)
    model = teaching_model("resnet8", data, 0)
    assert isinstance(model, CifarResNet)
    assert not model.training
    first = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    convolution = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
    seen = convolution((data.train.pixels / 255 - mean) / std)
    torch.testing.assert_close(first.running_mean, seen.mean(dim=(0, 2, 3)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(first.running_var, seen.var(dim=(0, 2, 3)), rtol=1e-3, atol=1e-3)
    assert first.momentum == 0.1


def test_memory_is_counted_from_the_beginning() -> None:
    memory = PeakMemory("cpu")
    with mmap.mmap(-1, 48 << 20) as block:  # past the allocator, which may have some left
        block.write(bytes(48 << 20))
    assert 40 << 20 <= memory.read() < 256 << 20


def test_a_sweep_has_a_row_for_every_value_in_order() -> None:
    document = sweep(GUIDED, "batch_size", [2, 8], steps=1, repeats=1)
    assert [row["value"] for row in document["rows"]] == [2, 8]
    assert [row["parts"]["whole"]["images_per_step"] for row in document["rows"]] == [2, 8]
    assert all(set(row["parts"]) == {"data", "whole"} for row in document["rows"])
    assert read_sweep("images=100,20,100") == ("images", [20, 100])


def test_the_command_prints_a_table_of_80_columns_and_writes_the_same_as_json(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run([*TYPED, "--quiet", "--out", str(tmp_path / "figures.json")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines())) <= 80
    document = json.loads((tmp_path / "figures.json").read_text())
    check_document(document, {"data", "student", "guided", "whole", "evaluation"})
    for name in document["parts"]:
        assert f"\n{name} " in out
    assert document["command"] == "lgkd " + " ".join([*TYPED, "--quiet", "--out", str(tmp_path / "figures.json")])


def test_the_command_sweeps(capsys) -> None:
    assert run([*TYPED, "--sweep", "images=8,16", "--json"]) == 0
    assert [row["value"] for row in json.loads(capsys.readouterr().out)["rows"]] == [8, 16]
    assert run([*TYPED, "--sweep", "image-size=16,32", "--quiet"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[3:]] == ["16", "32"]


PAIR = ["--student", "deit_tiny", "--teacher", "resnet8"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to measure"),
        (["--student", "deit_tinny"], "did you mean 'deit_tiny'"),
        (["--teacher", "resnet8", "--student-option", "depth=3"], "no --student was named"),
        (["--teacher", "resnet8", "--images", "1"], "--images is 1"),
        (["--teacher", "resnet8", "--source-size", "4"], "--source-size is 4"),
        (["--teacher", "resnet8", "--steps", "0"], "--steps is 0"),
        (["--teacher", "resnet8", "--repeats", "0"], "--repeats is 0"),
        (["--teacher", "resnet8", "--batch-size", "0"], "--batch-size"),
        (["--teacher", "resnet8", "--precision", "fp8"], "--precision"),
        (["--teacher", "resnet8", "--recipe", "supervised"], "trains a student, expected one for a teacher"),
        (["--teacher", "resnet8", "--dataset", "no-such-set"], "neither a known data set nor a folder"),
        (["--teacher", "resnet8", "--against", "timm"], "--against is 'timm'"),
        (["--teacher", "resnet8", "--against", "plain", "--set", "ema.decay=0.9"], "knows no ema"),
        (["--teacher", "resnet8", "--against", "plain", "--set", "view.crop=pad"], "knows no crop pad"),
        (["--teacher", "resnet8", "--against", "plain", "--set", "sam.rho=0.05"], "knows no sam"),
        (
            ["--teacher", "resnet8", "--against", "plain", "--set", "optimizer.name=schedule-free-adamw"],
            "knows no optimizer.name schedule-free-adamw",
        ),
        (["--teacher", "resnet8", "--against", "plain", "--set", "accumulate=2"], "knows no accumulate"),
        (
            ["--teacher", "resnet8", "--against", "plain", "--set", "sampler=balanced"],
            "knows no class_weights, sampler",
        ),
        (
            [*PAIR, "--against", "plain", "--set", "guide.classification_weight=0.5"],
            "no guide.classification_weight but",
        ),
        ([*PAIR, "--against", "plain", "--set", "guide.terms.0.transform=similarity"], "knows no terms other than"),
        (["--teacher", "resnet8", "--sweep", "batch-size"], "NAME=VALUES"),
        (["--teacher", "resnet8", "--sweep", "depth=1"], "cannot vary 'depth'"),
        (["--teacher", "resnet8", "--sweep", "images=2,x"], "whole numbers"),
        (["--teacher", "resnet8", "--sweep", "images=2000000"], "at most 1,000,000"),
        (["--teacher", "resnet8", "--sweep", "images=2", "--against", "plain"], "leave out --against"),
        (["--teacher", "resnet8", "--out", "no/such/place.json"], "the folder no/such does not exist"),
        (["--teacher", "resnet8", "--profile", "."], "is a folder, expected the name of a file"),
    ],
)
def test_bad_options_are_told_in_one_line(capsys, words: list[str], message: str) -> None:
    assert run(["bench", *words, "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


def test_the_name_of_a_swept_choice_is_checked_before_anything_is_built() -> None:
    with pytest.raises(InputError, match="--batch-size must be >= 1"):
        sweep(GUIDED, "batch_size", [0, 4], steps=1, repeats=1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flops, "_TRIES", 1)
    document = bench(replace(GUIDED, device="cuda", precision=None), steps=2, repeats=2, against="plain")
    check_document(document, {"data", "student", "guided", "whole", "evaluation"})
    assert document["memory"]["kind"] == "allocated on the GPU"
