"""The paper account of a series, as its outcomes tell it, beside what it is held against. Pure.

The account's log returns are the outcomes' own. Buying and holding is worked out from the bars, pays its cost once, and
begins where the account does; so do the random policies (`consumers.random_policies`), which need the positions that
were decided at each close: those are in the signals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from consumers import paper
from consumers.history import CLOSE, OPEN, BarWindow
from consumers.performance import Performance, performance
from consumers.random_policies import QUANTILES, luck
from ops.report_model import Equity, Figures
from ops.report_outcomes import SeriesOutcomes
from streams.records import Signal


def cost_bps_of(signals: Sequence[Signal]) -> float:
    """What a change by one unit costs, in basis points, read off the newest signal that changes anything; else 0."""
    before = [0, *(signal.position for signal in signals)]
    for signal, position in zip(reversed(signals), reversed(before[:-1]), strict=True):
        if signal.position != position:
            return -math.expm1(-signal.cost) / abs(signal.position - position) * 1e4
    return 0.0


def positions_at(ends: NDArray[np.int64], signals: Sequence[Signal]) -> NDArray[np.int8]:
    """Position decided at each close, int8 (n,); flat before the first signal.

    Args:
        ends: int64 (n,), rising.
        signals: of one series, in order of time.
    """
    held = np.array([0, *(signal.position for signal in signals)], np.int8)
    moments = np.array([signal.ts for signal in signals], np.int64)
    return held[np.searchsorted(moments, ends, side="right")]


def equity_of(
    found: SeriesOutcomes, signals: Sequence[Signal], bars: BarWindow, ends: NDArray[np.int64], *, policies: int
) -> Equity | None:
    """The account beside buying and holding, and the band of random policies; `None` without bars to hold it against.

    Args:
        signals: of the series, in order of time.
        bars, ends: of the series.
        policies: how many random ones; 0 for none.
    """
    first = _first(found, signals, ends)
    if first is None:
        return None
    ends = ends[first:]
    bars = bars.slice(first, len(bars))
    opened, closed = (np.ascontiguousarray(bars.values[:, column]) for column in (OPEN, CLOSE))
    profit = np.zeros(len(ends))
    at = np.searchsorted(ends, found.ts)
    same = (at < len(ends)) & (ends[np.minimum(at, len(ends) - 1)] == found.ts)
    profit[at[same]] = found.profit[same]
    positions, cost_bps = positions_at(ends, signals), cost_bps_of(signals)
    held = np.ones(len(ends), np.int8)
    market = paper.path(held, opened, closed, 0.0)
    market[1:2] -= paper.change_cost(1, cost_bps)
    own = performance(profit, positions, ends)
    band = None
    if policies and positions[:-1].any():
        band = luck(positions, own.total, opened, closed, cost_bps=cost_bps, count=policies)
    return Equity(
        ts=ends,
        account=np.cumsum(profit),
        hold=np.cumsum(market),
        band_ts=np.empty(0, np.int64) if band is None else ends[band.at],
        band=np.empty((0, 0)) if band is None else band.band,
        quantiles=() if band is None else QUANTILES,
        policies=0 if band is None else len(band.totals),
        percentile=None if band is None else band.percentile,
        figures=(
            _figures("following the signals", own),
            _figures("buying and holding", performance(market, held, ends)),
            Figures("doing nothing", 0.0, 0.0, None, 0.0, 0.0, 0.0),
        ),
    )


def _first(found: SeriesOutcomes, signals: Sequence[Signal], ends: NDArray[np.int64]) -> int | None:
    """The bar at whose close the account could first decide: of the first judged forecast, or of an earlier signal."""
    begins = [signals[0].ts] if signals else []
    shortest = min((target.horizon for target in found.targets), default=0)
    if len(found.ts):
        told = int(np.searchsorted(ends, found.ts[0]))
        begins += [int(ends[max(0, told - shortest)])] if told < len(ends) else []
    if not begins or not len(ends):
        return None
    first = int(np.searchsorted(ends, min(begins)))
    return first if first < len(ends) else None


def _figures(name: str, found: Performance) -> Figures:
    return Figures(name, found.total, found.annual, found.sharpe, found.drawdown, found.exposure, found.turnover)
