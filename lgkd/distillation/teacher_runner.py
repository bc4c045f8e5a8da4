"""Run a frozen teacher, pruned to the layers that the terms depend on.

Letters in shapes: B batch, H W image size.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lgkd.distillation.features import FeatureReader, Features, FeatureSpec
from lgkd.distillation.linear_head import probe_images
from lgkd.distillation.taps import Tap, Taps
from lgkd.models.pruned_teacher import Trimmed, trim
from lgkd.models.teacher import Teacher


class TeacherRunner:
    """Run a pruned copy of a frozen teacher, or the teacher itself with hooks if it cannot be traced.

    Args:
        teacher: the frozen teacher; not modified.
        taps: its layers of `Features.maps`.
        wants: the features to read.

    Attributes:
        reader: the layers to read, and how their outputs fold.
        pruned: the copy to run; None before `build`, after `release`, and if the teacher itself is run.

    Raises:
        TapError: the teacher lacks a wanted feature.
    """

    def __init__(self, teacher: Teacher, taps: Sequence[Tap], wants: FeatureSpec) -> None:
        self.teacher = teacher
        self.reader = FeatureReader(teacher.model, taps, wants, teacher.image_size, teacher.channels)
        self.pruned: Trimmed | None = None
        self._taps: Taps | None = None
        self._mode: str | None = None
        self._dtype: torch.dtype | None = None

    @torch.no_grad()
    def __call__(self, view_B3HW: Tensor) -> Features:
        """Run the teacher on images of its own size and normalisation; return its features."""
        if self._mode != self.teacher.batch_norm:
            self.build()
        if self.pruned is not None:
            if self._dtype is None:
                logits, outputs = self.pruned(view_B3HW)
            else:
                with torch.autocast(view_B3HW.device.type, enabled=False):
                    logits, outputs = self.pruned(view_B3HW.to(self._dtype))
        else:
            assert self._taps is not None
            logits, outputs = self._taps.capture(self.teacher.model, view_B3HW)
        return self.reader.features(logits, outputs)

    def build(self) -> None:
        """Create the pruned copy in the teacher's current BatchNorm mode; attach hooks to a teacher without a copy."""
        teacher, reader = self.teacher, self.reader
        self.remove()
        images = probe_images(teacher.model, teacher.channels, teacher.image_size)
        self.pruned = trim(teacher.model, reader.outputs, reader.inputs, logits=reader.wants.logits, images=images)
        self._taps = reader.attach(teacher.model) if self.pruned is None else None
        self._mode = teacher.batch_norm
        if self._dtype is not None:
            self.cast(self._dtype)

    def cast(self, dtype: torch.dtype) -> None:
        """Cast the weights of the pruned copy to the number format of the step, so that no step casts them again."""
        if self.pruned is not None:
            self.pruned.to(dtype)
            self._dtype = dtype

    def apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> None:
        """Convert the teacher and its copy, as `nn.Module._apply` does."""
        for module in (self.teacher, self.pruned):
            if module is not None:
                module._apply(fn, recurse)  # type: ignore[no-untyped-call, unused-ignore]

    def release(self) -> None:
        """Free the copy, and move the teacher off the device."""
        self.pruned = None
        self.teacher.to("cpu")

    def remove(self) -> None:
        """Remove the hooks from the teacher."""
        if self._taps is not None:
            self._taps.remove()
