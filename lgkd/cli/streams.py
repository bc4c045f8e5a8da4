"""Guard standard output and error: a command completes even where they fail.

A reader that has left (`lgkd students | head -1`, a terminal that was closed) or a full disk behind `>` must neither
end a training nor make a finished one look unfinished. Output that cannot be written is dropped, its failure stored.
"""

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any


class Guarded(io.FileIO):
    """Represent a file descriptor whose failures are stored instead of raised.

    Attributes:
        lost: the first failure; None if there was none.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.lost: OSError | None = None

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if self.lost is not None:
            return size
        try:
            written = super().write(data)
        except OSError as error:
            self.lost = error
            return size
        # None: the descriptor does not block and is full at this moment; the caller tries again.
        return written


def guard() -> None:
    """Replace the process's streams by guarded ones; a closed one by the null device."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the parent process
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and isinstance(_raw(stream), io.FileIO):
            guarded = Guarded(stream.fileno())
            made = io.TextIOWrapper(
                # Python was asked not to buffer (-u, PYTHONUNBUFFERED) where the text layer is right on the descriptor.
                guarded if isinstance(stream.buffer, io.FileIO) else io.BufferedWriter(guarded),
                encoding=stream.encoding,
                # A class called "Äpfel" must not end a command where the terminal knows ASCII only.
                errors="backslashreplace",
                line_buffering=stream.line_buffering or name == "stderr",
                write_through=stream.write_through,
            )
            setattr(sys, name, made)


def lost() -> str | None:
    """Return why standard output was not written; None where it was, or where its reader closed the pipe."""
    sys.stdout.flush()
    raw = _raw(sys.stdout)
    error = raw.lost if isinstance(raw, Guarded) else None
    # As with `head`: a reader that leaves is a normal use of a pipe.
    return None if error is None or error.errno == errno.EPIPE else str(error.strerror)


def _raw(stream: Any) -> Any:
    """Return the descriptor below a stream; None below a stream that a program or a test has replaced."""
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)
