"""Download a published file: only over https, only of the published size and checksum, resumed where it was cut.

The partial file is stored beside the target, as NAME.part, until its checksum is verified. Only the standard library
and filelock are used.
"""

import errno
import http.client
import ipaddress
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from lgkd._internal.atomic_io import sha256_of
from lgkd._internal.locks import locked
from lgkd.errors import DataError, InputError, MissingError

Progress = Callable[[int, int], None]

OFFLINE = "LGKD_OFFLINE"
"""Name of the environment variable that, set to 1, keeps lgkd from opening any connection."""

TRIES = 6
"""Connections that may fail or be cut before a download gives up."""

_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds to wait after each failure, for a server that restarts."""

_TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as cut."""

_BLOCK = 2**18
_RETRY_STATUS = (408, 425, 429, 500, 502, 503, 504)


class _Failed(Exception):
    """Raised when one connection did not bring the whole file."""

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.again = again
        """True if another connection may bring more."""


def is_offline(offline: bool = False) -> bool:
    """Return True where no connection may be opened: by argument, or by LGKD_OFFLINE=1 in the environment."""
    return offline or os.environ.get(OFFLINE, "").strip().lower() not in ("", "0", "false", "no", "off")


def fetch(
    url: str, target: Path, *, size: int, sha256: str, progress: Progress | None = None, offline: bool = False
) -> Path:
    """Download the published file to `target`, unless it is there already.

    A download that was cut, in this process or an earlier one, is resumed from the partial file, where the server can
    do that. A second process that wants the same file waits for the first.

    Args:
        url: https; http is for this machine's own address alone.
        target: path of the file; its folder is made. Nothing appears there before the checksum is verified.
        size: bytes, exactly; not one more is read.
        sha256: hex digits.
        progress: called with (done, total) bytes.
        offline: open no connection; LGKD_OFFLINE=1 in the environment does the same.

    Raises:
        MissingError: the file is not here, and it could not be downloaded: offline, no network, not at that address.
        DataError: the file there, or the downloaded one, is not the published file. The latter is removed.
        InputError: the address is not https, or the folder cannot be written.
    """
    _require_https(url)
    if target.is_file():
        return verified(target, size=size, sha256=sha256)
    if is_offline(offline):
        raise MissingError(f"{target} is not here, and lgkd is offline: get {url} and put it there")
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.with_name(f".{target.name}.lock"), wait=True):
            if target.is_file():  # another process has downloaded it while this one waited
                return verified(target, size=size, sha256=sha256)
            _download(_Source(url, size, progress), part, target, sha256)
    except OSError as error:  # disk errors only: those of the network have become _Failed
        raise InputError(
            f"cannot write {part}: {error.strerror or error}; make room, or choose another store with LGKD_HOME"
        ) from error
    return target


def verified(path: Path, *, size: int, sha256: str) -> Path:
    """Return `path` if it holds the published file.

    Raises:
        DataError: it holds another file, or a part.
    """
    found = path.stat().st_size
    if found != size:
        raise DataError(f"{path} has {found:,} bytes, the published file has {size:,}: remove it, or put the whole one")
    digest = sha256_of(path)
    if digest != sha256:
        raise DataError(f"{path} has SHA-256 {digest}, the published file has {sha256}: remove it, or put that one")
    return path


