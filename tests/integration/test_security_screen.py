"""What strangers call their classes, files and recipes is shown as text: it moves no cursor and paints nothing."""

import ast
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from lgkd._internal.text import one_line, visible
from lgkd.cli import run
from lgkd.cli.display import Display, console, say, show_json, show_pairs, show_table
from lgkd.cli.escape import json_visible
from lgkd.config import dump_recipe, load_recipe
from tests import CHECKOUT
from tests.support.screen import terminal
from tests.support.small import DISTILL, World, make_pictures

CODES = "\x1b[31m\x1b[2J\x1b]0;owned\x07"
EVIL = {
    "[red]x[/]": "[red]x[/]",
    "[/]": "[/]",
    ":smiley: [link=http://x]": ":smiley: [link=http://x]",
    f"a{CODES}b": "a\\x1b[31m\\x1b[2J\\x1b]0;owned\\x07b",
    "a\x9b2Jb": "a\\x9b2Jb",
    "a\rb\x08\x7f": "a\\rb\\x08\\x7f",
    "user\u202egnp.exe": "user\\u202egnp.exe",
}
"""What somebody calls a thing, and what is shown of it."""


def harmless(text: str) -> bool:
    return not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)


@pytest.mark.parametrize("name", EVIL)
def test_every_way_to_the_screen_shows_names_as_text(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    def show_all() -> None:
        show_table(name, ("class", name), [(name, 1), ("plain", 2)], right=(1,))
        show_pairs({"class": name})
        say(name)
        console().print(f"kept in {name}")
        with Display(name) as display:
            display.say(name)
            display.downloading(name, 1, 1)

    show_all()
    printed = "".join(capsys.readouterr())
    assert printed.count(EVIL[name]) == 8
    assert harmless(printed)
    with terminal() as screen:
        show_all()
    painted = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert harmless(painted.replace("\r", ""))
    assert "[31m" not in screen.getvalue().replace(r"\x1b[31m", "")  # no red of the stranger's
    assert "\x1b[2J" not in screen.getvalue() and "\x1b]" not in screen.getvalue()


def test_json_stays_json_and_does_nothing_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    value = {name: [name, "Äpfel", "line\nfeed"] for name in EVIL}
    show_json(value)
    printed = capsys.readouterr().out
    assert json.loads(printed) == value
    assert harmless(printed) and "Äpfel" in printed


def test_text_without_codes_stays_as_it_is() -> None:
    for text in ("plain", "Äpfel und Öl", "林檎 ✓ 🙂", "می‌خواهم", "two\nlines\tand a tab", "[brackets] 100 %"):
        assert visible(text) == json_visible(text) == text
    assert one_line("two\nlines\tand a tab") == "two\\nlines\\tand a tab"


@pytest.fixture
def zoo(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set whose classes, files and folder are called what strangers may call them."""
    monkeypatch.setenv("LGKD_HOME", str(world.home))
    monkeypatch.chdir(tmp_path)
    folder = make_pictures(
        tmp_path / f"zoo [bold]{CODES.replace('/', '')}", tuple(name for name in EVIL if "/" not in name)
    )
    first = next((folder / "train").iterdir())
    (first / f"broken{CODES}[red].png").write_bytes(b"no image")
    Image.new("L", (12, 12)).save(first / f"grey{CODES}[red].png")
    return folder


def test_a_data_set_of_evil_names_is_checked_without_harm(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(zoo)]) == 2
    printed = "".join(capsys.readouterr())
    assert r"broken\x1b[31m\x1b[2J\x1b]0;owned\x07[red].png" in printed
    assert r"grey\x1b[31m" in printed and harmless(printed)
    with terminal() as screen:
        assert run(["check", str(zoo)]) == 2
    assert "\x1b[2J" not in screen.getvalue() and "\x1b]" not in screen.getvalue() and "\x9b" not in screen.getvalue()
    assert run(["check", str(zoo), "--json"]) == 2
    assert harmless("".join(capsys.readouterr()))


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", f"runs/{CODES}"],
        ["students", CODES],
        [f"distil{CODES}"],
        ["students", f"--{CODES}"],
        ["train", "--student", "deit_tiny", "--epochs", CODES],
        ["train", "--student", "deit_tiny", "--dataset", "digits", "--set", f"{CODES}=1"],
        ["train", "--student", "deit_tiny", "--dataset", "digits", "--recipe", f"{CODES}.yaml"],
        ["train", "--student", f"{CODES}:net", "--dataset", "digits"],
        ["layers", f"{CODES}:net"],
        ["layers", f"{CODES}:net", "--debug"],
        [*DISTILL, "--teacher", CODES, "--dataset", "digits"],
    ],
    ids=lambda words: " ".join(words)[:12].encode("unicode_escape").decode(),
)
def test_a_message_does_nothing_to_a_terminal(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    assert run(arguments) in (2, 3)
    out, err = capsys.readouterr()
    assert err.startswith(("lgkd: ", "Traceback")) and harmless(out + err)


def test_a_card_and_a_recipe_of_evil_words_are_shown_without_harm(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(world.home, tmp_path / "home")
    monkeypatch.setenv("LGKD_HOME", str(tmp_path / "home"))
    card = tmp_path / "home" / "teachers" / "pictures" / "resnet8" / "card.json"
    about = json.loads(card.read_text())
    card.write_text(json.dumps({**about, "recipe": f"[red]{CODES}", "taps": [f"stage1{CODES}", "[/]"]}))
    text = dump_recipe(load_recipe("supervised").model_copy(update={"about": "[red]so[/] :smiley:"}))
    recipe = tmp_path / "evil.yaml"
    recipe.write_text(text)
    assert run(["recipes", str(recipe)]) == 0
    assert "[red]so[/] :smiley:" in capsys.readouterr().out
    assert "'[red]so[/] :smiley:'" in text
    (tmp_path / "worse.yaml").write_text(text.replace("'[red]so[/] :smiley:'", json.dumps(CODES)))
    assert run(["recipes", str(tmp_path / "worse.yaml")]) == 2
    assert harmless("".join(capsys.readouterr()))
    for arguments in (["teachers", "resnet8"], ["recipes", str(recipe)], ["teachers"]):
        for as_json in ([], ["--json"]):
            assert run([*arguments, *as_json]) == 0, capsys.readouterr().err
            assert harmless("".join(capsys.readouterr()))
        with terminal() as screen:
            assert run(arguments) == 0
        assert "\x1b[2J" not in screen.getvalue() and "\x1b]" not in screen.getvalue()


def test_texts_of_rich_are_made_in_one_place() -> None:
    """Where rich is imported, a name could get to the screen as markup or as it is."""
    package = CHECKOUT / "lgkd"
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
        names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert path.name == "display.py" or not any(name.split(".")[0] == "rich" for name in names), path
    calls = [n for n in ast.walk(ast.parse((package / "cli" / "display.py").read_text())) if isinstance(n, ast.Call)]
    assert [ast.unparse(call) for call in calls if ast.unparse(call.func) == "Text"] == [
        "Text(one_line(str(sentence)), style=style)"
    ]
    for path in (package / "cli").glob("*.py"):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            if ast.unparse(call.func) in ("sys.stderr.write", "sys.stdout.write"):
                said = ast.unparse(call.args[0])
                safe = ("visible(", "paragraphs(", "wide.file.getvalue()")
                assert any(word in said for word in safe), f"{path}:{call.lineno}"


def test_json_has_null_where_a_number_is_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    show_json({"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": (-float("inf"),)}})
    out = capsys.readouterr().out
    assert json.loads(out, parse_constant=pytest.fail) == {"a": None, "b": [1.5, None], "c": {"d": [None]}}
