"""Check the extras that exports and servers require beyond lgkd's own packages. No torch in here."""

from importlib.util import find_spec

from lgkd.errors import MissingError


def check_onnx_is_here() -> None:
    """Check that the extra of ONNX files is installed, without importing any of it.

    Raises:
        MissingError: it is not installed.
    """
    _check("ONNX", "onnx", ("onnx", "onnxscript", "onnxruntime"))


def check_server_is_here() -> None:
    """Check that the extra of a server is installed, without importing any of it.

    Raises:
        MissingError: it is not installed.
    """
    _check("a server", "serve", ("starlette", "uvicorn"))


def _check(what: str, extra: str, needed: tuple[str, ...]) -> None:
    lacking = [name for name in needed if find_spec(name) is None]
    if lacking:
        raise MissingError(
            f"{what} needs {', '.join(lacking)}, which is not installed; get it with: pip install 'lgkd[{extra}]'"
        )
