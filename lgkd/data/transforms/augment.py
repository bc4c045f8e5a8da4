"""Augment whole batches on the device, every image with its own draws.

The result for a sample is a pure function of (seed, epoch, its place in the data set): not of its batch, of workers
or processes. All decisions are drawn on the host; the device gets parameters and lists of
images, and nothing here waits for it. Every kind of decision has its own stream, so that switching one
on does not change the others.

The steps and their order are those of timm's training transform: crop and resize, mirror,
RandAugment (or colour jitter), normalise, erase. Images stay uint8 between steps, as Pillow's do.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lgkd._internal.rng import bits, seed_of, uniform
from lgkd.config import View
from lgkd.data.channels import with_channels
from lgkd.data.transforms import rand_augment as policies
from lgkd.data.transforms import random_erasing, resized_crop
from lgkd.data.transforms.apply import apply_layer
from lgkd.data.transforms.apply_device import Layers
from lgkd.data.transforms.device import images_at_once, portions, room, sent
from lgkd.data.transforms.parcel import Parcel
from lgkd.data.transforms.resized_crop import Interpolation
from lgkd.data.transforms.resized_crop_device import Resampling
from lgkd.data.transforms.threads import one_thread
from lgkd.data.validation import colours, image_size_of, one_of
from lgkd.errors import InputError


class _Normalise:
    """Normalise uint8 (B, C, H, W) to float32, (level / 255 - mean) / std as one multiplication and one addition.

    That differs from timm's division and subtraction in the last bits only (below 1e-6).
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        means, deviations = colours(mean, std)
        self.channels = len(means)
        average, spread = np.asarray(means), np.asarray(deviations)
        self.fill = tuple(min(255, round(255 * value)) for value in means)
        self._factor = (1.0 / (255.0 * spread)).astype(np.float32)[:, None, None]
        self._offset = (-average / spread).astype(np.float32)[:, None, None]
        self._sent: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, images: Tensor, into: Tensor | None = None) -> Tensor:
        device = images.device
        if device not in self._sent:
            self._sent[device] = sent(self._factor, device), sent(self._offset, device)
        factor, offset = self._sent[device]
        result = room(images.shape, torch.float32, device) if into is None else into
        if device.type != "cpu":
            return torch.mul(images, factor, out=result).add_(offset)
        for part in portions(len(images), images[0].numel(), device):
            result[part].copy_(images[part]).mul_(factor).add_(offset)
        return result


def _host_sizes(pixels: Tensor, sizes: Tensor) -> NDArray[np.int64]:
    """Check a batch of stored images; return their valid sizes as int64 (B, 2) on the host."""
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
        raise InputError(f"pixels are {pixels.dtype} {tuple(pixels.shape)}; expected uint8 (B, 3, height, width)")
    if tuple(sizes.shape) != (len(pixels), 2):
        raise InputError(
            f"sizes have shape {tuple(sizes.shape)}; expected ({len(pixels)}, 2): height and width of each"
        )
    valid = sizes.detach().cpu().numpy().astype(np.int64)
    stored = np.asarray(pixels.shape[2:])
    wrong = np.flatnonzero(((valid < 1) | (valid > stored)).any(axis=1))
    if len(wrong):
        height, width = valid[wrong[0]]
        raise InputError(
            f"image {wrong[0]} of the batch has the size {height} x {width}; "
            f"expected at least 1 x 1 and at most the stored {stored[0]} x {stored[1]}"
        )
    return valid


