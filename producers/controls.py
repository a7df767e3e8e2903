"""Two made-up series whose truth is known: nothing can be found in RANDOM, something known in PLANTED.

Whatever is claimed about real series is claimed of these first. Both are daily bars on the weekdays of 2000-03-01 to
2013-03-01, the span of the sample stocks, and a function of their seed alone. A bar is made like this:

    return  r[t], the log ratio of one close to the one before, standard deviation `VOLATILITY`
    open    the previous close · exp(g[t]); the gap g is the part of the day's news that comes before the open
    high    the greater of open and close · exp(|u|), u normal; low likewise, all independent
    volume  its logarithm is a random walk of small steps, so that "as much as now" is the best forecast of it

RANDOM's returns are independent and without drift. PLANTED's follow `r[t+1] = φ r[t] + e[t+1]`: a rise is followed by a
rise until a date, by a fall from that date on. The news e is scaled so that both have the same volatility.

What a forecaster can reach on such returns is known. Let `γ` be the variance of r and `S = r[t+1] + … + r[t+h]`, the
label of the close h bars ahead. From `E[r[t+k] | r[t]] = φ^k r[t]` and `cov(r[t+j], r[t+k]) = φ^|j-k| γ` (Hamilton,
Time Series Analysis, 1994, sections 3.4 and 4.2) the best forecast is `a r[t]` with `a = φ + … + φ^h`, and

    var(S) = γ · (h + 2 · sum over k = 1 … h-1 of (h - k) φ^k)
    skill  = 1 - E[(S - a r[t])²] / E[S²] = a² γ / var(S)

Who goes on forecasting `b r[t]` when the best would be `a r[t]` has the skill `(2 a b - b²) γ / var(S)`, below zero
when the signs differ.
"""

from __future__ import annotations

from datetime import date

import numpy as np
from numpy.typing import NDArray

from producers.bars import Bars
from producers.sample import DAY

#: Standard deviation of a day's log return.
VOLATILITY = 0.015
#: Share of the news' variance that comes before the open.
GAP_SHARE = 0.04
#: Standard deviation of the noise beyond open and close that makes highs and lows.
REACH = 0.006
#: Standard deviation of a day's step of the log volume.
VOLUME_STEP = 0.05
#: How strongly PLANTED's next return follows the last one, before the flip; minus that after it.
PHI = 0.9

FIRST, LAST = date(2000, 3, 1), date(2013, 3, 1)
FLIPS_AT = date(2006, 9, 1)


def random_walk(symbol: str = "RANDOM", *, days: NDArray[np.datetime64] | None = None, seed: int = 1) -> Bars:
    """A series in which nothing can be forecast.

    Args:
        days: datetime64[D] (n,), rising; the weekdays of the sample's span unless given.
    """
    return planted(symbol, days=days, seed=seed, phi=0.0)


def planted(
    symbol: str = "PLANTED",
    *,
    days: NDArray[np.datetime64] | None = None,
    seed: int = 2,
    phi: float = PHI,
    flips_at: date = FLIPS_AT,
) -> Bars:
    """A series whose returns follow the last one: by `phi` on the days before `flips_at`, by `-phi` from it on.

    Args:
        days: as for `random_walk`.

    Raises:
        ValueError: `phi` does not lie between -1 and 1.
    """
    if not -1 < phi < 1:
        raise ValueError(f"phi is {phi}: returns that do not run away need one between -1 and 1")
    days = weekdays(FIRST, LAST) if days is None else days
    rng = np.random.default_rng(seed)
    count = len(days)
    scale = VOLATILITY * np.sqrt(1 - phi**2)
    gap = rng.normal(0, scale * np.sqrt(GAP_SHARE), count)
    news = gap + rng.normal(0, scale * np.sqrt(1 - GAP_SHARE), count)
    returns = _follow(news, np.where(days < np.datetime64(flips_at), phi, -phi))
    close = 100 * np.exp(np.cumsum(returns))
    opened = np.concatenate(([100.0], close))[:count] * np.exp(gap)
    high = np.maximum(opened, close) * np.exp(np.abs(rng.normal(0, REACH, count)))
    low = np.minimum(opened, close) * np.exp(-np.abs(rng.normal(0, REACH, count)))
    volume = np.rint(1e7 * np.exp(np.cumsum(rng.normal(0, VOLUME_STEP, count))))
    start = days.astype("datetime64[ns]").astype(np.int64)
    return Bars(DAY, (symbol,), np.zeros(count, np.int32), start, opened, high, low, close, volume)


def weekdays(first: date, last: date) -> NDArray[np.datetime64]:
    """Mondays to Fridays from `first` to `last`, both included; datetime64[D] (n,)."""
    days = np.arange(np.datetime64(first), np.datetime64(last) + 1)
    return days[np.is_busday(days)]


def attainable_skill(phi: float, horizon: int) -> float:
    """Skill against no change of the best forecast of the close `horizon` bars ahead; see the module."""
    return stale_skill(phi, phi, horizon)


def stale_skill(phi: float, believed: float, horizon: int) -> float:
    """Skill of the forecast that would be best if φ were `believed`, where it is `phi`; see the module."""
    ours, best = _slope(believed, horizon), _slope(phi, horizon)
    spread = horizon + 2 * sum((horizon - lag) * phi**lag for lag in range(1, horizon))
    return (2 * best * ours - ours**2) / spread


def _slope(phi: float, horizon: int) -> float:
    return sum(phi**lag for lag in range(1, horizon + 1))


def _follow(news: NDArray[np.float64], phi: NDArray[np.float64]) -> NDArray[np.float64]:
    """r[t] = phi[t] r[t-1] + news[t], begun where such a series is at rest; float64 (n,)."""
    found = news.copy()
    if len(found):
        found[0] /= np.sqrt(1 - phi[0] ** 2)
    for at in range(1, len(found)):
        found[at] += phi[at] * found[at - 1]
    return found
