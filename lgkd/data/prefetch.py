"""Prefetch: prepare the next item while the last one is used."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

Item = TypeVar("Item")

_END: Final = object()


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Yield the same items in the same order; one thread makes the next while the caller has the last.

    Args:
        items: only that thread runs it, and never more than one item ahead.

    Raises:
        Any error of `items`, when its turn comes. Closed early, the generator waits for the item that is being
        made, and leaves no thread behind.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="lgkd-loader") as thread:
        coming = thread.submit(next, items, _END)
        while (item := coming.result()) is not _END:
            coming = thread.submit(next, items, _END)
            yield item  # type: ignore[misc]
