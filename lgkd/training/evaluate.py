"""Evaluate a classifier on a split: accuracy, scores by class, calibration, agreement.

Letters in shapes: B batch, K classes, N images.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.errors import DataError
from lgkd.models.sdpa import quick_attention
from lgkd.training.class_scores import ClassScores, auroc_by_class, class_scores, macro
from lgkd.training.label_scores import MultiLabelScores, score_labels

BINS = 15
"""Number of equal-width bins of confidence, for the calibration error."""


@dataclass(frozen=True)
class Scores:
    """Hold the scores of a classifier.

    Attributes:
        top1, top5: share of the images whose class is the first, or among the first five, 0 to 1.
            With five classes or fewer top5 is 1.
        loss: mean cross entropy, natural logarithm.
        ece: expected calibration error over 15 equal bins of confidence (Guo et al., arXiv
            1706.04599): how far confidence is from accuracy on average, 0 to 1.
        per_class: top1 of each class, in class order; a class without images has None.
        images: number of images.
        agreement: share of the images for which a second classifier, if given, predicts the same class.
        balanced_accuracy: mean of the top1 of the classes that have images, as scikit-learn's balanced_accuracy_score:
            always predicting the largest class scores no more than a guess.
        largest_class: share of images of the most frequent class: the accuracy of always predicting it.
        macro_f1: mean F1 of the classes that have images or predictions, as scikit-learn's f1_score(average="macro").
        auroc: mean area under the ROC curve of each class against all others, over the classes for which it is defined,
            as scikit-learn's roc_auc_score(multi_class="ovr"); None where it is defined for none, or was not computed.
        by_class: scores of every class, in class order.
    """

    top1: float
    top5: float
    loss: float
    ece: float
    per_class: tuple[float | None, ...]
    images: int
    agreement: float | None = None
    balanced_accuracy: float | None = None
    largest_class: float | None = None
    macro_f1: float | None = None
    auroc: float | None = None
    by_class: tuple[ClassScores, ...] = ()

    @property
    def unseen(self) -> list[int]:
        """Return the indices of classes without images, which the balanced accuracy omits."""
        return [place for place, value in enumerate(self.per_class) if value is None]

    def flat(self) -> dict[str, float]:
        """Return the scalar scores, for a log."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            key: float(value)
            for key, value in values.items()
            if isinstance(value, int | float) and key not in ("images", "largest_class")
        }


@torch.no_grad()
def score(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    precision: str = "fp32",
    channels_last: bool = False,
    other: Callable[[Tensor], Tensor] | None = None,
    all_reduce_sum: Callable[[Tensor], Tensor] | None = None,
    gather: Callable[[Tensor], list[Tensor]] | None = None,
) -> Scores:
    """Evaluate a classifier on (images, class numbers), in eval mode; modules keep their mode.

    Args:
        model: (B,3,H,W) -> (B,K).
        batches: images (B,3,H,W), normalised, and int64 (B,); each image once.
        precision: "fp32", "bf16" or "fp16".
        channels_last: use the channels-last memory format.
        other: a second classifier of the same images, for the agreement.
        all_reduce_sum: sums a vector over processes, if each of them has a share of the images.
        gather: in that case, returns a tensor of each process; without it the AUROC, which needs all images together,
            is not computed.

    Raises:
        DataError: there are no images.
    """
    sums: dict[str, Tensor] = {}
    ranked: list[tuple[Tensor, Tensor]] = []
    for logits, labels, theirs in _outputs(model, batches, precision, channels_last, other):
        for name, value in _counts(logits, labels, theirs).items():
            sums[name] = sums[name] + value if name in sums else value
        ranked.append((_probabilities(logits), labels))
    if not sums:
        raise DataError("there are no images to score; expected at least one batch")
    auroc = None
    if all_reduce_sum is None or gather is not None:
        # On the CPU: ranking waits for its device once a class.
        columns = (torch.cat(column).cpu() for column in zip(*ranked, strict=True))
        auroc = auroc_by_class(*(column if gather is None else torch.cat(gather(column)) for column in columns))
    if all_reduce_sum is not None:
        sums = _reduced(sums, all_reduce_sum)
    return _scores({name: value.cpu() for name, value in sums.items()}, auroc, with_other=other is not None)


