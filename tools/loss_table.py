"""Write the options of the losses, with defaults, bounds and descriptions, from the constructors in `lgkd/losses/`.

python -m tools.loss_table

`lgkd/config/loss_table.json` is for the validation of recipes, without torch; `lgkd/losses/__init__.pyi` has the names
of the losses for type checkers, and `docs/reference.md` for readers. Kinds keep their order; new ones come last.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

import lgkd
from lgkd.losses import TERMS
from lgkd.losses.registry import Option, options_of, registration
from tools.pages import ROOT, replaced

PACKAGE = Path(lgkd.__file__).parent
TABLE = PACKAGE / "config" / "loss_table.json"
REFERENCE = ROOT / "docs" / "reference.md"
STUB = PACKAGE / "losses" / "__init__.pyi"
_TYPES = {float: "number", int: "whole", bool: "switch"}


def described(option: Option) -> dict[str, Any]:
    """Describe an option in plain values."""
    found: dict[str, Any] = {"choices": option.choices} if option.choices else {"type": _TYPES[option.kind]}
    if option.bounds is not None:
        bounds = {name: getattr(option.bounds, name) for name in ("gt", "ge", "le")}
        found |= {name: bound for name, bound in bounds.items() if bound is not None}
    found["default"] = option.default
    if option.only_with is not None:
        found["only_with"] = [option.only_with.option, option.only_with.value]
    return found | {"help": option.help}


def entry(loss: type[nn.Module]) -> dict[str, Any]:
    """Describe a loss in plain values."""
    found = registration(loss)
    assert found is not None
    return {
        "loss": f"{loss.__module__}:{loss.__name__}",
        "summary": (loss.__doc__ or "").strip().splitlines()[0],
        "reads": str(loss.reads),
        "weight": found.weight,
        "weight_help": found.weight_help,
        "options": {name: described(option) for name, option in options_of(loss).items()},
    }


def table(before: str = "{}") -> str:
    """Write the table, its kinds in the order of the one before."""
    order = list(json.loads(before))
    kinds = [kind for kind in order if kind in TERMS] + sorted(TERMS.keys() - set(order))
    blocks = []
    for kind in kinds:
        values = entry(TERMS[kind])
        options = values.pop("options")
        lines = [f"    {json.dumps(key)}: {json.dumps(value)}" for key, value in values.items()]
        rows = [f"      {json.dumps(name)}: {json.dumps(option)}" for name, option in options.items()]
        lines.append('    "options": {' + ("\n" + ",\n".join(rows) + "\n    " if rows else "") + "}")
        blocks.append(f"  {json.dumps(kind)}: {{\n" + ",\n".join(lines) + "\n  }")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def stub() -> str:
    """Write the names of the losses for type checkers, which cannot follow the search for modules."""
    names = sorted((loss.__module__, loss.__name__) for loss in TERMS.values())
    imports = "".join(f"from {module} import {name} as {name}\n" for module, name in names)
    head = "# Written by python -m tools.loss_table.\nfrom torch import nn\n"
    return f"{head}\n{imports}\nTERMS: dict[str, type[nn.Module]]\n"


def reference(page: str, kinds: Iterable[str]) -> str:
    """Write the names of the losses into the page of the public names, in the order of their kinds."""
    classes = "".join(f".. autoclass:: {TERMS[kind].__name__}\n" for kind in kinds)
    block = f".. currentmodule:: lgkd.losses\n{classes}.. currentmodule:: lgkd\n"
    return replaced(page, "losses", f"```{{eval-rst}}\n{block}```")


if __name__ == "__main__":
    content = table(TABLE.read_text(encoding="utf-8"))
    TABLE.write_text(content, encoding="utf-8")
    STUB.write_text(stub(), encoding="utf-8")
    REFERENCE.write_text(reference(REFERENCE.read_text(encoding="utf-8"), json.loads(content)), encoding="utf-8")
