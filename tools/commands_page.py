"""Write docs/commands.md from the commands themselves: usage, description, options and example of each.

python -m tools.commands_page
"""

import inspect
import re
import types
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from lgkd.cli.app import COMMANDS, app, load_command

PAGE = Path(__file__).resolve().parent.parent / "docs" / "commands.md"
TYPES = {str: "TEXT", int: "INTEGER", float: "NUMBER", Path: "PATH"}
"""Names of values without a metavar of their own."""

HEAD = """# Commands

Every command with its options, written by `python -m tools.commands_page` from the code; `--help` prints the same.
`lgkd --install-completion` completes commands, options and names in a shell; `--debug`, anywhere, prints tracebacks.

Exit codes: {codes}. [Errors](errors.md) explains each."""


def exit_codes() -> str:
    """Return the sentence on exit codes from the help of `lgkd`."""
    found = re.search(r"Exit codes: (.*?)\.\s*$", app.info.epilog or "", re.DOTALL)
    assert found, "the help of lgkd has no sentence on exit codes"
    return " ".join(found[1].split())


def paragraphs(text: str) -> tuple[list[str], str]:
    """Split a command's help into its paragraphs, each on one line, and its example."""
    parts = [" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n")]
    examples = [part.removeprefix("Example: ") for part in parts if part.startswith("Example: ")]
    assert len(examples) == 1, f"expected one example in {text!r}"
    return [part for part in parts if not part.startswith("Example: ")], examples[0]


def value_types(name: str) -> dict[str, Any]:
    """Return the type of each parameter of a command, without None and list."""
    module, _ = COMMANDS[name]
    function = getattr(import_module(f"lgkd.cli.{module}"), name.replace("-", "_"))
    return {key: _inner(one.annotation) for key, one in inspect.signature(function).parameters.items()}


def _inner(annotation: Any) -> Any:
    while get_origin(annotation) in (Annotated, Union, types.UnionType, list):
        annotation = next(one for one in get_args(annotation) if one is not types.NoneType)
    return annotation


def _plain(text: str) -> str:
    """Mark options as code, and escape asterisks, outside of code; Markdown would take them for dashes and emphasis."""
    parts = re.split("(`[^`]*`)", text)
    parts[::2] = [re.sub(r"(?<![\w-])--[a-z][\w-]*", r"`\g<0>`", part.replace("*", r"\*")) for part in parts[::2]]
    return "".join(parts)


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def parameter_row(parameter: Any, kind: Any) -> str:
    """Return one line of the table: names with the value's metavar, default, help."""
    value = parameter.metavar or TYPES.get(kind, "TEXT")
    if not parameter.opts[0].startswith("-"):
        names = f"`{value}`" if parameter.metavar else f"`{parameter.name.upper()}`"
    else:
        names = ", ".join(f"`{one}`" for one in (*parameter.opts, *parameter.secondary_opts))
        if kind is not bool:
            names = f"`{parameter.opts[0]} {value}`" + "".join(f", `{one}`" for one in parameter.opts[1:])
    default = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    shown = "" if default is None or isinstance(default, bool) else f"`{default}`"
    if parameter.required:
        shown = "required"
    return f"| {_cell(names)} | {_cell(shown)} | {_cell(' '.join((parameter.help or '').split()))} |"


def usage(name: str, parameters: list[Any]) -> str:
    """Return the line of usage: arguments as they are given, options that are required, and the others."""
    words = [f"lgkd {name}"]
    for one in parameters:
        metavar = one.metavar or one.name.upper()
        if not one.opts[0].startswith("-"):
            words.append(metavar if one.required else f"[{metavar}]")
        elif one.required:
            words.append(f"{one.opts[0]} {metavar}")
    return " ".join([*words, "[OPTIONS]"])


def section(name: str) -> str:
    """Return one command's section."""
    command = load_command(name)
    description, example = paragraphs(command.help)
    kinds = value_types(name)
    shown = [one for one in command.params if not one.hidden and one.name != "help"]
    rows = [parameter_row(one, kinds.get(one.name)) for one in shown]
    parts = [
        f"## {name}",
        f"```text\n{usage(name, shown)}\n```",
        *map(_plain, description),
        f"```sh\n{example}\n```",
        "\n".join(["| option | default | meaning |", "|---|---|---|", *rows]),
    ]
    return "\n\n".join(parts)


def generated() -> str:
    """Return the whole page."""
    return "\n\n".join([HEAD.format(codes=_plain(exit_codes())), *map(section, COMMANDS)]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(generated(), encoding="utf-8")
