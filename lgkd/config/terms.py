"""Declare the terms of a guide: one section for each kind of loss.

The sections of lgkd's own losses are created from `loss_table.json`, which `python -m tools.loss_table` writes from the
constructors in `lgkd/losses/`, so that recipes can be read without torch. A weight's default is the published one if
there is one; the corresponding weight of the classification is in the docstring of the loss if it is not 1.
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, Union

from pydantic import AfterValidator, Field, ValidationInfo, create_model, field_validator

from lgkd.config.base import Number, Section, wrong
from lgkd.config.registry import option_problem, registered_term
from lgkd.config.schedules import TermSchedule
from lgkd.errors import InputError

Factor = Annotated[Number, Field(ge=0, le=1_000_000)]
STUDENT_ALONE = frozenset({"student-maps", "images"})
"""Families of losses that read features of the student and none of a teacher."""


def _scalar(value: Any) -> Any:
    if value is not None and not isinstance(value, bool | int | float | str):
        raise wrong("must be a number, text, true, false or null")
    return value


def _own_loss(name: str) -> str:
    try:
        registered_term(name)
    except InputError as error:
        raise wrong(str(error)) from None
    return name


def _term_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", text):
        raise wrong("must be 1 to 40 letters, digits, '_' or '-'")
    return text


class TermSection(Section):
    """Declare the keys common to all terms."""

    kind: str
    """Kind of the loss."""
    name: Annotated[str, AfterValidator(_term_name)] | None = None
    """Name of the term in logs; null: its kind."""
    weight: Factor = 1.0
    """Multiplies the loss."""
    schedule: TermSchedule | None = None
    """Schedule of the weight during training; null: constant."""
    for_teacher: int | None = Field(default=None, ge=1, le=100)
    """Number of the teacher that this term is for, counted from 1 in the order given; null: each of them."""

    @property
    def title(self) -> str:
        """Return the name of the term in logs."""
        if self.name is None and self.kind == "locality":
            return f"guidance_{self.arguments['transform']}"  # the name of its column in older runs
        return self.name or self.kind

    @property
    def reads_teacher(self) -> bool:
        """Return True if the loss reads features of a teacher."""
        return _TABLE[self.kind]["reads"] not in STUDENT_ALONE

    @property
    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the loss's constructor."""
        return {key: getattr(self, key) for key in type(self).model_fields if key not in TermSection.model_fields}


class OwnOptions(dict[str, Any]):
    """Hold the options of a custom loss; immutable, like the whole recipe."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def _refused(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a recipe is frozen")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refused


class OwnTerm(TermSection):
    """Declare a custom loss that a user's module registered with `lgkd.register_term`."""

    kind: Literal["own"]
    """Kind of the loss."""
    loss: Annotated[str, AfterValidator(_own_loss)]
    """Registered name of the loss; --use imports the module that registers it."""
    options: Annotated[
        dict[str, Annotated[Any, AfterValidator(_scalar)]], Field(max_length=100), AfterValidator(OwnOptions)
    ] = OwnOptions()
    """Arguments of its constructor by name: numbers, text, true or false, null."""

    @property
    def title(self) -> str:
        return self.name or self.loss

    @property
    def reads_teacher(self) -> bool:
        return getattr(registered_term(self.loss), "reads", None) not in STUDENT_ALONE

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.options)

    @field_validator("options")
    @classmethod
    def _the_loss_takes_them(cls, options: OwnOptions, info: ValidationInfo) -> OwnOptions:
        if "loss" in info.data:
            problem = option_problem(registered_term(info.data["loss"]), options)
            if problem is not None:
                name, message = problem
                raise wrong(message, at=name, value=options.get(name, dict(options)))
        return options


_TYPES = {"number": Number, "whole": int, "switch": bool}
_TABLE: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("loss_table.json").read_text(encoding="utf-8"))


def _only_with(key: str, default: Any, other: str, wanted: Any) -> Any:
    """Create a validator that restricts an option to its default unless another one has a given value."""

    def check(value: Any, info: ValidationInfo) -> Any:
        if value != default and info.data.get(other, wanted) != wanted:
            raise wrong(f"must be {default} unless {other} is {wanted}")
        return value

    return field_validator(key)(check)


def _section(kind: str, entry: dict[str, Any]) -> type[TermSection]:
    """Create the section of a loss from its entry in the table."""
    fields: dict[str, Any] = {
        "kind": (Literal[kind], Field(description=TermSection.model_fields["kind"].description)),
        "weight": (Factor, Field(default=entry["weight"], description=entry["weight_help"])),
    }
    rules = {}
    for key, option in entry["options"].items():
        sort: Any = Literal[tuple(option["choices"])] if "choices" in option else _TYPES[option["type"]]
        bounds = {name: option[name] for name in ("gt", "ge", "le") if name in option}
        fields[key] = (sort, Field(default=option["default"], description=option["help"], **bounds))
        if "only_with" in option:
            rules[f"{key}_only_with"] = _only_with(key, option["default"], *option["only_with"])
    name = entry["loss"].rpartition(":")[2] + "Term"
    made: type[TermSection] = create_model(
        name,
        __base__=TermSection,
        __module__=__name__,
        __doc__=entry["summary"],
        __validators__=rules,
        __cls_kwargs__={"use_attribute_docstrings": False},  # no source to search for them
        **fields,
    )
    return made


SECTIONS: dict[str, type[TermSection]] = {kind: _section(kind, entry) for kind, entry in _TABLE.items()}
"""Sections of lgkd's own losses, by the kind of term."""
# A pickled recipe finds its sections here.
globals().update({section.__name__: section for section in SECTIONS.values()})

if TYPE_CHECKING:
    Term: TypeAlias = TermSection
    """Term of a guide, selected by its `kind`."""
else:
    Term = Annotated[Union[(*SECTIONS.values(), OwnTerm)], Field(discriminator="kind")]
