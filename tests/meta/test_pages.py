"""Every command of the pages is one that lgkd knows, and every piece of Python in them is run by some test."""

import inspect
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import lgkd
from lgkd._internal.paths import recipe_names
from lgkd.cli.app import COMMANDS, load_command
from lgkd.config import apply_overrides, load_recipe
from lgkd.errors import ModelError
from lgkd.models.registry import find
from tests.support.small import World, make_pictures
from tools.pages import LOG, PAGES, ROOT, SHELLS, Block, blocks, commands, of_lgkd, run_page, spoken

ALL = [block for page in PAGES for block in blocks(page)]


def typed() -> Iterator[tuple[str, list[str]]]:
    """Every command of lgkd in a block, and where it stands."""
    for block in ALL:
        # What errors.md shows is wrong on purpose, and run by tests/cli/test_errors_page.py.
        if block.language in SHELLS and block.told != "older" and block.place[:14] != "docs/errors.md":
            for words in commands(block):
                if (asked := of_lgkd(words)) is not None:
                    yield block.place, asked


def parsed(place: str, words: list[str], *, whole: bool = True) -> dict[str, Any]:
    """What the command line understands of these words, without doing it."""
    assert words and words[0] in COMMANDS, f"{place}: there is no command lgkd {' '.join(words[:1])}"
    if "--help" in words:
        return {}
    try:
        context = load_command(words[0]).make_context(words[0], words[1:])
    except Exception as error:
        if type(error).__name__ == "MissingParameter" and not whole:
            return {}
        said = error.format_message() if hasattr(error, "format_message") else repr(error)
        raise AssertionError(f"{place}: lgkd {' '.join(words)}: {said}") from None
    return dict(context.params)


def known_model(name: str) -> bool:
    if ":" in name or name.isupper() or name.startswith("runs/"):  # a teacher may be the folder of a run
        return True
    try:
        return find(name) is not None
    except ModelError:
        return False


def check_names(place: str, chosen: dict[str, Any]) -> None:
    """Models, recipes and keys of recipes that a command names are there."""
    teachers = chosen.get("teacher") or ()
    for name in (chosen.get("student"), *([teachers] if isinstance(teachers, str) else teachers)):
        assert name is None or known_model(name), f"{place}: no model is called {name}"
    recipe = chosen.get("recipe")
    if recipe is None or recipe.endswith(".yaml") or recipe.isupper():
        return
    assert recipe in recipe_names(), f"{place}: no recipe is called {recipe}"
    given = chosen.get("overrides") or chosen.get("changes") or ()
    changes = [one for one in given if "kind: own" not in one]
    apply_overrides(load_recipe(recipe), changes)


def test_every_command_in_a_block_is_understood_and_names_what_is_there() -> None:
    found = list(typed())
    assert len(found) > 60
    for place, words in found:
        check_names(place, parsed(place, words))


def test_every_command_within_a_sentence_is_one() -> None:
    found = [(page, one, words) for page in PAGES for one, words in spoken(page)]
    assert len(found) > 60
    for page, one, words in found:
        if words[0].startswith(("-", ".")) or "..." in one:
            continue
        parsed(f"{page.name}: {one}", words, whole=False)


def test_a_command_that_is_wrong_would_be_found() -> None:
    for words in (["distil"], ["distill", "--studnt", "x"], ["train", "--student", "deit_tiny", "--epochs", "x"]):
        with pytest.raises(AssertionError, match="here"):
            parsed("here", words)
    with pytest.raises(AssertionError, match="no model is called deit_tny"):
        check_names("here", parsed("here", ["train", "--student", "deit_tny"]))
    with pytest.raises(Exception, match="unknown key"):
        check_names("here", parsed("here", ["train", "--student", "deit_tiny", "--set", "optimizer.rl=1"]))


def test_all_python_is_run_or_says_by_whom_or_why_not() -> None:
    python = [block for block in ALL if block.language == "python"]
    assert len(python) > 10
    for block in python:
        if block.told == "not run":
            assert len(block.about.split()) >= 3, f"{block.place}: a reason has three words at least"
        elif block.told == "run by":
            test = ROOT / block.about
            assert block.page.name in test.read_text(encoding="utf-8"), (
                f"{block.place}: {block.about} reads no such page"
            )
        else:
            assert block.told == "file" or block.page in RUN, f"{block.place} is run by nobody"


