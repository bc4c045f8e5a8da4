"""Run functions in worker processes: clean interpreters that serve one call after another and report what happens.

A worker has the modules of this process (its `sys.path`), but no state of it: no thread, lock, or `__main__`. Both ends
exchange lines of JSON over its standard input and output.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from queue import SimpleQueue
from threading import Thread
from typing import Any

from lgkd import errors
from lgkd._internal.launch import describe_end, end_with_starter
from lgkd.errors import Interrupted, LgkdError

Message = Mapping[str, Any]
"""What a worker sends: `{"event": name, "arguments": [...]}`, `{"result": value}` or `{"error": {...}}`."""

Send = Callable[..., None]
"""Reports an event of a call: its name, and arguments as JSON values."""

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from lgkd.runner.workers import serve; serve()"
_PATIENCE = 10.0
_LINES_OF_ERROR = 8


class Worker:
    """Start a process that calls functions, one at a time.

    It is in a process group of its own, so that a Ctrl-C at the terminal reaches this process alone.

    Args:
        inbox: receives (worker, message) for each message, and (worker, None) at the end of the process.
        threads: of torch and other libraries in it.
    """

    def __init__(self, inbox: "SimpleQueue[tuple[Worker, Message | None]]", *, threads: int = 1) -> None:
        self._ready = False
        # Not a pipe: nobody would read it while the worker writes.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(  # noqa: S603
            # Without -P a module of the working folder could be imported in place of the standard library's.
            [sys.executable, "-P", "-c", _START, json.dumps([entry for entry in sys.path if isinstance(entry, str)])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            encoding="utf-8",
            process_group=0 if os.name == "posix" else None,
        )
        Thread(target=self._read, args=(inbox,), daemon=True).start()

    def call(self, function: str, arguments: Mapping[str, Any]) -> None:
        """Call a function `module:name` as `function(arguments, send)`; its result is a JSON value."""
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended, which the inbox reports
            self._process.stdin.write(json.dumps({"function": function, "arguments": arguments}) + "\n")
            self._process.stdin.flush()

    def stop(self) -> None:
        """Let the call save what it has and end; to be sent once, as a second signal ends the process at once."""
        if self._ready and os.name == "posix":
            self._process.send_signal(signal.SIGINT)
        else:
            self._process.kill()  # nothing has begun yet

    def end(self, *, at_once: bool = False) -> None:
        """End the process: after its call, or at once; nothing of it is left."""
        assert self._process.stdin is not None
        if at_once:
            self._process.kill()
        with suppress(OSError):  # the last words could not be written
            self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def describe_end(self, who: str) -> str:
        """Describe how the process ended during a call, with the last lines that it printed."""
        said = describe_end(who, self._process.wait())
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").split("\n")
        last = [line.strip() for line in lines if line.strip()][-_LINES_OF_ERROR:]
        return f"{said.partition('; the lines above')[0]}{': ' if last else ''}{' / '.join(last)}"

    def _read(self, inbox: "SimpleQueue[tuple[Worker, Message | None]]") -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                try:
                    message = json.loads(line)
                except ValueError:  # cut off when the process was killed
                    break
                if "ready" in message:
                    self._ready = True
                else:
                    inbox.put((self, message))
        inbox.put((self, None))


def as_error(message: Mapping[str, Any], who: str) -> Exception:
    """Restore the error that ended a call: of lgkd's class where it had one, else a RuntimeError or MemoryError.

    Args:
        message: its parts.
        who: the call, for the error's message.
    """
    text = f"{who}: {message['text']}"
    kind = getattr(errors, message["kind"], None)
    if isinstance(kind, type) and issubclass(kind, LgkdError):
        # The constructors of some take other arguments than the message.
        error: Exception = kind.__new__(kind, text)
        error.exit_code = message["exit_code"]  # type: ignore[attr-defined]
        return error
    lacks_memory = message["kind"] == "MemoryError"
    error = MemoryError(text) if lacks_memory else RuntimeError(f"{who}: {message['kind']}: {message['text']}")
    error.add_note(message["trace"])
    return error


def function_of(name: str) -> Callable[..., Any]:
    """Import a function `module:name`, which the code that starts the call has named."""
    module, _, attribute = name.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), attribute)
    return function


def serve() -> None:
    """Serve calls until standard input ends: the worker's side."""
    # What libraries print must not come between the messages.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # A shell that starts commands in the background has them ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_with_starter(signal.SIGINT)
    lost = False

    def put(message: Message) -> None:
        nonlocal lost
        if lost:
            return
        try:
            channel.write(json.dumps(message) + "\n")
            channel.flush()
        except OSError:
            # The starter was killed. Linux sends a signal by itself, and a second one would end this at once.
            lost = True
            if sys.platform != "linux":
                signal.raise_signal(signal.SIGINT)

    put({"ready": True})
    try:
        for line in sys.stdin:
            put(_answer(json.loads(line), lambda name, *arguments: put({"event": name, "arguments": arguments})))
    except KeyboardInterrupt:
        pass
    sys.stderr.flush()
    # Neither a thread that is stuck nor the closing of a channel without a reader may keep it.
    os._exit(0)


def _answer(call: Mapping[str, Any], send: Send) -> Message:
    """Call a function; return its result or its error as a message."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: send("warn", str(message))
        try:
            return {"result": function_of(call["function"])(call["arguments"], send)}
        except KeyboardInterrupt:
            error: BaseException = Interrupted("stopped before the training began", signal.SIGINT)
        except Exception as raised:
            error = raised
    return {
        "error": {
            "kind": type(error).__name__,
            "text": str(error),
            "exit_code": getattr(error, "exit_code", 1),
            "trace": "".join(traceback.format_exception(error)),
        }
    }
