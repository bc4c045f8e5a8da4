"""Verify arrays of gigabytes against their manifest block by block as they are first read."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lgkd._internal.hardware import cores
from lgkd._internal.manifest import BLOCK
from lgkd.errors import InputError

_THREADS = 8


class CheckedRows:
    """Verify the rows of an array in a file, block by block, each once.

    Args:
        array: mapped from the file, in C order; its first axis is that of the rows unless `rows` is given.
        digests: SHA-256 of each `BLOCK` bytes of the array; see `lgkd._internal.manifest.BlockDigests`.
        file: for messages.
        advice: what to do about damage, the end of a sentence.
        rows: number of rows of equal length in the array; its length if not given.
        damaged: called before a damaged block is reported.

    Raises:
        InputError: the number of digests differs from that of the blocks.
    """

    def __init__(
        self,
        array: NDArray[Any],
        digests: Sequence[str],
        file: Path,
        advice: str,
        *,
        rows: int | None = None,
        damaged: Callable[[], None] = lambda: None,
    ) -> None:
        self._bytes: NDArray[np.uint8] = array.reshape(-1).view(np.uint8)
        self._digests, self._file, self._advice, self._damaged = digests, file, advice, damaged
        self._row = array.nbytes // max(1, len(array) if rows is None else rows)
        blocks = -(-array.nbytes // BLOCK)
        if len(digests) != blocks:
            raise InputError(f"{file} has {blocks:,} blocks, its manifest {len(digests):,}; it is damaged, {advice}")
        self._unseen = np.ones(blocks, dtype=bool)
        self._left = blocks

    def check(self, places: NDArray[np.int64] | None = None) -> None:
        """Verify the blocks of some rows, or of all, that were not verified before.

        Raises:
            InputError: one differs from its digest.
        """
        if not self._left:
            return
        blocks = np.flatnonzero(self._unseen) if places is None else self._of(places)
        for block, found in zip(blocks, self._found(blocks), strict=True):
            if found != self._digests[block]:
                self._damaged()
                raise InputError(
                    f"{self._file}: block {block} (of {BLOCK:,} bytes) has SHA-256 {found}, expected "
                    f"{self._digests[block]}; it is damaged, {self._advice}"
                )
            self._unseen[block] = False
        self._left = int(self._unseen.sum())

    def _found(self, blocks: NDArray[np.int64]) -> Iterable[str]:
        """Hash some blocks of the file in order; several at once, since hashing frees Python's lock."""

        def digest(block: int) -> str:
            return sha256(self._bytes[block * BLOCK : (block + 1) * BLOCK].data).hexdigest()

        if len(blocks) < 2:
            return map(digest, blocks)
        with ThreadPoolExecutor(min(_THREADS, cores(), len(blocks))) as pool:
            return list(pool.map(digest, blocks))

    def _of(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the blocks of some rows that were not verified before."""
        if not len(places) or not self._row:
            return np.empty(0, dtype=np.int64)
        first = places.astype(np.int64) * self._row // BLOCK
        last = ((places.astype(np.int64) + 1) * self._row - 1) // BLOCK
        longest = int((last - first).max())
        blocks = np.unique(np.concatenate([np.minimum(first + more, last) for more in range(longest + 1)]))
        unseen: NDArray[np.int64] = blocks[self._unseen[blocks]]
        return unseen
