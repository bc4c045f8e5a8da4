"""List names of teachers and students with their descriptions; no torch, so that listing is quick."""

from lgkd._internal.text import did_you_mean
from lgkd.errors import ModelError
from lgkd.models.known_models import KNOWN_MODELS
from lgkd.models.model_info import ModelInfo as ModelInfo
from lgkd.models.model_info import Role

MODELS: dict[str, ModelInfo] = {info.name: info for info in KNOWN_MODELS}
_BY_ALIAS = {alias: info.name for info in MODELS.values() for alias in info.aliases}


def names(role: Role | None = None) -> list[str]:
    """Return the names of one role, or of both."""
    return [name for name, info in MODELS.items() if role is None or info.role == role]


def canonical(name: str) -> str:
    """Resolve aliases to the name a model is listed under; `timm:` and `module:factory` names are unchanged."""
    return _BY_ALIAS.get(name, name)


def find(name: str) -> ModelInfo | None:
    """Look up the description of a name; None for `timm:NAME` and `package.module:factory`.

    Raises:
        ModelError: neither known nor of one of those forms.
    """
    known = canonical(name)
    if known in MODELS:
        return MODELS[known]
    if ":" in name:
        return None
    raise ModelError(
        f"no model is called {name!r}; {did_you_mean(name, [*MODELS, *_BY_ALIAS])} "
        "Any timm classifier is `timm:NAME`, a model of your own `package.module:factory`"
    )
