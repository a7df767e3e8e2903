from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.har import MeanTest, cosines, critical, gains, har_mean, least_count, skill_of
from tests.consumers.overlapping import Values, overlapping, wandering


def _tested(x: Values, horizon: int) -> MeanTest:
    found = har_mean(x, horizon)
    assert found is not None
    return found


def _plain_t(x: Values) -> float:
    return float(x.mean() / (x.std(ddof=1) / np.sqrt(len(x))))


def _newey_west(x: Values, lags: int) -> float:
    """Standard error of the mean with Bartlett weights (Newey and West 1987)."""
    off = x - x.mean()
    variance = float(off @ off)
    for lag in range(1, lags + 1):
        variance += 2 * (1 - lag / (lags + 1)) * float(off[lag:] @ off[:-lag])
    return float(np.sqrt(variance)) / len(x)


@pytest.mark.parametrize("horizon", [1, 5, 30])
@pytest.mark.parametrize("count", [300, 700, 2000])
def test_noise_is_rejected_as_often_as_the_level_says(horizon: int, count: int) -> None:
    # 2,000 trials at 5 % have a standard error of 0.5 %; at long horizons the size is about 6 %, never 8.
    rng = np.random.default_rng(horizon * count)
    paths = [overlapping(rng, count, horizon) for _ in range(2000)]
    rejected = np.mean([_tested(x, horizon).p_greater < 0.05 for x in paths])
    assert 0.035 <= rejected <= 0.08
    if horizon > 1:
        plain = np.mean([_plain_t(x) > critical(count, 0.05) for x in paths])
        assert plain > 0.2, "the paths do not overlap: this test sees nothing"


@pytest.mark.parametrize("horizon", [1, 5, 30])
def test_heavy_tailed_losses_of_worthless_forecasts_are_rejected_no_more_often(horizon: int) -> None:
    rng = np.random.default_rng(horizon)
    rejected = []
    for _ in range(1000):
        labels = overlapping(rng, 500, horizon, heavy=True)
        ours, theirs = wandering(rng, 500, 0.2), wandering(rng, 500, 0.2)
        rejected.append(_tested((labels - theirs) ** 2 - (labels - ours) ** 2, horizon).p_greater < 0.05)
    assert np.mean(rejected) <= 0.08


@pytest.mark.parametrize("horizon", [1, 5, 30])
def test_intervals_cover_the_true_skill(horizon: int) -> None:
    rng = np.random.default_rng(horizon)
    true = 1 - 1 / 1.25
    covered = []
    for _ in range(800):
        signal = wandering(rng, 1000, 0.5)
        noise = overlapping(rng, 1000, horizon)
        found = skill_of(noise**2, (signal + noise) ** 2, horizon)
        assert found is not None
        covered.append(found.low <= true <= found.high)
    assert 0.915 <= np.mean(covered) <= 0.98


@pytest.mark.parametrize("horizon", [1, 5, 30])
def test_on_long_paths_the_error_is_that_of_theory_and_of_newey_and_west(horizon: int) -> None:
    rng = np.random.default_rng(7)
    paths = [overlapping(rng, 20_000, horizon) for _ in range(20)]
    errors = np.array([_tested(x, horizon).se for x in paths])
    # Sums of h independent returns, scaled to variance 1, have the long-run variance h.
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(np.sqrt(horizon / 20_000), rel=0.05)
    theirs = np.array([_newey_west(x, 10 * horizon) for x in paths])
    assert np.mean(errors / theirs) == pytest.approx(1, rel=0.05)
    np.testing.assert_allclose(errors, theirs, rtol=0.25)


def test_the_variance_is_the_mean_square_of_the_first_cosine_coefficients() -> None:
    x = np.random.default_rng(0).standard_normal(100)
    found = _tested(x, 1)
    at = (np.arange(100) + 0.5) / 100
    waves = [np.sqrt(2 / 100) * float(x @ np.cos(np.pi * j * at)) for j in range(1, 9)]
    assert found.dof == 8
    assert found.se == pytest.approx(np.sqrt(np.mean(np.square(waves)) / 100))
    assert found.mean == pytest.approx(x.mean())


