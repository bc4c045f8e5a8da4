"""Declare the section of a recipe on the optimiser."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from lgkd.config.base import Number, Settings, wrong
from lgkd.config.values import as_pair

SCHEDULE_FREE = "schedule-free-adamw"
"""Name of the optimiser that averages its weights instead of lowering its rate."""


class Optimizer(Settings):
    """Configure the optimiser."""

    name: Literal["adamw", "sgd", "muon", "lion", "nadamw", "schedule-free-adamw"]
    """adamw; sgd with momentum; muon for inner matrices, nadamw for the rest; lion; nadamw; schedule-free-adamw."""
    lr: Number = Field(gt=0, le=100)
    """Peak learning rate; not scaled with the batch size."""
    weight_decay: Number = Field(ge=0, le=10)
    """Weight decay (coupled in sgd, else decoupled); biases, 1-D tensors and tokens take none."""
    betas: Annotated[
        tuple[Annotated[Number, Field(ge=0, lt=1)], Annotated[Number, Field(ge=0, lt=1)]],
        BeforeValidator(as_pair),
    ] = (0.9, 0.999)
    """Decay of running mean and square, or lion's two means; first of schedule-free-adamw: share of the average."""
    eps: Number = Field(default=1e-8, gt=0, le=1)
    """Added to the denominator of adamw, nadamw, muon and schedule-free-adamw; the others ignore it."""
    momentum: Number = Field(default=0.9, ge=0, lt=1)
    """Momentum of sgd and muon; the others ignore it."""
    nesterov: bool = True
    """Nesterov's form of momentum in sgd and muon (whose adamw is then nadamw); the others ignore it."""
    bias_lr_scale: Number = Field(default=1.0, gt=0, le=1000)
    """Multiplies the learning rate of biases and of other 1-D tensors."""

    @field_validator("betas")
    @classmethod
    def _an_average_takes_part(cls, betas: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
        if betas[0] == 0 and info.data.get("name") == SCHEDULE_FREE:
            raise wrong(f"must be > 0 with {SCHEDULE_FREE}; usual is 0.9", at="0", value=betas[0])
        return betas

    @field_validator("nesterov")
    @classmethod
    def _nesterov_needs_momentum(cls, nesterov: bool, info: ValidationInfo) -> bool:
        if nesterov and info.data.get("name") == "sgd" and info.data.get("momentum") == 0:
            raise wrong("must be false when momentum is 0")
        return nesterov
