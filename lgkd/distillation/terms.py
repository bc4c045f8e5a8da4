"""From a term's section of the recipe to its loss and its name."""

from torch import nn

from lgkd.config import LocalityTerm, OwnTerm, Term, TermSection
from lgkd.config.declaration import default_of, term_section
from lgkd.config.registry import make_own_term
from lgkd.distillation.schedules import AdaptiveStop, TermSchedule
from lgkd.losses import TERMS


def make_loss(term: Term) -> nn.Module:
    """The loss of a term, with the options that its section gives; not built yet."""
    if isinstance(term, OwnTerm):
        own: nn.Module = make_own_term(term.loss, term.options)
        return own
    return TERMS[term.kind](**term.model_dump(exclude=set(TermSection.model_fields)))


def default_weight(loss: nn.Module) -> float:
    """The weight that a recipe gives a loss of this kind if it names none."""
    kind = next((kind for kind, known in TERMS.items() if type(loss) is known), None)
    weight: float = default_of(term_section(kind), "weight")
    return weight


def make_schedule(term: Term) -> TermSchedule:
    """How its weight moves and when it ends."""
    if term.schedule is None:
        return TermSchedule()
    plain = term.schedule.model_dump(exclude={"adaptive"})
    adaptive = term.schedule.adaptive
    return TermSchedule(**plain, adaptive=AdaptiveStop(**adaptive.model_dump()) if adaptive is not None else None)


def name_of(term: Term) -> str:
    """What a term is logged as."""
    if term.name is None and isinstance(term, LocalityTerm):
        return f"guidance_{term.transform}"
    return term.name or (term.loss if isinstance(term, OwnTerm) else term.kind)
