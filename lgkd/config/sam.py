"""Declare the section of a recipe on sharpness-aware minimisation."""

from pydantic import Field

from lgkd.config.base import Number, Settings


class Sam(Settings):
    """Configure sharpness-aware minimisation: a step by the gradient at nearby weights of higher loss; two passes."""

    rho: Number = Field(default=0.05, gt=0, le=100)
    """Distance to the weights at which the second gradient is taken; with `adaptive` about ten times as large."""
    adaptive: bool = False
    """Measure the distance relative to the size of each weight (ASAM)."""
