"""Check the requirements of ONNX files beyond lgkd's own: the extra `onnx`. No torch in here."""

from importlib.util import find_spec

from lgkd.errors import MissingError

_NEEDED = ("onnx", "onnxscript", "onnxruntime")


def check_onnx_is_here() -> None:
    """Check that the extra is installed, without importing any of it.

    Raises:
        MissingError: it is not installed.
    """
    lacking = [name for name in _NEEDED if find_spec(name) is None]
    if lacking:
        raise MissingError(
            f"ONNX needs {', '.join(lacking)}, which is not installed; get it with: pip install 'lgkd[onnx]'"
        )
