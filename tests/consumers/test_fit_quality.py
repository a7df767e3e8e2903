"""What the default settings are worth: they find what is there, and do no harm where nothing is."""

from __future__ import annotations

import numpy as np
import pytest

from consumers.fit import FitParameters, FitRequest, fit_series
from consumers.history import BarWindow
from modelstore.manifest import Manifest
from producers.sample import load_stocks
from streams.settings import load_settings
from tests.consumers.walks import DAY_NS

LONGEST = 30


def manifests(bars: BarWindow, *targets: str) -> list[Manifest]:
    parameters = FitParameters.of(load_settings()[0])
    ends = bars.start + DAY_NS
    asked = FitRequest("X:1d", targets, LONGEST, "consumers.features:STANDARD", bars, ends, parameters)
    return [version.manifest for version in fit_series(asked).versions]


def skill_of(manifest: Manifest) -> float:
    skill = manifest.metrics["skill"]
    assert skill is not None
    return skill


def autoregression(count: int, phi: float, seed: int) -> BarWindow:
    """Bars whose close moves by r[t] = phi r[t-1] + noise; open, high and low tell nothing more."""
    rng = np.random.default_rng(seed)
    moves = rng.normal(0, 0.01, count)
    for at in range(1, count):
        moves[at] += phi * moves[at - 1]
    close = 100 * np.exp(np.cumsum(moves))
    opened = np.r_[100.0, close[:-1]]
    high, low = np.maximum(opened, close) * 1.001, np.minimum(opened, close) * 0.999
    values = np.column_stack((opened, high, low, close, np.exp(rng.normal(10, 0.3, count))))
    return BarWindow(np.arange(count, dtype=np.int64) * DAY_NS, np.ascontiguousarray(values))


def attainable(phi: float, horizon: int) -> float:
    """Share of the variance of the sum of the next `horizon` moves that the last move explains.

    Given r[t], the expected sum is r[t] (phi + … + phi^h); the variance of a sum of h moves is the sum of all their
    autocovariances, phi^|i-j| times the variance of one.
    """
    reach = sum(phi**step for step in range(1, horizon + 1))
    spread = sum(phi ** abs(one - other) for one in range(horizon) for other in range(horizon))
    return float(reach**2 / spread)


@pytest.mark.parametrize(("horizon", "least"), [(1, 0.85), (5, 0.7)])
def test_most_of_a_strong_relation_is_found(horizon: int, least: float) -> None:
    found = [skill_of(manifests(autoregression(3300, 0.6, seed), f"close_{horizon}")[0]) for seed in range(4)]
    assert np.mean(found) >= least * attainable(0.6, horizon)


def test_closes_of_stocks_are_left_near_their_naive_forecast() -> None:
    found: list[float] = []
    for symbol in ("AAPL", "GOOG", "IBM", "MSFT"):
        stock = load_stocks()[symbol]
        values = np.column_stack((stock.open, stock.high, stock.low, stock.close, stock.volume))
        bars = BarWindow(stock.start, np.ascontiguousarray(values))
        found += [skill_of(manifest) for manifest in manifests(bars, "close_5", "close_10", "close_20", "close_30")]
    assert np.mean(found) >= -0.01
    assert min(found) >= -0.05


def test_noise_costs_little() -> None:
    found = [skill_of(manifests(autoregression(1500, 0.0, seed), "close_5")[0]) for seed in range(8)]
    assert np.mean(found) >= -0.02
