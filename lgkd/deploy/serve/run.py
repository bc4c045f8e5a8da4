"""Run a web server until it is stopped by the keyboard or a signal."""

import errno
import socket
from collections.abc import Callable
from contextlib import suppress

from lgkd.deploy.serve.app import make_app
from lgkd.deploy.serve.predictor import Predictor
from lgkd.errors import InputError, TakenError

_GRACE = 5
"""Seconds in which requests may end after a Ctrl-C."""

_CONNECTIONS = 64


def bind(host: str, port: int) -> socket.socket:
    """Open the socket of a server.

    Args:
        host: a name or an address of this machine.
        port: 0 for any free one.

    Raises:
        TakenError: another program uses the port.
        InputError: the host is not one of this machine, or the port is not allowed.
    """
    if not 0 <= port <= 65_535:
        raise InputError(f"--port is {port}, expected 0 to 65535; choose another, or 0 for any free port")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address, family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise TakenError(
                f"port {port} of {host} is in use by another program, expected a free one; choose another --port, or "
                "0 for any free port"
            ) from None
        raise InputError(
            f"no server can be opened at {host}, port {port} ({error.strerror}), expected a name or an address of this "
            "machine and a port from 1024; choose another --host or --port"
        ) from None


def serve(predictor: Predictor, bound: socket.socket, host: str, *, ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; requests that are being answered may end before.

    Args:
        predictor: answers images.
        bound: an open socket, as of `bind`; closed at the end.
        host: that it is bound to.
        ready: called with the address to open, before requests are accepted.
    """
    import uvicorn

    config = uvicorn.Config(
        make_app(predictor, host),
        http="h11",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="error",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=_GRACE,
    )
    with bound:
        ready(address_of(bound, host))
        # uvicorn repeats the signal after it has ended; it is how a server is stopped.
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[bound])


def address_of(bound: socket.socket, host: str) -> str:
    """Return the address of the page: http://HOST:PORT/."""
    shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"http://{shown}:{bound.getsockname()[1]}/"
