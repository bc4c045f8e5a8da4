"""Build the web application of `lgkd serve`: a page, its files, and JSON.

One image is computed at a time, in a thread of its own; at most `QUEUE` requests are accepted, and further ones are
answered with 503. So at most `QUEUE` bodies of `LARGEST` bytes are in memory.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lgkd._internal.text import first_line, one_line
from lgkd.deploy.serve.guard import App, Guard
from lgkd.deploy.serve.predictor import TOP_K, Predictor
from lgkd.errors import DataError

LARGEST = 20_000_000
"""Largest body, in bytes."""

QUEUE = 8
"""Requests for a prediction at the same time, the one that is computed included."""

PATIENCE = 30.0
"""Seconds in which a body has to arrive."""

_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_ASKED = {"top_k", "explain"}
_LOG = logging.getLogger("lgkd.serve")


def make_app(predictor: Predictor, bound_to: str) -> App:
    """Build the application, with its guard around it.

    Args:
        predictor: answers images.
        bound_to: the host that the server is bound to.
    """
    line = _Line(predictor)
    routes = [
        *(Route(path, _file(*what), methods=["GET"]) for path, what in _FILES.items()),
        Route("/health", _health, methods=["GET"]),
        Route("/about", partial(_about, predictor), methods=["GET"]),
        Route("/predict", line.predict, methods=["POST"]),
    ]
    handlers: Any = {HTTPException: _in_words}
    served: Any = Starlette(routes=routes, exception_handlers=handlers)
    return Guard(served, bound_to)


class _Line:
    """Compute one prediction at a time, and refuse requests when too many are waiting."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._here = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="predict")

    async def predict(self, request: Request) -> Response:
        top_k, explain = _asked(request)
        if self._here >= QUEUE:
            raise HTTPException(503, "too many images are waiting; try again in a moment", {"Retry-After": "2"})
        self._here += 1
        try:
            data = await _body(request)
            call = partial(self._predictor.answer, data, top_k=top_k, explain=explain)
            # Shielded: a computation that has begun counts until it ends, whatever becomes of its request.
            return JSONResponse(await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, call)))
        except DataError as error:
            raise HTTPException(400, str(error)) from None
        except HTTPException:
            raise
        except Exception as error:  # its text may name paths: it stays on the terminal
            _LOG.error("a prediction failed: %s: %s", type(error).__name__, one_line(first_line(error)))
            raise HTTPException(500, "the server failed on this image; its terminal has the reason") from None
        finally:
            self._here -= 1


async def _body(request: Request) -> bytes:
    """Read a body, and stop at `LARGEST` bytes or after `PATIENCE` seconds."""
    too_large = HTTPException(413, f"the image is too large, expected at most {LARGEST:,} bytes; send a smaller file")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > LARGEST:
        raise too_large
    parts, total = [], 0
    try:
        async with asyncio.timeout(PATIENCE):
            async for part in request.stream():
                total += len(part)
                if total > LARGEST:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise HTTPException(408, f"the image did not arrive within {PATIENCE:g} seconds; send it again") from None
    except ClientDisconnect:
        raise HTTPException(400, "the connection ended before the image had arrived; send it again") from None
    if not total:
        raise HTTPException(400, "the body is empty, expected the content of an image file; send one")
    return b"".join(parts)


def _asked(request: Request) -> tuple[int, bool]:
    """Read the query: top_k, a whole number from 1, and explain, true or false."""
    unknown = sorted({*request.query_params} - _ASKED)
    if unknown:
        raise HTTPException(400, f"unknown parameter {unknown[0][:40]!r}, expected top_k or explain; leave it out")
    top_k, explain = request.query_params.get("top_k", str(TOP_K)), request.query_params.get("explain", "false")
    if not (top_k.isascii() and top_k.isdecimal() and len(top_k) < 7 and int(top_k) >= 1):
        raise HTTPException(400, "top_k is not a whole number from 1; write it like top_k=3")
    if explain not in ("true", "false"):
        raise HTTPException(400, "explain is neither true nor false; write it like explain=true")
    return int(top_k), explain == "true"


def _file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    content = (Path(__file__).parent / name).read_bytes()

    async def send(_request: Request) -> Response:
        return Response(content, media_type=kind)

    return send


async def _health(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _about(predictor: Predictor, _request: Request) -> Response:
    return JSONResponse(predictor.about())


async def _in_words(_request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)
