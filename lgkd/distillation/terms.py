"""Create the losses of a recipe's terms."""

from torch import nn

from lgkd.config import OwnTerm, Term, TermSection
from lgkd.config.declaration import default_of
from lgkd.config.registry import registered_term
from lgkd.errors import InputError
from lgkd.losses import TERMS
from lgkd.losses.registry import registration


def make_loss(term: Term) -> nn.Module:
    """Create the loss of a term with the options of its section; its projections are not built yet.

    Raises:
        InputError: the constructor fails; the message names the loss, the options and the reason.
    """
    kind: type = registered_term(term.loss) if isinstance(term, OwnTerm) else TERMS[term.kind]
    try:
        loss: nn.Module = kind(**term.arguments)
    except Exception as error:
        name = term.loss if isinstance(term, OwnTerm) else term.kind
        given = ", ".join(f"{key}={value}" for key, value in term.arguments.items()) or "its defaults"
        raise InputError(f"{name} cannot be created with {given}: {type(error).__name__}: {error}") from error
    return loss


def default_weight(loss: nn.Module) -> float:
    """Return the default weight of a loss in a recipe."""
    entry = registration(type(loss))
    weight: float = entry.weight if entry is not None else default_of(TermSection, "weight")
    return weight
