"""What luck would have made: accounts of random policies that are as often in the market and trade as much. Pure.

An account that gained in a rising market may only have been long. So it is held against policies that know nothing and
are otherwise alike: they hold the same spells of the same positions at other times. The path of positions is cut into
spells; the lengths are shuffled among the spells of the same position, and the whole is turned around as a ring by a
random number of bars. So every random policy is long, short and flat for as many bars as the one that it is held
against, and changes its position as often, but for the seam of the ring: at most two units more, at most two less.

(Shuffling the spells themselves would lay equal ones side by side, and lose trades.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consumers import paper

#: Shares of the random policies below the lines of the band.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
#: Most points of a band.
POINTS = 400
#: Policies worked out at once: bounds the memory at some tens of MB for 20,000 bars.
_AT_ONCE = 50


@dataclass(frozen=True, slots=True, eq=False)
class Luck:
    """What random policies made.

    Attributes:
        totals: float64 (m,), sum of each one's log returns, rising.
        percentile: share of them, 0 to 1, that made less than the account; ties count half.
        at: int64 (k,), bars at which the band is given.
        band: float64 (5, k), quantiles `QUANTILES` of the sums of log returns up to and with those bars.
    """

    totals: NDArray[np.float64]
    percentile: float
    at: NDArray[np.int64]
    band: NDArray[np.float64]


def luck(
    positions: NDArray[np.int8],
    total: float,
    opened: NDArray[np.float64],
    closed: NDArray[np.float64],
    *,
    cost_bps: float,
    count: int = 1000,
    seed: int = 0,
) -> Luck:
    """Hold an account against random policies.

    Args:
        positions: int8 (n,), n >= 1, position that the account decided on at each close.
        total: sum of the account's log returns.
        opened, closed: float64 (n,), prices.
        cost_bps: cost of a change by one unit, basis points.
        count: random policies, at least 1.
    """
    rng = np.random.default_rng(seed)
    at = np.unique(np.linspace(0, len(positions) - 1, min(POINTS, len(positions))).astype(np.int64))
    curves = np.empty((count, len(at)))
    for begin in range(0, count, _AT_ONCE):
        paths = np.stack([shuffled(positions, rng) for _ in range(min(_AT_ONCE, count - begin))])
        sums = np.cumsum(paper.path(paths, opened, closed, cost_bps), axis=1)
        curves[begin : begin + len(paths)] = sums[:, at]
    totals = np.sort(curves[:, -1])
    # The account's own total was summed in another order: within rounding it ties with an equal path.
    close_by = 1e-9 * max(1.0, abs(total))
    below, above = (int(np.searchsorted(totals, total + sign * close_by)) for sign in (-1, 1))
    return Luck(totals, (below + above) / 2 / count, at, np.quantile(curves, QUANTILES, axis=0))


def shuffled(positions: NDArray[np.int8], rng: np.random.Generator) -> NDArray[np.int8]:
    """One random policy's positions, int8 (n,); see the module."""
    begins = np.flatnonzero(np.diff(positions, prepend=positions[:1] + 1))
    held = positions[begins]
    lengths = np.diff(begins, append=len(positions))
    for position in np.unique(held):
        mine = np.flatnonzero(held == position)
        lengths[mine] = lengths[rng.permutation(mine)]
    return np.roll(np.repeat(held, lengths), int(rng.integers(len(positions))))
