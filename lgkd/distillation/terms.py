"""Create the losses of a recipe's terms, and name them."""

import re
from collections.abc import Sequence

from torch import nn

from lgkd.config import OwnTerm, Term, TermSection
from lgkd.config.declaration import default_of
from lgkd.config.registry import registered_term
from lgkd.errors import InputError
from lgkd.losses import TERMS
from lgkd.losses.registry import registration

OF_CLASSES = frozenset({"logits", "distillation", "dense", "exits"})
"""Families of losses that compare logits, so that student and teacher need the same classes."""
_LOGGED = ("loss", "accuracy")


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


def for_several_labels(loss: nn.Module, title: str) -> nn.Module:
    """Return the form of a loss for images with several labels, whose logits are independent of each other.

    Losses that do not read logits stay as they are. One that reads them is taken where it says `multi_label`, or is
    replaced by what its `per_class()` returns.

    Raises:
        InputError: it compares distributions over classes that exclude each other.
    """
    if getattr(loss, "reads", None) not in OF_CLASSES or getattr(loss, "multi_label", False):
        return loss
    form = getattr(loss, "per_class", None)
    if form is None:
        raise InputError(
            f"the term {title} compares probabilities of classes that exclude each other, and here an image has "
            "several labels; use kd, which then compares every class by itself, or terms on maps or embeddings (a loss "
            "of your own that allows several labels sets multi_label = True)"
        )
    made: nn.Module = form()
    return made


def default_weight(loss: nn.Module) -> float:
    """Return the default weight of a loss in a recipe."""
    entry = registration(type(loss))
    weight: float = entry.weight if entry is not None else default_of(TermSection, "weight")
    return weight


def named_weights(terms: Sequence[tuple[str | None, nn.Module, float]]) -> dict[str, float]:
    """Name the terms of a guide, (name or None, loss, weight) each, and return their weights.

    Raises:
        InputError: no term, two terms of one name, or a name that the log or torch reserves.
    """
    if not terms:
        raise InputError("a guide has no terms; give at least one, as in [Term(MapLoss(), weight=2.5)]")
    weights: dict[str, float] = {}
    for given, loss, weight in terms:
        name = given or _name_of(loss)
        if name in weights or name == "classification":
            raise InputError(f"two terms of the loss are named {name!r}; give each term a different name")
        if (
            not re.fullmatch(r"\w[\w-]*", name)
            or name in _LOGGED
            or name.startswith("weight_")
            or hasattr(nn.ModuleDict(), name)
        ):
            raise InputError(
                f"a term cannot be named {name!r}; use letters, digits, _ and -, and not a name that the log or torch "
                "reserves, as in 'locality'"
            )
        weights[name] = weight
    return weights


def _name_of(loss: nn.Module) -> str:
    transform = getattr(loss, "transform", None)
    return f"guidance_{transform}" if transform else type(loss).__name__.lower()
