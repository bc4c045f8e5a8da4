"""Look up defaults and bounds of single recipe keys, for Python code that takes them as plain arguments."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from lgkd.config.base import Section
from lgkd.config.problems import dotted
from lgkd.config.validate import problems_in
from lgkd.config.yaml_io import Document
from lgkd.errors import InputError


def default_of(section: type[Section], key: str) -> Any:
    """Return the default value of a key."""
    return section.model_fields[key].get_default(call_default_factory=True)


def check_values(section: type[Section], of: str, values: Mapping[str, Any]) -> None:
    """Refuse values that the section would refuse.

    Args:
        section: of a recipe.
        of: owner of the values, as the beginning of a message.
        values: values of some or all of its keys.

    Raises:
        InputError: a value is invalid in a recipe; the message names the first.
    """
    given = dict(values)
    try:
        section.model_validate(given)
    except ValidationError as error:
        for problem in problems_in(error, Document(given)):
            # Keys that Python sets elsewhere are missing here.
            if problem.path and problem.path[0] in given:
                raise InputError(f"{of}: {dotted(problem.path)} {problem.message}") from None