class Augment:
    """Make training images from stored ones.

    Args:
        view: how images are drawn. "random-resized" draws a box of a random area and shape, "pad" moves the image over
            black or its own reflection (`padding_mode`), "none" takes the whole image; each is then resized.
            `color_jitter` changes brightness, contrast and saturation by factors within 1 +- its value, in a random
            order; as in timm it is off where `rand_augment` is on. With `fixed` epoch e draws as epoch e modulo
            `fixed`. `image_size`, `channels`, `normalize` and `repeats` are not read here: the size and the
            normalisation, which has a number a channel, are given, the loader repeats.
        image_size: side, or (height, width), of the result.
        mean, std: normalisation of the result, for levels in [0, 1]; the mean is also the colour that
            RandAugment's moves uncover. One number each: the stored images' grey levels are augmented, in one channel.
        seed: of the run.

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(
        self,
        view: View,
        image_size: int | tuple[int, int],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
    ) -> None:
        self.view = view
        self.image_size = image_size_of(image_size)
        self.seed = seed
        self._normalise = _Normalise(mean, std)
        self._at_once: dict[tuple[torch.device, tuple[int, ...]], int] = {}
        self._policy = None if view.rand_augment is None else policies.parse(view.rand_augment)

    @torch.no_grad()
    def __call__(self, pixels: Tensor, sizes: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Draw and apply.

        Args:
            pixels: uint8 (B, 3, S, T) on the device; image i is valid in its upper left sizes[i].
            sizes: whole numbers (B, 2), height and width. Best kept on the host, as is `index`: reading them from
                the device waits for it.
            index: int64 (B,), the samples' places in the data set.
            epoch: counted from 0.

        Returns:
            float32 (B, channels, height, width), normalised, on the device of `pixels`.

        Raises:
            InputError: the batch is not of these shapes and types.
        """
        valid = _host_sizes(pixels, sizes)
        if tuple(index.shape) != (len(pixels),):
            raise InputError(
                f"index has shape {tuple(index.shape)}; expected ({len(pixels)},), one place for each image"
            )
        if not len(pixels):
            return pixels.new_zeros((0, self._normalise.channels, *self.image_size), dtype=torch.float32)
        host_index, epoch = index.detach().cpu(), self._drawn_as(epoch)
        result = room((len(pixels), self._normalise.channels, *self.image_size), torch.float32, pixels.device)
        if pixels.device.type == "cpu":
            with one_thread(pixels.device):
                self._draw(result, pixels, valid, host_index, epoch)
            return result
        step = self.images_at_once(pixels.shape[2:], pixels.device)
        for first in range(0, len(pixels), step):
            part = slice(first, first + step)
            self._draw_on_device(result[part], pixels[part], valid[part], host_index[part], epoch)
        return result

    def images_at_once(self, stored: Sequence[int], device: torch.device) -> int:
        """Return the number of images that are drawn together on a device, so that its memory is enough.

        Args:
            stored: (height, width) of the stored images.
        """
        key = device, tuple(stored)
        if key not in self._at_once:
            self._at_once[key] = images_at_once(stored, self.image_size, device)
        return self._at_once[key]

    def _draw(self, result: Tensor, pixels: Tensor, valid: NDArray[np.int64], host_index: Tensor, epoch: int) -> None:
        """Draw and write the augmented images into `result`."""
        view, pixels = self.view, with_channels(pixels, self._normalise.channels)
        boxes, mirrored = self._crops(valid, host_index, epoch)
        images = resized_crop.resample(
            pixels, boxes, self.image_size, view.interpolation, mirrored, valid, reflect=view.padding_mode == "reflect"
        )
        for layer in self._layers(host_index, epoch):
            apply_layer(images, layer, self._fill, view.interpolation)
        self._normalise(images, result)
        if view.erase > 0:
            random_erasing.erase(result, *self._erased(host_index, epoch))

    def _draw_on_device(
        self, result: Tensor, pixels: Tensor, valid: NDArray[np.int64], host_index: Tensor, epoch: int
    ) -> None:
        """Draw on a device: all parameters in one upload, in few launches.

        Levels are those of `_draw`, but for 1 now and then after a rotation, a shear or a translation.
        """
        view, parcel, channels = self.view, Parcel(pixels.device), self._normalise.channels
        if channels == 1:  # the tables and matrices below are of three channels, which stay equal
            pixels = with_channels(pixels, 1).expand(-1, 3, -1, -1).contiguous()
        boxes, mirrored = self._crops(valid, host_index, epoch)
        resample = Resampling(
            parcel, pixels.shape, boxes, self.image_size, view.interpolation, mirrored, valid,
            reflect=view.padding_mode == "reflect",
        )  # fmt: skip
        fill = self._fill * (3 // channels)
        layers = Layers(parcel, self._layers(host_index, epoch), self.image_size, fill, view.interpolation)
        erase = None
        if view.erase > 0 and len((erased := self._erased(host_index, epoch))[0]):
            erase = random_erasing.Erasing(parcel, *erased, shape=(channels, *self.image_size))
        parcel.send()
        self._normalise(layers(resample(pixels))[:, :channels], result)
        if erase is not None:
            erase(result)

    def _erased(self, host_index: Tensor, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Draw the images that are erased, their boxes and the keys of their noise, see `random_erasing.erase`."""
        draws = self._draws("erase", host_index, epoch, random_erasing.ERASE_DRAWS)
        places, spots = random_erasing.erase_boxes(draws, self.image_size, self.view.erase)
        keys = bits(self._stream("noise", epoch), host_index, 1)[places, 0] >> np.uint64(32)
        return places, spots, keys.astype(np.int64)

    def crops(self, sizes: Tensor, index: Tensor, epoch: int) -> tuple[resized_crop.Boxes, NDArray[np.bool_]]:
        """Return crop and flip of these samples: (B, 4) boxes in stored pixels, and (B,) True where mirrored.

        Args:
            sizes, index, epoch: as for a call.
        """
        return self._crops(sizes.numpy().astype(np.int64), index.detach().cpu(), self._drawn_as(epoch))

    def _crops(
        self, valid: NDArray[np.int64], index: Tensor, epoch: int
    ) -> tuple[resized_crop.Boxes, NDArray[np.bool_]]:
        turns = self.view.alternate_flip
        mirrored = self._draws("flip", index, 0 if turns else epoch, 1)[:, 0] < self.view.flip
        if turns and epoch % 2:
            mirrored = ~mirrored
        return self._boxes(valid, index, epoch), mirrored

    def _drawn_as(self, epoch: int) -> int:
        return epoch if self.view.fixed is None else epoch % self.view.fixed

    @property
    def _fill(self) -> tuple[int, ...]:
        return self._normalise.fill

    def _stream(self, name: str, epoch: int) -> int:
        return seed_of(self.seed, "augment", name, epoch)

    def _draws(self, name: str, index: Tensor, epoch: int, count: int) -> NDArray[np.float64]:
        drawn: NDArray[np.float64] = uniform(self._stream(name, epoch), index, count).numpy()
        return drawn

    def _boxes(self, valid: NDArray[np.int64], index: Tensor, epoch: int) -> resized_crop.Boxes:
        if self.view.crop == "none":
            return resized_crop.whole_boxes(valid)
        draws = self._draws("crop", index, epoch, resized_crop.CROP_DRAWS)
        if self.view.crop == "pad":
            return resized_crop.padded_boxes(valid, draws[:, :2], self.view.padding)
        return resized_crop.random_resized_boxes(valid, draws, self.view.scale, self.view.ratio)

    def _layers(self, index: Tensor, epoch: int) -> list[policies.Layer]:
        if self._policy is not None:
            return self._policy.draw(self._draws("policy", index, epoch, self._policy.draws))
        if self.view.color_jitter > 0:
            return policies.jitter(self._draws("jitter", index, epoch, policies.JITTER_DRAWS), self.view.color_jitter)
        return []


class Plain:
    """Make evaluation images: the valid area resized to the image size, antialiased, and normalised.

    No centre crop. An image of that size keeps its levels.

    Args:
        image_size: side, or (height, width), of the result.
        mean, std: normalisation, for levels in [0, 1]; one number each for grey levels in one channel.

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        interpolation: Interpolation = "bicubic",
    ) -> None:
        one_of("interpolation", interpolation, ("bicubic", "bilinear"))
        self.image_size = image_size_of(image_size)
        self.interpolation = interpolation
        self._normalise = _Normalise(mean, std)

    @torch.no_grad()
    def __call__(self, pixels: Tensor, sizes: Tensor) -> Tensor:
        """Convert uint8 (B, 3, S, T) and valid sizes (B, 2) to float32 (B, channels, height, width).

        Raises:
            InputError: the batch is not of these shapes and types.
        """
        valid = _host_sizes(pixels, sizes)
        if not len(pixels):
            return pixels.new_zeros((0, self._normalise.channels, *self.image_size), dtype=torch.float32)
        pixels = with_channels(pixels, self._normalise.channels)
        height, width = self.image_size
        if (valid == self.image_size).all():
            return self._normalise(pixels[:, :, :height, :width])
        boxes = resized_crop.whole_boxes(valid)
        return self._normalise(resized_crop.resample(pixels, boxes, self.image_size, self.interpolation))