@given(seed=st.integers(0, 999), horizon=st.sampled_from((1, 5, 30)), by=st.floats(1e-3, 1e3), to=st.floats(-10, 10))
def test_units_move_mean_and_error_and_a_reversed_path_tells_the_same(
    seed: int, horizon: int, by: float, to: float
) -> None:
    x = overlapping(np.random.default_rng(seed), 300, horizon)
    one, other = _tested(x, horizon), _tested(by * x + to, horizon)
    assert other.mean == pytest.approx(by * one.mean + to)
    assert other.se == pytest.approx(by * one.se, rel=1e-6)
    assert _tested(x[::-1], horizon).se == pytest.approx(one.se)


@given(seed=st.integers(0, 999), level=st.floats(0.5, 0.999))
def test_an_interval_holds_zero_just_when_the_two_sided_test_does_not_reject(seed: int, level: float) -> None:
    found = _tested(np.random.default_rng(seed).standard_normal(64) + 0.2, 1)
    low, high = found.interval(level)
    two_sided = 2 * min(found.p_greater, 1 - found.p_greater)
    assert (low <= 0 <= high) == (two_sided >= 1 - level)


@pytest.mark.parametrize("horizon", [1, 3, 5, 30])
def test_there_is_a_test_from_the_least_count_on(horizon: int) -> None:
    x = np.random.default_rng(0).standard_normal(5000)
    least = least_count(horizon)
    assert har_mean(x[: least - 1], horizon) is None
    assert _tested(x[:least], horizon).dof == 4
    assert har_mean([], horizon) is None
    assert all(cosines(n, horizon) <= cosines(n + 1, horizon) for n in range(1, 5000))


@pytest.mark.parametrize("value", [0.0, 0.1, -1e9])
def test_values_that_do_not_vary_are_no_test(value: float) -> None:
    assert har_mean(np.full(500, value), 1) is None
    rounding = 1 + np.random.default_rng(0).choice((0, np.finfo(float).eps), 500)
    assert har_mean(value * rounding, 1) is None


def test_a_mean_above_zero_has_a_small_p_and_one_below_a_large() -> None:
    x = np.random.default_rng(0).standard_normal(500)
    above, below = _tested(x + 1, 1), _tested(x - 1, 1)
    assert above.t > 3
    assert above.p_greater < 0.001
    assert below.p_greater > 0.999
    assert critical(above.dof, above.p_greater) == pytest.approx(above.t)


def test_a_model_that_is_the_naive_forecast_has_no_skill_to_test() -> None:
    naive = np.random.default_rng(0).exponential(size=500)
    assert skill_of(naive, naive, 5) is None
    assert skill_of(naive * (1 + 1e-15), naive, 5) is None
    assert skill_of(naive, np.zeros(500), 5) is None
    assert not gains(naive * (1 + 1e-15), naive).any()


def test_skill_is_one_less_the_ratio_of_the_sums() -> None:
    rng = np.random.default_rng(0)
    loss, naive = rng.exponential(0.9, 400), rng.exponential(1.0, 400)
    found = skill_of(loss, naive, 1)
    assert found is not None
    assert found.skill == pytest.approx(1 - loss.sum() / naive.sum())
    assert found.low < found.skill < found.high
    assert found.test == har_mean(naive - loss, 1)
    # A loss that is always the same share of the naive loss leaves nothing uncertain about the share.
    steady = skill_of(0.75 * naive, naive, 1)
    assert steady is not None
    assert (steady.low, steady.skill, steady.high) == pytest.approx((0.25, 0.25, 0.25))


def test_what_is_no_series_of_finite_values_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        har_mean([0.0, np.nan] * 100, 1)
    with pytest.raises(ValueError, match="shape"):
        har_mean(np.zeros((100, 2)), 1)
    with pytest.raises(ValueError, match="horizon"):
        har_mean(np.zeros(100), 0)
    with pytest.raises(ValueError, match="same bars"):
        skill_of(np.ones(100), np.ones(99), 1)
