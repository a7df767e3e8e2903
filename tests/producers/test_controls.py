"""The made-up series are what they are said to be, and theory says of them what simulation finds."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from numpy.typing import NDArray

from producers.bars import Bars
from producers.controls import (
    FLIPS_AT,
    PHI,
    VOLATILITY,
    VOLUME_STEP,
    attainable_skill,
    planted,
    random_walk,
    stale_skill,
    weekdays,
)
from producers.sample import DAY, load_stocks


def returns(bars: Bars) -> NDArray[np.float64]:
    return np.diff(np.log(bars.close))


def autocorrelation(values: NDArray[np.float64]) -> float:
    return float(np.corrcoef(values[1:], values[:-1])[0, 1])


def many_days(count: int) -> NDArray[np.datetime64]:
    """Every day from 1700 on: at most 200,000 of them can be told in ns."""
    assert count <= 200_000
    return np.datetime64("1700-01-01") + np.arange(count)


@pytest.mark.parametrize("bars", [random_walk(), planted()])
def test_bars_hold_together_and_span_the_stocks_days(bars: Bars) -> None:
    stock = load_stocks()["IBM"]
    assert (bars.start[0], bars.start[-1]) == (stock.start[0], stock.start[-1])
    assert bars.interval == DAY
    assert (np.diff(bars.start) > 0).all()
    assert set(((bars.start // DAY.ns + 3) % 7).tolist()) == set(range(5))
    assert (bars.low > 0).all()
    assert (bars.low <= np.minimum(bars.open, bars.close)).all()
    assert (bars.high >= np.maximum(bars.open, bars.close)).all()
    assert (bars.volume >= 1).all()
    assert len(bars) == len(weekdays(date(2000, 3, 1), date(2013, 3, 1)))


def test_a_series_is_a_function_of_its_seed() -> None:
    assert random_walk().close.tobytes() == random_walk().close.tobytes()
    assert random_walk(seed=3).close.tobytes() != random_walk().close.tobytes()
    assert (random_walk().names, planted().names) == (("RANDOM",), ("PLANTED",))


def test_nothing_in_the_random_walk_tells_of_what_comes() -> None:
    bars = random_walk(days=many_days(100_000), seed=7)
    moves = returns(bars)
    sure = 4 / np.sqrt(len(moves))  # four standard errors of a correlation
    assert abs(moves.mean()) < sure * VOLATILITY
    assert moves.std() == pytest.approx(VOLATILITY, rel=0.02)
    assert abs(autocorrelation(moves)) < sure
    assert abs(autocorrelation(moves**2)) < sure, "volatility stays the same"
    reach = np.log(bars.high / bars.low)
    assert abs(autocorrelation(reach)) < sure
    gap = np.log(bars.open[1:] / bars.close[:-1])
    assert abs(np.corrcoef(gap[1:], moves[:-1])[0, 1]) < sure
    steps = np.diff(np.log(bars.volume[:5000]))  # further on it may have run off to where rounding matters
    assert abs(autocorrelation(steps)) < 4 / np.sqrt(len(steps))
    assert steps.std() == pytest.approx(VOLUME_STEP, rel=0.05)


def test_planted_returns_follow_the_last_one_and_then_oppose_it() -> None:
    bars = planted()
    flip = int(np.searchsorted(bars.start, np.datetime64(FLIPS_AT, "ns").astype(np.int64)))
    assert abs(flip / len(bars) - 0.5) < 0.01, "the flip lies in the middle"
    before, after = returns(bars)[:flip], returns(bars)[flip:]
    error = 4 * np.sqrt((1 - PHI**2) / flip)  # Bartlett: the standard error of an AR(1)'s first autocorrelation
    assert autocorrelation(before) == pytest.approx(PHI, abs=error)
    assert autocorrelation(after) == pytest.approx(-PHI, abs=error)
    for part in (before, after):
        # The variance of an AR(1) is known as well as that of n (1 - φ²) / (1 + φ²) independent returns.
        effective = len(part) * (1 - PHI**2) / (1 + PHI**2)
        assert part.std() == pytest.approx(VOLATILITY, rel=3 / np.sqrt(2 * effective))


@pytest.mark.parametrize("horizon", [1, 2, 5, 10, 30])
@pytest.mark.parametrize("phi", [PHI, -PHI])
def test_theory_of_skill_is_what_simulation_finds(phi: float, horizon: int) -> None:
    moves = returns(planted(days=many_days(200_000), seed=11, phi=phi, flips_at=date(9000, 1, 1)))
    paths = np.concatenate(([0.0], np.cumsum(moves)))
    sums = paths[1 + horizon :] - paths[1:-horizon]
    slopes = [sum(believed**lag for lag in range(1, horizon + 1)) for believed in (phi, -phi)]
    found = [1 - float(np.mean((sums - slope * moves[:-horizon]) ** 2) / np.mean(sums**2)) for slope in slopes]
    assert found[0] == pytest.approx(attainable_skill(phi, horizon), abs=0.01)
    assert found[1] == pytest.approx(stale_skill(phi, -phi, horizon), rel=0.05)
    best = float(np.dot(sums, moves[:-horizon]) / np.dot(moves[:-horizon], moves[:-horizon]))
    assert best == pytest.approx(slopes[0], abs=0.03), "the best slope is the one of the theory"


def test_without_a_relation_there_is_no_skill_and_returns_must_not_run_away() -> None:
    assert attainable_skill(0.0, 5) == 0.0
    assert attainable_skill(0.6, 5) == pytest.approx(0.146, abs=0.001)
    with pytest.raises(ValueError, match="phi is 1"):
        planted(phi=1.0)
