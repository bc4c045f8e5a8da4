"""Apply mixup, cutmix and label smoothing, with a partner and a strength for every sample.

Mixup: Zhang et al., 2018. Cutmix: Yun et al., 2019. Smoothing: Szegedy et al., 2016. The formulas are those
of timm's element-wise mode. Draws are pure functions of (seed, epoch, sample); partners are a pure function of
(seed, epoch, the samples of the batch), in any order.
"""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lgkd._internal.rng import permutation, seed_of, uniform
from lgkd.config import Mix, Recipe
from lgkd.config.declaration import check_values, default_of
from lgkd.data.transforms.device import room
from lgkd.data.transforms.parcel import Parcel
from lgkd.errors import InputError

Array = NDArray[np.float64]

_LARGE = 2**15  # numbers in an image from which on a CPU works faster image by image

_DRAWS = 5  # whether, cutmix or mixup, lambda, box centre down and across


def cut_boxes(kept: Array, size: tuple[int, int], down: Array, across: Array) -> NDArray[np.int64]:
    """Draw cutmix's boxes: sides of sqrt(1 - kept) of the image's, centred anywhere, clipped to the image.

    Args:
        kept: (B,) share of its area that an image keeps.
        size: (height, width).
        down, across: (B,) uniform numbers in [0, 1) that place the centres.

    Returns:
        int64 (B, 4): first row, first row after, first column, first column after.
    """
    height, width = size
    share = np.sqrt(1.0 - kept)
    edges = []
    for side, draw in ((height, down), (width, across)):
        cut = np.floor(side * share)
        centre = np.floor(draw * side)
        edges += [np.clip(centre - cut // 2, 0, side), np.clip(centre + (cut + 1) // 2, 0, side)]
    return np.stack(edges, axis=1).astype(np.int64)


class Mixing:
    """Apply mixup, cutmix and label smoothing.

    Args:
        mix: strengths and probabilities.
        classes: number of classes.
        smoothing: share of a target that is spread evenly over all classes; of several labels an image over yes and
            no, for every class.
        seed: of the run.

    Attributes:
        active: False where there is nothing to do; targets then stay int64 class numbers.

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(
        self,
        mix: Mix,
        *,
        classes: int,
        smoothing: float = default_of(Recipe, "label_smoothing"),
        seed: int,
    ) -> None:
        if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
            raise InputError(f"classes is {classes!r}; expected a whole number of at least 1")
        check_values(Recipe, "the mixing", {"label_smoothing": smoothing})
        self.mix = mix
        self.classes = classes
        self.smoothing = smoothing
        self.seed = seed
        self.mixes = (mix.mixup > 0 or mix.cutmix > 0) and mix.probability > 0
        self.active = self.mixes or self.smoothing > 0

    def partners(self, index: Tensor, epoch: int) -> Tensor:
        """Return the partner of each sample of a global batch: int64 (B,), positions in `index`.

        A random cycle through the batch: every sample gives once and takes once, and is not its own partner
        unless it is alone. It depends on the set of samples, not on their order.

        Args:
            index: int64 (B,), the places in the data set of all samples of the step, over all processes.
        """
        places = index.detach().cpu().numpy().astype(np.int64)
        ranked = np.argsort(places, kind="stable")
        members = blake2b(places[ranked].astype("<i8").tobytes(), digest_size=16).hexdigest()
        ring = ranked[permutation(seed_of(self.seed, "partners", epoch, members), len(places)).numpy()]
        partner = np.empty_like(ring)
        partner[ring] = np.roll(ring, -1)
        return torch.from_numpy(partner)

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        index: Tensor,
        epoch: int,
        partner_images: Tensor | None = None,
        partner_labels: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            images: float (B, 3, H, W). They are not changed.
            labels: class numbers, int64 (B,); of several labels an image float (B, classes) of 0 and 1.
            index: int64 (B,), best on the host: reading it from the device waits for it.
            epoch: counted from 0.
            partner_images, partner_labels: the partner of each sample, where the batch is a part of a larger one
                and `partners` was asked about the whole; without them partners are found in the batch.

        Returns:
            The images and float32 targets (B, classes), which for class numbers sum to one; both as they came where
            not `active`.

        Raises:
            InputError: shapes do not fit, or only one of images and labels was given for the partners.
        """
        if not self.active:
            return images, labels
        self._check(images, labels, index, partner_images, partner_labels)
        own = self._smooth(labels)
        if not self.mixes or not len(images):
            return images, own
        size = (images.shape[2], images.shape[3])
        one_by_one = images.device.type == "cpu" and images[0].numel() >= _LARGE
        kept, boxes = self.shares(index, epoch, size)
        found = None if partner_images is not None else self.partners(index, epoch)
        drawn = _Drawn(images.device, kept, boxes, found)
        pictures: Iterable[Tensor]
        if partner_images is None or partner_labels is None:
            assert found is not None and drawn.partner is not None
            partner_labels = labels.index_select(0, drawn.partner.to(labels.device))
            pictures = map(images.__getitem__, found.tolist()) if one_by_one else images.index_select(0, drawn.partner)
        else:
            pictures = partner_images
        share = drawn.share
        mixed = room(images.shape, images.dtype, images.device)
        if isinstance(pictures, Tensor) and not one_by_one:
            # lerp is exact at weights 0 and 1: pixels that are not mixed keep their value.
            torch.lerp(pictures, images, drawn.weights(size).to(images.dtype), out=mixed)
        else:
            _mix_one_by_one(mixed, images, pictures, share[:, 0].tolist(), boxes)
        return mixed, torch.lerp(self._smooth(partner_labels), own, share.to(labels.device))

    def shares(self, index: Tensor, epoch: int, size: tuple[int, int]) -> tuple[Array, NDArray[np.int64]]:
        """Draw the share that each sample keeps, and the box that it gives away.

        Args:
            size: (height, width) of the images.

        Returns:
            float64 (B,) lambda, corrected for cutmix to the area that the clipped box leaves; and int64 (B, 4) boxes
            (first row, first row after, first column, first column after), all zero where the sample is
            not cut.
        """
        mix = self.mix
        u = uniform(seed_of(self.seed, "mixing", epoch), index, _DRAWS).numpy()
        mixed = u[:, 0] < mix.probability
        cuts = u[:, 1] < (mix.switch if mix.mixup > 0 else 1.0)
        cuts &= mix.cutmix > 0
        kept = np.where(cuts, _beta(mix.cutmix, u[:, 2]), _beta(mix.mixup, u[:, 2]))
        kept = np.where(mixed, kept, 1.0)
        boxes = cut_boxes(kept, size, u[:, 3], u[:, 4])
        boxes[~(cuts & mixed)] = 0
        area = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
        return np.where(cuts, 1.0 - area / (size[0] * size[1]), kept), boxes

    def kept(self, index: Tensor, epoch: int, size: tuple[int, int], device: torch.device) -> Tensor:
        """Return each pixel's share of its own image, float32 (B, 1, H, W): lambda for mixup, 1 outside and 0 inside a
        cut box.

        Args:
            size: (height, width) of the images.
        """
        return _Drawn(device, *self.shares(index, epoch, size)).weights(size)

    def _smooth(self, labels: Tensor) -> Tensor:
        """Make targets with smoothing, float32 (B, classes): of class numbers one-hot.

        Of several labels y an image y (1 - s) + s / 2: every class is a problem of two, over which s is spread evenly.
        """
        if labels.ndim == 2:
            return labels.float() * (1.0 - self.smoothing) + self.smoothing / 2
        off = self.smoothing / self.classes
        targets = torch.full((len(labels), self.classes), off, dtype=torch.float32, device=labels.device)
        return targets.scatter_(1, labels[:, None], 1.0 - self.smoothing + off)

    def _check(
        self,
        images: Tensor,
        labels: Tensor,
        index: Tensor,
        partner_images: Tensor | None,
        partner_labels: Tensor | None,
    ) -> None:
        if (partner_images is None) != (partner_labels is None):
            raise InputError("partner_images and partner_labels belong together; give both or neither")
        shapes = ((len(images),), (len(images), self.classes))
        if images.ndim != 4 or tuple(labels.shape) not in shapes or tuple(index.shape) != (len(images),):
            raise InputError(
                f"images {tuple(images.shape)}, labels {tuple(labels.shape)} and index {tuple(index.shape)} "
                f"do not fit; expected (B, 3, H, W), (B,) or (B, {self.classes}), and (B,)"
            )
        if partner_images is not None and partner_images.shape != images.shape:
            raise InputError(
                f"partner_images are {tuple(partner_images.shape)}; expected the images' {tuple(images.shape)}"
            )
        if partner_labels is not None and partner_labels.shape != labels.shape:
            raise InputError(
                f"partner_labels are {tuple(partner_labels.shape)}; expected the labels' {tuple(labels.shape)}"
            )
        # On a device the check would wait for it; there the scatter itself refuses.
        if labels.device.type == "cpu" and len(labels):
            low, high = labels.numpy().min(), labels.numpy().max()
            if not 0 <= low <= high < self.classes:
                raise InputError(f"labels reach from {low} to {high}; expected 0 to {self.classes - 1}")


class _Drawn:
    """Hold what was drawn for a batch on the device, sent in one upload.

    Args:
        device: of the images.
        kept, boxes: from `Mixing.shares`.
        partner: int64 (B,), positions in the batch; None: they are known already.

    Attributes:
        share: float32 (B, 1).
        partner: on the device.
    """

    def __init__(
        self, device: torch.device, kept: Array, boxes: NDArray[np.int64], partner: Tensor | None = None
    ) -> None:
        parcel = Parcel(device)
        shares, edges, cut = (
            parcel.add(array) for array in (kept.astype(np.float32), boxes.T, boxes[:, 1] > boxes[:, 0])
        )
        partners = None if partner is None else parcel.add(partner.numpy())
        parcel.send()
        self.share, self._edges, self._is_cut = parcel.get(shares)[:, None], parcel.get(edges), parcel.get(cut)
        self.partner = None if partners is None else parcel.get(partners)

    def weights(self, size: tuple[int, int]) -> Tensor:
        """Return each pixel's own share, (B, 1, H, W): lambda for mixup, 1 outside and 0 inside a cut box."""
        height, width = size
        top, bottom, left, right = self._edges[:, :, None]
        row, column = (torch.arange(side, device=self.share.device) for side in (height, width))
        inside = ((row >= top) & (row < bottom))[:, :, None] & ((column >= left) & (column < right))[:, None, :]
        # A cut box is never seen by mixup: the sample's weight is then lambda everywhere.
        is_cut = self._is_cut[:, None, None]
        return torch.where(is_cut, (~inside).to(self.share.dtype), self.share[..., None])[:, None]


def _mix_one_by_one(
    mixed: Tensor, images: Tensor, partners: Iterable[Tensor], weights: list[float], boxes: NDArray[np.int64]
) -> None:
    """Compute the same numbers image by image: large images leave the cache in between; this reads each once."""
    for result, image, partner, weight, (top, bottom, left, right) in zip(
        mixed, images, partners, weights, boxes.tolist(), strict=True
    ):
        if bottom > top:
            result.copy_(image)
            result[:, top:bottom, left:right] = partner[:, top:bottom, left:right]
        else:
            torch.lerp(partner, image, weight, out=result)


def _beta(alpha: float, draw: Array) -> Array:
    """Draw Beta(alpha, alpha) by the inverse of its distribution function; ones where alpha is 0."""
    if alpha == 0:
        return np.ones_like(draw)
    from scipy.special import betaincinv  # slow to import, and rarely needed

    drawn: Array = betaincinv(alpha, alpha, draw)
    return drawn