@torch.no_grad()
def score_split(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    precision: str = "fp32",
    channels_last: bool = False,
    other: Callable[[Tensor], Tensor] | None = None,
    all_reduce_sum: Callable[[Tensor], Tensor] | None = None,
    gather: Callable[[Tensor], list[Tensor]] | None = None,
) -> Scores | MultiLabelScores:
    """Evaluate as `score`, or as `score_labels` where an image may have several labels: labels of batches are (B,K).

    Raises:
        DataError: there are no images, or of several labels an image none has any.
    """
    waiting = iter(batches)
    first = next(waiting, None)
    some = batches if first is None else chain([first], waiting)
    if first is None or first[1].ndim == 1:
        return score(model, some, precision=precision, channels_last=channels_last, other=other,
                     all_reduce_sum=all_reduce_sum, gather=gather)  # fmt: skip
    return score_labels(_outputs(model, some, precision, channels_last, other), gather=gather)


@dataclass(frozen=True, eq=False)
class Answers:
    """Hold the predictions for every image of a split, on the CPU, in the split's order.

    Attributes:
        labels: the true classes, int64 (N,).
        guesses: the predicted classes, int64 (N,).
        confidences: their probabilities, float32 (N,).
        chances: the probabilities of the true classes, float32 (N,).
        auroc: area under the ROC curve of each class, as in `Scores.by_class`; None: not computed.
    """

    labels: Tensor
    guesses: Tensor
    confidences: Tensor
    chances: Tensor
    auroc: Sequence[float | None] | None = None

    @property
    def right(self) -> Tensor:
        """Return the mask of correct predictions, bool (N,)."""
        return self.guesses == self.labels

    def by_class(self, classes: int) -> tuple[ClassScores, ...]:
        """Compute the scores of each of so many classes."""
        images, predicted, correct = (
            torch.bincount(part, minlength=classes).tolist()
            for part in (self.labels, self.guesses, self.labels[self.right])
        )
        return class_scores(images, predicted, correct, self.auroc)


@torch.no_grad()
def answer(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    precision: str = "fp32",
    channels_last: bool = False,
    auroc: bool = True,
) -> Answers:
    """Predict every image, as `score` but image by image.

    Args:
        model, batches, precision, channels_last: as for `score`.
        auroc: also compute the area under the ROC curve of each class, which takes a sort a class.

    Raises:
        DataError: there are no images.
    """
    parts: list[tuple[Tensor, ...]] = []
    ranked: list[Tensor] = []
    for logits, labels, _ in _outputs(model, batches, precision, channels_last, None):
        chances = logits.softmax(dim=1)
        confidence, guess = chances.max(dim=1)
        parts.append((labels.cpu(), guess.cpu(), confidence.cpu(), chances.gather(1, labels[:, None])[:, 0].cpu()))
        if auroc:
            ranked.append(_probabilities(logits).cpu())
    if not parts:
        raise DataError("there are no images to score; expected at least one batch")
    labels, guesses, confidences, chances = (torch.cat(column) for column in zip(*parts, strict=True))
    areas = auroc_by_class(torch.cat(ranked), labels) if auroc else None
    return Answers(labels, guesses, confidences, chances, areas)


