"""The paper account: what following a series' signals would have made. Pure.

A position decided at a bar's close is filled at the *next* bar's open and pays its cost there. Between, the account
holds ±1 or 0 times its equity, rebalanced at every open and close, so that a bar multiplies the equity by

    (1 + held · (open / previous close − 1)) · (1 + target · (close / open − 1)) · exp(−cost)

with `held` the position that it came into the bar with and `target` the one decided at the previous close. A factor is
at least `LEAST`: who is short while the price more than doubles has lost everything, and a logarithm cannot say that.

`mark` is the form of the scorer, one bar at a time; `path` gives the same for whole histories at once.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Least factor by which a move may multiply the equity.
LEAST = 1e-9


@dataclass(frozen=True, slots=True)
class Account:
    """The paper account of one series.

    Attributes:
        held: position that it holds: -1, 0 or 1.
        target: position decided at the last close, to be held from the next open on.
        cost: what that change costs, as a log return.
    """

    held: int = 0
    target: int = 0
    cost: float = 0.0

    def decided(self, position: int, cost: float) -> Account:
        """The account after a decision at a close."""
        return Account(self.held, position, cost)


def ratio(price: float, before: float) -> float:
    """A price over an earlier one, neither 0 nor infinite: prices that no market has must not stop a partition."""
    return min(max(price / before, sys.float_info.min), sys.float_info.max)


def mark(account: Account, previous_close: float, opened: float, closed: float) -> tuple[Account, float]:
    """Take an account through one bar.

    Returns:
        The account at the bar's close, and the log return of its equity over the bar, after cost.
    """
    gap = max(1 + account.held * (ratio(opened, previous_close) - 1), LEAST)
    move = max(1 + account.target * (ratio(closed, opened) - 1), LEAST)
    profit = math.log(gap) + math.log(move) - account.cost
    return Account(account.target, account.target, 0.0), profit


def change_cost(change: int, cost_bps: float) -> float:
    """What changing a position by so many units costs, as a log return; `cost_bps` per unit, basis points."""
    return -math.log1p(-abs(change) * cost_bps / 1e4)


def path(
    positions: NDArray[np.int8], opened: NDArray[np.float64], closed: NDArray[np.float64], cost_bps: float
) -> NDArray[np.float64]:
    """Log returns of accounts that follow given positions, bar by bar, as `mark` has them.

    Args:
        positions: int8 (…, n), position decided at the close of each bar.
        opened, closed: float64 (n,), prices.
        cost_bps: cost of a change by one unit, basis points.

    Returns:
        float64 (…, n): per bar, after cost; the first bar's is 0.
    """
    target = np.concatenate((np.zeros_like(positions[..., :1]), positions[..., :-1]), axis=-1).astype(np.float64)
    held = np.concatenate((np.zeros_like(target[..., :1]), target[..., :-1]), axis=-1)
    gap = np.ones_like(opened)
    gap[1:] = opened[1:] / closed[:-1]
    found = np.log(np.maximum(1 + held * (gap - 1), LEAST)) + np.log(
        np.maximum(1 + target * (closed / opened - 1), LEAST)
    )
    found += np.log1p(-np.abs(target - held) * cost_bps / 1e4)
    return np.asarray(found, np.float64)