def test_every_language_of_a_block_is_known() -> None:
    """A misspelt language would be passed over by all that is tested here."""
    known = {*SHELLS, "python", "yaml", "text"}
    wrong = [block.place for block in ALL if block.language not in known and not block.language.startswith("{")]
    assert wrong == []


def test_modules_tests_and_files_that_pages_name_are_there() -> None:
    for page in PAGES:
        if page == LOG:  # its dated entries keep the names of their day
            continue
        text = page.read_text(encoding="utf-8")
        for module in set(re.findall(r"python -m ((?:tests|tools)\.\w+)", text)):
            assert find_spec(module) is not None, f"{page.name}: {module}"
        for path in set(
            re.findall(r"(?<![\w/.])((?:tests|tools|recipes|lgkd|docs|dev)/[\w/-]+\.(?:py|yaml|md))", text)
        ):
            assert "NAME" in path or (ROOT / path).exists(), f"{page.name}: {path}"


def test_python_of_long_trainings_calls_what_is_there(
    world: World, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The blocks that say so in README.md, compare.md and trackers.md, with small runs in place of long ones."""
    asked: list[dict[str, Any]] = []

    def stand_in(name: str, outcome: Callable[[], Any]) -> None:
        signature = inspect.signature(getattr(lgkd, name))

        def call(*given: Any, **named: Any) -> Any:
            asked.append(signature.bind(*given, **named).arguments)
            return outcome()

        monkeypatch.setattr(lgkd, name, call)

    both = (world.guided_run, world.unguided_run)
    compared = lgkd.compare(*both)
    stand_in("distill", lambda: lgkd.load_run(world.guided_run))
    stand_in("distill_series", lambda: lgkd.Series(world.guided_run.parent, both))
    stand_in("compare", lambda: compared)
    stand_in("train", lambda: lgkd.load_run(world.unguided_run))
    found = [block for block in ALL if block.told == "run by" and block.about == "tests/meta/test_pages.py"]
    for block in found:
        exec(compile(block.text, block.place, "exec"), {"lgkd": lgkd})
    assert [one.get("teacher") for one in asked] == ["resnet56", "resnet56", None, None] and len(found) == 3
    (tracker,) = asked[-1]["options"]["track"]
    tracker.log({"test_top1": 0.5}, step=1)
    assert capsys.readouterr().out == "1 0.5\n"


def _runs(block: Block) -> bool:
    return block.told == "run" or (block.language == "python" and block.told == "")


# In the slow ones every command is run; the others are done in seconds.
SLOW = {ROOT / "docs" / "tutorial.md"}
RUN = {block.page for block in ALL if _runs(block)}


@pytest.mark.usefixtures("own_modules")
@pytest.mark.parametrize(
    "page",
    [pytest.param(one, id=one.stem, marks=[pytest.mark.slow] if one in SLOW else []) for one in sorted(RUN)],
)
def test_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    if page not in SLOW:
        make_pictures(tmp_path / "photos")
    names = run_page(page, {"__name__": "__main__"})
    CHECKS.get(page.stem, lambda *_: None)(names, tmp_path)


def check_own(names: dict[str, Any], here: Path) -> None:
    """The worked examples did what their page says."""
    student, task, losses = names["student"], names["task"], names["losses"]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert not any(module._forward_hooks for module in student.modules())
    assert {"student.patch.weight", "guide.teacher"} & {*task.state_dict()} == {"student.patch.weight"}
    assert names["run"].top1 > 0.6, "a square is told from noise"
    assert (here / "student.pt").exists()
    assert "loss_energy" in (here / "runs" / "energy" / "metrics.csv").read_text().splitlines()[0]


CHECKS: dict[str, Any] = {"own": check_own}


def test_every_example_of_ones_own_has_ten_lines_at_most() -> None:
    (page,) = (one for one in PAGES if one.stem == "own")
    python = [block for block in blocks(page) if block.language == "python"]
    assert len(python) >= 8
    for block in python:
        lines = [line for line in block.text.splitlines() if line.strip()]
        assert len(lines) <= 10, f"{block.place} has {len(lines)} lines"
