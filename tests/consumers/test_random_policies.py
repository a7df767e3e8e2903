"""Random policies are what they are held against to be: as often in the market, as many trades, and no knowledge."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from consumers import paper
from consumers.performance import performance
from consumers.random_policies import luck, shuffled
from streams.series import NS

YEAR_NS = int(365.25 * 86_400) * NS

paths = st.lists(st.sampled_from((-1, 0, 1)), min_size=1, max_size=60).map(lambda path: np.array(path, np.int8))


def turnover(path: NDArray[np.int8]) -> int:
    """Units bought and sold, begun flat."""
    return int(np.abs(np.diff(path.astype(int), prepend=0)).sum())


def spells(path: NDArray[np.int8]) -> list[tuple[int, int]]:
    """(position, length) of every spell on the ring, sorted."""
    begins = np.flatnonzero(path != np.roll(path, 1))
    if not len(begins):
        return [(int(path[0]), len(path))]
    lengths = np.diff(begins, append=begins[0] + len(path))
    return sorted(zip(path[begins].tolist(), lengths.tolist(), strict=True))


@given(paths, st.integers(0, 99))
def test_exposure_is_equal_and_turnover_but_for_the_seam(path: NDArray[np.int8], seed: int) -> None:
    other = shuffled(path, np.random.default_rng(seed))
    assert sorted(other.tolist()) == sorted(path.tolist())
    assert abs(turnover(other) - turnover(path)) <= 2
    if path[0] != path[-1]:
        assert spells(other) == spells(path), "the same spells at other times"


def test_random_policies_of_a_path_differ() -> None:
    path = np.array([0, 0, 1, 1, 1, 0, -1, -1, 0, 1, 0, 0, 0, 0], np.int8)
    rng = np.random.default_rng(0)
    assert len({shuffled(path, rng).tobytes() for _ in range(200)}) > 100


def market(count: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Opens and closes of a driftless market."""
    moves = np.random.default_rng(seed).normal(0, 0.01, (count, 2))
    closed = 100 * np.exp(np.cumsum(moves.sum(axis=1)))
    return closed * np.exp(-moves[:, 1]), closed


def test_who_knows_nothing_ranks_anywhere_and_who_knows_ranks_first() -> None:
    ranks = []
    for seed in range(40):
        opened, closed = market(300, seed)
        path = np.repeat(np.random.default_rng(1000 + seed).integers(-1, 2, 30), 10).astype(np.int8)
        total = float(paper.path(path, opened, closed, 3.0).sum())
        ranks.append(luck(path, total, opened, closed, cost_bps=3.0, count=100).percentile)
    assert np.mean(ranks) == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / 40)), "four standard errors"
    assert np.std(ranks) == pytest.approx(math.sqrt(1 / 12), abs=0.08)
    opened, closed = market(300, 0)
    knows = np.sign(np.append(closed[1:] - opened[1:], 0)).astype(np.int8)
    total = float(paper.path(knows, opened, closed, 0.0).sum())
    assert luck(knows, total, opened, closed, cost_bps=0.0, count=100).percentile == 1.0


def test_luck_is_a_function_of_its_seed_and_its_band_ends_with_the_totals() -> None:
    opened, closed = market(1000, 1)
    path = np.repeat([0, 1, 0, -1, 1], 200).astype(np.int8)
    one, two = (luck(path, 0.0, opened, closed, cost_bps=5.0, count=120, seed=3) for _ in range(2))
    assert one.totals.tobytes() == two.totals.tobytes()
    assert one.band.shape == (5, 400) == (5, len(one.at))
    assert (one.at[0], one.at[-1]) == (0, 999)
    assert one.band[:, -1] == pytest.approx(np.quantile(one.totals, (0.05, 0.25, 0.5, 0.75, 0.95)))
    assert (np.diff(one.band, axis=0) >= 0).all()


def test_always_long_cannot_be_told_from_luck() -> None:
    opened, closed = market(50, 2)
    path = np.ones(50, np.int8)
    total = math.fsum(paper.path(path, opened, closed, 5.0))
    assert luck(path, total, opened, closed, cost_bps=5.0, count=20).percentile == 0.5


def test_figures_of_an_account_by_hand() -> None:
    ends = np.arange(5, dtype=np.int64) * (YEAR_NS // 2)  # two years
    profit = np.array([0.0, 0.10, -0.20, 0.05, 0.25])
    found = performance(profit, np.array([1, 1, 0, -1, 1], np.int8), ends)
    assert found.total == pytest.approx(0.20)
    assert found.annual == pytest.approx(0.10)
    assert found.drawdown == pytest.approx(1 - math.exp(-0.20))
    assert found.exposure == 0.75, "the position decided at the last close was never held"
    assert found.turnover == pytest.approx((1 + 1 + 1) / 2)
    assert found.sharpe == pytest.approx(0.05 / np.std([0.10, -0.20, 0.05, 0.25]) * math.sqrt(2))


def test_what_is_lost_from_the_start_on_counts_as_drawdown() -> None:
    found = performance(np.array([-0.1, -0.2, 0.1]), np.ones(3, np.int8), np.arange(3) * YEAR_NS)
    assert found.drawdown == pytest.approx(1 - math.exp(-0.3))


def test_figures_that_cannot_be_known_are_none() -> None:
    found = performance(np.zeros(1), np.zeros(1, np.int8), np.zeros(1, np.int64))
    assert (found.total, found.annual, found.sharpe, found.turnover) == (0, None, None, None)
    assert (found.drawdown, found.exposure) == (0, 0)
    assert math.copysign(1, found.drawdown) == 1, "no loss is 0, not minus 0"
    assert performance(np.zeros(9), np.zeros(9, np.int8), np.arange(9) * YEAR_NS).sharpe is None
    short = performance(np.array([0, 0.1, 0.2]), np.ones(3, np.int8), np.arange(3) * (YEAR_NS // 3))
    assert short.annual is None, "what a part of a year made is not made out to be a year's"
    assert short.sharpe is not None
