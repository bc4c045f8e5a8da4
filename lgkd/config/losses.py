"""The terms of a guide: one section for each kind of loss.

A section's keys, less those of `TermSection`, are the options of that loss in `lgkd.losses`, with the same
defaults. A weight's default is the published one where there is one; what its source weighed the
classification with beside it stands in the docstring where that is not 1.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from lgkd.config.base import Number, Section, as_tuple, wrong
from lgkd.config.registry import option_problem, registered_term
from lgkd.errors import InputError

Temperature = Annotated[Number, Field(gt=0, le=1000)]
Factor = Annotated[Number, Field(ge=0, le=1_000_000)]


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


class AdaptiveSection(Section):
    """End the term for good when its loss does not fall any more.

    Source: Adaptive Locality Guidance, TNNLS 2025, as described by a third party's port; `relative` is lgkd's own.
    """

    threshold: Annotated[Number, Field(ge=-1e9, le=1e9)] = -0.1
    """The smoothed slope at which the term ends: per window as a share of the loss, or in its units per epoch."""
    window: int | None = Field(default=None, ge=1, le=1_000_000)
    """Epochs over which the slope is taken and smoothed; null: a sixth of the training."""
    relative: bool = True
    """true: share of the loss per window; false: units of loss per epoch, as published (-0.02, window 50 of 300)."""
    patience: Annotated[int, Field(ge=2, le=1_000_000)] = 2
    """Epochs before which the term does not end; it waits for the warm-up and two windows in any case."""


class TermScheduleSection(Section):
    """How a term's weight moves, and when the term ends."""

    warmup: Annotated[Number, Field(ge=0, le=1_000_000)] = 0.0
    """Epochs in which the weight grows from 0."""
    shape: Literal["constant", "cosine", "steps"] = "constant"
    """constant; cosine: half a cosine down to `end`; steps: times `factor` at every milestone."""
    end: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """Share of the weight at which a cosine ends."""
    over: Number | None = Field(default=None, gt=0, le=1_000_000)
    """Epochs of the cosine; null: the whole training."""
    milestones: Annotated[
        tuple[Annotated[Number, Field(gt=0, le=1_000_000)], ...], BeforeValidator(as_tuple), Field(max_length=100)
    ] = ()
    """Epochs at which steps are made."""
    factor: Annotated[Number, Field(ge=0, le=1000)] = 0.1
    """What a step multiplies the weight by."""
    until: int | None = Field(default=None, ge=1, le=1_000_000)
    """Epoch after which the term ends; null: never."""
    adaptive: AdaptiveSection | None = None
    """End the term when its loss does not fall any more; null: never."""


class TermSection(Section):
    """What all terms have."""

    kind: str
    """Which loss this term is."""
    name: Annotated[str, AfterValidator(_term_name)] | None = None
    """The term's name in logs; null: its kind."""
    weight: Factor = 1.0
    """Multiplies the loss."""
    schedule: TermScheduleSection | None = None
    """How the weight moves in the course of the training; null: it does not."""
    for_teacher: int | None = Field(default=None, ge=1, le=100)
    """Of several teachers, the one that this term is for, counted from 1 in the order given; null: each of them."""


class LocalityTerm(TermSection):
    """Student maps and teacher maps, made comparable and compared by mean squared distance.

    Source: Li et al., Locality Guidance for Improving Vision Transformers on Tiny Datasets, ECCV 2022.
    """

    kind: Literal["locality"]
    """Which loss this term is."""
    transform: Literal["linear", "attention", "similarity"] = "linear"
    """linear: a learned 1x1 projection to the teacher's width; the other two need no projection."""
    normalize: Literal["none", "channel", "unit"] = "none"
    """Teacher maps as they are, standardised over channels at each position, or with mean square 1 (linear only)."""
    weight: Factor = 2.5
    """Multiplies the sum over the guided layer pairs."""

    @field_validator("normalize")
    @classmethod
    def _only_linear_normalizes(cls, normalize: str, info: ValidationInfo) -> str:
        if normalize != "none" and info.data.get("transform", "linear") != "linear":
            raise wrong("must be none unless transform is linear")
        return normalize


class BlocksTerm(TermSection):
    """Every teacher stage imitated by a learned mixture of all student blocks."""

    kind: Literal["blocks"]
    """Which loss this term is."""
    normalize: Literal["none", "channel", "unit"] = "none"
    """Teacher maps as they are, standardised over channels at each position, or with mean square 1."""
    weight: Factor = 2.5
    """Multiplies the sum over the teacher's stages."""


