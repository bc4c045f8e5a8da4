"""Iterative stratification against the paper's pseudo code, and what it promises."""

import numpy as np
import pytest
import torch

from lgkd._internal.rng import permutation
from lgkd.data.multi_label_split import rarest_class, stratified_parts
from tests.support.labels import draw_labels


def by_the_paper(labels: np.ndarray, shares: list[float], order: list[int]) -> list[int]:
    """Algorithm 1 of Sechidis et al., 2011, image by image, in exact thousandths; ties go to the first part."""
    left = list(order)
    wanted = [round(share * 1000) * len(order) for share in shares]
    desired = [[round(share * 1000) * int(labels[:, k].sum()) for k in range(labels.shape[1])] for share in shares]
    part = [-1] * len(order)
    while left:
        counts = [sum(int(labels[place, k]) for place in left) for k in range(labels.shape[1])]
        present = [(count, k) for k, count in enumerate(counts) if count]
        label = min(present)[1] if present else None
        for place in [one for one in left if label is None or labels[one, label]]:
            best = max(
                range(len(shares)),
                key=lambda j: (wanted[j] if label is None else desired[j][label], wanted[j], -j),
            )
            part[place] = best
            wanted[best] -= 1000
            for k in range(labels.shape[1]):
                desired[best][k] -= 1000 * int(labels[place, k])
            left.remove(place)
    return part


@pytest.mark.parametrize("shares", [[0.8, 0.2], [0.25, 0.25, 0.25, 0.25], [0.6, 0.3, 0.1]])
@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_algorithm_of_the_paper(shares: list[float], seed: int) -> None:
    labels = draw_labels(60, seed, (0.5, 0.3, 0.1, 0.05, 0.02))
    found = stratified_parts(torch.from_numpy(labels), shares, seed)
    assert found.tolist() == by_the_paper(labels, shares, permutation(seed, 60).tolist())


def test_every_class_has_its_share_to_an_image_which_chance_does_not_give() -> None:
    labels = torch.from_numpy(draw_labels(500, 7, (0.5, 0.2, 0.04, 0.02, 0.3)))

    def images_off(part: torch.Tensor) -> float:
        return float((labels[part == 1].sum(0) - 0.2 * labels.sum(0)).abs().max())

    draws = [torch.rand(500, generator=torch.Generator().manual_seed(seed)) < 0.2 for seed in range(20)]
    assert images_off(stratified_parts(labels, (0.8, 0.2), 0)) < 0.5
    assert sorted(images_off(draw.long()) for draw in draws)[10] > 2


def test_the_rarest_class_of_an_image() -> None:
    labels = torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 1], [1, 1, 1]])
    assert rarest_class(labels).tolist() == [1, 0, 3, 2, 1]
