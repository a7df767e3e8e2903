"""Tables of bars, and how a bar is replayed as ticks. Pure.

A bar becomes four ticks, so that the bar built from them is the one they came from:

    where in the interval   price                            size
    start                   open                             ⌊volume / 4⌋
    start + 1/4             low if close >= open, else high  ⌊volume / 4⌋
    start + 2/4             the other of the two             ⌊volume / 4⌋
    start + 3/4             close                            the rest, so that the sum is the volume exactly

The order within the bar is a convention: the true one is not in the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.columns import Ticks
from streams.series import Interval

#: Ticks that a bar becomes.
TICKS_PER_BAR = 4


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars as columns of equal length n; a symbol's bars are in order of time.

    Attributes:
        interval: length of every bar.
        names: the different symbols.
        codes: int32 (n,), each bar's index in `names`.
        start: int64 (n,), first ns of the bar, a multiple of the interval.
        open, high, low, close: float64 (n,), above zero.
        volume: float64 (n,), zero or more.
    """

    interval: Interval
    names: tuple[str, ...]
    codes: NDArray[np.int32]
    start: NDArray[np.int64]
    open: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    volume: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.start)

    def __repr__(self) -> str:
        return f"Bars({len(self)} of {len(self.names)} symbols, {self.interval})"


def to_ticks(bars: Bars) -> Ticks:
    """The bars as ticks in order of time; of ticks at the same time, the earlier row's first."""
    rising = bars.close >= bars.open
    quarter = np.floor(bars.volume / TICKS_PER_BAR)
    price = np.stack(
        [bars.open, np.where(rising, bars.low, bars.high), np.where(rising, bars.high, bars.low), bars.close], axis=1
    )
    # volume - 3 q is exact: a multiple of the volume's last place, and not above the volume.
    size = np.stack([quarter, quarter, quarter, bars.volume - 3 * quarter], axis=1)
    offsets = np.arange(TICKS_PER_BAR, dtype=np.int64) * (bars.interval.ns // TICKS_PER_BAR)
    ts = (bars.start[:, None] + offsets).ravel()
    order = np.argsort(ts, kind="stable")
    codes = np.repeat(bars.codes, TICKS_PER_BAR)
    return Ticks(bars.names, codes[order], price.ravel()[order], size.ravel()[order], ts[order])
