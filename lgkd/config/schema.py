"""Declare the keys of a recipe: training settings, without student, teacher or data set.

Every key has bounds and one sentence with its meaning and unit; `lgkd recipes NAME` shows them.
Unknown keys are refused. Whole numbers, text and true/false are taken strictly; a number may also
come as text ("1e-3"), because many YAML readers return it that way.
"""

import math
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from lgkd.config.base import Number, Section, Settings, as_tuple, wrong
from lgkd.config.optimizer import SCHEDULE_FREE, Optimizer
from lgkd.config.sam import Sam
from lgkd.config.terms import Term
from lgkd.config.values import ClassWeights, ImageSize, Line, as_pair, ascending, iso_date, known_policy

Interpolation = Literal["bicubic", "bilinear"]


class View(Settings):
    """Configure the augmentation of training images."""

    image_size: ImageSize | None = None
    """Side of the images the model sees, or [height, width], in pixels; null: the model's own default."""
    crop: Literal["random-resized", "pad", "none"] = "random-resized"
    """random-resized: a random part, resized; pad: a random window of the padded image, resized; none: resized."""
    scale: Annotated[
        tuple[Annotated[Number, Field(gt=0, le=1)], Annotated[Number, Field(gt=0, le=1)]],
        BeforeValidator(as_pair),
        AfterValidator(ascending),
    ] = (0.08, 1.0)
    """Smallest and largest share of the image's area that a random-resized crop takes."""
    ratio: Annotated[
        tuple[Annotated[Number, Field(ge=0.01, le=100)], Annotated[Number, Field(ge=0.01, le=100)]],
        BeforeValidator(as_pair),
        AfterValidator(ascending),
    ] = (0.75, 1.3333333333)
    """Smallest and largest width/height of a random-resized crop."""
    padding: Number = Field(default=0.125, ge=0, le=1)
    """Padding on each side before a pad crop, as a share of that side of the image."""
    interpolation: Interpolation = "bicubic"
    """Interpolation of training images, and of test images unless `evaluation.interpolation` is set."""
    flip: Number = Field(default=0.5, ge=0, le=1)
    """Probability of a left-right flip; 0 where left and right mean something (digits, text)."""
    rand_augment: Annotated[str, AfterValidator(known_policy)] | None = None
    """RandAugment in timm's notation, like rand-m9-mstd0.5-inc1; null: none."""
    color_jitter: Number = Field(default=0.0, ge=0, le=1)
    """Strength of random brightness, contrast and saturation; 0: none."""
    erase: Number = Field(default=0.0, ge=0, le=1)
    """Probability that a random rectangle is replaced by noise."""
    repeats: int = Field(default=1, ge=1, le=100)
    """Copies of an image in its batch, each augmented anew; an epoch keeps its number of steps."""
    normalize: Literal["imagenet", "dataset"] = "imagenet"
    """Channel mean and spread taken from ImageNet, or measured on the training split."""
    fixed: int | None = Field(default=None, ge=1, le=100_000)
    """Number of fixed views of each image, shown in turn, one per epoch; null: new views in every epoch."""
    alternate_flip: bool = False
    """Draw the flip in the first epoch only, and alternate it from epoch to epoch."""
    padding_mode: Literal["constant", "reflect"] = "constant"
    """Padding of a pad crop: constant, black; reflect, mirrored at the edge pixels, as in torchvision and np.pad."""
    channels: Literal[1, 3] = 3
    """Channels of the images the model sees: 3, red, green and blue; 1, grey levels."""


class Evaluation(Section):
    """Configure the preprocessing of test images: resized to `view.image_size` and normalised only."""

    interpolation: Interpolation | None = None
    """Interpolation in evaluation, prediction and export; null: as in training."""


class Mix(Settings):
    """Configure mixing of pairs of images and their labels within a batch."""

    mixup: Number = Field(default=0.0, ge=0, le=100)
    """Alpha of mixup's Beta distribution; 0: no mixup."""
    cutmix: Number = Field(default=0.0, ge=0, le=100)
    """Alpha of cutmix's Beta distribution; 0: no cutmix."""
    probability: Number = Field(default=1.0, ge=0, le=1)
    """Probability that an image is mixed at all."""
    switch: Number = Field(default=0.5, ge=0, le=1)
    """Probability of cutmix rather than mixup if both are on."""


