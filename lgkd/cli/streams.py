"""Standard output and error that may fail under a command: what it has to do, it does all the same.

A reader that has left (`lgkd students | head -1`, a terminal that was closed) or a full disk behind `>` must neither
end a training nor make a finished one look as if it were not. What cannot be written is dropped, and remembered.
"""

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any


class Guarded(io.FileIO):
    """A file descriptor whose failures are kept instead of raised.

    Attributes:
        lost: the first failure; None while everything was written.
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
        # None: the descriptor does not block and has no room at this moment; the caller tries again.
        return written


def guard() -> None:
    """Put guarded streams in the place of the process's own; where one was closed, one that leads nowhere."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started this
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and isinstance(_raw(stream), io.FileIO):
            guarded = Guarded(stream.fileno())
            made = io.TextIOWrapper(
                # Python was asked not to buffer (-u, PYTHONUNBUFFERED) where the text lies directly on the descriptor.
                guarded if isinstance(stream.buffer, io.FileIO) else io.BufferedWriter(guarded),
                encoding=stream.encoding,
                # A class called "Äpfel" must not end a command where the terminal knows ASCII only.
                errors="backslashreplace",
                line_buffering=stream.line_buffering or name == "stderr",
                write_through=stream.write_through,
            )
            setattr(sys, name, made)


def lost() -> str | None:
    """Why standard output did not arrive, in words; None where it did, or where its reader wanted no more of it."""
    sys.stdout.flush()
    raw = _raw(sys.stdout)
    error = raw.lost if isinstance(raw, Guarded) else None
    # As with `head`: that a reader leaves is how a pipe is meant to be used.
    return None if error is None or error.errno == errno.EPIPE else str(error.strerror)


def _raw(stream: Any) -> Any:
    """The descriptor below a stream; None below one that a program or a test has put in its place."""
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)