def _outputs(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    precision: str,
    channels_last: bool,
    other: Callable[[Tensor], Tensor] | None,
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Yield logits (B,K), labels (B,) and the other's logits per batch, in eval mode; flags are restored at the end."""
    looked_at = [model, other] if isinstance(other, nn.Module) else [model]
    flags = [(module, module.training) for classifier in looked_at for module in classifier.modules()]
    for classifier in looked_at:
        classifier.eval()
    try:
        for images, labels in batches:
            if channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with (
                torch.no_grad(),
                _autocast(images.device.type, precision),
                quick_attention(model, images.device, precision),
            ):
                logits = model(images).float()
                theirs = other(images) if other is not None else None
            yield logits, labels, theirs
    finally:
        for module, training in flags:
            module.training = training


def _probabilities(logits_BK: Tensor) -> Tensor:
    """Compute probabilities to rank images by; in double precision, as confident ones are ties in single precision."""
    return logits_BK.double().softmax(dim=1)


def _counts(logits_BK: Tensor, labels_B: Tensor, theirs: Tensor | None) -> dict[str, Tensor]:
    """Compute the sums that accumulate over batches, on the device."""
    classes = logits_BK.shape[1]
    confidence, guess = logits_BK.softmax(dim=1).max(dim=1)
    correct = guess == labels_B
    five = logits_BK.topk(min(5, classes), dim=1).indices
    # A NaN confidence has no bin; it appears as NaN in `loss` and `ece`.
    bins = (confidence * BINS).nan_to_num().long().clamp(max=BINS - 1)
    counts = {
        "images": torch.ones_like(labels_B).sum(),
        "loss": F.cross_entropy(logits_BK, labels_B, reduction="sum").double(),
        "top5": (five == labels_B[:, None]).any(dim=1).sum(),
        "class_images": _by_group(labels_B, classes, torch.ones_like(labels_B)),
        "class_correct": _by_group(labels_B, classes, correct),
        "class_predicted": _by_group(guess, classes, torch.ones_like(guess)),
        "bin_images": _by_group(bins, BINS, torch.ones_like(bins)),
        "bin_confidence": _by_group(bins, BINS, confidence.double()),
        "bin_correct": _by_group(bins, BINS, correct),
    }
    if theirs is not None:
        counts["agreement"] = (theirs.argmax(dim=1) == guess).sum()
    return counts


def _by_group(groups_B: Tensor, count: int, values_B: Tensor) -> Tensor:
    """Sum values by group: (count,).

    `torch.bincount` does the same, but waits for a GPU, and has no deterministic form with weights there.
    """
    members = groups_B[:, None] == torch.arange(count, device=groups_B.device)
    return torch.where(members, values_B[:, None], 0).sum(dim=0)


def _reduced(sums: dict[str, Tensor], all_reduce_sum: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Reduce the sums over processes in one message; double precision represents every count exactly."""
    whole = all_reduce_sum(torch.cat([value.double().flatten() for value in sums.values()]))
    parts = torch.split(whole, [value.numel() for value in sums.values()])
    return {name: part.view_as(sums[name]) for name, part in zip(sums, parts, strict=True)}


def _scores(sums: dict[str, Tensor], auroc: Sequence[float | None] | None, *, with_other: bool) -> Scores:
    images = int(sums["images"])
    seen, predicted, correct = (sums[f"class_{what}"].tolist() for what in ("images", "predicted", "correct"))
    by_class = class_scores(seen, predicted, correct, auroc)
    per_class = tuple(one.recall for one in by_class)
    gap = (sums["bin_confidence"] - sums["bin_correct"]).abs().sum()
    return Scores(
        top1=float(sums["class_correct"].sum()) / images,
        top5=float(sums["top5"]) / images,
        loss=float(sums["loss"]) / images,
        ece=float(gap) / images,
        per_class=per_class,
        images=images,
        agreement=float(sums["agreement"]) / images if with_other else None,
        balanced_accuracy=macro(per_class),
        largest_class=float(sums["class_images"].max()) / images,
        macro_f1=macro([one.f1 for one in by_class]),
        auroc=macro([one.auroc for one in by_class]),
        by_class=by_class,
    )


def _autocast(device: str, precision: str) -> AbstractContextManager[None]:
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)
