"""The command line. The only room that imports typer."""

import sys
import traceback


def main() -> None:
    """Entry point of `lgkd`: runs a command and turns errors into one line and the documented exit code."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    sys.exit(run(arguments, debug=debug))


def run(arguments: list[str], *, debug: bool = False) -> int:
    """Run one command; return its exit code.

    Args:
        arguments: as typed, without the program's name.
        debug: show tracebacks.
    """
    import click

    from lgkd.cli.app import app
    from lgkd.errors import LgkdError

    try:
        result = app(arguments, prog_name="lgkd", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except LgkdError as error:
        if debug:
            traceback.print_exc()
        return _fail(str(error), error.exit_code)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _fail("stopped by the keyboard", 130)
    except BrokenPipeError:
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        name = type(error).__name__
        return _fail(f"unexpected {name}: {error}. This is a fault of lgkd; run again with --debug and report it", 1)


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"lgkd: {message}\n")
    return code
