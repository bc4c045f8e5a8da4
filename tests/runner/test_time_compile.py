"""Trainings of a given time on a CPU: whether their step is compiled, and that a resumed run keeps the choice."""

from pathlib import Path

import pytest

from lgkd.cli import run
from lgkd.runner import fit_time as module
from lgkd.runner.cost import Cost
from lgkd.runner.cost import measure as real_measure
from lgkd.runner.fit_time import fit_time
from lgkd.runner.options import Options
from lgkd.runner.resolve import resolve
from lgkd.runner.runner import Runner
from lgkd.runs.folder import read_run
from lgkd.training import train_step
from lgkd.training.compile import cpp_compiler
from lgkd.training.config import Plan
from lgkd.training.peak_memory import PeakMemory
from tests.support.timed import SMALL, TINY, WORDS, options_of


def ways(eager: float, compiled: float | Exception, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Let steps take these seconds in either way, and compiling 60; the list holds the ways that were timed."""
    timed: list[object] = []

    def measure(*given: object, longest: float) -> Cost:
        plan = next(one for one in given if isinstance(one, Plan))
        timed.append(plan.compile)
        if plan.compile and isinstance(compiled, Exception):
            raise compiled
        return Cost(5, compiled if plan.compile else eager, 0.0, 0, "", 1, 60.0 if plan.compile else 0.0)

    monkeypatch.setattr(module, "measure", measure)
    return timed


@pytest.mark.parametrize(
    ("time", "compiled", "chosen", "said"),
    [
        (3600, 4.0, True, "the step is compiled: 4,000 ms in place of 5,000, and 60 s to compile"),
        (3600, 4.9, False, "the step is not compiled: 4,900 ms in place of 5,000, and 60 s to compile"),
        (3600, RuntimeError("no header\nmore"), False, "compiling it failed: RuntimeError: no header"),
        (1700, 4.0, "blocks", "blocks are compiled: 4,000 ms in place of 5,000, and 60 s to compile"),
        (1700, 4.9, False, "blocks are not compiled: 4,900 ms in place of 5,000, and 60 s to compile"),
        (1100, 4.0, False, None),  # too short to try
    ],
)
def test_a_long_training_on_a_cpu_is_compiled_where_more_steps_fit(
    time: float, compiled: float | Exception, chosen: bool | str, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "cpp_compiler", lambda: "/usr/bin/g++")
    timed, heard = ways(5.0, compiled, monkeypatch), list[str]()
    options = {"time": time, "say": heard.append, "device": "cpu", **options_of(SMALL)}
    config = fit_time(resolve("student", "vit_96", "digits", options, model_options=TINY))
    steps = config.recipe.schedule.steps
    if chosen:
        assert config.options.get("compile") == chosen and (time - 60 - 60) / 4 < steps <= (time - 62) / 4
    else:
        assert config.options.get("compile") is None and (time - 60) / 5 < steps <= (time - 2) / 5
    assert timed == ([False] if said is None else [False, True if time == 3600 else "blocks"])
    assert said is None or any(said in sentence for sentence in heard)


@pytest.mark.parametrize("given", [{"compile": False}, {"compile": True}, {"compile": "blocks"}, {}])
def test_nothing_is_compiled_to_time_it_where_it_was_decided_or_cannot_be(
    given: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "cpp_compiler", lambda: None if not given else "/usr/bin/g++")
    timed = ways(5.0, 4.0, monkeypatch)
    options: Options = {"time": 3600, "device": "cpu", **options_of(SMALL), **given}
    config = fit_time(resolve("student", "vit_96", "digits", options, model_options=TINY))
    assert timed == [given.get("compile") or False] and config.options.get("compile") == given.get("compile")


@pytest.mark.parametrize(("time", "eager", "what"), [("1h", 50.0, True), ("25m", 20.0, "blocks")])
def test_a_resumed_run_is_compiled_as_it_began(
    time: str, eager: float, what: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[object] = []
    monkeypatch.setattr(train_step, "compile_task", lambda *_, **__: began.append(True))
    monkeypatch.setattr(train_step, "CompiledBlocks", lambda _: began.append("blocks"))
    monkeypatch.setattr(module, "cpp_compiler", lambda: "/usr/bin/g++")
    ways(eager, 0.8 * eager, monkeypatch)
    command = ["train", *WORDS, "--time", time, "--device", "cpu", "--out", str(tmp_path / "run")]
    assert run([*command, "--max-time", "0.01"]) == 75
    assert read_run(tmp_path / "run")["compiled"] == what and began == [what]
    monkeypatch.setattr(module, "cpp_compiler", lambda: None)
    assert run([*command, "--max-time", "0.01"]) == 75
    assert run(["resume", str(tmp_path / "run"), "--quiet"]) == 0
    assert began == [what] * 3 and read_run(tmp_path / "run")["compiled"] == what


@pytest.mark.skipif(cpp_compiler() is None, reason="there is no C++ compiler")
@pytest.mark.slow
def test_compiling_is_measured_apart_from_the_steps() -> None:
    costs = {}
    for compiled in (False, True):
        options: Options = {"device": "cpu", "compile": compiled, **options_of(SMALL)}
        config = resolve("student", "vit_96", "digits", options, model_options=TINY)
        prepared = Runner(config).prepare()
        memory = PeakMemory("cpu")
        costs[compiled] = real_measure(
            prepared.student, prepared.guides, prepared.recipe, prepared.data, prepared.loader, prepared.plan,
            prepared.image_size, memory,
        )  # fmt: skip
        prepared.close()
    assert costs[False].compile_seconds == 0 and costs[True].compile_seconds > 5 * costs[True].seconds_a_step
