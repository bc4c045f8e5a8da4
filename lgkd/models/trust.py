"""Restrict which code may run: modules that a person named, never those named only by a file.

Runs and cards record the factory of a model, and people share both. `package.module:factory` in such a file
could call any function with any arguments. So the name must also come from the command line or
from Python: as the requested model, or as a module of `--use`.
"""

from pathlib import Path

from lgkd.errors import ModelError

_OURS = {"lgkd.quickstart:small_vit"}
"""lgkd's factories that accept untrusted arguments: the quickstart's runs name one."""

_TRUSTED: set[str] = set()


def trust(*names: object) -> None:
    """Trust modules or factories for the rest of the process.

    Args:
        names: a module, `package.module`, whose factories may then all run; or one `package.module:factory`. Other
            values are ignored.
    """
    _TRUSTED.update(name for name in names if isinstance(name, str))


def check_named_in(file: Path, name: str) -> None:
    """Refuse untrusted `module:factory` names read from files.

    Raises:
        ModelError: it is of the form `package.module:factory`, and neither it nor its module is trusted.
    """
    module, colon, _ = name.partition(":")
    if not colon or module == "timm" or {name, module} & (_OURS | _TRUSTED):
        return
    raise ModelError(
        f"{file} asks for {name}, which is code outside lgkd's models, and a file alone may not run it; if you "
        f"trust it, name it yourself: --use {module}, or in Python lgkd.models.trust.trust({module!r})"
    )
