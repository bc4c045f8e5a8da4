"""The tool for the first minutes on a GPU: its table, failing and slow rows, going on, and its list. No GPU."""

import json
import re
import time
from pathlib import Path

import pytest
import torch

from tests import CHECKOUT
from tools import first_gpu_minutes as tool
from tools.first_gpu_minutes import Facts, Row, bench_result, first_line, last_line, measure, passed_result, rows_for

FACTS = Facts("a card", "570.1", "2.14.1, CUDA 12.8", "0123456789ab", "python -m tools.first_gpu_minutes")


def row(name: str, code: str, limit: float = 60.0, target: str = "") -> Row:
    return Row(name, ["-S", "-c", code], limit, 1.0, last_line, target)


ROWS = [
    row("good", "print('a line'); print('12 | 3 images/s')", target="50 images/s"),
    row(
        "bad", "import sys; print('lgkd: remark: no\\nlgkd: it is wrong; do this\\nmore', file=sys.stderr); sys.exit(1)"
    ),
    row("raises", "raise ValueError('first\\nsecond')"),
    row("slow", "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])", 3.0),
    row("after", "print('still run')"),
]


def test_every_row_is_run_and_written_and_a_failing_one_says_why(tmp_path: Path) -> None:
    began = time.monotonic()
    done = measure(ROWS, FACTS, tmp_path / "table.md", minutes=5)
    assert time.monotonic() - began < 200
    assert {name: one["failed"] for name, one in done.items()} == {
        "good": None,
        "bad": "lgkd: it is wrong; do this",
        "raises": "ValueError: first",
        "slow": "took more than 3 s",
        "after": None,
    }
    lines = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(r"a card; driver 570\.1; torch 2\.14\.1, CUDA 12\.8; lgkd 0123456789ab; 20.* UTC", lines[2])
    assert lines[4] == "`python -m tools.first_gpu_minutes`"
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[6:]]
    assert {len(one) for one in cells} == {5} and len(cells) == 2 + len(ROWS)
    assert [one.strip() for one in cells[2][:3]] == ["good", "12 \\| 3 images/s", "50 images/s"]
    assert cells[3][1].strip() == "**failed**: lgkd: it is wrong; do this"


def test_run_again_it_keeps_results_and_repeats_what_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def instead(one: Row, limit: float) -> dict[str, object]:
        ran.append(one.name)
        failed = "no" if one.name == "bad" and ran.count("bad") == 1 else None
        return {"result": "" if failed else f"run {len(ran)}", "failed": failed, "seconds": 1.0}

    monkeypatch.setattr(tool, "run_row", instead)
    out = tmp_path / "table.md"
    measure(ROWS, FACTS, out, minutes=5, only=["GOOD", "bad"])
    assert ran == ["good", "bad"] and out.read_text().count("| not run |") == 3
    measure(ROWS, FACTS, out, minutes=0)
    assert ran == ["good", "bad"]
    done = measure(ROWS, FACTS, out, minutes=5)
    assert ran == ["good", "bad", "bad", "raises", "slow", "after"] and done["good"]["result"] == "run 1"
    other = Facts("another card", FACTS.driver, FACTS.torch, FACTS.commit, FACTS.command)
    with pytest.raises(ValueError, match=r"table\.json has rows of .*a card.*; choose another --out"):
        measure(ROWS, other, out, minutes=5)


@pytest.mark.parametrize(
    ("out", "err", "line"),
    [
        ("x\nFAILED tests/a.py::test_b - assert 1\n", "", "FAILED tests/a.py::test_b - assert 1"),
        ("", "Traceback ...\ntorch.OutOfMemoryError: no room\nfor this\n", "torch.OutOfMemoryError: no room"),
        ("", "one\n\ntwo\n", "two"),
        ("", "", "no message"),
    ],
)
def test_the_first_line_of_a_failure_is_found(out: str, err: str, line: str) -> None:
    assert first_line(out, err) == line


def test_figures_are_read_from_a_sweep_and_from_pytest() -> None:
    part = {"images_per_second": {"median": 13500.4}}
    rows = [{"value": 128, "parts": {"whole": part, "data": part}, "memory": {"peak_bytes": 3 * 2**29}}]
    one = "13,500 images/s, augmentation alone 13,500 images/s, peak 1.50 GiB"
    assert bench_result(json.dumps({"rows": rows, "precision": "bf16"})) == f"{one} (bf16)"
    two = bench_result(json.dumps({"rows": [*rows, rows[0] | {"value": 2048}], "precision": "bf16"}))
    assert two == f"batch 128: {one}; batch 2,048: {one} (bf16)"
    assert passed_result("...\n==== 9 passed, 2 skipped in 3.10s ====\n") == "9 passed, 2 skipped in 3.10s"
    with pytest.raises(ValueError, match="no test passed: 2 skipped in"):
        passed_result("2 skipped in 3.10s\n")


def test_the_list_takes_less_than_ten_minutes_by_its_estimates_and_has_every_gpu_test() -> None:
    rows = rows_for("cuda")
    assert len({one.name for one in rows}) == len(rows)
    assert sum(one.estimate for one in rows) < 540 and all(one.estimate < one.limit for one in rows)
    marked = "pytest.mark." + "gpu"
    here = {
        str(file.relative_to(CHECKOUT))
        for file in (CHECKOUT / "tests").rglob("test_*.py")
        if marked in file.read_text(encoding="utf-8")
    }
    assert here == set(tool.GPU_TESTS)
    page = (CHECKOUT / "docs" / "performance.md").read_text(encoding="utf-8")
    for target in tool.TARGETS.values():
        assert target.removesuffix(" images/s") in page, "a target of the tool is one of the page"


def test_its_benches_are_commands_of_lgkd(monkeypatch: pytest.MonkeyPatch) -> None:
    from lgkd.benchmark import run as bench_module
    from lgkd.cli import run

    seen: list[tuple[object, ...]] = []

    def sweep(choices: object, *varied: object, **_: object) -> dict[str, object]:
        seen.append((choices, *varied))
        return {}

    monkeypatch.setattr(bench_module, "sweep", sweep)
    benches = [one.words for device in ("cuda", "cpu") for one in rows_for(device) if "bench" in one.words]
    for words in benches:
        assert run(list(words[2:])) == 0
    assert len(seen) == len(benches) == 16
    assert [getattr(one[0], "compile") for one in seen[:4]] == [False, "blocks", True, True]  # noqa: B009
    assert seen[7][1:] == ("batch_size", [512, 2048, 8192])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--out", str(tmp_path / "table.md")]) == 2
    assert "first_gpu_minutes: device 'cuda' is not here (0 CUDA devices found)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_its_checks_end_with_one_line_of_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tools import first_gpu_checks as checks

    def broken(device: str, *, tiny: bool) -> str:
        raise RuntimeError(f"on {device}\nmore")

    monkeypatch.setitem(checks.CHECKS, "momentum", broken)
    assert checks.main(["momentum", "--device", "cpu", "--tiny"]) == 1
    assert capsys.readouterr().err == "RuntimeError: on cpu\n"
    monkeypatch.undo()
    assert checks.main(["momentum", "--device", "cpu", "--tiny"]) == 0
    assert capsys.readouterr().out == "finite, in fp32\n"
