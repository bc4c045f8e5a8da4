"""Walk the autograd graph behind a loss."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def graph_nodes(loss: Tensor) -> Iterator[Any]:
    """Yield every node that a backward pass from the loss would reach, each once."""
    seen: set[object] = set()
    ahead: list[Any] = [loss.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        ahead += [after for after, _ in node.next_functions]
