"""Where the large entries of a long row are, from one reading of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SLICES = 4096
"""A row is cut into so many slices; entries that lie a multiple of it apart are of one slice."""
BLOCKS = 64
"""Into how many blocks slices are put, to see how large the largest entries are; it divides `SLICES`."""
FEW = 64
"""Slices with large entries, up to which only these are searched."""


class RowPeaks:
    """The largest entry of each slice of a row: it is read once, however often large entries are looked for.

    What is left of a row beyond whole slices, or a short row, is searched as it is. Lasts as long as the row does.
    """

    def __init__(self, row_V: NDArray[np.float32]) -> None:
        """``row_V`` is contiguous and not empty."""
        depth = len(row_V) // SLICES
        self._row, self._end = row_V, depth * SLICES
        self._slices = row_V[: self._end].reshape(depth, SLICES)
        self._rest = row_V[self._end :]
        self._peaks = self._slices.max(axis=0, initial=-np.inf)
        self._rest_largest = float(self._rest.max(initial=-np.inf))
        self.largest = float(np.maximum(self._peaks.max(), self._rest_largest))
        """The largest entry; not a number where one is none."""

    def above(self, bound: float) -> NDArray[np.int64]:
        """The places of the entries of at least ``bound``, in any order."""
        slices = np.flatnonzero(self._peaks >= bound)
        if len(slices) > FEW:
            return np.flatnonzero(self._row >= bound)
        depths, some = np.nonzero(self._slices[:, slices] >= bound)
        found = depths * SLICES + slices[some]
        if self._rest_largest < bound:
            return found
        return np.concatenate((found, np.flatnonzero(self._rest >= bound) + self._end))

    @property
    def best(self) -> int:
        """The place of the largest entry, or of one of several."""
        if not self._peaks.max() >= self._rest_largest:
            return self._end + int(self._rest.argmax())
        some = int(self._peaks.argmax())
        return int(self._slices[:, some].argmax()) * SLICES + some

    def least_of_largest(self, count: int) -> float:
        """Less than the ``count`` largest entries have, or as much; 0 for more than `BLOCKS`, or in a short row."""
        if count == 1:
            return self.largest
        if count > BLOCKS or not self._end:
            return 0.0
        peaks = self._peaks.reshape(-1, BLOCKS).max(axis=0)  # of as many entries as there are
        return float(np.sort(peaks)[-count])
