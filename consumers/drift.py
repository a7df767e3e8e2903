"""Drift: does a champion do worse than it used to, against its naive forecast? Pure.

A bar's loss is held against the naive loss of the same bar, as a number from 0 to 1 that does not depend on how much
the market moves:

    x = ((loss - naive loss) / (loss + naive loss) + 1) / 2

0.5 is a forecast that is as good as naive, lower is better. Labels of neighbouring bars overlap, so a block of
`horizon` bars gives one value, their mean. The values go to ADWIN (Bifet and Gavaldà, "Learning from Time-Changing
Data with Adaptive Windowing", SIAM Data Mining 2007; river's implementation), which says *that* their mean has changed.
Only a rise counts. *When* it changed is where one step fits the values best in least squares (Bai, "Least Squares
Estimation of a Shift in Linear Processes", Journal of Time Series Analysis 15, 1994): in simulations ADWIN's own window
still reached back nearly to its beginning, while least squares hit the change within some 50 bars.

A champion without trees is its naive forecast: its values never move.

A detector looks at no more than `REBUILD_BARS` to twice that many bars: at every multiple of `REBUILD_BARS` it is built
anew from the values since the multiple before. So what it knows is a function of the outcomes since `needed_from`,
and a detector that is given those again (`learn`) goes on as if nothing had been.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
from river.drift import ADWIN

#: Chance of a false alarm that ADWIN's bound allows per look. The bound is wide: in simulations of 60,000 bars of noise
#: there was no alarm at all.
DELTA = 0.05
#: Fewest values on either side of a change, and before the first look.
LEAST_SIDE, LEAST_VALUES = 5, 10
#: Bars after which the reference is shortened.
REBUILD_BARS = 2048
#: Far below any squared error that matters; keeps 0/0 defined.
TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Change:
    """Since when a champion does worse: number and end (ns) of the first bar whose outcome shows it."""

    bar: int
    ts: int


class DriftDetector:
    """Watches one champion's forecasts of one target.

    Attributes:
        start: number of the first bar whose outcome counts; earlier ones are passed over.
    """

    def __init__(self, horizon: int, start: int) -> None:
        self._horizon = horizon
        self._begin(start)

    def _begin(self, start: int) -> None:
        self.start = start
        self._adwin: ADWIN | None = None
        self._section = 0
        self._bars, self._times, self._values = array("q"), array("q"), array("d")
        # The block of bars that is not complete yet: its first bar by number, end of the first one seen, sum, count.
        self._block, self._ts, self._sum, self._count = start, 0, 0.0, 0

    def learn(self, bar: int, ts: int, loss: float, naive_loss: float) -> bool:
        """Take an outcome without looking for a change, as after a restart.

        Args:
            bar: number of the bar that told; rising.
            ts: its end, ns.
            loss, naive_loss: squared errors.

        Returns:
            Whether a block was completed, so that there is one value more.
        """
        if bar < self.start:
            return False
        block = bar // self._horizon * self._horizon
        ended = self._count > 0 and block != self._block
        if ended:
            self._bars.append(self._block)
            self._times.append(self._ts)
            self._values.append(self._sum / self._count)
            self._forget(self._block // REBUILD_BARS)
        if ended or self._count == 0:
            self._block, self._ts, self._sum, self._count = block, ts, 0.0, 0
        self._sum += relative(loss, naive_loss)
        self._count += 1
        return ended

    def update(self, bar: int, ts: int, loss: float, naive_loss: float) -> Change | None:
        """Take an outcome and look for a rise; after one it watches anew from the next bar on."""
        if not self.learn(bar, ts, loss, naive_loss):
            return None
        fresh = self._values[-1:]
        if self._adwin is None:
            self._adwin = ADWIN(delta=DELTA, clock=1, min_window_length=LEAST_SIDE, grace_period=LEAST_VALUES)
            fresh = self._values
        rose = False
        for value in fresh:
            before = self._adwin.estimation
            self._adwin.update(value)
            rose = rose or (self._adwin.drift_detected and self._adwin.estimation > before)
        if not rose:
            return None
        at = step_of(self._values)
        change = Change(max(self._bars[at], self.start), self._times[at])
        self._begin(bar + 1)
        return change

    @property
    def needed_from(self) -> int:
        """Number of the first bar that a detector in this state must be given again."""
        newest = self._block // REBUILD_BARS
        return max(self.start, (newest - 1) * REBUILD_BARS)

    def _forget(self, section: int) -> None:
        """On entering a section, drop what lies before the section before it, and have ADWIN built anew."""
        if section == self._section:
            return
        self._section = section
        kept = int(np.searchsorted(np.frombuffer(self._bars, np.int64), (section - 1) * REBUILD_BARS))
        self._bars, self._times, self._values = self._bars[kept:], self._times[kept:], self._values[kept:]
        self._adwin = None


def relative(loss: float, naive_loss: float) -> float:
    """How a bar's loss stands to the naive one: 0 no loss at all, 0.5 as much, 1 as if naive had none."""
    return min(max((loss - naive_loss) / (loss + naive_loss + TINY), -1.0), 1.0) / 2 + 0.5


def step_of(values: array[float]) -> int:
    """Index of the first value after the upward step that fits best in least squares; 0 if there is none."""
    found = np.frombuffer(values, np.float64)
    sums, count = np.cumsum(found), len(found)
    left = np.arange(1, count)
    before, after = sums[:-1] / left, (sums[-1] - sums[:-1]) / (count - left)
    gain = np.where(after > before, left * (count - left) * (after - before) ** 2, 0.0)
    return int(left[np.argmax(gain)]) if count > 1 and gain.max() > 0 else 0
