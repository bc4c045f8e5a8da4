"""Classify frozen features: k-nearest neighbours by cosine similarity, and regularised logistic regression.

Letters in shapes: N training images, M test images, D width, K classes, k neighbours.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from lgkd.errors import DataError

STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Strengths of the L2 penalty that are tried, the strongest first, so that each fit starts from a smoother one."""
DEFAULT_STRENGTH = 1e-2
"""Strength where no images are held out to choose one."""

_CHUNK = 1024
_MOST_ITERATIONS = 1000


def neighbour_votes(
    train_ND: Tensor, labels_N: Tensor, test_MD: Tensor, *, classes: int, neighbours: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """Classify by the k most similar training images: (M,) by weighted votes, and (M,) by equal ones.

    Similarity is the cosine. A weighted vote counts exp(similarity / temperature), as in DINO's evaluation; of equal
    votes the class with the most neighbours wins, and of tied classes the first. The search is exact.

    Source: Wu et al., arXiv 1805.01978, section 3.4; Caron et al., DINO, arXiv 2104.14294, appendix F: k = 20,
    temperature 0.07.

    Args:
        train_ND, labels_N: features and class numbers of the training images.
        test_MD: features of the images to classify.
        classes: K.
        neighbours: k; all images where there are fewer.
        temperature: above 0.
    """
    train, test = F.normalize(train_ND.float()), F.normalize(test_MD.float())
    near = min(neighbours, len(train))
    weighted, equal = list[Tensor](), list[Tensor]()
    for part in torch.split(test, _CHUNK):
        similarity, places = (part @ train.T).topk(near, dim=1)
        voters = labels_N[places]
        weights = (similarity.double() / temperature).exp()
        for votes, found in ((weights, weighted), (torch.ones_like(weights), equal)):
            tally = torch.zeros(len(part), classes, dtype=torch.float64).scatter_add_(1, voters, votes)
            found.append(tally.argmax(dim=1))
    return torch.cat(weighted), torch.cat(equal)


@dataclass(frozen=True)
class Linear:
    """Hold the predictions of a linear probe.

    Attributes:
        predicted: class number of each test image, (M,).
        strength: of the L2 penalty.
        held_out_top1: accuracy on the held-out images with it, 0 to 1; None where none were held out.
        converged: whether the solver converged in the last fit.
    """

    predicted: Tensor
    strength: float
    held_out_top1: float | None
    converged: bool


def linear_probe(train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor] | None, test_MD: Tensor) -> Linear:
    """Fit a multinomial logistic regression to features, by L-BFGS to convergence, and classify test images.

    The loss is the mean cross entropy plus strength / 2 times the sum of squared weights; the intercepts are free.
    Features are standardised by the training images. The strength is that of `STRENGTHS` with the highest accuracy on
    the held-out images (of equal ones the strongest); the final fit is on training and held-out images together.

    Args:
        train: features (N,D) and class numbers (N,).
        held_out: the same of images to choose the strength on; None: `DEFAULT_STRENGTH`.
        test_MD: features to classify.

    Raises:
        DataError: the training images are all of one class.
    """
    seen = int(torch.unique(train[1]).numel())
    if seen < 2:
        raise DataError(
            f"the training images of the probe are of {seen} class, expected 2 or more to tell apart; name a data set "
            "with more classes"
        )
    strength, best = DEFAULT_STRENGTH, None
    if held_out is not None:
        truth = held_out[1].numpy()
        model, scale = None, StandardScaler().fit(_array(train[0]))
        features, unseen = scale.transform(_array(train[0])), scale.transform(_array(held_out[0]))
        for candidate in STRENGTHS:
            model, _ = _fit(features, train[1], candidate, model)
            accuracy = float((model.predict(unseen) == truth).mean())
            if best is None or accuracy > best:
                strength, best = candidate, accuracy
        train = (torch.cat([train[0], held_out[0]]), torch.cat([train[1], held_out[1]]))
    scale = StandardScaler().fit(_array(train[0]))
    model, converged = _fit(scale.transform(_array(train[0])), train[1], strength, None)
    predicted = torch.from_numpy(model.predict(scale.transform(_array(test_MD))))
    return Linear(predicted, strength, best, converged)


def _array(features: Tensor) -> np.ndarray:
    return features.double().numpy()


def _fit(
    features_ND: np.ndarray, labels_N: Tensor, strength: float, start: LogisticRegression | None
) -> tuple[LogisticRegression, bool]:
    """Fit, from the weights of an earlier model if one is given; return the model and whether it converged."""
    # scikit-learn's C multiplies the sum of the losses; a strength beside their mean is the same for any N.
    penalty = 1 / (strength * len(features_ND))
    model = start or LogisticRegression(max_iter=_MOST_ITERATIONS, warm_start=True)
    model.set_params(C=penalty)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(features_ND, labels_N.numpy())
    return model, not any(issubclass(one.category, ConvergenceWarning) for one in said)
