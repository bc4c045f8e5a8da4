"""Choose the samples of each step of an epoch: a pure function of (seed, epoch, step).

A sample is known by its *key*: its place, plus the number of all places for every time that it occurred before
in the same epoch. Draws depend on the key, so that a sample which occurs twice looks different each time, and one
that occurs once draws as without repetition. Places count the real images first, then the extra ones.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lgkd._internal.rng import epoch_order, permutation, seed_of, uniform
from lgkd.errors import InputError


class Sampler:
    """Draw the keys of every global batch.

    An epoch is one pass over the real images, whose order is drawn again for each epoch. Where an image is repeated,
    the epoch keeps its number of steps and shows only every `repeats`-th image, each `repeats` times in its
    batch (Hoffer et al., 2020; timm's RepeatAugSampler). Other than in timm, where the copies of an image
    go to different processes, the batch holds all of them in one process, too; with several processes they are
    spread. Where `repeats` does not divide the real images of a batch, the copies of one image fall into two
    neighbouring batches.

    Extra images have their own order, which continues from epoch to epoch and is drawn again for each pass. They are
    spread evenly among the real ones, so that every process has its share.

    With `labels` an epoch shows every class equally often, in as many steps. Of the s images that it shows, each of the
    K classes has s // K, and the s % K that are left over go to the classes in turn, from epoch to epoch. The images of
    a class follow each other in an order that is drawn again for each pass over the class, and continues from epoch to
    epoch: a class is shown as a whole before any of its images is repeated. All images of an epoch are then shuffled.

    Args:
        count: number of real images.
        batch_size: images a step, real and extra; with too few real images for that the batch is smaller.
        seed: of the run.
        drop_last: leave out the last, smaller batch of an epoch.
        repeats: number of times that an image is in its batch.
        extra: number of extra images.
        extra_share: of every batch, rounded to whole images.
        labels: class numbers of the real images, int64 (count,), for a balanced epoch; None: every image once.

    Attributes:
        total: number of places; key modulo `total` is the place.
        batch_size: images a step.
        steps: of an epoch.
        last: images in the last batch of an epoch.

    Raises:
        InputError: a number is out of range, or a batch would hold no real or no extra image.
    """

    def __init__(
        self,
        count: int,
        *,
        batch_size: int,
        seed: int,
        drop_last: bool = True,
        repeats: int = 1,
        extra: int = 0,
        extra_share: float = 0.0,
        labels: Tensor | None = None,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"a batch of {batch_size} images trains nothing; expected at least 1")
        if repeats < 1:
            raise InputError(f"repeats is {repeats}; expected a whole number of at least 1")
        self._real, self._extra_each = min(batch_size, count), 0
        if extra:
            self._real, self._extra_each = _parts(count, batch_size, extra_share)
        self.batch_size = self._real + self._extra_each
        self.total = count + extra
        self.steps = count // self._real if drop_last else -(-count // self._real)
        self._count, self._extra = count, extra
        self._seed, self._repeats = seed, repeats
        rest = 0 if drop_last else count % self._real
        # Halves are rounded up, as for all counts of images.
        self._extra_last = math.floor(rest * self._extra_each / self._real + 0.5) if rest else self._extra_each
        self.last = (rest or self._real) + self._extra_last
        present = [] if labels is None else torch.unique(labels).tolist()
        self._classes = [(labels == label).nonzero().flatten() for label in present]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """Return the keys of each step's global batch from step `start` on: int64 (batch_size,), on the host."""
        slots = min(self._count, self.steps * self._real)
        shown = self._balanced(epoch, slots) if self._classes else epoch_order(self._seed, epoch, self._count)
        more = self._extra_keys(epoch)
        for step in range(start, self.steps):
            slot = torch.arange(step * self._real, min((step + 1) * self._real, slots))
            again = slot % self._repeats
            # The copies of an image have keys of their own, also where a balanced epoch shows it again.
            image = shown[slot // self._repeats]
            keys = image + self.total * (again + (self._repeats - 1) * (image // self.total))
            if self._repeats > 1:
                # All images before any is repeated: processes that share the batch then see different copies.
                keys = keys[torch.argsort(again, stable=True)]
            if self._extra_each:
                mixed_in = more[step * self._extra_each : (step + 1) * self._extra_each]
                keys = _spread(keys, mixed_in)
            yield keys

    def places(self, keys: Tensor) -> Tensor:
        """Return the places of the samples of these keys: int64, on the host."""
        return keys % self.total

    def _balanced(self, epoch: int, slots: int) -> Tensor:
        """Return the keys of the images of a balanced epoch, without copies: every class equally often."""
        shown = -(-slots // self._repeats)
        each, left = divmod(shown, len(self._classes))
        keys = []
        for number, places in enumerate(self._classes):
            # Of the slots left over in all epochs, every K-th one is this class's.
            before, after = (
                each * ended + max(0, -(-(left * ended - number) // len(self._classes))) for ended in (epoch, epoch + 1)
            )
            first, end = before // len(places), -(-after // len(places))
            index = torch.arange(first * len(places), end * len(places))
            draws = uniform(seed_of(self._seed, "class order", number), index, 1).reshape(end - first, len(places))
            walk = places[torch.argsort(draws, dim=1, stable=True)] + self.total * torch.arange(end - first)[:, None]
            keys.append(walk.flatten()[before - first * len(places) : after - first * len(places)])
        return torch.cat(keys)[epoch_order(self._seed, epoch, shown)]

    def _extra_keys(self, epoch: int) -> Tensor:
        """Return the extra images of an epoch, one after the other: a stretch of a walk that never ends."""
        if not self._extra_each:
            return torch.empty(0, dtype=torch.int64)
        length = (self.steps - 1) * self._extra_each + self._extra_last
        first, end = epoch * length, (epoch + 1) * length
        passes = range(first // self._extra, -(-end // self._extra))
        walked = [
            permutation(seed_of(self._seed, "extra order", number), self._extra) + self.total * (number - passes[0])
            for number in passes
        ]
        begin = first - passes[0] * self._extra
        return torch.cat(walked)[begin : begin + length] + self._count


def _parts(count: int, batch_size: int, share: float) -> tuple[int, int]:
    """Return the numbers of real and extra images of a batch."""
    if not 0 < share < 1:
        raise InputError(f"the share of extra images is {share:g}; expected a number between 0 and 1")
    extra = math.floor(share * batch_size + 0.5)
    if not 0 < extra < batch_size:
        found = "no extra image" if not extra else "no real image"
        raise InputError(
            f"a share of {share:g} extra images leaves {found} in a batch of {batch_size}; change --extra-share or "
            "--batch-size"
        )
    real = batch_size - extra
    if real <= count:
        return real, extra
    return count, max(1, math.floor(count * extra / real + 0.5))


def _spread(real: Tensor, extra: Tensor) -> Tensor:
    """Merge both in their own order, each evenly over the whole."""
    at = torch.cat([(torch.arange(len(part)) + 0.5) / max(1, len(part)) for part in (real, extra)])
    return torch.cat([real, extra])[torch.argsort(at, stable=True)]
