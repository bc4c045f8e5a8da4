"""Guard a server for one user against pages of others: Host, Origin, and headers that forbid everything foreign.

A page elsewhere can send requests to a server on this machine. By DNS rebinding its own name comes to mean this
machine, so that a browser takes the answers for its own; the Host header still has that name then. An address in digits
cannot be rebound.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Return true for localhost and for addresses of this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_allowed(host: str, bound_to: str) -> bool:
    """Return true for a Host header that can only be meant for a server bound to that host.

    Args:
        host: the header: a name or an address, with or without a port. Tunnels change the port, so it may be any.
        bound_to: as given by `--host`. On loopback only loopback's names are allowed; elsewhere every address in
            digits, and the given name.
    """
    name = host_of(host)
    if name is None:
        return False
    if is_loopback(name):
        return True
    if is_loopback(bound_to):
        return False
    return name.lower() == bound_to.strip("[]").lower() or _is_address(name)


def host_of(header: str) -> str | None:
    """Return a Host header without its port; None for one that is not valid."""
    if not header or any(sign in header for sign in "/@?#\\, \t"):
        return None
    try:
        parts = urlsplit(f"//{header}")
        _ = parts.port  # raises for what is not a port
    except ValueError:
        return None
    return parts.hostname or None


def is_same_origin(origin: str, host: str) -> bool:
    """Return true for an Origin header of a page of this server, by the Host header of the same request."""
    return origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


class Guard:
    """Refuse requests of other sites, and add `HEADERS` to every response.

    Args:
        app: gets the requests that are not refused.
        bound_to: the host that the server is bound to.
    """

    def __init__(self, app: App, bound_to: str) -> None:
        self._app = app
        self._bound_to = bound_to

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; of other kinds of connections nothing is answered."""
        from starlette.responses import JSONResponse

        if scope["type"] != "http":
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        refusal = self._refusal(scope)
        app: App = self._app if refusal is None else JSONResponse({"error": refusal}, 403)
        await app(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> str | None:
        """Return the reason to refuse a request, or None."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts, origins, sites = (headers.get(name, []) for name in ("host", "origin", "sec-fetch-site"))
        if len(hosts) != 1 or not is_allowed(hosts[0], self._bound_to):
            return "this host name is not served here; open the address that `lgkd serve` printed"
        if len(origins) > 1 or not all(is_same_origin(origin, hosts[0]) for origin in origins):
            return "requests from pages of other sites are refused; use the page of this server"
        if any(site not in ("same-origin", "none") for site in sites) and scope["path"] != "/":
            return "requests from pages of other sites are refused; use the page of this server"
        return None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
