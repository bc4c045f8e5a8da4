"""Score a classifier of images with several labels each: average precision, F1, exact match. Definitions are those of
scikit-learn.

Letters in shapes: N images, K classes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from lgkd._internal.metric_rules import THRESHOLD
from lgkd.errors import DataError
from lgkd.training.class_scores import ClassScores, auroc_by_class, class_scores, macro


@dataclass(frozen=True)
class LabelScores(ClassScores):
    """Hold the scores of one class, as `ClassScores`: count is of images with the label, predicted of those given it.

    Attributes:
        ap: average precision of its probability: the sum over thresholds of precision times the gain in recall, as
            scikit-learn's average_precision_score; None without images.
    """

    ap: float | None = None


@dataclass(frozen=True)
class MultiLabelScores:
    """Hold the scores of a classifier of images with several labels. A label is predicted above a probability of 0.5.

    Attributes:
        map: mean average precision over the classes that have images.
        micro_f1: F1 of all labels together, as scikit-learn's f1_score(average="micro").
        macro_f1: mean F1 of the classes that have images or predictions, as f1_score(average="macro").
        exact_match: share of the images whose labels are all right, as accuracy_score.
        loss: mean binary cross entropy over images and classes, natural logarithm, unweighted.
        images: number of images.
        auroc: mean area under the ROC curve over the classes for which it is defined, as roc_auc_score.
        agreement: share of the labels (image and class) on which a second classifier, if given, agrees.
        by_class: scores of every class, in class order.
    """

    map: float
    micro_f1: float
    macro_f1: float
    exact_match: float
    loss: float
    images: int
    auroc: float | None = None
    agreement: float | None = None
    by_class: tuple[LabelScores, ...] = ()

    @property
    def unseen(self) -> list[int]:
        """Return the indices of classes without images."""
        return [place for place, one in enumerate(self.by_class) if not one.count]

    def flat(self) -> dict[str, float]:
        """Return the scalar scores, for a log."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: float(value) for key, value in values.items() if isinstance(value, float)}


def average_precision(probabilities_N: Tensor, positives_N: Tensor) -> float | None:
    """Compute the average precision of a ranking: the sum over its distinct thresholds of (R_n - R_(n-1)) P_n.

    Args:
        probabilities_N: float.
        positives_N: bool.

    Returns:
        0 to 1; None without positives, NaN where a probability is NaN.
    """
    if not bool(positives_N.any()):
        return None
    if bool(probabilities_N.isnan().any()):
        return float("nan")
    order = probabilities_N.argsort(descending=True, stable=True)
    ranked, hits = probabilities_N[order], positives_N[order].long().cumsum(0)
    # Images of equal probability are taken together, at the last of them.
    ends = torch.ones(len(ranked), dtype=torch.bool)
    ends[:-1] = ranked[1:] != ranked[:-1]
    found = hits[ends]
    taken = ends.nonzero().flatten() + 1
    gains = torch.diff(found, prepend=found.new_zeros(1)).double() / int(hits[-1])
    return float((gains * (found.double() / taken)).sum())


def score_labels(
    outputs: Iterable[tuple[Tensor, Tensor, Tensor | None]], *, gather: Callable[[Tensor], list[Tensor]] | None = None
) -> MultiLabelScores:
    """Score logits (N,K) against labels (N,K) of 0 and 1, and against a second classifier's logits if they are given.

    Everything is computed on the CPU, by every process, from the outputs of all, in the order of the images: the result
    does not depend on the number of processes.

    Args:
        outputs: of batches: logits, labels, and the other's logits or None.
        gather: returns a tensor of each process.

    Raises:
        DataError: there are no images, or none has a label.
    """
    parts = [(logits.float().cpu(), labels.cpu(), None if other is None else other.float().cpu())
             for logits, labels, other in outputs]  # fmt: skip
    if not parts:
        raise DataError("there are no images to score; expected at least one batch")
    columns = [torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])]
    others = [part[2] for part in parts if part[2] is not None]
    columns += [torch.cat(others)] if others else []
    if gather is not None:
        columns = [torch.cat(gather(column)) for column in columns]
    logits_NK, labels_NK, *theirs = columns
    return _scores(logits_NK, labels_NK > 0, theirs[0] if theirs else None)


def _scores(logits_NK: Tensor, true_NK: Tensor, theirs_NK: Tensor | None) -> MultiLabelScores:
    if not bool(true_NK.any()):
        raise DataError("no image to score has a label, so that no class can be ranked; expected images with labels")
    probabilities_NK = logits_NK.double().sigmoid()
    named_NK = probabilities_NK > THRESHOLD
    images, predicted, correct = (part.sum(0).tolist() for part in (true_NK, named_NK, named_NK & true_NK))
    by_class = tuple(
        LabelScores(**vars(one), ap=average_precision(probabilities_NK[:, place], true_NK[:, place]))
        for place, one in enumerate(class_scores(images, predicted, correct, auroc_by_class(probabilities_NK, true_NK)))
    )
    every = sum(images) + sum(predicted)
    return MultiLabelScores(
        map=macro([one.ap for one in by_class]) or 0.0,
        micro_f1=2 * sum(correct) / every,
        macro_f1=macro([one.f1 for one in by_class]) or 0.0,
        exact_match=float((named_NK == true_NK).all(dim=1).double().mean()),
        loss=float(F.binary_cross_entropy_with_logits(logits_NK.double(), true_NK.double())),
        images=len(true_NK),
        auroc=macro([one.auroc for one in by_class]),
        agreement=None if theirs_NK is None else float(((theirs_NK > 0) == named_NK).double().mean()),
        by_class=by_class,
    )
