"""Whose code may be run: that of modules which a person named, never that of one which only a file names.

Runs and cards write down what a model is made by, and people pass both on. `package.module:factory` in such a file
would let it call any function there is, with arguments of its own. So the name must come from the command line or
from Python, too: as the model that is asked for, or as a module of `--use`.
"""

from pathlib import Path

from lgkd.errors import ModelError

_OURS = {"lgkd.quickstart:small_vit"}
"""Factories of lgkd's own that take whatever a file gives them: the quickstart's runs name one."""

_TRUSTED: set[str] = set()


def trust(*names: object) -> None:
    """Remember what a person named, for as long as the process runs.

    Args:
        names: a module, `package.module`, of which then everything may be run; or one `package.module:factory`. What
            is neither counts for nothing.
    """
    _TRUSTED.update(name for name in names if isinstance(name, str))


def check_named_in(file: Path, name: str) -> None:
    """Refuse a model's name that stands in a file and would run code which nobody else has named.

    Raises:
        ModelError: it is of the form `package.module:factory`, and neither it nor its module is trusted.
    """
    module, colon, _ = name.partition(":")
    if not colon or module == "timm" or {name, module} & (_OURS | _TRUSTED):
        return
    raise ModelError(
        f"{file} asks for {name}, which is code that is not part of lgkd's models, and files alone run none; if you "
        f"trust it, name it yourself: --use {module}, or in Python lgkd.models.trust.trust({module!r})"
    )
