"""The paper account: filled at the next open, at a cost, and the same bar by bar as over whole paths."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from consumers.paper import LEAST, Account, change_cost, mark, path

COST_BPS = 5.0


def one_by_one(positions: list[int], opened: NDArray[np.float64], closed: NDArray[np.float64]) -> list[float]:
    account, profits = Account(), []
    for at, position in enumerate(positions):
        previous = closed[at - 1] if at else opened[0]
        account, profit = mark(account, previous, opened[at], closed[at])
        profits.append(profit)
        if position != account.target:
            account = account.decided(position, change_cost(position - account.target, COST_BPS))
    return profits


def test_a_position_earns_from_the_next_open_on_and_until_the_open_after_its_end() -> None:
    opened, closed = np.array([100.0, 102, 104, 103, 100]), np.array([101.0, 103, 106, 104, 90])
    # Bought at the close of bar 0, sold at the close of bar 2: held from 102 (open of 1) to 103 (open of 3).
    profits = one_by_one([1, 1, 0, 0, 0], opened, closed)
    cost = change_cost(1, COST_BPS)
    assert profits == pytest.approx(
        [0, math.log(103 / 102) - cost, math.log(106 / 103), math.log(103 / 106) - cost, 0], abs=1e-12
    )


def test_a_short_gains_when_the_price_falls_and_turning_costs_two_changes() -> None:
    opened = np.array([100.0, 100, 100, 100])
    closed = np.array([100.0, 90, 100, 100])
    profits = one_by_one([-1, 1, 1, 1], opened, closed)
    assert profits[1] == pytest.approx(math.log(1.1) - change_cost(1, COST_BPS))
    assert profits[2] == pytest.approx(math.log(1 - (100 / 90 - 1)) - change_cost(2, COST_BPS))


def test_who_is_ruined_has_a_finite_loss() -> None:
    account, profit = mark(Account(-1, -1), 1.0, 3.0, 3.0)
    assert profit == pytest.approx(math.log(LEAST))
    assert account == Account(-1, -1)


@given(st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_a_whole_path_gives_what_its_bars_give(positions: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    opened, closed = (np.exp(random.normal(0, 0.05, len(positions))) for _ in range(2))
    found = path(np.array([positions, positions], np.int8), opened, closed, COST_BPS)
    assert found[0] == pytest.approx(one_by_one(positions, opened, closed), abs=1e-12)
    assert (found[0] == found[1]).all()