class Schedule(Settings):
    """Configure the training length and the learning rate: linear warm-up, then half a cosine or a straight line.

    With schedule-free-adamw the rate rises by steps in the warm-up, and stays; it takes the length and `warmup_epochs`.
    """

    epochs: int | None = Field(default=None, ge=1, le=1_000_000)
    """Passes over the training images; null if `steps` is given."""
    warmup_epochs: Number = Field(default=0.0, ge=0, le=1_000_000)
    """Epochs of linear warm-up, counted within the training; a fraction is fine."""
    warmup_factor: Number = Field(default=1e-3, ge=0, le=1)
    """The warm-up starts at this factor times the peak learning rate; schedule-free-adamw ignores it."""
    min_lr: Number = Field(default=0.0, ge=0, le=100)
    """Learning rate at the end of the training; schedule-free-adamw, whose rate does not fall, ignores it."""
    stepped: Literal["epoch", "step"] = "epoch"
    """Update interval of the learning rate: every epoch or every optimiser step; schedule-free-adamw ignores it."""
    steps: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """Optimiser steps of the training, instead of `epochs`; its last epoch may be partial."""
    decay: Literal["cosine", "linear"] = "cosine"
    """cosine: half a cosine from the first epoch; linear: a line from the warm-up's end; not of schedule-free-adamw."""

    @field_validator("warmup_epochs")
    @classmethod
    def _warmup_ends_before_training_does(cls, warmup_epochs: float, info: ValidationInfo) -> float:
        epochs = info.data.get("epochs")
        if epochs is not None and warmup_epochs >= epochs:
            raise wrong(f"must be less than schedule.epochs ({epochs}); change either of the two")
        return warmup_epochs

    @field_validator("steps")
    @classmethod
    def _either_epochs_or_steps(cls, steps: int | None, info: ValidationInfo) -> int | None:
        if "epochs" in info.data and (steps is None) == (info.data["epochs"] is None):
            found = "is missing, and so is schedule.epochs" if steps is None else "is given beside schedule.epochs"
            raise wrong(f"{found}; give one of the two")
        return steps

    def count(self, steps_per_epoch: int) -> int:
        """Return the optimiser steps of the training."""
        return self.steps if self.epochs is None else self.epochs * steps_per_epoch  # type: ignore[return-value]

    def length(self, steps_per_epoch: int) -> float:
        """Return the epochs of the training; a fraction if the last one is partial."""
        return self.count(steps_per_epoch) / steps_per_epoch if self.epochs is None else self.epochs

    def rate(self, lr: float, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate of a step, counted from 0, by its peak `lr`; a stateless function.

        The cosine starts at the first epoch, so the warm-up replaces its beginning (as in timm). The line starts at
        the peak, at the end of the warm-up (as in Jordan's airbench, https://arxiv.org/abs/2404.00498). Both reach
        `min_lr` at the end of the training, one update after the last.
        """
        epoch = step // steps_per_epoch if self.stepped == "epoch" else step / steps_per_epoch
        if epoch < self.warmup_epochs:
            start = self.warmup_factor * lr
            return start + (lr - start) * epoch / self.warmup_epochs
        length = self.length(steps_per_epoch)
        if self.decay == "linear":
            return self.min_lr + (lr - self.min_lr) * (length - epoch) / (length - self.warmup_epochs)
        return self.min_lr + (lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * epoch / length))


class Ema(Settings):
    """Configure the running mean of the student's weights, used for evaluation and export."""

    decay: Number = Field(default=0.9999, ge=0, lt=1)
    """Share of the mean that is kept at every step."""
    warmup: bool = True
    """Start with a smaller decay, so that the first weights do not persist in the mean."""


class Lookahead(Settings):
    """Configure lookahead: slow weights that follow the student's and replace them every few steps."""

    every: int = Field(default=5, ge=1, le=10_000)
    """Optimiser steps between two updates."""
    decay: Number = Field(default=0.95, ge=0, lt=1)
    """Share of the slow weights kept per step at the end of the training; less before, to average ever longer."""


class EarlyStopping(Settings):
    """Configure early stopping: end a training whose held-out images show no improvement."""

    patience: int = Field(default=10, ge=1, le=1_000_000)
    """Evaluations in a row without improvement after which the training ends; those of the warm-up do not count."""
    min_delta: Number = Field(default=0.0, ge=0, lt=1)
    """Smallest gain of the selecting metric (0 to 1) over its best value that counts as an improvement."""


class Guidance(Section):
    """Configure the guidance of the student by the teacher."""

    teacher_bn: Literal["running", "batch"] = "running"
    """BatchNorm in the frozen teacher: its running statistics, or those of each batch."""
    view: Literal["resized", "antialias", "original"] = "resized"
    """The teacher sees the student's image resized (bilinear, as in the paper), so with antialias, or drawn anew."""
    classification_weight: Number = Field(default=1.0, ge=0, le=1_000_000)
    """Weight of the classification loss."""
    terms: Annotated[tuple[Term, ...], BeforeValidator(as_tuple), Field(min_length=1, max_length=100)]
    """The guiding losses; their weighted sum is added to the classification loss."""

    @field_validator("terms")
    @classmethod
    def _names_differ(cls, terms: tuple[Term, ...]) -> tuple[Term, ...]:
        seen: set[str] = set()
        for index, term in enumerate(terms):
            if term.name in seen:
                place = f"{index}.name"
                raise wrong("another term has this name; choose a different one", at=place, value=term.name)
            if term.name is not None:
                seen.add(term.name)
        return terms


class Top1(Section):
    """Hold the accuracy over repeated runs, as fractions of 1."""

    mean: Number = Field(ge=0, le=1)
    """Mean top-1 accuracy over the seeds, 0 to 1."""
    sd: Number | None = Field(ge=0, le=1)
    """Standard deviation over the seeds (n-1); null with a single seed."""
    seeds: int = Field(ge=1, le=100_000)
    """Number of seeds."""

    @field_validator("seeds")
    @classmethod
    def _a_spread_needs_two(cls, seeds: int, info: ValidationInfo) -> int:
        if seeds == 1 and info.data.get("sd") is not None:
            raise wrong("one seed has no spread; set sd to null")
        return seeds


class Expectation(Section):
    """Record the result of a run of this recipe; only measured runs, never values of a paper."""

    student: Line | None = None
    """Student that was trained; null when the recipe trains a teacher."""
    teacher: Line | None = None
    """Teacher that guided, or that was trained; null for an unguided student."""
    dataset: Line
    """Data set of the run."""
    top1: Top1
    """Accuracy on the test split after the last epoch."""
    epochs: int = Field(ge=1, le=1_000_000)
    """Epochs of the run."""
    command: Line
    """The command that repeats it."""
    date: Annotated[str, AfterValidator(iso_date)]
    """Day of the run, like 2025-01-31."""


class LengthRule(Section):
    """Change settings of a recipe for trainings of a certain length or longer."""

    from_epochs: Number = Field(gt=0, le=1_000_000)
    """Shortest training to which the rule applies, in passes over the training images."""
    set: Annotated[dict[str, Any], Field(min_length=1, max_length=100)]
    """Keys of the recipe with their values in such a training; keys that are not named keep their value."""


Rules = tuple[LengthRule, ...]


class Recipe(Section):
    """Configure a training; student, teacher and data set are chosen independently."""

    about: Line
    """Purpose of this recipe, in one sentence."""
    source: Line | None = None
    """Source of the recipe."""
    expect: Annotated[tuple[Expectation, ...], BeforeValidator(as_tuple), Field(max_length=1000)] | None = None
    """Results of its runs; null: not measured."""
    trains: Literal["teacher", "student"]
    """Model that this recipe trains."""
    view: View = View()
    """Augmentation of training images."""
    evaluation: Evaluation = Evaluation()
    """Preprocessing of test images."""
    mix: Mix = Mix()
    """Mixup and cutmix."""
    label_smoothing: Number = Field(default=0.0, ge=0, lt=1)
    """Share of the target spread evenly over all classes."""
    class_weights: ClassWeights = "none"
    """Weights of the classes in the cross entropy: balanced: n / (K n_c); or by name, like {cat: 2}, the others 1."""
    logit_adjustment: Number = Field(default=0.0, ge=0, le=100)
    """tau of logit adjustment: tau log(n_c / n) is added to the logits in the cross entropy of training; 0: none."""
    drop_path: Number = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth rate of the last block, growing linearly; for students that have it."""
    optimizer: Optimizer
    """The optimiser and its settings."""
    schedule: Schedule
    """Training length and learning rate."""
    batch_size: int = Field(ge=1, le=1_000_000)
    """Images of one optimiser step, over all devices and micro-batches."""
    accumulate: int = Field(default=1, ge=1, le=100_000)
    """Micro-batches per step; the batch size is divided by it."""
    drop_last: bool = True
    """Leave out the last, incomplete batch of an epoch."""
    sampler: Literal["shuffled", "balanced"] = "shuffled"
    """shuffled: an epoch shows every image once; balanced: every class equally often, in as many steps."""
    clip_norm: Number | None = Field(default=None, gt=0, le=1_000_000)
    """Largest norm of the gradient of one step; null: not clipped."""
    ema: Ema | None = None
    """A running mean of the weights; null: none."""
    lookahead: Lookahead | None = None
    """Slow weights that replace the student's every few steps; null: none."""
    sam: Sam | None = None
    """Sharpness-aware minimisation: twice the passes of the student a step, the teacher's once; null: none."""
    fake_quantize: Literal["int8"] | None = None
    """int8: the model trains with weights and inputs of its layers rounded as in an int8 file; null: unrounded."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the forward pass; auto: bf16 where the device has it natively, else fp32."""
    evaluate_every: int = Field(default=1, ge=1, le=1_000_000)
    """Epochs between two evaluations; the last epoch is always evaluated."""
    evaluations: int | None = Field(default=None, ge=1, le=1_000_000)
    """Most evaluations of a training; a long one has more epochs between two than evaluate_every; null: no limit."""
    early_stopping: EarlyStopping | None = None
    """End of a training that no longer improves on held-out images, which it needs; null: every epoch is trained."""
    guide: Guidance | None = None
    """Guidance by a teacher; null: no teacher."""
    by_length: Annotated[Rules, BeforeValidator(as_tuple), Field(min_length=1, max_length=100)] | None = None
    """Settings that depend on the training's length; every rule that it reaches applies, in this order; null: none."""

    @model_serializer(mode="wrap")
    def _leave_out_no_rules(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A stored recipe holds the settings of one training, whose rules have been applied.
        values: dict[str, Any] = write(self)
        if self.by_length is None:
            values.pop("by_length", None)
        return values

    def evaluation_interval(self, epochs: int) -> int:
        """Return the epochs between two evaluations of a training of so many epochs."""
        return max(self.evaluate_every, -(-epochs // self.evaluations) if self.evaluations is not None else 1)

    @property
    def test_interpolation(self) -> Interpolation:
        """Return the interpolation of test images: `evaluation.interpolation`, else `view.interpolation`."""
        return self.evaluation.interpolation or self.view.interpolation

    @field_validator("schedule")
    @classmethod
    def _ends_below_the_peak(cls, schedule: Schedule, info: ValidationInfo) -> Schedule:
        optimizer = info.data.get("optimizer")
        if optimizer is not None and schedule.min_lr > optimizer.lr:
            raise wrong(f"must be <= optimizer.lr ({optimizer.lr:g})", at="min_lr", value=schedule.min_lr)
        return schedule

    @field_validator("accumulate")
    @classmethod
    def _divides_the_batch(cls, accumulate: int, info: ValidationInfo) -> int:
        batch_size = info.data.get("batch_size")
        if batch_size is not None and batch_size % accumulate:
            raise wrong(f"must divide batch_size ({batch_size}) without remainder")
        return accumulate

    @field_validator("ema", "lookahead")
    @classmethod
    def _averaged_once(cls, average: Ema | Lookahead | None, info: ValidationInfo) -> Ema | Lookahead | None:
        optimizer = info.data.get("optimizer")
        if average is not None and optimizer is not None and optimizer.name == SCHEDULE_FREE:
            raise wrong(f"must be null with optimizer.name {SCHEDULE_FREE}, which averages the weights itself")
        return average

    @field_validator("guide")
    @classmethod
    def _only_students_are_guided(cls, guide: Guidance | None, info: ValidationInfo) -> Guidance | None:
        if guide is not None and info.data.get("trains") == "teacher":
            raise wrong("must be null in a recipe that trains a teacher")
        return guide

    @field_validator("by_length")
    @classmethod
    def _bounds_ascend(cls, rules: tuple[LengthRule, ...] | None) -> tuple[LengthRule, ...] | None:
        for index, (before, rule) in enumerate(pairwise(rules or ()), 1):
            if rule.from_epochs <= before.from_epochs:
                message = f"must be > {before.from_epochs:g}, the bound of the rule before; list the rules by length"
                raise wrong(message, at=f"{index}.from_epochs", value=rule.from_epochs)
        return rules
