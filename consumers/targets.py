"""What is forecast: a column of the bar some bars ahead, as a unit-free label.

Price columns: `log(x[t+h] / close[t])`. Volume: `log(volume[t+h] / mean)`, the mean over the last 20 bars up to and
with t; the ratio counts as at least 1e-3, so that a bar without volume has a label, and a mean of zero gives none.
A label of 0 therefore says "no change" for prices and "as much as lately" for volume.

Horizons count bars. Labels of bar t touch the bars t-19 … t (volume only) and t+h, and no others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from consumers.history import CLOSE, VOLUME, BarWindow
from streams.errors import BadName
from streams.settings import COLUMNS

#: Bars of the trailing mean that volume is measured against.
VOLUME_BARS = 20
#: Smallest volume ratio that is told apart; log(1e-3) is about -6.9.
LEAST_RATIO = 1e-3

_TARGET = re.compile(r"([a-z]+)_([1-9][0-9]{0,4})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Target:
    """A column, `horizon` bars ahead; written `close_5`."""

    column: str
    horizon: int

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read `"close_5"`.

        Raises:
            BadName: the text is no target.
        """
        match = _TARGET.fullmatch(text)
        if match is None or match[1] not in COLUMNS:
            raise BadName(
                f"{text[:80]!r} is no target: write COLUMN_BARS, such as close_5; columns are {', '.join(COLUMNS)}"
            )
        return cls(match[1], int(match[2]))

    @property
    def lookback(self) -> int:
        """Bars up to and with t that a label or a level of bar t needs."""
        return VOLUME_BARS if self.column == "volume" else 1

    def __str__(self) -> str:
        return f"{self.column}_{self.horizon}"


def labels(target: Target, bars: BarWindow) -> NDArray[np.float64]:
    """Labels of every bar.

    Returns:
        float64 (n,): NaN where the horizon has not passed, or where the label is undefined (volume with fewer than 20
        bars before it, or a trailing mean of zero).
    """
    count, ahead = len(bars), target.horizon
    found = np.full(count, np.nan)
    known = count - ahead
    if known <= 0:
        return found
    if target.column == "volume":
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratio = bars.values[ahead:, VOLUME] / _trailing_volume(bars)[:known]
            # np.fmax would turn an undefined ratio (0/0) into the floor; np.maximum keeps the NaN.
            found[:known] = np.log(np.maximum(ratio, LEAST_RATIO))
    else:
        ahead_values = bars.values[ahead:, COLUMNS.index(target.column)]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            found[:known] = np.log(ahead_values / bars.values[:known, CLOSE])
    found[~np.isfinite(found)] = np.nan
    return found


def _trailing_volume(bars: BarWindow) -> NDArray[np.float64]:
    """Mean volume over the last 20 bars up to and with each; NaN before there are 20, and where it is zero."""
    means = np.full(len(bars), np.nan)
    if len(bars) >= VOLUME_BARS:
        means[VOLUME_BARS - 1 :] = sliding_window_view(bars.values[:, VOLUME], VOLUME_BARS).mean(axis=1)
    means[means <= 0] = np.nan
    return means


def levels(targets: Sequence[Target], forecasts: ArrayLike, bars: BarWindow) -> NDArray[np.float64]:
    """Forecast prices and volumes from forecast labels at the newest bar: the inverse of `labels`.

    Args:
        forecasts: (T,), one label per target.
        bars: the bars up to now; volume needs the last 20.

    Returns:
        float64 (T,): NaN where the level is undefined or beyond a double.
    """
    volume = float(_trailing_volume(bars.last(VOLUME_BARS))[-1]) if any(t.column == "volume" for t in targets) else 0.0
    close = float(bars.values[-1, CLOSE])
    bases = np.array([volume if target.column == "volume" else close for target in targets], np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        found: NDArray[np.float64] = bases * np.exp(np.asarray(forecasts, np.float64))
    found[~np.isfinite(found)] = np.nan
    return found


def level(target: Target, forecast: float, bars: BarWindow) -> float:
    """`levels` for one target."""
    return float(levels((target,), (forecast,), bars)[0])
