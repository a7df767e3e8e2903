"""How a paper account did: figures over the log returns of its bars. Pure.

total      sum of the log returns; the equity was multiplied by exp(total)
annual     total per year of 365.25 days
sharpe     mean over standard deviation of the bars' returns, times the root of bars per year (Sharpe 1994)
drawdown   largest share of the equity lost since an earlier peak, or since the start
exposure   share of bars through which a position was held to the close
turnover   units of position bought or sold, per year; from long to short are two
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.series import NS

_YEAR_NS = 365.25 * 86_400 * NS


@dataclass(frozen=True, slots=True)
class Performance:
    """Figures of one account; see the module. `annual`, `sharpe`, `turnover` are `None` where they cannot be known."""

    total: float
    annual: float | None
    sharpe: float | None
    drawdown: float
    exposure: float
    turnover: float | None


def performance(profit: NDArray[np.float64], positions: NDArray[np.int8], ends: NDArray[np.int64]) -> Performance:
    """Work out the figures of an account.

    Args:
        profit: float64 (n,), log return of each bar, after cost.
        positions: int8 (n,), position decided at each close; it is held from the next bar's open on. Flat before.
        ends: int64 (n,), end of each bar, epoch ns.
    """
    total = math.fsum(profit.tolist())
    years = float(ends[-1] - ends[0]) / _YEAR_NS if len(ends) > 1 else 0.0
    spread = float(profit[1:].std()) if len(profit) > 1 else 0.0
    held = positions[:-1]
    changed = float(np.abs(np.diff(held.astype(np.int64), prepend=0)).sum())
    equity = np.concatenate(([0.0], np.cumsum(profit)))
    return Performance(
        total=total,
        annual=total / years if years >= 1 else None,
        sharpe=float(profit[1:].mean()) / spread * math.sqrt((len(profit) - 1) / years) if spread and years else None,
        drawdown=float(0.0 - np.expm1((equity - np.maximum.accumulate(equity)).min())),
        exposure=float((held != 0).mean()) if len(held) else 0.0,
        turnover=changed / years if years else None,
    )
