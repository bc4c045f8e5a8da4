"""Check the requirements of a server beyond lgkd's own: the extra `serve`. No torch in here."""

from importlib.util import find_spec

from lgkd.errors import MissingError

_NEEDED = ("starlette", "uvicorn")


def check_server_is_here() -> None:
    """Check that the extra is installed, without importing any of it.

    Raises:
        MissingError: it is not installed.
    """
    lacking = [name for name in _NEEDED if find_spec(name) is None]
    if lacking:
        raise MissingError(
            f"a server needs {', '.join(lacking)}, which is not installed; get it with: pip install 'lgkd[serve]'"
        )
