"""docs/commands.md is what the commands are."""

import re

from lgkd import errors
from lgkd.cli.app import COMMANDS, load_command
from tools.commands_page import PAGE, exit_codes, generated, paragraphs, usage
from tools.pages import blocks

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_page_is_that_of_the_commands() -> None:
    assert generated() == TEXT, "run python -m tools.commands_page"


def test_every_command_has_its_section_with_every_option_and_one_example() -> None:
    sections = dict(zip(COMMANDS, re.split(r"^## .+$", TEXT, flags=re.M)[1:], strict=True))
    assert re.findall(r"^## (.+)$", TEXT, flags=re.M) == list(COMMANDS)
    for name, section in sections.items():
        options = set(re.findall(r"--[a-z][\w-]*", load_command(name).get_help(_context(name))))
        for option in options - {"--help"}:
            assert option in section, f"{name} {option}"
    examples = [block.text for block in blocks(PAGE) if block.language == "sh"]
    assert [one.split()[1] for one in examples] == list(COMMANDS)


def _context(name: str) -> object:
    return load_command(name).make_context(name, [], resilient_parsing=True)


def test_the_exit_codes_are_those_of_the_errors() -> None:
    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")}
    assert {str(code) for code in codes if isinstance(code, int)} <= set(re.findall(r"\d+", exit_codes()))


def test_usage_and_paragraphs_of_a_command_read_by_hand() -> None:
    assert usage("predict", load_command("predict").params) == "lgkd predict RUN IMAGE... [OPTIONS]"
    assert usage("distill", load_command("distill").params) == "lgkd distill [DATASET] --student STUDENT [OPTIONS]"
    assert paragraphs("Do it.\n\n    In two\n    lines.\n\n    Example: lgkd do") == (
        ["Do it.", "In two lines."],
        "lgkd do",
    )