class HintTerm(TermSection):
    """Student maps regressed onto the teacher's, on the teacher's grid. Source: FitNets, ICLR 2015."""

    kind: Literal["hint"]
    """Which loss this term is."""
    regressor: Literal["linear", "norm"] = "linear"
    """linear: a 1x1 convolution; norm: a 1x1 convolution, BatchNorm and ReLU."""
    weight: Factor = 100.0
    """Multiplies the sum over the guided layer pairs; the published one is for a single pair."""


class AttentionTransferTerm(TermSection):
    """Where maps are active, compared on the coarser grid. Source: Zagoruyko, Komodakis, ICLR 2017."""

    kind: Literal["attention-transfer"]
    """Which loss this term is."""
    p: Annotated[Number, Field(gt=0, le=10)] = 2.0
    """The power to which absolute values are raised before they are averaged over channels."""
    weight: Factor = 1000.0
    """Multiplies the sum over the guided layer pairs."""


class SimilarityPreservingTerm(TermSection):
    """How alike a batch's samples are to each other. Source: Tung, Mori, ICCV 2019."""

    kind: Literal["similarity-preserving"]
    """Which loss this term is."""
    weight: Factor = 3000.0
    """Multiplies the sum over the guided layer pairs."""


class ReviewTerm(TermSection):
    """Every teacher map imitated by the fusion of all deeper student maps. Source: ReviewKD, CVPR 2021."""

    kind: Literal["review"]
    """Which loss this term is."""
    weight: Factor = 1.0
    """Multiplies the sum over the guided layer pairs; published: 1 to 5, after 20 epochs of warm-up."""


class KDTerm(TermSection):
    """Softened class probabilities. Source: Hinton et al., 2015; beside 0.1 for the classification."""

    kind: Literal["kd"]
    """Which loss this term is."""
    temperature: Temperature = 4.0
    """Logits are divided by it before the softmax."""
    mean: Literal["batch", "elements"] = "batch"
    """Sum over classes and mean over the batch, or mean over both, which is smaller by the number of classes."""
    weight: Factor = 0.9
    """Multiplies the divergence, which holds the square of the temperature."""


class DeiTHardTerm(TermSection):
    """The teacher's decision as the distillation head's label. Source: DeiT; beside 0.5 for the classification."""

    kind: Literal["deit-hard"]
    """Which loss this term is."""
    weight: Factor = 0.5
    """Multiplies the cross entropy."""


class DeiTSoftTerm(TermSection):
    """The teacher's probabilities for the distillation head. Source: DeiT; beside 0.9 for the classification."""

    kind: Literal["deit-soft"]
    """Which loss this term is."""
    temperature: Temperature = 3.0
    """Logits are divided by it before the softmax."""
    mean: Literal["batch", "elements"] = "batch"
    """Sum over classes and mean over the batch, or mean over both, as the authors' code has it."""
    weight: Factor = 0.1
    """Multiplies the divergence, which holds the square of the temperature."""


class DKDTerm(TermSection):
    """Target class and other classes weighed apart. Source: Zhao et al., CVPR 2022; 20 epochs of warm-up."""

    kind: Literal["dkd"]
    """Which loss this term is."""
    alpha: Factor = 1.0
    """Multiplies the divergence between the target and all other classes together."""
    beta: Factor = 8.0
    """Multiplies the divergence among the other classes."""
    temperature: Temperature = 4.0
    """Logits are divided by it before the softmax."""
    weight: Factor = 1.0
    """Multiplies both parts, which hold the square of the temperature."""


class DISTTerm(TermSection):
    """Correlation of probabilities within samples and within classes. Source: Huang et al., NeurIPS 2022."""

    kind: Literal["dist"]
    """Which loss this term is."""
    beta: Factor = 1.0
    """Multiplies the part within samples."""
    gamma: Factor = 1.0
    """Multiplies the part within classes, which looks across the batch."""
    temperature: Temperature = 1.0
    """Logits are divided by it before the softmax."""
    weight: Factor = 1.0
    """Multiplies both parts, which hold the square of the temperature."""


class StandardizedKDTerm(TermSection):
    """Distillation of standardised logits. Source: Sun et al., CVPR 2024; beside 0.1 for the classification."""

    kind: Literal["standardized-kd"]
    """Which loss this term is."""
    temperature: Temperature = 2.0
    """Standardised logits are divided by it before the softmax."""
    eps: Annotated[Number, Field(gt=0, le=10)] = 1e-7
    """Added to the spread of a sample's logits; a larger one bounds the first steps of a head that starts at zero."""
    weight: Factor = 9.0
    """Multiplies the divergence, which holds the square of the temperature."""


