"""The newest bars of a series in memory: what the feature set and the judge look at.

A ring would hand out two pieces; this keeps the window in one piece by moving it to the front of a double-sized
buffer once in a while. Rebuilt from the `bars` stream after a restart, so nothing of it is carried in the state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from consumers.history import BarWindow
from streams.settings import COLUMNS


class Tail:
    """The last `width` closed bars of one series."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._start = np.empty(2 * width + 1, np.int64)
        self._values = np.empty((2 * width + 1, len(COLUMNS)), np.float64)
        self._end = 0

    def append(self, start: int, values: Sequence[float]) -> None:
        """Add a closed bar: its start (ns) and open, high, low, close, volume."""
        if self._end == len(self._start):
            keep = self._width
            self._start[:keep] = self._start[self._end - keep :]
            self._values[:keep] = self._values[self._end - keep :]
            self._end = keep
        self._start[self._end] = start
        self._values[self._end] = values
        self._end += 1

    def last(self, count: int) -> BarWindow:
        """The newest `count` bars, at most `width`, or all if there are fewer: a view that `append` may change."""
        begin = max(0, self._end - min(count, self._width))
        return BarWindow(self._start[begin : self._end], self._values[begin : self._end])

    def window(self, count: int) -> BarWindow | None:
        """As `last`, or `None` while there are fewer than `count` bars."""
        return self.last(count) if self._end >= count else None
