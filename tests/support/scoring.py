"""Scores of an evaluation that never was."""

from lgkd.training.class_scores import ClassScores
from lgkd.training.evaluate import Scores
from tests.support.small import CLASSES


def scores(top1: float, balanced: float, f1: float, predicted: int = 4) -> Scores:
    by_class = tuple(ClassScores(4, predicted, 0.5, 0.5, 0.5, 0.5) for _ in CLASSES)
    return Scores(top1, 1.0, 1.0, 0.1, (0.5,) * 3, 12, balanced_accuracy=balanced, macro_f1=f1, by_class=by_class)