class _Source:
    """Hold an address, and the published facts of the file there."""

    def __init__(self, url: str, size: int, progress: Progress | None) -> None:
        self.url = url
        self.size = size
        self.progress = progress
        handlers: list[urllib.request.BaseHandler] = [_OnlySafe(url)]
        if _on_this_machine(url):  # a proxy would look for it on its own machine
            handlers.append(urllib.request.ProxyHandler({}))
        self.opener = urllib.request.build_opener(*handlers)

    def pour(self, part: Path) -> None:
        """Open one connection and append its bytes to `part`.

        Raises:
            _Failed: bytes are still missing.
            DataError: the server's file is not of the published size; `part` is removed.
        """
        have = part.stat().st_size if part.exists() else 0
        headers = {"User-Agent": "lgkd", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        # The scheme has been checked, and is checked again for every redirect.
        request = urllib.request.Request(self.url, headers=headers)  # noqa: S310
        with self._opened(request, part) as response:
            if response.status not in (200, 206):
                raise _Failed(f"the server answered {response.status} {response.reason}", again=False)
            if response.status == 200:
                have = 0  # it cannot resume in the middle, and sends all of it
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                part.unlink(missing_ok=True)
                raise _Failed("the server sent another part than was asked for", again=True)
            length = response.headers.get("Content-Length", "")
            if length.isdigit() and have + int(length) != self.size:
                self._refuse(part, f"{have + int(length):,}")
            with part.open("ab" if have else "wb") as stream:
                self._copy(response, stream, have, part)

    @contextmanager
    def _opened(self, request: urllib.request.Request, part: Path) -> Iterator[Any]:
        try:
            response = self.opener.open(request, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and part.exists():  # the server has no further bytes: the part is of another file
                part.unlink()
                raise _Failed("the server has no more of it", again=True) from error
            reason = f"the server answered {error.code} {error.reason}"
            raise _Failed(reason, again=error.code in _RETRY_STATUS) from error
        except (OSError, http.client.HTTPException) as error:
            raise _Failed(_reason(error), again=_is_transient(error)) from error
        with response:
            yield response

    def _copy(self, response: IO[bytes], stream: IO[bytes], have: int, part: Path) -> None:
        while have <= self.size:
            try:
                # One byte more than is missing shows a file that is too long, and no more of it is read.
                block = response.read(min(_BLOCK, self.size - have + 1))
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise _Failed(_reason(error), again=True) from error
            if not block:
                break
            have += len(block)
            if have > self.size:
                self._refuse(part, "more")
            stream.write(block)
            if self.progress is not None:
                self.progress(have, self.size)
        if have < self.size:
            raise _Failed(f"the connection ended after {have:,} of {self.size:,} bytes", again=True)

    def _refuse(self, part: Path, found: str) -> None:
        part.unlink(missing_ok=True)
        than = " than" if found == "more" else " bytes, expected"
        raise DataError(
            f"{self.url} has {found}{than} {self.size:,} bytes: it is not the published file, so nothing was kept; "
            f"a proxy or a login page may be in between"
        )


def _download(source: _Source, part: Path, target: Path, sha256: str) -> None:
    pieced = _fill(source, part, target)
    digest = sha256_of(part)
    if digest != sha256 and pieced:  # an older piece may be of another file: once more from the beginning
        part.unlink()
        _fill(source, part, target)
        digest = sha256_of(part)
    if digest != sha256:
        part.unlink()
        raise DataError(
            f"{source.url} gave a file with SHA-256 {digest}, expected {sha256}: it was removed; "
            f"try again, or put the right one at {target}"
        )
    with part.open("rb+") as stream:
        os.fsync(stream.fileno())
    part.replace(target)


def _fill(source: _Source, part: Path, target: Path) -> bool:
    """Download until `part` has its whole size; return True where it was put together from several pieces."""
    pieced = False
    for attempt in range(TRIES):
        have = part.stat().st_size if part.exists() else 0
        if have > source.size:
            part.unlink()
        elif have == source.size:
            return pieced or attempt == 0
        else:
            pieced = pieced or have > 0
        try:
            source.pour(part)
            return pieced
        except _Failed as failure:
            if failure.again and attempt + 1 < TRIES:
                time.sleep(_PAUSES[min(attempt, len(_PAUSES) - 1)])
                continue
            kept = "; the partial file is kept: run the same command again to resume" if part.exists() else ""
            raise MissingError(
                f"cannot download {source.url}: {failure}{kept}; check the network, or put that file at {target}"
            ) from failure
    raise AssertionError("the last try returns or raises")


class _OnlySafe(urllib.request.HTTPRedirectHandler):
    """Follow a redirect only to an address that is as safe as the first."""

    def __init__(self, start: str) -> None:
        self.start = start

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not _safe(newurl, here=_on_this_machine(self.start)):
            raise _Failed(f"the server redirects to {newurl}, which is not https", again=False)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_https(url: str) -> None:
    if not _safe(url, here=True):
        raise InputError(f"{url!r} is not an https address: files are downloaded only over https")


def _safe(url: str, *, here: bool) -> bool:
    """Accept https with a host; or http to this machine, where `here` allows that."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    safe = parts.scheme == "https" or (here and parts.scheme == "http" and _on_this_machine(url))
    return safe and bool(parts.hostname)


def _on_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_transient(error: Exception) -> bool:
    """Return True where a connection that could not be opened may be tried again; not without a network."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, socket.gaierror | ssl.SSLCertVerificationError | ConnectionRefusedError | TimeoutError | str):
        return False
    return getattr(reason, "errno", None) not in (errno.ENETUNREACH, errno.EHOSTUNREACH)


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return f"nothing came for {_TIMEOUT:.0f} seconds"
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(str(text).split()).rstrip(".")
