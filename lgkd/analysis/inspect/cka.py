"""Compute linear centred kernel alignment (CKA): the similarity of two layers of any widths.

Letters in shapes: B images of a batch, D and E widths of the two.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lgkd.errors import InputError

LEAST = 4
"""Number of images that the unbiased estimate needs."""


def hsic(first_BB: Tensor, second_BB: Tensor) -> Tensor:
    """Estimate the Hilbert-Schmidt independence criterion of two kernel matrices without bias.

    Source: Song et al., Feature Selection via Dependence Maximization, JMLR 2012, equation 5; as used by Nguyen, Raghu
    and Kornblith, arXiv 2010.15327, equation 3.

    Raises:
        InputError: fewer than four images.
    """
    count = len(first_BB)
    if count < LEAST:
        raise InputError(f"the similarity of layers was asked for on {count} images at once, expected {LEAST} or more")
    one, two = (kernel - torch.diag(kernel.diagonal()) for kernel in (first_BB, second_BB))
    traces = (one * two.T).sum()
    sums = one.sum() * two.sum() / ((count - 1) * (count - 2))
    crossed = 2 / (count - 2) * (one.sum(dim=0) * two.sum(dim=1)).sum()
    return (traces + sums - crossed) / (count * (count - 3))


class Alignment:
    """Accumulate CKA between every layer of one model and every layer of another over batches.

    Numerator and denominator are averaged over batches of equal size, whose estimates are unbiased, so the
    result does not depend on that size except for chance.

    Source: Nguyen, Raghu and Kornblith, Do Wide and Deep Networks Learn the Same Things?, arXiv 2010.15327, section 3.
    Kornblith et al., arXiv 1905.00414, for CKA itself.
    """

    def __init__(self) -> None:
        self._crossed: Tensor | float = 0.0
        self._own: Tensor | float = 0.0
        self._others: Tensor | float = 0.0

    def add(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
        """Add one batch.

        Args:
            ours, theirs: outputs of the layers, (B, ...) each.
        """
        first, second = ([_kernel(features) for features in side] for side in (ours, theirs))
        self._crossed = self._crossed + torch.stack([torch.stack([hsic(a, b) for b in second]) for a in first])
        self._own = self._own + torch.stack([hsic(a, a) for a in first])
        self._others = self._others + torch.stack([hsic(b, b) for b in second])

    def values(self) -> Tensor:
        """Return CKA of our layers (rows) with theirs (columns); at most 1, and about 0 for unrelated ones."""
        assert isinstance(self._crossed, Tensor), "no batch was added"
        assert isinstance(self._own, Tensor) and isinstance(self._others, Tensor)
        scale = (self._own[:, None] * self._others[None, :]).clamp(min=0).sqrt()
        return self._crossed / scale


def _kernel(features: Tensor) -> Tensor:
    """Compute the linear kernel of a batch, double precision (B,B)."""
    flat = features.flatten(1).double()
    # A common shift changes only rounding.
    flat = flat - flat.mean(dim=0)
    return flat @ flat.T
