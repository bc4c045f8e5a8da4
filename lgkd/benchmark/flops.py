"""Count the arithmetic of a step, and measure the peak of a device."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from lgkd._internal.out_of_memory import lack_of_memory
from lgkd.training.timing import synchronise

_SIZES = (1024, 2048, 4096, 8192)
_LONGEST_PRODUCT = 1.0
_TRIES = 5
_CONVOLUTION_BACKWARD = torch.ops.aten.convolution_backward
_FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FUSED_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Peak:
    """Hold the fastest matrix product.

    Attributes:
        flops: floating point operations a second; a multiplication and an addition are two.
        size: of the square matrices that reached it.
    """

    flops: float
    size: int


def count_flops(step: Callable[[], object]) -> int:
    """Count floating point operations of products, convolutions and attention in one call, backward included.

    A multiplication and an addition are two operations. Attention's backward counts five products, as it
    computes its scores once more. Element-wise operations count nothing.

    Args:
        step: run once, eagerly.
    """
    # Torch 2.14 and 2.15 count the backward of grouped convolutions as if they had no groups; 2.14 does not count fused
    # attention on a CPU.
    ours = {_CONVOLUTION_BACKWARD: _convolution_backward, _FUSED: _attention, _FUSED_BACKWARD: _attention_backward}
    with FlopCounterMode(display=False, custom_mapping=ours) as counter:
        step()
    return int(counter.get_total_flops())


def _convolution_backward(
    gradient: Sequence[int], _images: Sequence[int], weight: Sequence[int], *rest: Any, **_: object
) -> int:
    """Count as many operations as forward for the gradient of the images, and for that of the weights, where wanted.

    The weight's second dimension is the input channels of one group; a transposed convolution's first is.
    """
    transposed, wanted = rest[4], rest[7]
    points = _images if transposed else gradient
    return int((wanted[0] + wanted[1]) * 2 * points[0] * math.prod(points[2:]) * math.prod(weight))


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object) -> int:
    """Count the scores and their product with the values; shapes (B, heads, tokens, width)."""
    pairs = 2 * query[0] * query[1] * query[2] * key[2]
    return pairs * (query[3] + value[3])


def _attention_backward(
    _gradient: Sequence[int], query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object
) -> int:
    """Count the scores once more, the gradients of scores and values, and those of queries and keys."""
    pairs = 2 * query[0] * query[1] * query[2] * key[2]
    return pairs * (3 * query[3] + 2 * value[3])


def measure_peak(device: str, precision: str, sizes: tuple[int, ...] = _SIZES) -> Peak:
    """Measure the best rate of products of square matrices, over several sizes and tries.

    Args:
        device: that computes.
        precision: "fp32", "bf16" or "fp16".
        sizes: ascending; those that would take more than about a second, or more memory than there is, are left out.
    """
    best, longest = Peak(0.0, 0), 0.0
    for size in sizes:
        if longest * 8 > _LONGEST_PRODUCT:
            break
        try:
            matrix = torch.randn(size, size, device=device).to(_TYPES[precision])
            result = torch.empty_like(matrix)
            torch.matmul(matrix, matrix, out=result)
            longest = 0.0
            for _ in range(_TRIES):
                synchronise(device)
                began = time.perf_counter()
                torch.matmul(matrix, matrix, out=result)
                synchronise(device)
                seconds = time.perf_counter() - began
                longest = max(longest, seconds)
                best = max(best, Peak(2 * size**3 / seconds, size), key=lambda peak: peak.flops)
        except (RuntimeError, MemoryError) as error:
            if lack_of_memory(error) is None:
                raise
            break
    return best