class StandardizedDKDTerm(TermSection):
    """Decoupled distillation of standardised logits. Source: Sun et al., CVPR 2024, and the authors' code."""

    kind: Literal["standardized-dkd"]
    """Which loss this term is."""
    alpha: Factor = 1.0
    """Multiplies the divergence between the target and all other classes together."""
    beta: Factor = 9.0
    """Multiplies the divergence among the other classes."""
    temperature: Temperature = 4.0
    """Standardised logits are divided by it before the softmax."""
    eps: Annotated[Number, Field(gt=0, le=10)] = 1e-7
    """Added to the spread of a sample's logits; a larger one bounds the first steps of a head that starts at zero."""
    weight: Factor = 9.0
    """Multiplies both parts, which hold the square of the temperature."""


class LumiNetTerm(TermSection):
    """Logits standardised class by class over the batch. Source: LumiNet, TMLR 2025.

    Published beside 2 for the classification and after a warm-up.
    """

    kind: Literal["luminet"]
    """Which loss this term is."""
    temperature: Temperature = 4.0
    """Standardised logits are divided by it before the softmax."""
    weight: Factor = 1089.0
    """Multiplies the divergence; the square of the published alpha, 33, for one pair of networks."""


class RKDTerm(TermSection):
    """Distances and angles between a batch's embeddings. Source: Park et al., CVPR 2019."""

    kind: Literal["rkd"]
    """Which loss this term is."""
    distance_weight: Factor = 25.0
    """Multiplies the part of the distances."""
    angle_weight: Factor = 50.0
    """Multiplies the part of the angles."""
    weight: Factor = 1.0
    """Multiplies both parts."""


class CCTerm(TermSection):
    """Gaussian kernels between a batch's embeddings. Source: described in Peng et al., ICCV 2019."""

    kind: Literal["cc"]
    """Which loss this term is."""
    gamma: Annotated[Number, Field(gt=0, le=100)] = 0.4
    """Of the kernel exp(-gamma distance^2) between embeddings of length 1."""
    order: Annotated[int, Field(ge=1, le=10)] = 2
    """Order of the kernel's Taylor expansion."""
    weight: Factor = 1.0
    """Multiplies the mean squared difference; no published weight is known."""


class CrossCorrelationTerm(TermSection):
    """Features that go with their own of the teacher and no other. Source: the idea of RSD, ICCV 2025."""

    kind: Literal["cross-correlation"]
    """Which loss this term is."""
    kappa: Factor = 0.01
    """Multiplies the squares of the correlations between different features."""
    expansion: Annotated[int, Field(ge=1, le=64)] = 4
    """Hidden width of the student's projection, as a multiple of its embedding's width."""
    weight: Factor = 1.0
    """Multiplies the loss; no published weight is known."""


class OwnOptions(dict[str, Any]):
    """Options of a loss of the user's own; like all of a recipe it cannot be changed once made."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def _refused(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a recipe is frozen")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refused


class OwnTerm(TermSection):
    """A loss of the user's own, which a module of the user's registered with `lgkd.register_term`."""

    kind: Literal["own"]
    """Which loss this term is."""
    loss: Annotated[str, AfterValidator(_own_loss)]
    """The name it was registered under; --use imports the module that does that."""
    options: Annotated[
        dict[str, Annotated[Any, AfterValidator(_scalar)]], Field(max_length=100), AfterValidator(OwnOptions)
    ] = OwnOptions()
    """Arguments of its constructor by name: numbers, text, true or false, null."""

    @field_validator("options")
    @classmethod
    def _the_loss_takes_them(cls, options: OwnOptions, info: ValidationInfo) -> OwnOptions:
        if "loss" in info.data:
            problem = option_problem(registered_term(info.data["loss"]), options)
            if problem is not None:
                name, message = problem
                raise wrong(message, at=name, value=options.get(name, dict(options)))
        return options


Term = Annotated[
    LocalityTerm
    | BlocksTerm
    | HintTerm
    | AttentionTransferTerm
    | SimilarityPreservingTerm
    | ReviewTerm
    | KDTerm
    | DeiTHardTerm
    | DeiTSoftTerm
    | DKDTerm
    | DISTTerm
    | StandardizedKDTerm
    | StandardizedDKDTerm
    | LumiNetTerm
    | RKDTerm
    | CCTerm
    | CrossCorrelationTerm
    | OwnTerm,
    Field(discriminator="kind"),
]
"""One term of a guide; its `kind` says which."""
