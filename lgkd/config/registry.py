"""Register custom terms: losses that a recipe can name once their module was imported.

A recipe only names what is registered; it imports nothing. Modules are imported by Python or by `--use`.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lgkd._internal.text import did_you_mean
from lgkd.errors import InputError

Loss = TypeVar("Loss", bound=type)
_REGISTERED: dict[str, type] = {}


def register_term(name: str) -> Callable[[Loss], Loss]:
    """Register a loss for recipes, as `{kind: own, loss: NAME, options: {...}}`; a class decorator.

    The class is a module of one of the families of `lgkd.losses`, which its attribute `reads` names. Its options
    are the arguments of its constructor that have a name.

    Args:
        name: its name in recipes: 1 to 40 letters, digits, '_' or '-'.

    Raises:
        InputError: the name is invalid or taken by another loss, or the object is not a class with `reads`.
    """

    def register(loss: Loss) -> Loss:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name):
            raise InputError(f"a term cannot be registered as {name!r}; expected 1 to 40 letters, digits, '_' or '-'")
        if not isinstance(loss, type) or not hasattr(loss, "reads"):
            raise InputError(
                f"{getattr(loss, '__name__', loss)!s} cannot be registered as {name!r}; expected a class with the "
                "attribute reads: 'maps', 'logits', 'distillation', 'embeddings', 'dense', 'student-maps', 'exits' or "
                "'images'"
            )
        other = _REGISTERED.get(name)
        # A module that is reimported, as in notebooks, registers its own loss again.
        if other is not None and (other.__module__, other.__qualname__) != (loss.__module__, loss.__qualname__):
            raise InputError(
                f"{loss.__qualname__} cannot be registered as {name!r}, the name of "
                f"{other.__module__}.{other.__qualname__}; choose another name"
            )
        _REGISTERED[name] = loss
        return loss

    return register


def registered_term(name: str) -> type:
    """Return the loss that is registered under a name.

    Raises:
        InputError: no loss has this name; the message says how to register one.
    """
    if name not in _REGISTERED:
        hint = did_you_mean(name, _REGISTERED) if _REGISTERED else "nothing is registered"
        raise InputError(
            f"no loss is registered as {name!r} ({hint}); import the module that registers it, with --use on the "
            "command line"
        )
    return _REGISTERED[name]


def option_problem(loss: type, options: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the first unknown or missing option of a constructor with half a sentence; None if there are none.

    A missing option has the name "".
    """
    taken = inspect.signature(loss).parameters.values()
    named = {one.name: one for one in taken if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    for name in options:
        if name not in named and not any(one.kind is one.VAR_KEYWORD for one in taken):
            return name, f"{loss.__name__} has no such option; {did_you_mean(name, named)}"
    for name, one in named.items():
        if one.default is one.empty and name not in options:
            return "", f"{loss.__name__} needs the option {name!r}; add it"
    return None


def import_terms(modules: Sequence[str] | None) -> None:
    """Import modules that register terms, before a recipe is read; also searches the working folder, like python.

    Raises:
        InputError: a module cannot be imported; the message says why.
    """
    here = str(Path.cwd())
    for module in modules or ():
        if here not in sys.path:
            sys.path.insert(0, here)
        try:
            importlib.import_module(module)
        except InputError:
            raise
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            raise InputError(
                f"--use {module}: the module cannot be imported ({type(error).__name__}: {reason}); expected "
                "package.module, importable from the working folder"
            ) from error
