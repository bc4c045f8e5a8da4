"""Implement the command line. The only package that imports typer."""

import errno
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lgkd._internal.distributed import leave
from lgkd._internal.launch import IN_MAIN, LOST, STUCK, Relayed, begin, end, is_first, speaks
from lgkd._internal.out_of_memory import lack_of_memory
from lgkd._internal.text import visible
from lgkd.cli.escape import paragraphs
from lgkd.cli.memory import describe_shortage, try_torch_first
from lgkd.cli.streams import guard, lost

# The disk is full, the user's quota is used up, or a file has reached the largest allowed size.
_NO_ROOM = tuple(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name))

# Commands with a --batch-size.
_TRAINING = {"fit", "sweep", "train", "train-teacher", "distill", "cache-teacher", "bench"}

_NOWHERE = "the working folder no longer exists; change to one that does"
_UNSHOWN = (
    "the command has finished, but its output could not be written to standard output ({why}); redirect it "
    "elsewhere. The files that it wrote are complete, and need not be made again"
)
_NO_TEMPORARY = (
    "there is no writable folder for temporary files, and torch does not start without one; name one: set "
    "TMPDIR, or TORCHINDUCTOR_CACHE_DIR for the files that torch compiles"
)


def main() -> None:
    """Run `lgkd`: parse and run a command, report errors in one line, and exit with the documented code."""
    guard()
    try_torch_first()
    begin()
    IN_MAIN.append(True)
    code = run(sys.argv[1:]) if _is_somewhere() else _fail(_NOWHERE, 2)
    IN_MAIN.clear()
    sys.stdout.flush()
    if STUCK:
        # Nothing else waits for such work, in a thread or at the interpreter's end.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _is_somewhere() -> bool:
    """Return whether the working folder exists; without one torch cannot be loaded, and ends the process."""
    try:
        Path.cwd()
    except OSError:
        return False
    return True


def run(arguments: Sequence[str]) -> int:
    """Run one command; return its exit code.

    Args:
        arguments: as typed, without the program's name. `--debug` shows tracebacks, in any position.
    """
    debug = "--debug" in arguments
    words = [word for word in arguments if word != "--debug"] or ["--help"]
    with warnings.catch_warnings():
        quiet = {"--quiet", "-q", "--json"} & set(words) or not is_first()
        # Python would add a file, a line number and a line of code that do not help a user.
        warnings.showwarning = _ignore if quiet else _remark  # type: ignore[assignment]
        try:
            code = _run(words, arguments)
            leave()
            if (why := lost()) is not None and code == 0:
                return _fail(_UNSHOWN.format(why=why), 2)
            return end(code, "")
        except Relayed as relayed:
            return _fail(relayed.message, relayed.code) if relayed.message else relayed.code
        except Exception as error:
            if debug:
                sys.stderr.write(visible(traceback.format_exc()))
            return _fail(*_explained(error, words))
        except KeyboardInterrupt:
            return _fail("stopped by the keyboard", 130)


def _with_compile_word(words: Sequence[str]) -> list[str]:
    """Put a word after `--compile` where it stands alone, as it was typed before it had one, and for `--no-compile`."""
    from lgkd.config.options import COMPILE

    given = []
    for place, word in enumerate(words):
        if word == "--no-compile":
            given.append("--compile=off")
        elif word == "--compile" and (place + 1 == len(words) or words[place + 1] not in COMPILE):
            given.append("--compile=whole")
        else:
            given.append(word)
    return given


def _run(words: list[str], arguments: Sequence[str]) -> int:
    from lgkd.cli.app import app

    if {"--compile", "--no-compile"} & set(words):
        words = _with_compile_word(words)
    try:
        # The typed words are passed to the commands for `--nproc`, which repeats them in other processes.
        result = app(words, prog_name="lgkd", standalone_mode=False, obj=list(arguments))
    except SystemExit as stop:
        result = stop.code
    if result == 130:  # typer's code for Ctrl-C, without a message
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def _explained(error: Exception, words: Sequence[str]) -> tuple[str, int]:
    """Return an error's message in one line (a recipe's mistakes: one each), and the exit code."""
    from lgkd.errors import LgkdError

    kind = type(error).__name__
    # An error raised where it was anticipated has advice of its own.
    foreseen = isinstance(error, LgkdError) and "memory" in str(error)
    if not foreseen and (lack := lack_of_memory(error)) is not None:
        return describe_shortage(lack, trains=bool({*words[:1]} & _TRAINING)), 1
    if isinstance(error, LgkdError):
        return str(error), error.exit_code
    if kind == "Abort":
        return "stopped by the keyboard", 130
    if hasattr(error, "format_message"):
        return _usage(error, words), 2
    text = " ".join(str(error).split())[:300]
    if kind == "DistBackendError" or "gloo" in text:
        return LOST, 1
    if isinstance(error, FileNotFoundError) and "usable temporary directory" in text:  # raised by the import of torch
        return _NO_TEMPORARY, 2
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror}; earlier content is intact. Free some space, run the same command again", 2
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path, or choose another (--out, or LGKD_HOME)", 2
    return f"unexpected {kind}: {text}. This is a bug in lgkd; run again with --debug and report it", 1


def _usage(error: Any, words: Sequence[str]) -> str:
    """Explain a mistyped command or option, with the closest one and where all are listed."""
    from lgkd._internal.text import did_you_mean

    context = getattr(error, "ctx", None)
    command: Any = getattr(context, "command", None)
    path = getattr(context, "command_path", "lgkd")
    message = " ".join(error.format_message().split()).rstrip(".")
    option = getattr(error, "option_name", None)
    if (misplaced := _misplaced(command, context, option)) is not None:
        message = misplaced
    elif option is not None and command is not None:
        known = [name for parameter in command.params for name in parameter.opts]
        message = f"{path} has no option {option}; {did_you_mean(option, known)}"
    elif (typed := _typed(getattr(getattr(error, "param", None), "opts", ()), words)) is not None:
        message = f"{message} (got {typed!r})"
    elif hasattr(command, "commands") and words[0] not in command.commands and not words[0].startswith("-"):
        message = f"there is no command {words[0]!r}; {did_you_mean(words[0], command.commands)}"
    return f"{message} (see {path} --help)"


def _misplaced(command: Any, context: Any, option: str | None) -> str | None:
    """Explain a valid value that was typed in the wrong way, with the right way."""
    if option is None or command is None or hasattr(command, "commands"):
        return None
    path = context.command_path
    places = [one for one in command.params if one.param_type_name == "argument"]
    meant = next((one for one in places if option.lstrip("-").replace("-", "_") == one.name), None)
    if meant is None:
        return None
    shown = " ".join((one.metavar or one.name or "").upper() for one in places)
    return f"{path} takes the {meant.name} without {option}, as an argument: {path} {shown}"


def _typed(names: Sequence[str], words: Sequence[str]) -> str | None:
    """Return the value typed last for an option, which is the one that counts, as in `--epochs x` or `--epochs=x`."""
    for place, word in reversed([*enumerate(words)]):
        name, equals, value = word.partition("=")
        if name in names and (equals or place + 1 < len(words)):
            return value if equals else words[place + 1]
    return None


def _remark(message: Warning | str, *_: Any) -> None:
    sys.stderr.write(f"lgkd: remark: {visible(' '.join(str(message).split()))}\n")


def _ignore(message: Warning | str, *_: Any) -> None:
    """Drop a warning: only the result was requested."""


def _fail(message: str, code: int) -> int:
    if speaks(code, message):
        sys.stderr.write(f"lgkd: {paragraphs(message)}\n")
    return end(code, message)
